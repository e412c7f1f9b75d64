"""Finds n-grams in the ids of one text: an Aho-Corasick automaton over their bytes."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

from ahocorasick_rs import BytesAhoCorasick

_TYPE = "I"
_WIDTH = array(_TYPE).itemsize


class Automaton:
    """Finds the same places as the graph in ``monitor.onnx``, without the cost of a call of it.

    Parameters
    ----------
    ngrams
        Distinct, numbered from 1, shorter ones first.
    """

    def __init__(self, ngrams: Sequence[Sequence[int]]) -> None:
        self._lengths = [len(ngram) for ngram in ngrams]
        # Ids of four bytes each, so that no id needs an encoding of its own.
        patterns = [array(_TYPE, ngram).tobytes() for ngram in ngrams]
        self._find = BytesAhoCorasick(patterns).find_matches_as_indexes

    def find(self, ids: Iterable[int]) -> list[tuple[int, int, int]]:
        """Return place, number and length of the longest n-gram at each place that has one.

        Raises
        ------
        OverflowError
            An id is negative or does not fit four bytes.
        """
        hits = self._find(array(_TYPE, ids).tobytes(), overlapping=True)
        if not hits:
            return []
        longest: dict[int, int] = {}
        for pattern, start, _ in hits:
            # A hit between two ids is none.
            if start % _WIDTH == 0 and longest.get(start, -1) < pattern:
                longest[start] = pattern
        return [
            (start // _WIDTH, pattern + 1, self._lengths[pattern])
            for start, pattern in sorted(longest.items())
        ]
