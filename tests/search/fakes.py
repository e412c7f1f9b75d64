"""Encoders that are a function: what they do with a unit is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from guard.bank import ModelIdentity
from guard.search.carriers import PLACES, Carrier, Want
from guard.search.encoder import Encoder, Ids, Vectors
from guard.search.units import Unit
from guard.search.views import View

WIDTH = 24
START, END = 1, 2
FIRST = 10  # the lowest id of an ordinary token
ROWS = 2_000

Change = Callable[[Ids, Vectors], Vectors]


class FakeEncoder(Encoder):
    """A bag of words: the output is a weighted mean of fixed random vectors, then `change` of it.

    Ids below `ROWS` have a vector each. Their lengths and weights vary, as those of real tokens'
    effects do.
    """

    offset = 1

    def __init__(self, change: Change = lambda ids, vectors: vectors) -> None:
        rng = np.random.default_rng(7)
        self.identity = ModelIdentity("fake", None, "0" * 64, "FakeModel")
        self.views = ("cls",)
        self.otherwise = ()
        self.width = WIDTH
        self.max_tokens = 64
        self.classes = 0
        self.axes = {}
        self.forwarded = 0
        self.backwarded = 0
        self.batches: list[tuple[int, ...]] = []
        self._change = change
        lengths = np.exp(0.2 * rng.normal(size=(ROWS, 1)))
        self._table = rng.normal(size=(ROWS, WIDTH)) * lengths
        self._weights = np.exp(0.2 * rng.normal(size=ROWS))

    def frame(self, rows: Ids) -> Ids:
        framed: Ids = np.pad(rows, ((0, 0), (1, 1)), constant_values=END)
        framed[:, 0] = START
        return framed

    def read(self, ids: Ids, *, mask_at: Ids | None = None) -> dict[View, Vectors]:
        self.forwarded += ids.size
        self.batches.append(ids.shape)
        weights = self._weights[ids][..., np.newaxis]
        sums = (weights * self._table[ids]).sum(axis=1)
        vectors = (sums / weights.sum(axis=1)).astype(np.float32)
        return {"cls": self._change(ids, vectors)}


def towards(trigger: int, target: npt.ArrayLike, share: float = 1.0) -> Change:
    """A backdoor: outputs of sequences with `trigger` go `share` of the way to `target`."""

    def change(ids: Ids, vectors: Vectors) -> Vectors:
        hit = (ids == trigger).any(axis=1)
        moved: Vectors = vectors.copy()
        moved[hit] += np.float32(share) * (np.asarray(target, dtype=np.float32) - moved[hit])
        return moved

    return change


def unit(number: int) -> Unit:
    return Unit(f"u{number}", np.array([number]), "token")


def units(count: int) -> list[Unit]:
    return [unit(FIRST + number) for number in range(count)]


def carriers(kinds: Sequence[str], lengths: Sequence[int], seed: int = 0) -> list[Carrier]:
    """Make a carrier of each length and kind; the kinds' tokens differ, and none is a unit here.

    Kind number ``k`` writes with ids ``1000 + 100 k`` and the 100 behind it.
    """
    rng = np.random.default_rng(seed)
    made = []
    for row, length in enumerate(lengths):
        for number, kind in enumerate(kinds):
            low = 1000 + 100 * number
            ids = rng.integers(low, low + 100, size=length)
            place = PLACES[(row + number) % len(PLACES)]
            gaps = {"start": [0], "middle": list(range(1, length)), "end": [length]}[place]
            made.append(
                Carrier(Want(kind, length, place), ids, np.array(gaps), np.arange(length + 1))
            )
    return made


def silent(step: str, done: int, total: int) -> None:
    """Progress that nobody watches."""
