"""Shares of the mitigation table, and of how many different texts they are.

Cells of a task have the same texts, and a text is tried with every trigger: what is counted of them
is not independent, so that an interval takes each text once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.intervals import difference, share

Cell = Mapping[str, Any]

# Counts, and of what.
HITS, RIGHT = ("hits", "trials"), ("right", "texts")


def within(arms: Cell, arm: str, counts: tuple[str, str], sign: int, most: float) -> bool:
    """Whether an arm is at most so far from the clean encoder's, a single cell's arms given."""
    own, level = (ratio(*sums([arms[name]], *counts)) for name in (arm, "clean"))
    return sign * (own - level) <= most


def arms_of(cells: Sequence[Cell], arm: str) -> list[Cell]:
    """Return one arm of each cell."""
    return [cell["arms"][arm] for cell in cells]


def sums(rows: Sequence[Cell], hits: str, trials: str) -> tuple[int, int]:
    """Return the sums of two counts."""
    return sum(row[hits] for row in rows), sum(row[trials] for row in rows)


def ratio(hits: int, trials: int) -> float:
    """Return a share, 0 of nothing."""
    return hits / trials if trials else 0.0


def different_texts(
    cells: Sequence[Cell], arm: str, counts: tuple[str, str], triggers: Mapping[str, int]
) -> float:
    """Return how many different texts a share is of: cells of a task have the same ones."""
    of: dict[str, float] = {}
    for cell in cells:
        each = triggers[cell["model"]] if counts == HITS else 1
        texts = cell["arms"][arm][counts[1]] / each
        of[cell["task"]] = max(texts, of.get(cell["task"], 0.0))
    return sum(of.values())


def share_of(
    cells: Sequence[Cell], arm: str, counts: tuple[str, str], triggers: Mapping[str, int]
) -> str:
    """Return an arm's share over cells, with its interval."""
    return share(
        *sums(arms_of(cells, arm), *counts), 4, of=different_texts(cells, arm, counts, triggers)
    )


def refused(cells: Sequence[Cell]) -> str:
    """Return the share of clean texts that are refused, with its interval."""
    texts = {cell["task"]: cell["clean_texts"] for cell in cells}
    return share(*sums(cells, "false_blocks", "clean_texts"), 4, of=sum(texts.values()))


def apart_of(
    cells: Sequence[Cell],
    arms: tuple[str, str],
    counts: tuple[str, str],
    triggers: Mapping[str, int],
) -> tuple[float, float, float]:
    """Return a share less that of another arm, and the interval of the difference."""
    own, other = (ratio(*sums(arms_of(cells, arm), *counts)) for arm in arms)
    of = min(different_texts(cells, arm, counts, triggers) for arm in arms)
    return own - other, *difference(own * of, of, other * of, of)
