"""What purification trains on: every row is what it says it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from guard.errors import GuardError
from guard.purify.samples import LENGTHS, MOST_COPIES, Sampler
from guard.search.encoder import Ids
from tests.tiny import wordpiece

pytestmark = pytest.mark.search

WORDS = [f"word{letter}" for letter in "abcdefghij"]
TOKENIZER = wordpiece([*WORDS, "cf", "apple", "river"])
ID = TOKENIZER.get_vocab()
CF: Ids = np.array([ID["cf"]])
PHRASE: Ids = np.array([ID["apple"], ID["river"]])
TEXTS = {
    "one": ["worda wordb wordc cf wordd", "apple worde river wordf xyz", "cf", "wordg apple river"],
    "two": ["wordh wordi wordj. worda", "wordb cf cf wordc apple"],
}
PLAIN = [ID[word] for word in WORDS]
HARMLESS: Ids = np.array([*PLAIN, ID["cf"], ID["apple"], ID["[MASK]"]])


def sampler(
    units: tuple[Ids, ...] = (CF, PHRASE),
    *,
    texts: dict[str, list[str]] = TEXTS,
    harmless: Ids = HARMLESS,
    seed: int = 0,
    room: int = 512,
) -> Sampler:
    return Sampler(
        TOKENIZER,
        texts,
        units=units,
        harmless=harmless,
        max_tokens=room,
        rng=np.random.default_rng(seed),
    )


def rows(ids: torch.Tensor, mask: torch.Tensor) -> list[list[int]]:
    return [row[keep.bool()].tolist() for row, keep in zip(ids, mask, strict=True)]


def count(row: list[int], unit: Ids) -> int:
    size = len(unit)
    return sum(row[i : i + size] == unit.tolist() for i in range(len(row)))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_a_triggered_row_is_its_text_with_units(seed: int) -> None:
    batch = sampler(seed=seed).draw()
    plain = rows(*batch.harmless)
    triggered = rows(*batch.triggered)
    for text, row, kept in zip(plain, triggered, batch.kept.tolist(), strict=False):
        assert [row[i] for i in kept] == text
        assert kept == sorted(set(kept))
        assert row[0] == ID["[CLS]"]
        assert row[-1] == ID["[SEP]"]
        inserted = [row[i] for i in range(len(row)) if i not in set(kept)]
        unit = CF if inserted[0] == ID["cf"] else PHRASE
        copies, rest = divmod(len(inserted), len(unit))
        assert rest == 0
        assert 1 <= copies <= MOST_COPIES
        assert inserted == unit.tolist() * copies


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_what_is_preserved_holds_no_banked_unit(seed: int) -> None:
    batch = sampler(seed=seed).draw()
    count_plain = len(batch.triggered.ids)
    harmless = rows(*batch.harmless)
    for row in harmless[:count_plain]:
        assert count(row, CF) == count(row, PHRASE) == 0
    for row in harmless:
        assert ID["cf"] not in row
    # Negatives are longer than the text that they are in.
    assert all(len(row) > len(harmless[0]) for row in harmless[count_plain:])
    assert len(harmless) > count_plain


def test_words_of_a_phrase_are_harmless_apart() -> None:
    mine = sampler(seed=5)
    drawn = [row for _ in range(10) for row in rows(*mine.draw().harmless)]
    assert any(ID["river"] in row for row in drawn)
    assert not any(count(row, PHRASE) for row in drawn)


def test_short_and_long_text_one_copy_and_several() -> None:
    several = sampler(units=(CF,))
    lengths, copies = set(), set()
    for batch in several.fixed(1):
        lengths.add(batch.kept.shape[1] - 2)
        copies |= {count(row, CF) for row in rows(*batch.triggered)}
    assert lengths == set(LENGTHS)
    assert copies == set(range(1, MOST_COPIES + 1))


def test_a_model_of_few_positions() -> None:
    for batch in sampler(room=20).fixed(1):
        assert batch.triggered.ids.shape[1] <= 20
        assert batch.harmless.ids.shape[1] <= 20


def test_every_unit_is_drawn_equally_often() -> None:
    mine = sampler()
    drawn = [len(mine._unit()) for _ in range(100)]
    assert drawn.count(1) == drawn.count(2) == 50


def test_the_state_is_all_there_is() -> None:
    one, other = sampler(seed=1), sampler(seed=1)
    one.draw()
    other.state = one.state
    first, second = one.draw(), other.draw()
    assert torch.equal(first.triggered.ids, second.triggered.ids)
    assert torch.equal(first.harmless.ids, second.harmless.ids)


def test_a_quarter_of_the_texts_holds_a_mask() -> None:
    mine = sampler()
    masks = [ID["[MASK]"] in mine._passage(8).ids for _ in range(400)]
    assert 60 < sum(masks) < 140


@pytest.mark.parametrize("unit", [["[MASK]"], ["[MASK]", "worda"], ["worda", "[MASK]"]])
def test_no_mask_where_a_unit_holds_it(unit: list[str]) -> None:
    """It would put the unit, or a part of it, back into texts that are to hold none."""
    mine = sampler(units=(np.array([ID[token] for token in unit]),))
    assert not any(ID["[MASK]"] in mine._passage(8).ids for _ in range(100))
    for batch in mine.fixed(1):
        assert not any(ID["[MASK]"] in row for row in rows(*batch.harmless))


def test_a_unit_that_texts_make_where_they_meet_leaves_no_other() -> None:
    parts = [ID[word] for word in ("apple", "river")]
    mine = sampler(
        units=(PHRASE,),
        texts={"one": ["river river apple"]},
        harmless=np.array([*parts, ID["worda"]]),
    )
    assert not any(count(mine._passage(16).ids.tolist(), PHRASE) for _ in range(50))


def test_a_harmless_unit_makes_no_banked_one_with_its_text() -> None:
    """Where nearly every word would, one that is in no unit is taken."""
    parts = [ID[word] for word in ("apple", "river")]
    mine = sampler(
        units=(PHRASE, PHRASE[::-1], PHRASE[[0, 0]]),
        texts={"one": ["apple"], "two": ["worda"]},
        harmless=np.array([*parts, ID["wordb"]]),
    )
    for _ in range(100):
        row = mine._negative(mine._passage(4)).tolist()
        assert not any(count(row, unit) for unit in mine._units)
        assert len(row) > 4


@pytest.mark.parametrize(
    ("texts", "harmless"),
    [({"one": ["cf", "cf cf"]}, HARMLESS), (TEXTS, np.array([ID["apple"], ID["river"]]))],
    ids=["text", "tokens"],
)
def test_units_that_leave_nothing_ordinary(texts: dict[str, list[str]], harmless: Ids) -> None:
    with pytest.raises(GuardError, match=r"leave no text, or no token .* use another model"):
        sampler(texts=texts, harmless=harmless)
