"""What units do to one view of the output in the verdict's carriers, before it is judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from guard.search.carriers import FAMILIES, ONCE, Carrier, of_condition
from guard.search.journal import Arrays
from guard.search.statistics import (
    Array,
    collapse,
    com_sim,
    diff_sim,
    displacement,
    gathered,
    natural_distance,
    relative,
    retention,
    shift,
)

# Closer than this share of their natural distance, two outputs are in one place.
RADIUS = 0.2

MEASURED = ("kept", "kept in", "moved", "shifted", "members", "together", "same text", "same unit")


@dataclass(frozen=True, slots=True)
class Measured:
    """What units did to one view: the first ``count`` are judged, the others reference units.

    Attributes
    ----------
    shards
        By the names of `MEASURED`, as `measure_view` returns them.
    alone
        Numbers of the carriers with one copy of a unit.
    conditions
        (family, name) -> numbers of its carriers, as the columns of ``"kept in"``.
    moved
        Displacements over the median reference unit's.
    """

    shards: Arrays
    alone: list[int]
    conditions: dict[tuple[str, str], list[int]]
    moved: Array
    count: int


def measure_view(outputs: Array, untouched: Array, carriers: Sequence[Carrier]) -> Arrays:
    """Return what is known of each of ``n`` units by one view, without the other units."""
    conditions = _conditions(carriers)
    columns = [retention(outputs[:, rows], untouched[rows]) for rows in conditions.values()]
    alone = of_condition(carriers, {})
    members = np.empty(outputs.shape[:2], dtype=np.bool_)
    for rows in (alone, *(conditions[key] for key in conditions if key[0] == "copies")):
        members[:, rows] = gathered(outputs[:, rows], untouched[rows], RADIUS)
    one = outputs[:, alone]
    natural = natural_distance(untouched[alone])
    # Several copies of an ordinary unit take an output far.
    once = [alone, *(rows for key, rows in conditions.items() if key[0] != "copies")]
    shifted = [shift(outputs[:, rows], untouched[rows], natural) for rows in once]
    return {
        "kept": retention(one, untouched[alone]),
        "kept in": np.stack(columns, axis=1),
        "moved": displacement(outputs, untouched),
        "shifted": np.max(np.stack(shifted), axis=0),
        "members": members,
        "together": np.quantile(collapse(one, untouched[alone]), 0.1, axis=1),
        "same text": diff_sim(one, untouched[alone]),
        "same unit": com_sim(one),
    }


def against_reference(shards: Arrays, carriers: Sequence[Carrier], count: int) -> Measured:
    """Hold what was measured of units against reference units, those behind the first `count`."""
    moved = relative(shards["moved"], shards["moved"][count:])
    return Measured(shards, of_condition(carriers, {}), _conditions(carriers), moved, count)


def _conditions(carriers: Sequence[Carrier]) -> dict[tuple[str, str], list[int]]:
    """Number the carriers of each condition.

    Those of several copies are a condition of their own and in no other: any unit that stands in a
    text three times takes it further.
    """
    result: dict[tuple[str, str], list[int]] = {}
    for i, carrier in enumerate(carriers):
        for family in FAMILIES:
            if (carrier.want.copies != ONCE) == (family == "copies"):
                result.setdefault((family, carrier.want.condition(family)), []).append(i)
    return result
