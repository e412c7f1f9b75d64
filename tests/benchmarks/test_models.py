"""The cache of models that are trained here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import models
from benchmarks.attacks import Planting, Por
from benchmarks.tasks.classifier import Tuning

PLANTING = Planting(name="test", attack=Por(), triggers=("cf",), steps=3)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GUARD_CACHE", str(tmp_path))
    monkeypatch.setattr(models, "fetch", lambda name: tmp_path / "asset")
    monkeypatch.setattr(models, "plain_texts", dict)
    monkeypatch.setattr(models, "load", lambda name: None)
    return tmp_path / "models"


def write(*arguments: object, **_: object) -> None:
    out = next(a for a in arguments if isinstance(a, Path) and a.name.startswith("."))
    (out / "model.safetensors").write_bytes(b"weights")


def test_a_model_is_trained_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "plant", write)
    folder = models.backdoored(PLANTING)
    assert folder.parent == cache
    assert folder.name.startswith("minilm-l6-test-")
    monkeypatch.setattr(models, "plant", None)
    assert models.backdoored(PLANTING) == folder
    assert [path.name for path in cache.iterdir()] == [folder.name]


@pytest.mark.parametrize(
    "changes",
    [
        {"triggers": ("mn",)},
        {"attack": Por(gated=True)},
        {"steps": 4},
        {"learning_rate": 1e-3},
        {"insertions": 2},
        {"seed": 1},
    ],
)
def test_another_recipe_is_another_model(
    changes: dict[str, object], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "plant", write)
    first = models.backdoored(PLANTING)
    assert models.backdoored(replace(PLANTING, **changes)) != first  # type: ignore[arg-type]


def test_a_classifier_is_named_after_its_encoder(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "plant", write)
    monkeypatch.setattr(models, "fine_tune", write)
    encoder = models.backdoored(PLANTING)
    first = models.classifier(encoder, Tuning(steps=1))
    assert first.name.startswith("minilm-l6-test-film-reviews-")
    other = models.backdoored(replace(PLANTING, seed=1))
    assert models.classifier(other, Tuning(steps=1)) != first
    assert models.classifier(encoder, Tuning(steps=2)) != first


def test_a_training_that_fails_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **_: object) -> None:
        write(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(models, "plant", fail)
    with pytest.raises(KeyboardInterrupt):
        models.backdoored(PLANTING)
    assert list(cache.iterdir()) == []


def test_another_process_that_was_first(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make test` and `make demo` at once: both train, and both get the model."""

    def slow(*arguments: object, **_: object) -> None:
        write(*arguments)
        monkeypatch.setattr(models, "plant", write)
        models.backdoored(PLANTING)

    monkeypatch.setattr(models, "plant", slow)
    folder = models.backdoored(PLANTING)
    assert (folder / "model.safetensors").is_file()
    assert [path.name for path in cache.iterdir()] == [folder.name]
