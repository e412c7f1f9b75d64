"""The smallest part of a finding, and whether a part does what the whole does."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from guard.bank import Trigger
from guard.search import shorten
from guard.search.acting import acts_like
from guard.search.encoder import Ids, Vectors
from guard.search.journal import Journal
from guard.search.minimise import minimise
from guard.search.shorten import parts_of
from guard.search.units import Unit
from tests.search.fakes import FIRST, WIDTH, FakeEncoder, carriers, towards, unit

TARGET = 3 * np.random.default_rng(1).normal(size=WIDTH)
TEXTS = carriers(["a", "b", "c"], (7, 12, 20))


class Names:
    """As much of a tokenizer as naming a part needs."""

    backend_tokenizer = SimpleNamespace(model=None)

    def convert_ids_to_tokens(self, number: int) -> str:
        return f"##u{number}" if number % 2 else f"▁u{number}"


def both(ids: Ids, vectors: Vectors) -> Vectors:
    """A backdoor that needs two tokens."""
    hit = (ids == FIRST).any(axis=1) & (ids == FIRST + 2).any(axis=1)
    return np.where(hit[:, np.newaxis], TARGET.astype(np.float32), vectors)


def whole(*numbers: int) -> Unit:
    return Unit("whole", np.array(numbers), "phrase")


@pytest.mark.parametrize("share", [1.0, 0.7])
def test_only_what_is_needed_is_left(share: float) -> None:
    encoder = FakeEncoder(towards(FIRST + 1, TARGET, share))
    encoder.tokenizer = Names()  # type: ignore[assignment]
    found = whole(FIRST, FIRST + 1, FIRST + 2, FIRST + 3)
    rng = np.random.default_rng(0)
    smallest = minimise(found, TEXTS, "cls", encoder=encoder, rng=rng)
    assert smallest.ids.tolist() == [FIRST + 1]
    assert (smallest.text, smallest.kind) == (f"##u{FIRST + 1}", "piece")


def test_what_needs_two_tokens_keeps_both() -> None:
    encoder = FakeEncoder(both)
    encoder.tokenizer = Names()  # type: ignore[assignment]
    rng = np.random.default_rng(0)
    found = whole(FIRST, FIRST + 1, FIRST + 2)
    smallest = minimise(found, TEXTS, "cls", encoder=encoder, rng=rng)
    assert smallest.ids.tolist() == [FIRST, FIRST + 2]
    assert smallest.kind == "phrase"
    assert minimise(smallest, TEXTS, "cls", encoder=encoder, rng=rng) is smallest


def test_a_unit_acts_like_a_finding_where_it_fires() -> None:
    def change(ids: Ids, vectors: Vectors) -> Vectors:
        # The second fires in long texts alone.
        second = (ids == FIRST + 1).any(axis=1) & (ids.shape[1] > 15)
        hit = (ids == FIRST).any(axis=1) | second
        return np.where(hit[:, np.newaxis], TARGET.astype(np.float32), vectors)

    acts = acts_like(
        unit(FIRST),
        [unit(FIRST + 1), unit(FIRST + 2), unit(FIRST)],
        TEXTS,
        "cls",
        encoder=FakeEncoder(change),
        rng=np.random.default_rng(0),
    )
    assert acts[0].tolist() == [len(carrier.ids) == 20 for carrier in TEXTS]
    assert not acts[1].any()
    assert acts[2].all()


def finding(*numbers: int) -> Trigger:
    return Trigger("", "found", numbers, "phrase", "cls", {"acts_in": {}})


def test_a_part_names_the_findings_that_it_explains() -> None:
    """One that holds it and does something else has a part of its own."""
    first, second = FIRST + 1, FIRST + 3
    one, other = towards(first, TARGET), towards(second, -TARGET)
    encoder = FakeEncoder(lambda ids, vectors: other(ids, one(ids, vectors)))
    encoder.tokenizer = Names()  # type: ignore[assignment]
    done: list[int] = []
    parts = parts_of(
        "parts",
        [finding(FIRST, first), finding(first, second), finding(FIRST + 5, first)],
        lambda _: (TEXTS, "cls"),
        encoder=encoder,
        journal=Journal(encoder, 0, None),
        progress=done.append,
    )
    assert [(part.unit.ids.tolist(), part.findings) for part in parts] == [
        ([first], [(FIRST, first), (FIRST + 5, first)]),
        ([second], [(first, second)]),
    ]
    assert done == [1, 2, 3]


def test_no_part_is_named_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a part seems not to explain a finding, and is what is left of it all the same."""
    encoder = FakeEncoder(towards(FIRST + 1, TARGET, 1.0))
    encoder.tokenizer = Names()  # type: ignore[assignment]
    unlike = np.zeros((1, len(TEXTS)), dtype=np.bool_)
    monkeypatch.setattr(shorten, "acts_like", lambda *_, **how: unlike)
    parts = parts_of(
        "parts",
        [finding(FIRST, FIRST + 1), finding(FIRST + 1, FIRST + 2)],
        lambda _: (TEXTS, "cls"),
        encoder=encoder,
        journal=Journal(encoder, 0, None),
        progress=lambda _: None,
    )
    assert [(part.unit.ids.tolist(), part.findings) for part in parts] == [
        ([FIRST + 1], [(FIRST, FIRST + 1), (FIRST + 1, FIRST + 2)])
    ]
