"""The trie and the ONNX graph against brute force."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from exporters import matcher, trie
from guard.runtime import Graph

NGrams = list[tuple[int, ...]]

# Few ids, so that n-grams overlap and are prefixes of each other.
few = st.integers(0, 3)
ngram_sets = st.sets(
    st.lists(few | st.integers(0, 60), min_size=1, max_size=5).map(tuple), max_size=40
)
ids = few | st.integers(-3, 70) | st.sampled_from([-(2**63), -(2**31), 2**31 - 1, 2**63 - 1])


def ordered(ngrams: set[tuple[int, ...]]) -> NGrams:
    return sorted(ngrams, key=lambda ngram: (len(ngram), ngram))


def run(ngrams: NGrams, rows: list[list[int]]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    session = Graph(matcher.build(ngrams, {}))._session
    batch = np.array(rows, dtype=np.int64).reshape(len(rows), -1)
    match, length = session.run(["match", "length"], {"input_ids": batch})
    return match, length


def brute_force(ngrams: NGrams, row: list[int]) -> list[int]:
    """Return for each place the number of the longest n-gram that starts there."""
    return [
        max(
            (n for n, ngram in enumerate(ngrams, 1) if tuple(row[i : i + len(ngram)]) == ngram),
            default=0,
        )
        for i in range(len(row))
    ]


@settings(deadline=None)
@given(ngram_sets, st.integers(1, 4), st.integers(0, 12), st.data())
def test_graph_equals_brute_force(
    ngrams: set[tuple[int, ...]], batch: int, width: int, data: st.DataObject
) -> None:
    rows = data.draw(
        st.lists(st.lists(ids, min_size=width, max_size=width), min_size=batch, max_size=batch)
    )
    numbered = ordered(ngrams)
    match, length = run(numbered, rows)
    expected = [brute_force(numbered, row) for row in rows]
    assert match.shape == length.shape == (batch, width)
    assert match.dtype == length.dtype == np.int32
    assert match.tolist() == expected
    assert length.tolist() == [[len(numbered[n - 1]) if n else 0 for n in row] for row in expected]


@settings(deadline=None)
@given(ngram_sets)
def test_slots_are_disjoint_and_every_index_is_valid(ngrams: set[tuple[int, ...]]) -> None:
    array = trie.build(ordered(ngrams))
    assert array.base.min() >= 0
    assert array.base.max() + array.limit < len(array.base)
    # The last slot stands for the dead state.
    assert (array.base[-1], array.check[-1], array.out[-1]) == (0, -2, 0)
    assert sorted(array.out[array.out > 0]) == list(range(1, len(ngrams) + 1))
    # A slot has a parent iff its state has more than one id.
    prefixes = {ngram[:n] for ngram in ngrams for n in range(2, len(ngram) + 1)}
    assert np.count_nonzero(array.check >= 0) == len(prefixes)


@pytest.mark.parametrize("ids_known", [50, 400, 30_000])
@pytest.mark.parametrize("longest", [1, 2, 5])
def test_many_ngrams(ids_known: int, longest: int) -> None:
    """Both paths of the placement are taken, and the arrays grow."""
    random = np.random.default_rng(ids_known + longest)
    ngrams = ordered(
        {
            tuple(random.integers(0, ids_known, size).tolist())
            for size in random.integers(1, longest + 1, 5_000).tolist()
        }
    )
    row = [
        i
        for n in random.integers(0, len(ngrams), 100).tolist()
        for i in [*ngrams[n], int(random.integers(-1, ids_known + 1))]
    ]
    numbers = {ngram: n for n, ngram in enumerate(ngrams, 1)}
    expected = [
        max(numbers.get(tuple(row[i : i + n]), 0) for n in range(1, longest + 1))
        for i in range(len(row))
    ]
    match, _ = run(ngrams, [row])
    assert match[0].tolist() == expected


def test_wide_states_that_collide_go_to_the_end() -> None:
    """Every state has all ids as children, so no two fit into each other's gaps."""
    ngrams: NGrams = [(a, b) for a in range(80) for b in range(80)]
    match, _ = run(ngrams, [list(ngram) for ngram in ngrams])
    assert match[:, 0].tolist() == list(range(1, len(ngrams) + 1))


def test_wide_states_are_tried_in_several_windows() -> None:
    """Few of them fit into each other, long before a window of slots is full."""
    random = np.random.default_rng(0)
    ngrams = ordered(
        {(a, int(b)) for a in range(60) for b in random.choice(2_000, 100, replace=False)}
    )
    match, _ = run(ngrams, [list(ngram) for ngram in ngrams])
    assert match[:, 0].tolist() == list(range(1, len(ngrams) + 1))


def test_single_ids_take_as_few_nodes_as_can_be() -> None:
    graph = onnx.load_model_from_string(matcher.build([(3,), (5,)], {})).graph
    assert [node.op_type for node in graph.node] == ["Clip", "Gather", "Gather"]


def test_nodes_do_not_depend_on_the_number_of_ngrams() -> None:
    few_nodes = onnx.load_model_from_string(matcher.build([(1, 2)], {})).graph.node
    many = [(a, b) for a in range(40) for b in range(40)]
    assert len(onnx.load_model_from_string(matcher.build(many, {})).graph.node) == len(few_nodes)


def test_bytes_are_deterministic_and_hold_metadata() -> None:
    data = matcher.build([(1,), (1, 2)], {"b": "2", "a": "1"})
    assert data == matcher.build([(1,), (1, 2)], {"b": "2", "a": "1"})
    assert Graph(data).metadata == {"a": "1", "b": "2"}


def test_graph_runs_without_the_settings_of_guard() -> None:
    """Other runtimes load the file with their own settings."""
    session = onnxruntime.InferenceSession(
        matcher.build([(1, 2)], {}), providers=["CPUExecutionProvider"]
    )
    match, length = session.run(None, {"input_ids": np.array([[0, 1, 2]], dtype=np.int64)})
    assert (match.tolist(), length.tolist()) == ([[0, 1, 0]], [[0, 2, 0]])


@pytest.mark.parametrize(
    ("ngrams", "message"),
    [
        ([(1, 2), (1,)], "shorter ones come first"),
        ([()], "must not be empty"),
        ([(1,), (1,)], "distinct"),
        ([(-1,)], "negative"),
    ],
)
def test_bad_ngrams_are_refused(ngrams: NGrams, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trie.build(ngrams)
