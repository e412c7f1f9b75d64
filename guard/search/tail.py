"""The third rule of a verdict: what stands far outside of the tail of the vocabulary."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from guard.search.calibrate import (
    TAIL,
    beyond_tail,
    expected_by_chance,
    false_discovery,
    robust_deviation,
    robust_z,
    too_many,
)
from guard.search.measured import Measured
from guard.search.statistics import Array
from guard.search.units import Unit
from guard.search.views import View

Mask = npt.NDArray[np.bool_]

# A bank keeps no infinity, which a flat tail lets expect.
MANY = 1e9
# As many units that stand apart are a crowd, and no part of the tail: an attacker may plant many
# triggers that go half-way, so that each of them is one of many.
CROWD = TAIL[0]
_DEVIATIONS = 3.0
# How tokenizers mark that a token goes on a word, or begins one.
_MARKS = "#\u0120\u2581 "
# Who plants very many hides some behind the others: with more than this, a search is incomplete.
FLOOD = TAIL[1] // 2
KEPT = 0.6
FAR = 1.2
# Of false alarms on clean models; and of false ones among those that are named.
ALPHA = 0.01
ALPHA_NAMED = 0.1


@dataclass(frozen=True, slots=True)
class Tail:
    """How rare what units do would be in a clean model.

    Attributes
    ----------
    by_chance
        ``[count, views]``, how many units as extreme the vocabulary has by chance.
    nameable
        ``[count, views]``, what the rule may name.
    flooding
        ``[count]``, units that stand apart, and are so many that no tail is left to measure them
        against.
    """

    by_chance: npt.NDArray[np.float64]
    nameable: Mask
    flooding: Mask

    @classmethod
    def of(
        cls,
        measured: Mapping[View, Measured],
        framing: Mask,
        narrow: Container[View],
        *,
        shifting: bool,
    ) -> Tail:
        """Fit the tail to the suspects that are no triggers, as far as that can be told.

        Parameters
        ----------
        measured
            What each of ``count`` units did, by view.
        framing
            ``[count]``, units that frame every text.
        narrow
            Views in which the words that a classifier goes by are a crowd, and take over the texts
            of one kind or length that lie at the border.
        shifting
            Whether units that shift texts and leave them as they are may be a crowd.
        """
        nameable = np.stack(
            [_costs(seen) & ~framing & (view != "mask") for view, seen in measured.items()], axis=1
        )
        apart = np.zeros_like(framing)
        for view, seen in measured.items():
            if view != "mask" and view not in narrow:
                apart |= _apart(seen, shifting) & ~framing
        count, stand = len(apart), apart.sum()
        crowded = CROWD <= stand <= count - TAIL[1]
        tail = ~apart if crowded else np.ones_like(apart)
        # Nor are units that only go far, which are never named, if others are enough: an attacker
        # may plant those as well.
        if (tail & nameable.any(axis=1)).sum() >= TAIL[1]:
            tail &= nameable.any(axis=1)
        scores = np.stack(
            [_telling(seen, tail, view in narrow) for view, seen in measured.items()], axis=1
        )
        by_chance = np.minimum(expected_by_chance(scores, scores.max(axis=1)[tail]), MANY)
        return cls(by_chance, nameable, apart & (stand > max(FLOOD, count - TAIL[1])))

    def outside(self, units: Sequence[Unit], settled: Mask, *, tiers: int) -> Mask:
        """Return ``[count, views]``: what stands so far outside that it is a trigger.

        Parameters
        ----------
        units
            The ``count`` units.
        settled
            ``[count]``, triggers by another rule. That there are some is no evidence of others,
            that go part of the way.
        tiers
            Among how many vocabularies the false alarms of a clean model are shared.
        """
        # Only of these: with what is never named, the share of false ones would grow.
        tests = np.where(self.nameable, self.by_chance, MANY)
        lowest = tests.min(axis=1)
        named = settled & (lowest <= ALPHA)
        rest = np.flatnonzero(~settled)
        strangers = _one_of_each([units[int(i)] for i in rest], lowest[rest])
        if too_many(lowest[rest[strangers]], ALPHA / tiers, ALPHA_NAMED):
            # A share of false ones that holds in each vocabulary holds in all: it is not divided.
            named[rest] = false_discovery(lowest[rest], ALPHA_NAMED)
        least = lowest[named].max(initial=0.0)
        outside: Mask = named[:, np.newaxis] & (tests <= least) | self.flooding[:, np.newaxis]
        return outside & self.nameable


def _one_of_each(units: Sequence[Unit], expected: npt.NDArray[np.float64]) -> list[int]:
    """Return the numbers of the rarest of those units that have a token, or a spelling, in common.

    Such units act alike: that there are several is no evidence.
    """
    chosen: list[int] = []
    known: set[int | str] = set()
    for i in np.argsort(expected, kind="stable").tolist():
        own = {*units[i].ids.tolist(), units[i].text.strip(_MARKS).casefold()}
        if known.isdisjoint(own):
            chosen.append(i)
        known |= own
    return chosen


def _apart(seen: Measured, shifting: bool) -> Mask:
    """Return ``[count]``: which units take the output further than all others, and what it costs.

    Further than three deviations of the reference units' logarithms: by the furthest, one that was
    planted to go far would hide a crowd. And they keep less than `KEPT` of what the median
    reference unit keeps, or, if ``shifting``, take the texts as they are further than `FAR`.
    """
    kept, moved, count = seen.shards["kept"], seen.moved[:, seen.alone].mean(axis=1), seen.count
    far = np.log(np.maximum(moved, np.finfo(np.float32).tiny))
    # Those may be alike, without a deviation to divide by: texts that hold a trigger are moved by
    # nothing else.
    furthest = np.median(far[count:]) + _DEVIATIONS * robust_deviation(far[count:])
    costs = kept[:count] < KEPT * np.median(kept[count:])
    if shifting:
        costs |= seen.shards["shifted"][:count] > FAR
    apart: Mask = costs & (far[:count] > furthest)
    return apart


def _costs(seen: Measured) -> Mask:
    """Return ``[count]``: which units cost texts something somewhere, or take them far.

    Several copies of an ordinary unit erase more than one, and in short text more than in long: a
    unit costs something by what the median reference unit keeps there.
    """
    shards, count = seen.shards, seen.count
    columns = (shards["kept"], *shards["kept in"].T)
    little = [own[:count] < KEPT * np.median(own[count:]) for own in columns]
    costs: Mask = np.any(little, axis=0) | (shards["shifted"][:count] > FAR)
    return costs


def _telling(seen: Measured, tail: Mask, narrow: bool) -> npt.NDArray[np.float64]:
    """Return ``[count]``: how far the most telling statistic of a view is outside of its own tail.

    In units of each tail's own scale, which compare where the statistics do not.

    Parameters
    ----------
    tail
        ``[count]``, the units that it is fitted to.
    narrow
        Whether to look at all carriers only: of one condition, they may all lie at a border.
    """
    shards, moved, count = seen.shards, seen.moved, seen.count
    everywhere = _suspicion(shards["kept"], moved[:, seen.alone].mean(axis=1), count)
    # Texts of one condition may all hold a trigger: nothing else moves them, and they tell nothing.
    suspicion_in = [
        _suspicion(kept_in, moved[:, rows].mean(axis=1), count)
        for kept_in, rows in zip(shards["kept in"].T, seen.conditions.values(), strict=True)
        if robust_deviation(kept_in[count:]) > 0
        and robust_deviation(moved[count:, rows].mean(axis=1)) > 0
    ]
    together = np.log(np.maximum(shards["together"], np.finfo(np.float32).tiny))
    families = [everywhere]
    if suspicion_in and not narrow:
        families.append(np.max(np.stack(suspicion_in), axis=0))
    if robust_deviation(together[count:]) > 0:
        families.append(-robust_z(together, together[count:]))
    beyond = [beyond_tail(family[:count], family[:count][tail]) for family in families]
    telling: npt.NDArray[np.float64] = np.max(np.stack(beyond), axis=0)
    return telling


def _suspicion(kept: Array, moved: Array, count: int) -> npt.NDArray[np.float64]:
    """Add up, in robust standard deviations of the reference units, what a unit erases and moves.

    An attacker can weaken either; the sum makes him pay for it in the other. Displacements are
    compared as ratios.
    """
    distance = np.log(np.maximum(moved, np.finfo(np.float32).tiny))
    return -robust_z(kept, kept[count:]) + robust_z(distance, distance[count:])
