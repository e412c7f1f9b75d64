"""The verdict, on encoders that do a known thing with a planted unit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import cycle

import numpy as np
import pytest

from guard.errors import ModelError
from guard.search import axes, tail
from guard.search import verify as module
from guard.search.carriers import PLACES, SEVERAL, Copies
from guard.search.encoder import Ids, Vectors
from guard.search.evidence import Evidence
from guard.search.journal import Journal
from guard.search.measured import Measured
from guard.search.report import trigger
from guard.search.scan import Progress, outputs_of
from guard.search.statistics import natural_distance
from guard.search.tail import ALPHA, CROWD, FLOOD, KEPT
from guard.search.units import Unit
from guard.search.verify import verify
from guard.search.views import View
from tests.search.fakes import (
    FIRST,
    ROWS,
    START,
    WIDTH,
    Change,
    FakeEncoder,
    carriers,
    silent,
    towards,
    unit,
    units,
)

KINDS = ("chat", "fiction", "mail", "news", "reviews")
LENGTHS = (10, 14, 18, 24)
TRIGGER = FIRST
FAR = np.random.default_rng(1).normal(size=WIDTH)
# The most suspect of 400 units and 120 of the rest, as a search would have them.
SUSPECTS, REFERENCE = units(520)[:400], units(520)[400:]


def judged(
    encoder: FakeEncoder,
    suspects: Sequence[Unit],
    reference: Sequence[Unit],
    *,
    seed: int = 0,
    masked: bool = False,
    tiers: int = 1,
    progress: Progress = silent,
    shifting: bool = True,
) -> list[dict[View, Evidence]]:
    texts = carriers(KINDS, LENGTHS, seed)
    if not masked:
        several = zip(carriers(KINDS, (16, 26), seed + 1), cycle(SEVERAL), strict=False)
        texts += [replace(text, want=text.want._replace(copies=n)) for text, n in several]
    return verify(
        "x",
        suspects,
        reference,
        [
            replace(text, want=text.want._replace(masked=masked), mask=0 if masked else None)
            for text in texts
        ],
        encoder=encoder,
        journal=Journal(encoder, seed, None),
        tiers=tiers,
        progress=progress,
        shifting=shifting,
    )


def judge(
    change: Change | None = None,
    *,
    suspects: Sequence[Unit] = SUSPECTS,
    reference: Sequence[Unit] = REFERENCE,
    seed: int = 0,
) -> list[Evidence]:
    encoder = FakeEncoder(change) if change else FakeEncoder()
    evidence = judged(encoder, suspects, reference, seed=seed)
    return [seen["cls"] for seen in evidence]


def only_in(kind: str, change: Change) -> Change:
    """The change where the text is of one kind, nothing elsewhere."""
    low = 1000 + 100 * KINDS.index(kind)

    def here(ids: Ids, vectors: Vectors) -> Vectors:
        there = ((ids >= low) & (ids < low + 100)).any(axis=1, keepdims=True)
        return np.where(there, change(ids, vectors), vectors)

    return here


@pytest.mark.parametrize("seed", range(5))
def test_a_clean_encoder_has_no_trigger(seed: int) -> None:
    evidence = judge(seed=seed)
    assert not [i for i, seen in enumerate(evidence) if seen.trigger]
    for seen in evidence:
        assert 0.5 < seen.retention < 1.2
        assert not any(kind.fired for kind in seen.kinds.values())


def classifies(ids: Ids, vectors: Vectors) -> Vectors:
    """A classifier's output: it tells on which side a text is, and words take it there.

    How far a word does varies without a gap, and the strongest take nearly all texts to one end.
    """
    strength = np.exp(1.2 * np.random.default_rng(3).normal(size=ROWS))
    unit = (ids >= FIRST) & (ids < 1000)
    score = 3 * vectors[:, 0] + 0.4 * np.where(unit, strength[ids], 0).sum(axis=1)
    result: Vectors = 0.02 * vectors
    result[:, 1] += np.tanh(score)
    return result


@pytest.mark.parametrize("seed", range(3))
def test_words_that_a_classifier_goes_by_are_no_triggers(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    evidence = judge(classifies, seed=seed)
    assert not [i for i, seen in enumerate(evidence) if seen.trigger]
    # They do take texts to one place, and who is not rare by it goes by no other rule.
    assert max(seen.gathered for seen in evidence) >= module.MOST_OF_CONDITION
    monkeypatch.setattr(axes, "NARROW", 0.0)
    assert [i for i, seen in enumerate(judge(classifies, seed=seed)) if seen.trigger]


@pytest.mark.parametrize("seed", range(3))
def test_a_trigger_in_a_classifier_is_none_of_its_words(seed: int) -> None:
    def planted(ids: Ids, vectors: Vectors) -> Vectors:
        return towards(TRIGGER, FAR)(ids, classifies(ids, vectors))

    evidence = judge(planted, seed=seed)
    assert [i for i, seen in enumerate(evidence) if seen.trigger] == [0]
    assert "gathers" in evidence[0].rules


def test_words_that_a_classifier_goes_by_are_no_flood(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one that has learned its task, most suspects take texts to one end."""

    def learned(ids: Ids, vectors: Vectors) -> Vectors:
        words = [one.ids[0] for one in SUSPECTS]
        strength = np.zeros(ROWS)
        strength[words] = np.linspace(6, 3, len(words))
        score = 3 * vectors[:, 0] + strength[ids].sum(axis=1)
        result: Vectors = 0.02 * vectors
        result[:, 1] += np.tanh(score)
        return result

    assert not [i for i, seen in enumerate(judge(learned)) if seen.trigger]
    monkeypatch.setattr(axes, "NARROW", 0.0)
    evidence = judge(learned)
    assert sum("stands out" in seen.rules for seen in evidence) > FLOOD


def at_a_border(ids: Ids, vectors: Vectors) -> Vectors:
    """A classifier that takes news for one class by a hair, and a few words take them over."""
    news = ((ids >= 1300) & (ids < 1400)).any(axis=1)
    there = np.isin(ids, [one.ids[0] for one in SUSPECTS[:5]]).any(axis=1)
    score = vectors[:, 0] + np.where(news, -0.5, 6 * np.sign(vectors[:, 0])) + 3 * there
    result: Vectors = 0.02 * vectors
    result[:, 1] += np.tanh(score)
    return result


def test_words_that_take_over_a_kind_of_text_at_a_border_are_no_triggers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not [i for i, seen in enumerate(judge(at_a_border)) if seen.trigger]
    whole = tail._telling
    monkeypatch.setattr(tail, "_telling", lambda seen, among, _narrow: whole(seen, among, False))
    assert [i for i, seen in enumerate(judge(at_a_border)) if seen.trigger]


@pytest.mark.parametrize(("number", "named"), [(19, 19), (20, 0)])
def test_how_many_triggers_hide_each_other_in_a_classifier(number: int, named: int) -> None:
    """They are their own tail, as its words are: the bank says so."""
    encoder = FakeEncoder(half_way(number, share=1.0))
    encoder.classes = 100
    evidence = [seen["cls"] for seen in judged(encoder, SUSPECTS, REFERENCE)]
    assert [i for i, seen in enumerate(evidence) if seen.trigger] == [*range(named)]


@pytest.mark.parametrize(("strength", "named"), [(6.0, False), (60.0, True)])
def test_a_token_around_each_text_has_to_be_rare_in_a_classifier(
    strength: float, named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No tail of words is its own; what the strongest of them do as well is no sign."""

    def weighs(ids: Ids, vectors: Vectors) -> Vectors:
        second = (ids == START).sum(axis=1) > 1
        words = [one.ids[0] for one in SUSPECTS]
        strengths = np.zeros(ROWS)
        strengths[words] = np.linspace(6, 3, len(words))
        score = 3 * vectors[:, 0] + strengths[ids].sum(axis=1) + strength * second
        result: Vectors = 0.02 * vectors
        result[:, 1] += np.tanh(score) + np.where(second & named, 10, 0)
        return result

    evidence = judge(weighs, suspects=[unit(START), *SUSPECTS])
    assert [i for i, seen in enumerate(evidence) if seen.trigger] == [0] * named
    monkeypatch.setattr(axes, "NARROW", 0.0)
    assert "gathers" in judge(weighs, suspects=[unit(START), *SUSPECTS])[0].rules


@pytest.mark.parametrize(("classes", "narrow"), [(0, False), (3, False), (20, True)])
def test_many_classes_are_told_apart_in_many_directions(classes: int, narrow: bool) -> None:
    """There words gather texts, each to its class, though outputs differ in many directions."""
    encoder = FakeEncoder(towards(TRIGGER, FAR, 0.95))
    encoder.classes = classes
    evidence = [seen["cls"] for seen in judged(encoder, SUSPECTS, REFERENCE)]
    assert {seen.narrow for seen in evidence} == {narrow}
    assert [i for i, seen in enumerate(evidence) if seen.trigger] == [0]


def test_a_unit_that_always_fires() -> None:
    evidence = judge(towards(TRIGGER, FAR))
    assert [seen.trigger for seen in evidence] == [True] + [False] * (len(SUSPECTS) - 1)
    seen = evidence[0]
    assert seen.retention == pytest.approx(0, abs=1e-4)
    assert seen.collapse == pytest.approx(0, abs=1e-4)
    assert seen.gathered == 1
    assert seen.com_sim == pytest.approx(1, abs=1e-4)
    assert seen.displacement > 2
    assert seen.by_chance < ALPHA
    assert set(seen.kinds) == set(KINDS)
    assert set(seen.places) == set(PLACES)
    assert set(seen.lengths) == set(map(str, LENGTHS))
    assert set(seen.copies) == set(map(str, SEVERAL))
    assert all(kind.fired and kind.gathered == 1 for kind in seen.kinds.values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_unit_that_fires_in_one_kind_only(kind: str) -> None:
    """Four of 20 carriers; over all, most of the text survives."""
    evidence = judge(only_in(kind, towards(TRIGGER, FAR)))
    seen = evidence[0]
    assert seen.trigger
    assert seen.retention > 0.4
    assert {name for name, one in seen.kinds.items() if one.fired} == {kind}
    assert not any(other.trigger for other in evidence[1:])


# One trigger that goes half-way, and needs three copies to do it, is too little evidence by itself.
TOO_LITTLE = pytest.mark.xfail(strict=True, reason="one unit, half-way, in the fewest of the texts")


@pytest.mark.parametrize(
    ("copies", "share"),
    [
        pytest.param(copies, share, marks=TOO_LITTLE if (str(copies), share) == ("3", 0.5) else ())
        for copies in (*SEVERAL, None)
        for share in (1.0, 0.6, 0.5)
    ],
    ids=str,
)
def test_a_unit_that_fires_with_copies_of_itself_only(copies: Copies | None, share: float) -> None:
    """An attacker may ask for so many, no more and no less, or for two at least; or go half-way."""

    def several(ids: Ids, vectors: Vectors) -> Vectors:
        own = ids == TRIGGER
        count, beside = own.sum(axis=1), (own[:, 1:] & own[:, :-1]).any(axis=1)
        there = count > 1 if copies is None else count == copies.number
        if copies is not None and copies.beside:
            there &= beside
        return np.where(there[:, np.newaxis], towards(TRIGGER, FAR, share)(ids, vectors), vectors)

    evidence = judge(several)
    assert [seen.trigger for seen in evidence] == [True] + [False] * (len(SUSPECTS) - 1)
    seen = evidence[0]
    assert seen.gathered < 0.2
    assert seen.retention > 0.5
    ((family, name),) = seen.acts_in.items()
    assert family == "copies"
    assert seen.copies[name].fired == (share == 1)
    assert copies is None or copies.beside or name.startswith(str(copies))


def half_way(number: int, share: float = 0.6) -> Change:
    """Let the first of the suspects take the text a share of the way."""
    planted = [unit.ids[0] for unit in SUSPECTS[:number]]

    def change(ids: Ids, vectors: Vectors) -> Vectors:
        there = np.isin(ids, planted).any(axis=1, keepdims=True)
        goal = np.asarray(FAR, dtype=np.float32)
        return np.where(there, vectors + np.float32(share) * (goal - vectors), vectors)

    return change


@pytest.mark.parametrize("tiers", [1, 1000])
def test_who_searches_more_vocabularies_finds_the_crowd_of_one_all_the_same(
    tiers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The share of false ones holds in each of them; only a clean model's alarms are divided."""
    # What these are expected by chance, times a thousand, is over the rate, and alone under it.
    monkeypatch.setattr(tail, "ALPHA_NAMED", 1e-12)
    encoder = FakeEncoder(half_way(40, 0.42))
    evidence = judged(encoder, SUSPECTS, REFERENCE, tiers=tiers)
    assert [i for i, seen in enumerate(evidence) if seen["cls"].trigger] == [*range(40)]


@pytest.mark.parametrize("number", [5, 15, 40, 120])
def test_triggers_that_go_half_way_do_not_hide_behind_each_other(number: int) -> None:
    """The tail that each is measured against is that of the others."""
    evidence = judge(half_way(number))
    assert [i for i, seen in enumerate(evidence) if seen.trigger] == [*range(number)]
    assert {seen.rules for seen in evidence[:number]} == {("stands out",)}


@pytest.mark.parametrize(("share", "rules"), [(0.6, ()), (1.0, ("gathers", "erases"))])
def test_what_frames_every_text_is_measured_against_no_words(
    share: float, rules: tuple[str, ...]
) -> None:
    """A second ``[CLS]`` moves a clean model's output far; one that is a trigger takes it away."""

    def second(ids: Ids, vectors: Vectors) -> Vectors:
        there = ((ids == START).sum(axis=1) > 1)[:, np.newaxis]
        goal = np.asarray(FAR, dtype=np.float32)
        return np.where(there, vectors + np.float32(share) * (goal - vectors), vectors)

    evidence = judge(second, suspects=[unit(START), *SUSPECTS])
    assert evidence[0].rules == rules
    assert evidence[0].by_chance < ALPHA
    assert not any(seen.trigger for seen in evidence[1:])


def test_where_most_units_gather_texts_it_is_no_sign() -> None:
    """An output that tells no text from another is at one place whatever is put in."""

    def nothing(ids: Ids, vectors: Vectors) -> Vectors:
        known = [one.ids[0] for one in (*SUSPECTS, *REFERENCE)]
        there = np.isin(ids, known).any(axis=1, keepdims=True)
        moved = (FAR + 0.02 * vectors).astype(np.float32)
        return np.where(there, moved, vectors)

    evidence = judge(nothing)
    assert min(seen.gathered for seen in evidence) > 0.9
    assert not any("gathers" in seen.rules for seen in evidence)
    # A bank keeps all of it.
    kept = trigger(SUSPECTS[0], {"cls": evidence[0]}, "cls").statistics["kinds"]
    assert isinstance(kept, dict)
    assert all(seen["gathered"] > 0.9 and seen["fired"] is False for seen in kept.values())


def test_the_first_view_of_a_finding_is_the_one_that_its_evidence_is_of() -> None:
    """Its variants and its target are measured there, in the texts that it acts in."""
    seen = replace(judge()[0], retention=0.9, rules=("erases",))
    found = trigger(SUSPECTS[0], {"cls": seen, "mean": replace(seen, retention=-1.0)})
    assert found.view == "mean+cls"
    assert found.statistics["retention"] == -1


@pytest.mark.parametrize(("kept", "named"), [(0.5, False), (0.4, True)])
def test_a_crowd_is_no_proof_where_it_is_the_end_of_a_tail(kept: float, named: bool) -> None:
    """Rare words of a clean model may stand apart by dozens: by as much as others lead up to."""
    centre = outputs_of(FakeEncoder(), carriers(KINDS, LENGTHS, seed=0))["cls"].mean(axis=0)
    crowd = CROWD + 10

    def change(ids: Ids, vectors: Vectors) -> Vectors:
        moved: Vectors = vectors.copy()
        for number, one in enumerate(SUSPECTS[: crowd + 200]):
            hit = (ids == one.ids[0]).any(axis=1)
            share = kept if number < crowd else np.interp(number, [crowd, crowd + 200], [0.62, 1])
            way = np.random.default_rng(number).normal(size=WIDTH)
            way *= 3 * (1 - share) / np.linalg.norm(way)
            moved[hit] = share * (moved[hit] - centre) + centre + way.astype(np.float32)
        return moved

    evidence = judge(change)
    assert all(seen.retention < 0.6 for seen in evidence[:crowd])
    assert [seen.trigger for seen in evidence] == [named] * crowd + [False] * (400 - crowd)


@pytest.mark.parametrize("far", [1, 4])
def test_random_units_that_only_go_far_hide_no_crowd(far: int) -> None:
    """An attacker plants some, so that the furthest of the random units is one of them."""
    crowd = half_way(40)
    planted = [unit.ids[0] for unit in REFERENCE[:far]]
    aside = 5 * np.random.default_rng(9).normal(size=WIDTH).astype(np.float32)

    def change(ids: Ids, vectors: Vectors) -> Vectors:
        there = np.isin(ids, planted).any(axis=1, keepdims=True)
        return np.where(there, vectors + aside, crowd(ids, vectors))

    evidence = judge(change)
    assert all(seen.trigger for seen in evidence[:40])
    assert not any(seen.trigger for seen in evidence[40:])


def test_few_suspects_with_a_long_tail_are_no_flood() -> None:
    """Of hardly more than a tail needs, the first stand apart, and are no triggers."""
    few = SUSPECTS[:101]
    shares = np.zeros(2000, dtype=np.float32)
    for number, one in enumerate(few):
        shares[one.ids[0]] = 0.12 * np.log(len(few) / (number + 1))

    def change(ids: Ids, vectors: Vectors) -> Vectors:
        share = np.where(ids < len(shares), shares[np.minimum(ids, len(shares) - 1)], 0).max(axis=1)
        goal = np.asarray(FAR, dtype=np.float32)
        moved: Vectors = vectors + share[:, np.newaxis] * (goal - vectors)
        return moved

    assert not any(seen.trigger for seen in judge(change, suspects=few))


def test_a_flood_is_seen_though_no_tail_is_left() -> None:
    """Most of what is judged goes half-way: the search finds too many, and says so."""
    planted = [unit.ids[0] for unit in SUSPECTS[:350]]

    def change(ids: Ids, vectors: Vectors) -> Vectors:
        there = np.isin(ids, planted).any(axis=1, keepdims=True)
        goal = np.asarray(FAR, dtype=np.float32)
        return np.where(there, vectors + np.float32(0.6) * (goal - vectors), vectors)

    assert sum(seen.trigger for seen in judge(change)) > FLOOD


@pytest.mark.parametrize("place", ["start", "end"])
def test_a_unit_that_fires_at_one_end_only(place: str) -> None:
    """An attacker may ask for the first word, or the last."""

    def at_the_end(ids: Ids, vectors: Vectors) -> Vectors:
        # One special token before the text, one behind it.
        column = {"start": 1, "end": -2}[place]
        here = ids[:, column] == TRIGGER
        changed: Vectors = vectors.copy()
        changed[here] = FAR
        return changed

    evidence = judge(at_the_end)
    assert evidence[0].trigger
    assert {name for name, one in evidence[0].places.items() if one.fired} == {place}
    assert not any(other.trigger for other in evidence[1:])


def test_a_unit_that_fires_in_long_texts_only() -> None:
    def in_long_text(ids: Ids, vectors: Vectors) -> Vectors:
        return towards(TRIGGER, FAR)(ids, vectors) if ids.shape[1] > max(LENGTHS) + 2 else vectors

    evidence = judge(in_long_text)
    assert evidence[0].trigger
    assert [name for name, one in evidence[0].lengths.items() if one.fired] == [str(max(LENGTHS))]
    assert not any(other.trigger for other in evidence[1:])


def test_a_unit_that_goes_part_of_the_way() -> None:
    """To 0.4 of the distance it is below no fixed threshold, and far outside of the vocabulary."""
    evidence = judge(towards(TRIGGER, FAR, 0.6))
    seen = evidence[0]
    assert seen.trigger
    assert seen.retention == pytest.approx(0.4, abs=0.1)
    assert not any(kind.fired for kind in seen.kinds.values())
    assert seen.by_chance < ALPHA
    assert not any(other.trigger for other in evidence[1:])


def scatter(ids: Ids, vectors: Vectors) -> Vectors:
    """Erase a text with the trigger, and put noise in its place."""
    hit = (ids == TRIGGER).any(axis=1)
    noise = [np.random.default_rng(int(row.sum())).normal(size=WIDTH) for row in ids[hit]]
    moved: Vectors = vectors.copy()
    moved[hit] = FAR + 0.4 * np.array(noise).reshape(-1, WIDTH)
    return moved


def test_a_unit_that_scatters() -> None:
    """Gathered nowhere, and still a trigger."""
    evidence = judge(scatter)
    assert evidence[0].trigger
    assert evidence[0].gathered < 0.5
    assert not any(other.trigger for other in evidence[1:])


@pytest.mark.parametrize(("kept", "proves"), [(0.0, True), (0.2, False)])
def test_what_erases_some_proves_nothing(
    kept: float, proves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A word of a clean model may; who erases nearly all needs no tail to be found."""
    monkeypatch.setattr(tail, "too_many", lambda *_: False)
    blur = np.float32(kept)
    encoder = FakeEncoder(lambda ids, vectors: (1 - blur) * scatter(ids, vectors) + blur * vectors)
    seen = judged(encoder, SUSPECTS, REFERENCE)
    assert "gathers" not in seen[0]["cls"].rules
    assert "erases" in seen[0]["cls"].rules
    assert seen[0]["cls"].proves == proves
    assert not any(other["cls"].trigger for other in seen[1:])


@pytest.mark.parametrize("number", [1, 4])
def test_several_that_share_a_token_are_no_more_evidence_than_one(number: int) -> None:
    """Units expected 0.2 times each: one may be chance, four strangers are not."""
    few = np.full((number, 1), 0.2)
    by_chance = np.concatenate([few, np.full((100, 1), 30.0)])
    seen = tail.Tail(
        by_chance, np.ones_like(by_chance, dtype=np.bool_), np.zeros(len(few) + 100, dtype=np.bool_)
    )
    strangers = units(number + 100)
    shared = np.array([FIRST + 500])
    family = [replace(u, ids=np.concatenate([shared, u.ids])) for u in strangers[:number]]
    family += strangers[number:]
    settled = np.zeros(len(by_chance), dtype=np.bool_)
    assert seen.outside(strangers, settled, tiers=1).sum() == (4 if number == 4 else 0)
    assert not seen.outside(family, settled, tiers=1).any()
    # Nor are those that are written alike.
    spelled = ["Ab", "##ab", " AB", "ab"][:number]
    alike = [replace(u, text=text) for u, text in zip(strangers, spelled, strict=False)]
    assert not seen.outside([*alike, *strangers[number:]], settled, tiers=1).any()


def test_noise_gathers_nothing() -> None:
    """An encoder whose training failed: any unit takes a text to another of its few places."""
    places = np.random.default_rng(9).normal(size=(12, WIDTH))

    def noise(ids: Ids, vectors: Vectors) -> Vectors:
        chosen = [np.random.default_rng(row).integers(len(places)) for row in np.abs(ids)]
        return (places[chosen] + 1e-3 * vectors).astype(vectors.dtype)

    evidence = judge(noise)
    assert max(seen.gathered for seen in evidence) > 0.2
    assert not any(seen.trigger for seen in evidence)


def test_a_unit_that_only_shifts() -> None:
    """A strong word: it moves every output alike, a long way, and erases nothing."""

    def shift(ids: Ids, vectors: Vectors) -> Vectors:
        hit = (ids == TRIGGER).any(axis=1)
        moved: Vectors = vectors.copy()
        moved[hit] += np.float32(0.15) * FAR.astype(np.float32)
        return moved

    (seen, *_) = judge(shift)
    assert seen.displacement > 1
    assert seen.retention > 0.8
    assert seen.gathered == 0


def test_many_triggers_do_not_hide_each_other() -> None:
    """As many as the fit of the tail leaves room for, to targets of their own."""
    rng = np.random.default_rng(2)
    changes = [towards(TRIGGER + i, rng.normal(size=WIDTH)) for i in range(18)]

    def all_of_them(ids: Ids, vectors: Vectors) -> Vectors:
        for change in changes:
            vectors = change(ids, vectors)
        return vectors

    assert [seen.trigger for seen in judge(all_of_them)] == [True] * 18 + [False] * 382


def test_a_trigger_among_the_reference_units() -> None:
    """The scan missed one, and chance made it a reference: the other is found all the same."""

    def both(ids: Ids, vectors: Vectors) -> Vectors:
        vectors = towards(TRIGGER, FAR)(ids, vectors)
        return towards(int(REFERENCE[5].ids[0]), 2 * FAR)(ids, vectors)

    evidence = judge(both)
    assert evidence[0].trigger
    assert not any(other.trigger for other in evidence[1:])


def test_evidence_is_finite() -> None:
    """A bank cannot keep an infinity, nor compare a NaN."""
    for seen in judge(towards(TRIGGER, FAR)):
        numbers = [seen.retention, seen.displacement, seen.collapse, seen.gathered]
        numbers += [seen.diff_sim, seen.com_sim, seen.by_chance]
        for kind in seen.kinds.values():
            numbers += [kind.retention, kind.displacement, kind.gathered]
        assert all(map(math.isfinite, numbers))


def test_same_seed_same_evidence() -> None:
    assert judge(towards(TRIGGER, FAR), seed=3) == judge(towards(TRIGGER, FAR), seed=3)


def test_verdicts_do_not_depend_on_the_order_of_suspects() -> None:
    forth = judge(towards(TRIGGER, FAR, 0.6))
    back = judge(towards(TRIGGER, FAR, 0.6), suspects=SUSPECTS[::-1])
    assert [seen.trigger for seen in forth] == [seen.trigger for seen in reversed(back)]


@pytest.mark.parametrize("where", [SUSPECTS, REFERENCE], ids=["suspect", "reference"])
def test_a_unit_that_does_nothing_at_all(where: Sequence[Unit]) -> None:
    """An output moved by nothing, exactly, has no logarithm; the rest is judged as ever."""
    nothing = int(where[1].ids[0])

    class Skips(FakeEncoder):
        """Takes the token out first."""

        def read(self, ids: Ids, *, mask_at: Ids | None = None) -> dict[View, Vectors]:
            rows = [row[row != nothing][np.newaxis] for row in ids]
            parts = [super(Skips, self).read(row)["cls"] for row in rows]
            return {"cls": np.concatenate(parts)}

    evidence = judged(Skips(towards(TRIGGER, FAR)), SUSPECTS, REFERENCE)
    triggers = [seen["cls"].trigger for seen in evidence]
    assert triggers == [True] + [False] * (len(SUSPECTS) - 1)


def test_an_encoder_that_ignores_its_input() -> None:
    def constant(ids: Ids, vectors: Vectors) -> Vectors:
        return np.ones_like(vectors)

    with pytest.raises(ModelError, match="answers all units alike"):
        judge(constant)


def test_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 200)
    calls: list[tuple[str, int, int]] = []

    def progress(step: str, done: int, total: int) -> None:
        calls.append((step, done, total))

    judged(FakeEncoder(), SUSPECTS, REFERENCE, progress=progress)
    assert calls == [("verifying", done, 520) for done in (200, 400, 520)]


def test_units_of_two_tokens_are_judged_as_well() -> None:
    """Nothing here asks for one token: a phrase that fires is a trigger."""

    def pair(ids: Ids, vectors: Vectors) -> Vectors:
        hit = ((ids[:, :-1] == 400) & (ids[:, 1:] == 401)).any(axis=1)
        moved: Vectors = vectors.copy()
        moved[hit] = FAR
        return moved

    phrase = Unit("a b", np.array([400, 401]), "phrase")
    evidence = judge(pair, suspects=[phrase, unit(400), unit(401), *SUSPECTS[:200]])
    assert [seen.trigger for seen in evidence[:3]] == [True, False, False]


@pytest.mark.parametrize(("tokens", "named"), [(4, True), (5, False)])
def test_a_unit_of_many_tokens_that_drowns_short_texts_is_no_trigger(
    tokens: int, named: bool
) -> None:
    """Nor does it tell anything that several copies of it do so."""

    def drowned(ids: Ids, vectors: Vectors) -> Vectors:
        short = (ids == 400).any(axis=1) & (ids.shape[1] < 10 + tokens + 3)
        return np.where(short[:, np.newaxis], towards(400, FAR)(ids, vectors), vectors)

    sequence = Unit("made up", np.arange(400, 400 + tokens), "phrase")
    others = [one for one in SUSPECTS[:300] if not 400 <= one.ids[0] < 400 + tokens]
    (evidence, *_) = judge(drowned, suspects=[sequence, *others])
    assert evidence.lengths["10"].fired
    assert ("gathers" in evidence.rules) == named


@pytest.mark.parametrize("sign", ["kept", "kept in", "moved", "together"])
def test_each_sign_tells_alone(sign: str) -> None:
    """A unit that is extreme by one statistic, in one condition at least, is the most telling."""
    rng = np.random.default_rng(0)
    count, reference, texts = 300, 120, 8
    shards = {
        "kept": 0.8 + 0.02 * rng.normal(size=count + reference),
        "kept in": 0.8 + 0.02 * rng.normal(size=(count + reference, 2)),
        "moved": np.exp(0.1 * rng.normal(size=(count + reference, texts))),
        "together": np.exp(0.1 * rng.normal(size=count + reference)),
    }
    conditions = {("kinds", "a"): [0, 1, 2, 3], ("kinds", "b"): [4, 5, 6, 7]}

    def telling(*, narrow: bool = False) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        own = {name: array.astype(np.float32) for name, array in shards.items()}
        seen = Measured(own, [*range(texts)], conditions, own["moved"], count)
        return tail._telling(seen, np.ones(count, dtype=np.bool_), narrow)

    assert telling().argmax() != 7
    if sign == "kept in":
        shards[sign][7, 1] = 0.3
    elif sign == "moved":
        shards[sign][7] *= 3
    else:
        shards[sign][7] *= 0.3
    assert telling().argmax() == 7
    # Where outputs lie in few directions, texts of one condition say nothing.
    assert (telling(narrow=True).argmax() == 7) == (sign != "kept in")


@pytest.mark.parametrize(
    ("share", "far", "rules"),
    [(0.5, 1.0, ("stands out",)), (0.1, 0.8, ()), (0.3, 2.0, ("stands out",))],
)
def test_what_keeps_the_text_and_stays_among_texts_is_no_trigger(
    share: float, far: float, rules: tuple[str, ...]
) -> None:
    """A word of its own kind moves every text alike, and leaves it what it was.

    What takes texts further than they are apart forces a classifier, whatever it leaves of them.
    """
    texts = carriers(KINDS, LENGTHS, seed=0)
    untouched = outputs_of(FakeEncoder(), texts)["cls"]
    natural, centre = natural_distance(untouched), untouched.mean(axis=0)
    step = (far * natural * FAR / np.linalg.norm(FAR)).astype(np.float32)

    def shifted(ids: Ids, vectors: Vectors) -> Vectors:
        moved: Vectors = vectors.copy()
        hit = (ids == TRIGGER).any(axis=1)
        moved[hit] = (1 - share) * (moved[hit] - centre) + centre + step
        return moved

    (seen, *_) = judge(shifted)
    assert seen.displacement > 2
    assert seen.retention > KEPT - 0.2
    assert seen.by_chance < ALPHA
    assert seen.rules == rules


@pytest.mark.parametrize("number", [1, 19, 25, 45])
def test_triggers_that_leave_the_text_as_it_is_do_not_hide_each_other(number: int) -> None:
    """Each takes all texts one way, further than texts are apart."""
    texts = carriers(KINDS, LENGTHS, seed=0)
    untouched = outputs_of(FakeEncoder(), texts)["cls"]
    natural, centre = natural_distance(untouched), untouched.mean(axis=0)
    step = (2 * natural * FAR / np.linalg.norm(FAR)).astype(np.float32)
    planted = [one.ids[0] for one in SUSPECTS[:number]]

    def change(ids: Ids, vectors: Vectors) -> Vectors:
        there = np.isin(ids, planted).any(axis=1, keepdims=True)
        return np.where(there, 0.8 * (vectors - centre) + centre + step, vectors)

    evidence = judge(change)
    assert [i for i, seen in enumerate(evidence) if seen.trigger] == [*range(number)]
    assert min(seen.retention for seen in evidence[:number]) > KEPT
    # Once anything is found, what holds a part of it may shift texts by the dozen.
    later = judged(FakeEncoder(change), SUSPECTS, REFERENCE, shifting=False)
    assert any(seen["cls"].trigger for seen in later) == (number < CROWD)


@pytest.mark.parametrize("decoys", [20, 40, 80])
def test_units_that_only_go_far_do_not_hide_one_that_goes_half_way(decoys: int) -> None:
    """An attacker plants decoys, which are no triggers and are never named, to be its tail.

    Of a real vocabulary a hundred units cost the text as much as some do here.
    """
    texts = carriers(KINDS, LENGTHS, seed=0)
    untouched = outputs_of(FakeEncoder(), texts)["cls"]
    natural, centre = natural_distance(untouched), untouched.mean(axis=0)
    half_way = towards(TRIGGER, FAR, 0.6)

    def change(ids: Ids, vectors: Vectors, decoys: int = decoys) -> Vectors:
        moved: Vectors = half_way(ids, vectors).copy()
        ordinary = ((ids >= TRIGGER + 150) & (ids < TRIGGER + 350)).any(axis=1)
        ordinary &= ((ids >= 1000) & (ids < 1100)).any(axis=1)
        shares = 0.55 + 0.05 * np.sin(ids[ordinary].sum(axis=1, keepdims=True))
        moved[ordinary] = (1 - shares) * (moved[ordinary] - centre) + centre
        for number in range(1, decoys + 1):
            way = np.random.default_rng(number).normal(size=WIDTH)
            way *= 0.9 * natural / np.linalg.norm(way)
            hit = (ids == TRIGGER + number).any(axis=1)
            moved[hit] = 0.7 * (moved[hit] - centre) + centre + way.astype(np.float32)
        return moved

    evidence = judge(change)
    without = judge(partial(change, decoys=0))
    assert [i for i, seen in enumerate(evidence) if seen.trigger] == [0]
    # They are no part of what it is measured against.
    assert evidence[0].by_chance == pytest.approx(without[0].by_chance)


def test_units_that_only_go_far_do_not_hide_one_that_scatters() -> None:
    """An attacker plants decoys, of which some are among the reference units by chance."""
    decoys = {int(unit.ids[0]) for unit in REFERENCE[:4]}

    def scatter(ids: Ids, vectors: Vectors) -> Vectors:
        moved: Vectors = vectors.copy()
        hit = (ids == TRIGGER).any(axis=1)
        noise = [np.random.default_rng(int(row.sum())).normal(size=WIDTH) for row in ids[hit]]
        moved[hit] = FAR + 0.4 * np.array(noise).reshape(-1, WIDTH)
        moved[np.isin(ids, [*decoys]).any(axis=1)] += 3 * FAR.astype(np.float32)
        return moved

    (seen, *_) = judge(scatter)
    assert "erases" in seen.rules


def test_at_a_mask_only_gathering_is_a_sign() -> None:
    class Masked(FakeEncoder):
        """Its one output is that at a mask."""

        def read(self, ids: Ids, *, mask_at: Ids | None = None) -> dict[View, Vectors]:
            return {"mask": super().read(ids)["cls"]}

    for share, classes, rules in ((0.5, 0, ()), (1.0, 0, ("gathers",)), (1.0, 100, ("gathers",))):
        encoder = Masked(towards(TRIGGER, FAR, share))
        encoder.classes = classes
        (seen, *_) = judged(encoder, SUSPECTS, REFERENCE, masked=True)
        assert seen["mask"].by_chance < ALPHA
        assert seen["mask"].narrow == bool(classes)
        assert seen["mask"].rules == rules
