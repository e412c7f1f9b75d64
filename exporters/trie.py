"""A double-array trie over token ids, built with numpy alone.

States are slots of three arrays. After its first id ``a`` a sequence is in slot ``a`` itself: the
root needs no table. From slot ``s`` the id ``b`` leads to slot ``t = base[s] + b``, provided
``check[t] == s``; otherwise no n-gram goes on like that. ``out[s]`` is the n-gram that ends in
slot ``s``, or 0. (Aoe 1989, "An efficient digital search algorithm by using a double-array
structure".)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]

# How many free slots are tried for a state with several children, and over how many windows of
# the arrays, before it goes to the end. More makes the arrays denser and the build slower.
_WINDOW = 1024
_CANDIDATES = 256
_WINDOWS = 8


@dataclass(frozen=True, slots=True)
class DoubleArray:
    """The trie of some n-grams.

    Parameters
    ----------
    base, check, out
        The arrays, int32 [slots]. Every index from -1 (the last slot) to
        ``base.max() + limit`` is valid, and the last slot belongs to no state.
    lengths
        int32 [n-grams + 1]; the number of ids of n-gram 1, 2, ...; ``lengths[0] == 0``.
    limit
        The smallest number above all ids; its slot belongs to no state.
    depth
        The largest number of ids of an n-gram; 0 if there are none.
    """

    base: NDArray[np.int32]
    check: NDArray[np.int32]
    out: NDArray[np.int32]
    lengths: NDArray[np.int32]
    limit: int
    depth: int


def build(ngrams: Sequence[tuple[int, ...]]) -> DoubleArray:
    """Build the trie of `ngrams`, which get the numbers 1, 2, ... in their order.

    Parameters
    ----------
    ngrams
        Distinct, none empty, ids not negative, shorter ones first: so the largest number that is
        found at a place is the longest n-gram there.
    """
    lengths = np.array([0, *map(len, ngrams)], dtype=np.int64)
    if np.any(np.diff(lengths) < 0) or np.any(lengths[1:] == 0):
        raise ValueError("n-grams must not be empty, and shorter ones come first")
    depth = int(lengths[-1])
    width = max(depth, 1)
    ids = np.full((len(ngrams), width), -1, dtype=np.int64)
    flat = np.fromiter((i for ngram in ngrams for i in ngram), np.int64, int(lengths.sum()))
    ids[np.arange(width) < lengths[1:, None]] = flat
    if np.any(flat < 0):
        raise ValueError("ids must not be negative")
    limit = int(flat.max(initial=-1)) + 1

    label, parent, node = _nodes(ids)
    if len(set(node.tolist())) != len(ngrams):
        raise ValueError("n-grams must be distinct")
    base_of = _place(label, parent, limit)

    inner = parent >= 0
    slot = label.copy()
    slot[inner] += base_of[parent[inner]]
    # Whatever base a sequence is at, one more id from -1 to limit stays inside; the last slot is
    # for the index -1, so it has to stay empty.
    size = max(int(slot.max(initial=-1)) + 1, int(base_of.max(initial=0)) + limit + 1) + 1
    base = np.zeros(size, dtype=np.int32)
    # -2: no state has that number, not even the dead one, -1.
    check = np.full(size, -2, dtype=np.int32)
    out = np.zeros(size, dtype=np.int32)
    base[slot] = base_of
    check[slot[inner]] = slot[parent[inner]]
    out[slot[node]] = np.arange(1, len(ngrams) + 1)
    return DoubleArray(base, check, out, lengths.astype(np.int32), limit, depth)


def _nodes(ids: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """Number the distinct prefixes of the rows, which end in -1.

    Returns
    -------
    label, parent : [nodes]
        Last id of each prefix, and the node of the prefix without it (-1 for one id).
    node : [rows]
        The node of each whole row.
    """
    rows, depth = ids.shape
    order = np.lexsort(ids.T[::-1])
    ordered = ids[order]
    labels: list[IntArray] = []
    parents: list[IntArray] = []
    above = np.full(rows, -1, dtype=np.int64)
    count = 0
    differs = np.zeros(rows, dtype=bool)
    differs[:1] = True
    for level in range(depth):
        column = ordered[:, level]
        differs[1:] |= column[1:] != column[:-1]
        inside = column >= 0
        fresh = differs & inside
        # Rows that share a prefix are neighbours, so the node of a row is the last fresh one.
        here = count + np.cumsum(fresh) - 1
        labels.append(column[fresh])
        parents.append(above[fresh])
        above = np.where(inside, here, above)
        count += int(fresh.sum())
    node = np.empty(rows, dtype=np.int64)
    node[order] = above
    empty = np.zeros(0, dtype=np.int64)
    return np.concatenate([empty, *labels]), np.concatenate([empty, *parents]), node


def _place(label: IntArray, parent: IntArray, limit: int) -> IntArray:
    """Choose the base of each node so that no two nodes share a slot.

    Slots up to `limit` are those of the first ids and of all ids that are in no n-gram, so the
    others start behind it; then no base is negative.
    """
    base = np.zeros(len(label), dtype=np.int64)
    inner = np.flatnonzero(parent >= 0)
    inner = inner[np.lexsort((label[inner], parent[inner]))]
    owners, first, fanout = np.unique(parent[inner], return_index=True, return_counts=True)
    used = np.zeros(2 * limit + len(inner) + _WINDOW, dtype=bool)
    used[: limit + 1] = True
    # All slots from `end` on are free; the search for a free one starts at `low`.
    end = low = limit + 1
    many = np.flatnonzero(fanout > 1)
    for owner in many[np.argsort(-fanout[many], kind="stable")]:
        offsets = label[inner[first[owner] : first[owner] + fanout[owner]]]
        offsets = offsets - offsets[0]
        if end + limit >= len(used):
            used = np.concatenate([used, np.zeros(len(used), dtype=bool)])
        start = end
        for window in range(low, min(end, low + _WINDOWS * _WINDOW), _WINDOW):
            free = window + np.flatnonzero(~used[window : min(window + _WINDOW, end)])
            free = free[:_CANDIDATES]
            fits = free[~used[free[:, None] + offsets].any(axis=1)]
            if len(fits):
                start = int(fits[0])
                break
            low += _WINDOW  # too full to be looked at again
        base[owners[owner]] = start - label[inner[first[owner]]]
        used[start + offsets] = True
        end = max(end, start + int(offsets[-1]) + 1)
    # An only child goes anywhere, so these fill the holes.
    only = np.flatnonzero(fanout == 1)
    free = np.flatnonzero(~used)
    base[owners[only]] = free[: len(only)] - label[inner[first[only]]]
    return base
