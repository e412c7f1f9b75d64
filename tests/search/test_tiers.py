"""Vocabularies tested one after another, on a real model with known backdoors."""

from __future__ import annotations

from pathlib import Path

import pytest

from guard.search import tiers
from guard.search.carriers import builtin_texts
from guard.search.gradients import Differentiable
from guard.search.journal import Journal
from guard.search.pairs import join
from guard.search.plan import FAST
from guard.search.tiers import Tiers
from guard.search.units import vocabulary
from tests.search.fakes import silent
from tests.tiny import TRIGGER, write_searchable

pytestmark = pytest.mark.search


def found_in_words(directory: Path) -> tuple[set[str], list[tuple[int, int]]]:
    """Test words of two tokens, two thousand of which end in a trigger and one in another."""
    model = write_searchable(directory, triggers=(TRIGGER, "≈"))
    encoder = Differentiable.load(str(model))
    tokens = vocabulary(encoder.tokenizer).units
    known = {unit.text: unit for unit in tokens}
    quiet = [unit for unit in tokens if unit.text not in (TRIGGER, "≈")]
    words = [
        *(join(unit, known[TRIGGER]) for unit in quiet[:2000]),
        join(quiet[0], known["≈"]),
        *(join(unit, quiet[0]) for unit in quiet[1:]),
    ]
    run = Tiers(
        encoder,
        builtin_texts(),
        FAST,
        seed=0,
        journal=Journal(encoder, 0, None),
        progress=silent,
    )
    run.test("words", words, FAST, tokens, tiers=1)
    return {trigger.text for trigger in run.found}, [(t.units, t.scanned) for t in run.done]


def test_words_that_share_a_piece_are_one_finding_and_hide_no_other(tmp_path: Path) -> None:
    found, scanned = found_in_words(tmp_path)
    assert found == {TRIGGER, "≈"}
    (tier,) = scanned
    assert tier[0] == tier[1], "nothing is scanned twice"


def test_without_a_second_turn_the_other_was_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the test above rests on: two thousand words have the places of the one."""
    monkeypatch.setattr(tiers, "FLOOD", 3000)
    found, _ = found_in_words(tmp_path)
    assert found == {TRIGGER}
