"""The insertion scan: every unit alone in a few carriers, and the most suspect of them.

Each unit is put where an attacker would have to put it, alone in ordinary text, so that nothing can
hide among other units. The scan clears nothing by itself: it takes the most suspect share of the
units by each statistic, in any carrier, and `guard.search.verify` decides in fresh carriers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from guard.search.carriers import Carrier
from guard.search.encoder import Encoder, Ids
from guard.search.statistics import Array, collapse, displacement, relative, retention
from guard.search.units import Unit

BATCH = 512

Progress = Callable[[str, int, int], None]
"""Called with the name of a step, the units done and the units to do."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Statistics of ``n`` units over the scan's ``r`` carriers.

    Attributes
    ----------
    retention
        ``[n]``, low is suspect.
    displacement
        ``[n, r]``, over the median unit's in that carrier; high is suspect.
    collapse
        ``[n, r (r - 1) / 2]``, a column a pair of carriers; low is suspect.
    """

    retention: Array
    displacement: Array
    collapse: Array


def scan(
    encoder: Encoder,
    units: Sequence[Unit],
    carriers: Sequence[Carrier],
    *,
    rng: np.random.Generator,
    progress: Callable[[int], None],
) -> Scores:
    """Put every unit in every carrier, one forward pass each, and measure what it does."""
    untouched = outputs_of(encoder, carriers)
    parts: list[tuple[Array, Array, Array]] = []
    for start in range(0, len(units), BATCH):
        shard = units[start : start + BATCH]
        outputs = insert_all(encoder, shard, carriers, rng=rng)
        parts.append(
            (
                retention(outputs, untouched),
                displacement(outputs, untouched),
                collapse(outputs, untouched),
            )
        )
        progress(start + len(shard))
    kept, moved, together = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Scores(kept, relative(moved, moved), together)


def candidates(scores: Scores, share: float, *, least: int = 1) -> npt.NDArray[np.int64]:
    """Return the indices of the units to verify: the most suspect ``share`` by each statistic.

    By each, at least ``least`` units are taken.

    A backdoor may fire in one carrier only (it sleeps in other kinds of text), so displacement is
    taken at its largest over carriers. Collapse is taken at its lowest pair and at its second
    lowest, which an output that is near by chance does not spoil.
    """
    count = max(least, round(share * len(scores.retention)))
    ordered = np.sort(scores.collapse, axis=1)
    suspicion = [
        scores.retention,
        -scores.displacement.max(axis=1),
        -scores.displacement.mean(axis=1),
    ]
    suspicion += list(ordered[:, :2].T)
    chosen = [np.argsort(column, kind="stable")[:count] for column in suspicion]
    return np.unique(np.concatenate(chosen))


def insert_all(
    encoder: Encoder,
    units: Sequence[Unit],
    carriers: Sequence[Carrier],
    *,
    rng: np.random.Generator,
) -> Array:
    """Return ``[n, r, d]``: the output of each unit in each carrier, at a random place."""
    result = np.empty((len(units), len(carriers), encoder.width), dtype=np.float32)
    by_size: dict[int, list[int]] = {}
    for index, unit in enumerate(units):
        by_size.setdefault(len(unit.ids), []).append(index)
    for column, carrier in enumerate(carriers):
        for rows in by_size.values():
            for start in range(0, len(rows), BATCH):
                part = rows[start : start + BATCH]
                ids = carrier.insert([units[i].ids for i in part], rng)
                result[part, column] = encoder.cls(encoder.frame(ids))
    return result


def outputs_of(encoder: Encoder, carriers: Sequence[Carrier]) -> Array:
    """Return ``[r, d]``: the output of each carrier alone."""
    rows: list[Ids] = [carrier.ids[np.newaxis] for carrier in carriers]
    return np.concatenate([encoder.cls(encoder.frame(row)) for row in rows])
