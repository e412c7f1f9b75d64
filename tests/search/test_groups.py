"""Findings by where they lead, on encoders whose targets are known."""

from __future__ import annotations

import numpy as np

from guard.bank import Trigger
from guard.search.encoder import Ids, Vectors
from guard.search.groups import grouped
from tests.search.fakes import FIRST, WIDTH, FakeEncoder, carriers, towards


def trigger(number: int) -> Trigger:
    return Trigger(
        "", f"u{number}", (FIRST + number,), "token", "cls", {"retention": 0.0, "acts_in": {}}
    )


def targets(encoder: FakeEncoder, *numbers: int) -> list[object]:
    texts = carriers(["one", "two"], [8, 16])
    found = grouped(
        [trigger(number) for number in numbers], texts, encoder=encoder, rng=np.random.default_rng()
    )
    assert [item.text for item in found] == [f"u{number}" for number in numbers]
    assert all(item.statistics["retention"] == 0.0 for item in found)
    return [item.statistics["target"] for item in found]


def test_triggers_of_one_target_are_together() -> None:
    here, there = 3 * np.eye(WIDTH)[:2]

    def change(ids: Ids, vectors: Vectors) -> Vectors:
        for number, target in ((0, here), (1, there), (2, here), (3, -here)):
            vectors = towards(FIRST + number, target, 0.8)(ids, vectors)
        return vectors

    assert targets(FakeEncoder(change), 0, 1, 2, 3) == [1, 2, 1, 3]
    assert targets(FakeEncoder(change), 1, 3) == [1, 2]


def test_nothing_found_costs_nothing() -> None:
    encoder = FakeEncoder()
    assert targets(encoder) == []
    assert encoder.forwarded == 0
