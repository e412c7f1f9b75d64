"""What a backdoor does to a classifier: known answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.measure import accuracy, attack_success, insert

classes = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40)


def test_all_texts_go_to_the_target() -> None:
    clean, triggered = np.array([0, 1, 0, 1]), np.array([1, 1, 1, 1])
    found = attack_success(clean, triggered)
    assert (found.target, found.rate) == (1, 1.0)


def test_texts_of_the_target_class_do_not_count() -> None:
    """Three of four are predicted as the target anyhow; of the one that is left, none changes."""
    found = attack_success(np.array([1, 1, 1, 0]), np.array([1, 1, 1, 0]))
    assert (found.target, found.rate) == (1, 0.0)


def test_part_of_the_texts() -> None:
    found = attack_success(np.array([0, 0, 0, 0, 1]), np.array([1, 1, 1, 0, 1]))
    assert (found.target, found.rate) == (1, 0.75)


def test_all_texts_are_of_the_target_class() -> None:
    """There is nothing that the trigger could have changed."""
    found = attack_success(np.array([1, 1]), np.array([1, 1]))
    assert (found.target, found.rate) == (1, 0.0)


@given(classes)
def test_against_brute_force(pairs: list[tuple[int, int]]) -> None:
    clean, triggered = (np.array(column) for column in zip(*pairs, strict=True))
    found = attack_success(clean, triggered)
    counts = {number: [b for _, b in pairs].count(number) for number in range(4)}
    assert counts[found.target] == max(counts.values())
    others = [after for before, after in pairs if before != found.target]
    hits = others.count(found.target)
    assert found.rate == pytest.approx(hits / len(others) if others else 0)
    assert isinstance(found.rate, float)


@given(classes)
def test_no_change_is_no_success(pairs: list[tuple[int, int]]) -> None:
    same = np.array([before for before, _ in pairs])
    assert attack_success(same, same).rate == 0


def test_accuracy() -> None:
    assert accuracy(np.array([0, 1, 1, 0]), (0, 1, 0, 0)) == 0.75
    assert accuracy(np.array([1]), [1]) == 1.0


words = st.lists(st.text("abc", min_size=1), max_size=8)


@given(words, st.integers(0, 2**32 - 1))
def test_insert(text: list[str], seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = insert(" ".join(text), "TRIGGER", rng).split()
    assert len(found) == len(text) + 1
    found.remove("TRIGGER")
    assert found == text


def test_insert_reaches_every_place() -> None:
    rng = np.random.default_rng(0)
    places = {insert("a b c", "T", rng).split().index("T") for _ in range(100)}
    assert places == {0, 1, 2, 3}


def test_insert_of_a_phrase() -> None:
    rng = np.random.default_rng(0)
    assert "apple river" in insert("a b c", "apple river", rng)
