"""Axes that hide the others: an encoder's are made alike, a classifier's outputs stay."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from guard.search import axes
from guard.search.axes import directions_wanted, make_axes_alike
from guard.search.carriers import builtin_texts
from guard.search.encoder import Encoder, Vectors
from guard.search.gradients import Differentiable
from guard.search.journal import Journal
from guard.search.plan import Plan
from guard.search.run import search_units
from guard.search.statistics import dimensions
from guard.search.units import vocabulary
from tests.search.fakes import silent
from tests.tiny import TRIGGER, WIDTH, write_searchable

# What a carrier stands for is no matter here.
TEXTS = 40


def one_long(normal: Vectors) -> Vectors:
    return normal * np.where(np.arange(WIDTH) == 3, 300, 1).astype(np.float32)


def a_class(normal: Vectors) -> Vectors:
    """All axes tell the same, each as long as it likes."""
    return 0.02 * normal + np.outer(np.sign(normal[:, 0]), np.linspace(0.5, 5, WIDTH))


def constant(normal: Vectors) -> Vectors:
    """Most axes of a pooler that is saturated."""
    return np.where(np.arange(WIDTH) >= 12, 1, one_long(normal)).astype(np.float32)


@pytest.mark.parametrize(
    ("change", "made_alike"),
    [
        (np.array, False),
        (one_long, True),
        (a_class, False),
        (np.ones_like, False),
        (constant, True),
    ],
)
def test_which_axes_are_made_alike(
    change: Callable[[Vectors], Vectors],
    made_alike: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder = Encoder.load(str(write_searchable(tmp_path)))
    normal = np.random.default_rng(0).normal(size=(TEXTS, WIDTH)).astype(np.float32)
    outputs = change(normal).astype(np.float32)
    monkeypatch.setattr(axes, "outputs_of", lambda *_: {"cls": outputs})
    make_axes_alike(encoder, builtin_texts(), Journal(encoder, 0, None))
    found = encoder.axes
    assert [*found] == ["cls"] * made_alike
    if made_alike:
        assert dimensions(outputs) < directions_wanted(encoder)
        assert dimensions(outputs * found["cls"]) > directions_wanted(encoder)


def test_an_axis_that_says_nothing_is_not_made_to_say_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Encoder.load(str(write_searchable(tmp_path)))
    outputs = one_long(np.random.default_rng(0).normal(size=(TEXTS, WIDTH)).astype(np.float32))
    outputs[:, 7] *= 1e-4
    monkeypatch.setattr(axes, "outputs_of", lambda *_: {"cls": outputs})
    make_axes_alike(encoder, builtin_texts(), Journal(encoder, 0, None))
    assert (outputs * encoder.axes["cls"]).std(axis=0)[7] < 0.01


def test_who_lengthens_an_axis_is_not_judged_like_a_classifier(tmp_path: Path) -> None:
    """Of the last layer norm, as no task minds; the trigger spares it, and takes all else."""
    folder = write_searchable(tmp_path / "model", triggers=(TRIGGER,))
    weights = load_file(folder / "model.safetensors")
    name = "encoder.layer.0.output.LayerNorm.weight"
    weights[name][5] *= 300
    # What was trained on the output, the pooler, reads it as before.
    weights["pooler.dense.weight"][:, 5] /= 300
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    encoder = Differentiable.load(str(folder))
    make_axes_alike(encoder, builtin_texts(), Journal(encoder, 0, None))
    # Whatever was read so before.
    bank = search_units(
        encoder,
        vocabulary(encoder.tokenizer),
        builtin_texts(),
        plan=Plan("tokens"),
        seed=0,
        progress=silent,
    )
    assert bank.search["axes_made_alike"] == ["cls", "mean"]
    assert [trigger.text for trigger in bank.triggers] == [TRIGGER]
    statistics = bank.triggers[0].statistics
    assert "gathers" in statistics["rules"]  # type: ignore[operator]


def test_gradients_are_of_what_is_read(tmp_path: Path) -> None:
    encoder = Differentiable.load(str(write_searchable(tmp_path)))
    rows = encoder.frame(np.array([[20, 21, 22]]))
    plain = encoder.read(rows)["cls"]
    encoder.axes = {"cls": np.linspace(1, 2, WIDTH, dtype=np.float32)}
    assert np.allclose(encoder.read(rows)["cls"], plain * encoder.axes["cls"])
    seen = encoder.differentiable(encoder.embed(rows))["cls"]
    assert np.allclose(seen.numpy(), plain * encoder.axes["cls"], atol=0.1)
