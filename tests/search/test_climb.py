"""Climbs on an encoder whose phrase is known, and in a whole search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from guard.bank import Trigger, TriggerBank
from guard.search import verdicts
from guard.search.carriers import FAMILIES, PLACES, Carrier, builtin_texts
from guard.search.climb import SHARD, SIZE, climb
from guard.search.evidence import Evidence, InCondition
from guard.search.gradients import Differentiable
from guard.search.journal import Journal
from guard.search.plan import FAST, Plan
from guard.search.run import search_units
from guard.search.sequences import ROUNDS, search_sequences
from guard.search.shorten import Part
from guard.search.tail import FLOOD
from guard.search.tiers import Tiers
from guard.search.units import Unit, unit_of, vocabulary
from guard.search.verdicts import SHARED
from guard.search.verify import verify
from guard.search.views import View
from tests.search.fakes import FIRST, START, carriers, silent, units
from tests.search.test_minimise import finding
from tests.search.test_pairs import PAIR, Pairwise
from tests.tiny import TRIGGER, write_searchable

pytestmark = pytest.mark.search

TOKENS = units(400)


class Names:
    """What a climb asks a tokenizer, whose author calls the words of a phrase special."""

    all_special_ids = PAIR

    backend_tokenizer = SimpleNamespace(model=None)

    def convert_ids_to_tokens(self, number: int) -> str:
        return f"▁{number}"


def places(kinds: int = 4) -> list[list[Carrier]]:
    texts = carriers([f"kind {n}" for n in range(kinds)], (7, 9, 12))
    return [[text for text in texts if text.want.place == place] for place in PLACES]


def run(
    starts: int,
    found: tuple[tuple[int, ...], ...] = (),
    *,
    encoder: Pairwise | None = None,
    directory: Path | None = None,
    stop: int | None = None,
) -> list[Unit]:
    def progress(done: int) -> None:
        if done == stop:
            raise KeyboardInterrupt

    encoder = encoder or Pairwise()
    encoder.tokenizer = Names()  # type: ignore[assignment]
    return climb(
        "climb",
        starts,
        TOKENS,
        places(),
        [finding(*ids) for ids in found],
        encoder=encoder,
        journal=Journal(encoder, 3, directory),
        progress=progress,
    )


def side_by_side(climbed: list[Unit]) -> int:
    """Count the sequences that hold the pair, in its order."""
    rows = np.stack([unit.ids for unit in climbed])
    return int(((rows[:, :-1] == PAIR[0]) & (rows[:, 1:] == PAIR[1])).any(axis=1).sum())


def test_climbs_from_random_tokens_come_to_a_pair_of_which_no_token_fires() -> None:
    encoder = Pairwise()
    climbed = run(48, encoder=encoder)
    # A random sequence holds it once in 32,000.
    assert side_by_side(climbed) >= 5
    for unit in climbed:
        assert len(unit.ids) == len(set(unit.ids.tolist())) == SIZE
    assert len({unit.ids.tobytes() for unit in climbed}) == len(climbed)
    assert encoder.backwarded > 0


def test_what_was_found_is_not_climbed_to_again_and_each_half_of_it_may_be() -> None:
    """A second trigger may have a word in common with the first."""
    alone = run(48, ((PAIR[0],),))
    assert not any(PAIR[0] in unit.ids for unit in alone)
    both = run(48, (PAIR,))
    held = [{*PAIR} & {*unit.ids.tolist()} for unit in both]
    assert {PAIR[0]} in held
    assert {PAIR[1]} in held
    assert {*PAIR} not in held
    # Nor by way of a third word that fires with each of them.
    third = (PAIR[0], int(TOKENS[60].ids[0])), (int(TOKENS[60].ids[0]), PAIR[1])
    for unit in run(48, (PAIR, *third)):
        assert len({*PAIR, third[0][1]} & {*unit.ids.tolist()}) <= 1
    # What no sequence can hold bars nothing.
    twice = (PAIR[0], PAIR[0]), (START, PAIR[1])
    assert side_by_side(run(48, twice)) >= 5
    # One that also fires by itself is barred for that.
    neither = run(48, ((PAIR[0],), PAIR))
    assert not any(PAIR[0] in unit.ids for unit in neither)


def test_many_findings_that_share_a_word_do_not_hide_the_next() -> None:
    others = [(PAIR[0], int(unit.ids[0])) for unit in TOKENS[60:72]]
    climbed = run(192, tuple(others))
    assert side_by_side(climbed) >= 3
    held = [{*unit.ids.tolist()} for unit in climbed]
    assert not any({*other} <= own for other in others for own in held)


class Normalised(Pairwise):
    """The length of an embedding does not matter, as before a layer norm."""

    def differentiable(self, embedded: torch.Tensor) -> dict[View, torch.Tensor]:
        usual = float(np.linalg.norm(self._table, axis=1).mean())
        return super().differentiable(usual * torch.nn.functional.normalize(embedded, dim=2))


def test_long_embeddings_draw_no_climb_to_themselves() -> None:
    encoder = Normalised()
    decoys = [int(unit.ids[0]) for unit in TOKENS[100:200]]
    assert not {*PAIR} & {*decoys}
    encoder._table[decoys] *= 3
    climbed = run(48, encoder=encoder)
    assert side_by_side(climbed) >= 5


def test_climbs_that_were_cut_short_go_on_and_propose_the_same(tmp_path: Path) -> None:
    whole, all_of_it = run(2 * SHARD + 3, encoder=(first := Pairwise())), first.measured
    with pytest.raises(KeyboardInterrupt):
        run(2 * SHARD + 3, directory=tmp_path, stop=2 * SHARD)
    second = Pairwise()
    resumed = run(2 * SHARD + 3, encoder=second, directory=tmp_path)
    assert [unit.text for unit in resumed] == [unit.text for unit in whole]
    assert 0 < second.measured < all_of_it / 4
    # Other findings are another search.
    third = Pairwise()
    run(2 * SHARD + 3, ((PAIR[0],),), encoder=third, directory=tmp_path)
    assert third.measured > all_of_it / 2


@pytest.mark.parametrize(
    ("family", "counts"),
    [("kinds", True), ("places", True), ("lengths", False), ("copies", False)],
)
def test_short_texts_and_several_copies_of_a_sequence_are_no_evidence(
    family: str, counts: bool
) -> None:
    """Eighteen tokens drown any text; a word's copies do not."""
    fired = {"any": InCondition(retention=0, displacement=1, gathered=1, fired=True)}
    families: dict[str, dict[str, InCondition]] = {name: {} for name in FAMILIES}
    families[family] = fired
    seen = Evidence(0, 1, 0, 1, 0, 1, 1.0, narrow=False, **families, rules=("gathers",))
    assert seen.trigger
    assert seen.gathers_once is counts


def search(directory: Path) -> TriggerBank:
    encoder = Differentiable.load(str(directory))
    return search_units(
        encoder,
        vocabulary(encoder.tokenizer),
        builtin_texts(),
        plan=Plan("climbs", starts=64),
        seed=0,
        progress=silent,
    )


@pytest.mark.parametrize("triggers", [(), (TRIGGER,)], ids=["clean", "backdoored"])
def test_a_search_climbs_and_says_so(tmp_path: Path, triggers: tuple[str, ...]) -> None:
    """Nothing that a clean model's climbs come to is found, and no trigger is found twice."""
    bank = search(write_searchable(tmp_path, triggers=triggers))
    assert tuple(trigger.text for trigger in bank.triggers) == triggers
    sequences, assumes = bank.coverage["sequences"], bank.coverage["assumes"]
    assert isinstance(sequences, list)
    assert isinstance(assumes, str)
    # One round, since it comes to nothing.
    assert len(sequences) == 1
    assert 32 < sequences[0] <= 64
    assert "lead to from 64 random ones" in assumes
    assert "other pairs and phrases" in str(bank.coverage["not_tested"])


class Judged:
    """Finds the pair where it is proposed, and so many units in each round besides."""

    def __init__(self, besides: int = 0) -> None:
        self.found: list[Trigger] = []
        self._besides = besides

    @property
    def fired(self) -> set[tuple[int, ...]]:
        return {trigger.token_ids for trigger in self.found}

    def draw(self, lengths: tuple[int, ...], *, place: str) -> list[Carrier]:
        return places()[PLACES.index(place)]

    def judge(self, name: str, proposed: list[Unit], *rest: object, **how: object) -> None:
        assert how["climbed"]
        if side_by_side(proposed):
            self.found.append(finding(*PAIR))
        first = FIRST + 200 + len(self.found)
        self.found += [finding(first + n) for n in range(self._besides)]


@pytest.mark.parametrize(("besides", "rounds"), [(0, 2), (1, ROUNDS), (FLOOD + 1, 1)])
def test_rounds_go_on_while_they_find_something(besides: int, rounds: int) -> None:
    """The second finds no pair again; a flood ends them."""
    encoder = Pairwise()
    encoder.tokenizer = Names()  # type: ignore[assignment]
    judged = Judged(besides)
    proposed = search_sequences(
        judged,  # type: ignore[arg-type]
        TOKENS,
        Plan("climbs", starts=48),
        encoder=encoder,
        journal=Journal(encoder, 3, None),
        progress=silent,
    )
    assert len(proposed) == rounds
    assert [bool(side_by_side(units)) for units in proposed] == [True, *[False] * (rounds - 1)]


def test_of_a_sequence_that_gathers_the_smallest_part_is_found(tmp_path: Path) -> None:
    """And neither the sequence, nor one that does nothing."""
    encoder = Differentiable.load(str(write_searchable(tmp_path, triggers=(TRIGGER,))))
    tokens = vocabulary(encoder.tokenizer).units
    (trigger,) = [unit for unit in tokens if unit.text == TRIGGER]
    quiet = [int(unit.ids[0]) for unit in tokens if unit.text != TRIGGER]
    proposed = [
        unit_of(encoder.tokenizer, [*quiet[n : n + 3], *last, *quiet[n + 3 : n + 5]])
        for n, last in ((900, trigger.ids), (950, quiet[980:981]))
    ]
    journal = Journal(encoder, 0, None)
    judging = Tiers(encoder, builtin_texts(), FAST, seed=0, journal=journal, progress=silent)
    judging.verdicts.judge("sequences", proposed, tokens, tokens, tiers=1, climbed=True)
    assert [found.text for found in judging.verdicts.found] == [TRIGGER]


@pytest.mark.parametrize("gathers", [False, True])
def test_what_climbs_share_is_found_if_it_gathers_and_only_then_proves_anything(
    gathers: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a classifier all climbs go to the words that it goes by."""
    encoder = Differentiable.load(str(write_searchable(tmp_path)))
    tokens = vocabulary(encoder.tokenizer).units
    held, part, *others = tokens[900:1000]
    proposed = [
        unit_of(encoder.tokenizer, [int(u.ids[0]) for u in (part, *others[n : n + 5])])
        for n in range(0, 5 * SHARED, 5)
    ]
    climbed = {unit.ids.tobytes() for unit in proposed}

    def spy(name: str, suspects: Sequence[Unit], *rest: Any, **how: Any) -> Any:
        evidence = verify(name, suspects, *rest, **how)
        for unit, own in zip(suspects, evidence, strict=True):
            ids = unit.ids.tobytes()
            if ids == held.ids.tobytes():
                change: dict[str, Any] = {"rules": ("erases",), "retention": 0.2}
            elif ids in climbed or (gathers and ids == part.ids.tobytes()):
                change = {"rules": ("gathers",)}
            else:
                continue
            for view, seen in own.items():
                kinds = {kind: replace(here, fired=True) for kind, here in seen.kinds.items()}
                own[view] = replace(seen, kinds=kinds, **change)
        return evidence

    def shared(name: str, findings: Sequence[Trigger], *rest: Any, **how: Any) -> list[Part]:
        return [Part(part, "cls", [trigger.token_ids for trigger in findings])] * bool(findings)

    monkeypatch.setattr(verdicts, "verify", spy)
    monkeypatch.setattr(verdicts, "parts_of", shared)
    journal = Journal(encoder, 0, None)
    judging = Tiers(encoder, builtin_texts(), FAST, seed=0, journal=journal, progress=silent)
    judging.verdicts.judge("tokens", [held, *tokens[:150]], tokens, tokens, tiers=1)
    judging.verdicts.judge("sequences", proposed, tokens, tokens, tiers=1, climbed=True)
    found = {trigger.text for trigger in judging.verdicts.found}
    assert found == ({part.text, held.text} if gathers else set())
