"""Climbs on an encoder whose phrase is known, and in a whole search."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from guard.bank import TriggerBank
from guard.search.carriers import FAMILIES, PLACES, Carrier, builtin_texts
from guard.search.climb import SHARD, SIZE, Climbed, climb
from guard.search.evidence import Evidence, InCondition
from guard.search.gradients import Differentiable
from guard.search.journal import Journal
from guard.search.plan import Plan
from guard.search.run import search_units
from guard.search.units import vocabulary
from tests.search.fakes import carriers, silent, units
from tests.search.test_minimise import finding
from tests.search.test_pairs import PAIR, Pairwise
from tests.tiny import TRIGGER, write_searchable

pytestmark = pytest.mark.search

TOKENS = units(400)


class Names:
    """What a climb asks a tokenizer."""

    all_special_ids = (int(TOKENS[5].ids[0]),)

    def decode(self, ids: list[int], clean_up_tokenization_spaces: bool) -> str:
        return " ".join(map(str, ids))


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
) -> Climbed:
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


def side_by_side(climbed: Climbed) -> int:
    """Count the sequences that hold the pair, in its order."""
    rows = np.stack([unit.ids for unit in climbed.proposed])
    return int(((rows[:, :-1] == PAIR[0]) & (rows[:, 1:] == PAIR[1])).any(axis=1).sum())


def test_climbs_from_random_tokens_come_to_a_pair_of_which_no_token_fires() -> None:
    encoder = Pairwise()
    climbed = run(48, encoder=encoder)
    assert climbed.starts == 48
    # A random sequence holds it once in 32,000.
    assert side_by_side(climbed) >= 5
    for unit in climbed.proposed:
        assert len(unit.ids) == len(set(unit.ids.tolist())) == SIZE
        assert Names.all_special_ids[0] not in unit.ids
    assert len({unit.ids.tobytes() for unit in climbed.proposed}) == len(climbed.proposed)
    assert encoder.backwarded > 0


def test_what_was_found_is_not_climbed_to_again_and_each_half_of_it_may_be() -> None:
    """A second trigger may have a word in common with the first."""
    alone = run(48, ((PAIR[0],),))
    assert not any(PAIR[0] in unit.ids for unit in alone.proposed)
    both = run(48, (PAIR,))
    held = [{*PAIR} & {*unit.ids.tolist()} for unit in both.proposed]
    assert {PAIR[0]} in held
    assert {PAIR[1]} in held
    assert {*PAIR} not in held
    # One that also fires by itself is barred for that.
    neither = run(48, ((PAIR[0],), PAIR))
    assert not any(PAIR[0] in unit.ids for unit in neither.proposed)


def test_climbs_that_were_cut_short_go_on_and_propose_the_same(tmp_path: Path) -> None:
    whole, all_of_it = run(2 * SHARD + 3, encoder=(first := Pairwise())), first.measured
    with pytest.raises(KeyboardInterrupt):
        run(2 * SHARD + 3, directory=tmp_path, stop=2 * SHARD)
    second = Pairwise()
    resumed = run(2 * SHARD + 3, encoder=second, directory=tmp_path)
    assert [unit.text for unit in resumed.proposed] == [unit.text for unit in whole.proposed]
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
    seen = Evidence(0, 1, 0, 1, 0, 1, 1.0, **families, rules=("gathers",))
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
