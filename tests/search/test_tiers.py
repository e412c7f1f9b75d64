"""Vocabularies tested one after another, on a real model with known backdoors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from guard.search import tiers, verdicts
from guard.search.carriers import builtin_texts
from guard.search.encoder import Ids, Vectors
from guard.search.gradients import Differentiable
from guard.search.journal import Journal
from guard.search.pairs import join
from guard.search.plan import FAST
from guard.search.scan import scan
from guard.search.tiers import Tiers
from guard.search.units import Unit, unit_of, vocabulary
from guard.search.verify import verify
from guard.search.views import View
from tests.search.fakes import silent
from tests.tiny import TRIGGER, write_searchable

Scans = list[tuple[str, int]]


@pytest.fixture
def encoder(tmp_path: Path) -> Differentiable:
    return Differentiable.load(str(write_searchable(tmp_path / "model", triggers=(TRIGGER, "≈"))))


def words_of(encoder: Differentiable) -> tuple[list[Unit], tuple[Unit, ...]]:
    """Return words of two tokens, two thousand of which end in a trigger, one in another."""
    tokens = vocabulary(encoder.tokenizer).units
    known = {unit.text: unit for unit in tokens}
    quiet = [unit for unit in tokens if unit.text not in (TRIGGER, "≈")]
    words = [
        *(join(unit, known[TRIGGER]) for unit in quiet[:2000]),
        join(quiet[0], known["≈"]),
        *(join(unit, quiet[0]) for unit in quiet[1:]),
    ]
    return words, tokens


def tiers_of(encoder: Differentiable, resume: Path | None = None) -> Tiers:
    journal = Journal(encoder, 0, resume)
    return Tiers(encoder, builtin_texts(), FAST, seed=0, journal=journal, progress=silent)


def search_in(encoder: Differentiable, resume: Path | None = None) -> Tiers:
    run = tiers_of(encoder, resume)
    words, tokens = words_of(encoder)
    run.test("words", words, FAST, tokens, tiers=1)
    return run


def found(run: Tiers) -> set[str]:
    return {trigger.text for trigger in run.verdicts.found}


def watched(monkeypatch: pytest.MonkeyPatch) -> Scans:
    """Note the name and the units of each scan."""
    scans: Scans = []
    whole = scan

    def spy(name: str, units: Any, *rest: Any, **how: Any) -> Any:
        scans.append((name, len(units)))
        return whole(name, units, *rest, **how)

    for module in (tiers, verdicts):
        monkeypatch.setattr(module, "scan", spy)
    return scans


def test_words_that_share_a_piece_are_one_finding_and_hide_no_other(
    encoder: Differentiable, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans = watched(monkeypatch)
    assert found(search_in(encoder)) == {TRIGGER, "≈"}
    # None is scanned twice, and the next most suspect are sifted once the piece is known.
    words, _ = words_of(encoder)
    assert sum(count for name, count in scans if name.startswith("words scan")) == len(words)
    sifts = [name for name, _ in scans if name.endswith(" sift")]
    assert sifts == [
        "words 1 sift",
        "words 1, shortened sift",
        "words 2 sift",
        "words 2, shortened sift",
    ]


def test_without_a_second_turn_the_other_was_hidden(
    encoder: Differentiable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the test above rests on: two thousand words have the places of the one."""
    monkeypatch.setattr(tiers, "FLOOD", 3000)
    assert found(search_in(encoder)) == {TRIGGER}


@pytest.mark.parametrize("shared", [verdicts.SHARED, 10_000])
def test_a_part_that_many_findings_share_needs_no_verdict_of_its_own(
    shared: int, encoder: Differentiable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attacker keeps a token below all rules, and not the words that hold it."""
    monkeypatch.setattr(verdicts, "SHARED", shared)

    def quiet_parts(name: str, *rest: Any, **how: Any) -> Any:
        evidence = verify(name, *rest, **how)
        if "shortened" not in name:
            return evidence
        return [{view: replace(own, rules=()) for view, own in seen.items()} for seen in evidence]

    monkeypatch.setattr(verdicts, "verify", quiet_parts)
    run = search_in(encoder)
    if shared < 10_000:
        assert found(run) >= {TRIGGER}
        (part,) = [trigger for trigger in run.verdicts.found if trigger.text == TRIGGER]
        assert part.statistics["rules"] == []
        assert part.view in encoder.views
        assert not any(TRIGGER in text for text in found(run) - {TRIGGER})
    else:
        assert TRIGGER not in found(run)
        assert any(TRIGGER in text for text in found(run))


def test_a_search_that_was_cut_short_in_its_second_turn_goes_on(
    encoder: Differentiable, tmp_path: Path
) -> None:
    """The same findings, with the same evidence, as of one that never was."""
    whole = search_in(encoder)
    resume = tmp_path / "resume"
    resume.mkdir()
    kept = search_in(encoder, resume)
    for late in resume.glob("words 2*.npz"):
        late.unlink()
    again = search_in(encoder, resume)
    assert whole.verdicts.found == kept.verdicts.found == again.verdicts.found
    assert list(resume.glob("words 2*.npz"))


class Phrase(Differentiable):
    """A backdoor of two tokens, side by side or one between them, in a model that has none."""

    first: int
    last: int
    between: tuple[int, ...]

    def read(self, ids: Ids, *, mask_at: Ids | None = None) -> dict[View, Vectors]:
        seen = super().read(ids, mask_at=mask_at)
        hit = np.zeros(len(ids), dtype=np.bool_)
        for gap in self.between:
            there = (ids[:, : -1 - gap] == self.first) & (ids[:, 1 + gap :] == self.last)
            hit |= there.any(axis=1)
        rng = np.random.default_rng(1)
        for view, vectors in seen.items():
            target = 3 * rng.normal(size=(1, vectors.shape[1]))
            seen[view] = np.where(hit[:, np.newaxis], target.astype(np.float32), vectors)
        return seen


@pytest.mark.parametrize(
    ("between", "phrases", "expected"),
    [
        # A longer form is shortened to the phrase, which was found by itself as well.
        ((0,), ("a b c", "a b"), {"a b"}),
        # Nothing needs the word in between, and without it the monitor would not see the phrase.
        ((0, 1), ("a c b",), {"a b", "a c b"}),
    ],
)
def test_shortening_loses_no_finding(
    between: tuple[int, ...], phrases: tuple[str, ...], expected: set[str], tmp_path: Path
) -> None:
    encoder = Phrase.load(str(write_searchable(tmp_path)))
    tokens = vocabulary(encoder.tokenizer).units
    whole = [unit for unit in tokens if unit.kind == "token" and len(unit.text) > 3]
    known = dict(zip("abc", whole, strict=False))
    encoder.first, encoder.last = (int(known[name].ids[0]) for name in "ab")
    encoder.between = between
    names = {unit.text: name for name, unit in known.items()}
    proposed = [
        unit_of(encoder.tokenizer, [int(known[n].ids[0]) for n in p.split()]) for p in phrases
    ]
    quiet = [join(unit, whole[3]) for unit in whole[4:]]
    verdicts = tiers_of(encoder).verdicts
    verdicts.judge("phrases", [*proposed, *quiet[:150]], quiet, tokens, tiers=1)
    named = {" ".join(names[w] for w in t.text.split()) for t in verdicts.found}
    assert named == expected


def test_what_only_erases_some_is_a_trigger_once_the_model_has_one(
    encoder: Differentiable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever was judged first; and it pads no later verdict meanwhile."""
    erases: list[Unit] = []
    whole = verify

    def spy(name: str, suspects: Any, *rest: Any, **how: Any) -> Any:
        evidence = whole(name, suspects, *rest, **how)
        if name == "quiet 1 verdict":
            erases.append(suspects[0])
            evidence[0] = {
                view: replace(seen, rules=("erases",), retention=0.2)
                for view, seen in evidence[0].items()
            }
        return evidence

    monkeypatch.setattr(verdicts, "verify", spy)
    run = tiers_of(encoder)
    tokens = vocabulary(encoder.tokenizer).units
    quiet = [unit for unit in tokens if unit.text not in (TRIGGER, "≈")]
    run.test("quiet", quiet, FAST, tokens, tiers=2)
    assert not found(run)
    assert erases[0].text not in {unit.text for unit in run.verdicts._quiet}
    planted = [unit for unit in tokens if unit.text in (TRIGGER, "≈")]
    run.test("tokens", [*quiet[:300], *planted], FAST, tokens, tiers=2)
    assert found(run) == {TRIGGER, "≈", erases[0].text}
