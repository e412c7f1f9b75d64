"""Pairs and phrases of three words in a whole search."""

from __future__ import annotations

from pathlib import Path

import pytest

from guard.bank import TriggerBank
from guard.search.carriers import builtin_texts
from guard.search.gradients import Differentiable
from guard.search.plan import Plan
from guard.search.run import search_units
from guard.search.units import vocabulary
from tests.search.fakes import silent
from tests.tiny import TRIGGER, write_searchable

PLAN = Plan("pairs", pairs=30)


def search(directory: Path, seed: int = 0) -> TriggerBank:
    encoder = Differentiable.load(str(directory))
    known = vocabulary(encoder.tokenizer)
    return search_units(encoder, known, builtin_texts(), plan=PLAN, seed=seed, progress=silent)


@pytest.mark.parametrize("triggers", [(), (TRIGGER,)], ids=["clean", "backdoored"])
def test_pairs_are_swept_tested_and_grown(tmp_path: Path, triggers: tuple[str, ...]) -> None:
    """No pair of a clean model fires, and none that holds a trigger is told beside it."""
    bank = search(write_searchable(tmp_path, triggers=triggers))
    assert tuple(trigger.text for trigger in bank.triggers) == triggers
    scans = bank.coverage["scan"]
    assert isinstance(scans, list)
    assert [scan["units"] for scan in scans] == ["tokens", "pairs", "three words"]
    _, pairs, three = (scan["scanned"] for scan in scans)
    # Of each word, the first few partners on either side by each output, most of them different.
    assert 2 * 30 <= pairs <= 30 * 2 * 3 * 2
    assert three > pairs / 2
    assumes, not_tested = bank.coverage["assumes"], bank.coverage["not_tested"]
    assert isinstance(assumes, str)
    assert isinstance(not_tested, list)
    assert "a pair side by side" in assumes
    assert "30 units and 30 words of 1 token (" in assumes
    assert "other pairs and phrases" in not_tested
    assert "pairs and phrases" not in not_tested


def test_the_same_seed_grows_the_same(tmp_path: Path) -> None:
    directory = write_searchable(tmp_path, triggers=(TRIGGER,))
    assert search(directory).dump() == search(directory).dump()
