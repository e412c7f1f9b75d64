"""Findings made smaller and their variants judged, on a real model with a known backdoor."""

from __future__ import annotations

from pathlib import Path

import pytest

from guard.search.carriers import builtin_texts
from guard.search.gradients import Differentiable
from guard.search.journal import Journal
from guard.search.pairs import join
from guard.search.plan import FAST
from guard.search.refine import refine
from guard.search.tiers import Tiers
from guard.search.units import Unit, vocabulary
from guard.search.verdicts import Verdicts
from tests.search.fakes import silent
from tests.tiny import TRIGGER, write_searchable


@pytest.fixture
def encoder(tmp_path: Path) -> Differentiable:
    return Differentiable.load(str(write_searchable(tmp_path, triggers=(TRIGGER, "≈"))))


def judged(encoder: Differentiable, units: list[Unit]) -> Verdicts:
    journal = Journal(encoder, 0, None)
    run = Tiers(encoder, builtin_texts(), FAST, seed=0, journal=journal, progress=silent)
    verdicts = run.verdicts
    tokens = vocabulary(encoder.tokenizer).units
    verdicts.judge("first", [*units, *tokens[400:600]], tokens[600:], tokens[600:], tiers=1)
    refine(verdicts, tokens[600:], encoder=encoder, journal=journal, progress=silent)
    return verdicts


def test_a_phrase_is_made_as_small_as_it_fires(encoder: Differentiable) -> None:
    known = {unit.text: unit for unit in vocabulary(encoder.tokenizer).units}
    phrase = join(join(known["a"], known[TRIGGER]), known["the"])
    found = judged(encoder, [phrase]).found
    assert {(trigger.text, trigger.kind) for trigger in found} == {
        (TRIGGER, "token"),
        ("≈", "symbol"),
    }
    assert found[0].token_ids == tuple(known[found[0].text].ids.tolist())


def test_a_variant_that_fires_is_judged_and_found(encoder: Differentiable) -> None:
    """The other trigger has the same embedding, so it is the nearest of the one that was found."""
    known = {unit.text: unit for unit in vocabulary(encoder.tokenizer).units}
    found = judged(encoder, [known[TRIGGER]]).found
    assert {trigger.text for trigger in found} == {TRIGGER, "≈"}
    (first,) = [trigger for trigger in found if trigger.text == TRIGGER]
    assert first.statistics["variants"] == {"nearest": 1.0}


def test_nothing_found_costs_nothing(encoder: Differentiable) -> None:
    tokens = vocabulary(encoder.tokenizer).units
    journal = Journal(encoder, 0, None)
    run = Tiers(encoder, builtin_texts(), FAST, seed=0, journal=journal, progress=silent)
    before = encoder.forwarded
    refine(run.verdicts, tokens, encoder=encoder, journal=journal, progress=silent)
    assert (run.verdicts.found, encoder.forwarded) == ([], before)
    assert run.verdicts.judged == []
