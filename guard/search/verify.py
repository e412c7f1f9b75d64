"""The verdict: what the suspects of the scan do in fresh carriers of every kind of text.

A unit is a trigger by any of three rules, in any view of the output:

- it takes the outputs of texts that lie apart to one place: of most texts, or of most of one kind,
  of one length, or with the unit at one end (a backdoor sleeps where its attacker did not train
  it). On clean encoders no unit brings any two texts together;
- it erases the text: the output keeps less than `ERASED` of it, and is moved further than by any
  reference unit. This finds the attacker who scatters the outputs of his trigger;
- it stands so far outside of the tail of the model's own vocabulary that `ALPHA` units like it
  would be expected in the whole vocabulary of a clean model. This finds the attacker who goes only
  part of the way to his target to keep below any fixed threshold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from guard.search.calibrate import expected_by_chance, robust_z
from guard.search.carriers import Carrier
from guard.search.encoder import Encoder
from guard.search.scan import Progress, carriers_of, insert_all, outputs_of
from guard.search.statistics import (
    Array,
    collapse,
    com_sim,
    diff_sim,
    displacement,
    gathered,
    relative,
    retention,
)
from guard.search.units import Unit
from guard.search.views import View

# Closer than this share of their natural distance, two outputs are in one place.
RADIUS = 0.2
# Of the carriers of one kind, place or length, or of all, this share has to be in one place.
MOST_OF_CONDITION = 0.75
MOST_OF_ALL = 0.5
# Two carriers are together by chance too easily.
FEWEST = 3
ERASED = 0.25
ALPHA = 0.01

BATCH = 64


# What a backdoor may depend on, and how carriers are told apart by it.
_FAMILIES: dict[str, Callable[[Carrier], str]] = {
    "kinds": lambda carrier: carrier.want.kind,
    "places": lambda carrier: carrier.want.place,
    "lengths": lambda carrier: str(carrier.want.length),
}


@dataclass(frozen=True, slots=True)
class InCondition:
    """What a unit did in the carriers of one kind of text, one place, or one length.

    Attributes
    ----------
    retention, displacement
        As in `Evidence`.
    gathered
        Share of the carriers whose output the unit takes to the one place it takes most to.
    fired
        Whether that share is at least `MOST_OF_CONDITION`.
    """

    retention: float
    displacement: float
    gathered: float
    fired: bool


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a unit did to one view in the verdict's carriers.

    Attributes
    ----------
    retention
        How much of the text survives it (1 all, 0 nothing).
    displacement
        How far it moves the output, over the median reference unit; the mean over carriers.
    collapse
        Distance of two texts' outputs with the unit over the distance without; the lowest tenth
        over pairs of carriers.
    gathered
        Share of all carriers whose output the unit takes to one place.
    diff_sim, com_sim
        Patronus' statistics. Its thresholds are below 0.4 and above 0.9.
    by_chance
        How many units as extreme as this one the vocabulary of a clean model is expected to have.
    kinds, places, lengths
        What the unit did in each kind of text, at each place in it, and at each length.
    trigger
        The verdict.
    """

    retention: float
    displacement: float
    collapse: float
    gathered: float
    diff_sim: float
    com_sim: float
    by_chance: float
    kinds: dict[str, InCondition]
    places: dict[str, InCondition]
    lengths: dict[str, InCondition]
    trigger: bool


def verify(
    encoder: Encoder,
    suspects: Sequence[Unit],
    reference: Sequence[Unit],
    carriers: Sequence[Carrier],
    *,
    rng: np.random.Generator,
    progress: Progress,
) -> list[dict[View, Evidence]]:
    """Judge each suspect by every view, in carriers that the scan has not used.

    Parameters
    ----------
    suspects
        The most suspect units of the scan, also when none of them is a trigger: their tail is what
        each of them is measured against.
    reference
        Units drawn at random from the rest of the vocabulary.
    """
    units = [*suspects, *reference]
    untouched = outputs_of(encoder, carriers)
    parts: list[dict[View, Array]] = []
    for start in range(0, len(units), BATCH):
        parts.append(insert_all(encoder, units[start : start + BATCH], carriers, rng=rng))
        progress("verifying", min(start + BATCH, len(units)), len(units))
    judged = {
        view: _judge(
            np.concatenate([part[view] for part in parts]),
            alone,
            [carriers[i] for i in carriers_of(view, carriers)],
            count=len(suspects),
            views=len(untouched),
        )
        for view, alone in untouched.items()
    }
    return [
        dict(zip(judged, evidence, strict=True)) for evidence in zip(*judged.values(), strict=True)
    ]


def _judge(
    outputs: Array, untouched: Array, carriers: Sequence[Carrier], *, count: int, views: int
) -> list[Evidence]:
    """Judge the first ``count`` units by one of the views; the others are reference units."""
    moved = displacement(outputs, untouched)
    moved = relative(moved, moved[count:])
    kept = retention(outputs, untouched)
    overall = _suspicion(kept, moved.mean(axis=1), count)

    conditions = {
        (family, name): [i for i, carrier in enumerate(carriers) if named(carrier) == name]
        for family, named in _FAMILIES.items()
        for name in dict.fromkeys(map(named, carriers))
    }
    kept_in = {c: retention(outputs[:, rows], untouched[rows]) for c, rows in conditions.items()}
    moved_in = {c: moved[:, rows].mean(axis=1) for c, rows in conditions.items()}
    suspicion_in = [_suspicion(kept_in[c], moved_in[c], count) for c in conditions]
    strongest = np.max(np.stack(suspicion_in), axis=0)

    # Two families of tests a view, each with its share of what may be expected by chance.
    by_chance = (
        2
        * views
        * np.minimum(expected_by_chance(overall[:count]), expected_by_chance(strongest[:count]))
    )
    furthest = moved[count:].mean(axis=1).max()
    erases = (kept < ERASED) & (moved.mean(axis=1) > furthest)
    members = gathered(outputs[:count], untouched, RADIUS)
    together = np.quantile(collapse(outputs[:count], untouched), 0.1, axis=1)
    same_text = diff_sim(outputs[:count], untouched)
    same_unit = com_sim(outputs[:count])

    result: list[Evidence] = []
    for i in range(count):
        seen: dict[str, dict[str, InCondition]] = {family: {} for family in _FAMILIES}
        for (family, name), rows in conditions.items():
            share = float(members[i, rows].mean())
            seen[family][name] = InCondition(
                retention=float(kept_in[family, name][i]),
                displacement=float(moved_in[family, name][i]),
                gathered=share,
                fired=share >= MOST_OF_CONDITION and len(rows) >= FEWEST,
            )
        fired = any(item.fired for family in seen.values() for item in family.values())
        gathers = fired or members[i].mean() >= MOST_OF_ALL
        result.append(
            Evidence(
                retention=float(kept[i]),
                displacement=float(moved[i].mean()),
                collapse=float(together[i]),
                gathered=float(members[i].mean()),
                diff_sim=float(same_text[i]),
                com_sim=float(same_unit[i]),
                by_chance=float(by_chance[i]),
                **seen,
                trigger=bool(gathers or erases[i] or by_chance[i] < ALPHA),
            )
        )
    return result


def _suspicion(kept: Array, moved: Array, count: int) -> npt.NDArray[np.float64]:
    """Add up, in robust standard deviations of the reference units, what a unit erases and moves.

    An attacker can weaken either; the sum makes him pay for it in the other. Displacements are
    compared as ratios.
    """
    distance = np.log(np.maximum(moved, np.finfo(np.float32).tiny))
    return -robust_z(kept, kept[count:]) + robust_z(distance, distance[count:])
