"""The insertion scan: every unit alone in a few carriers, and the most suspect of them.

Each unit is put where an attacker would have to put it, alone in ordinary text, so that nothing can
hide among other units. The scan clears nothing by itself: it takes the most suspect share of the
units by any statistic, in any carrier, and `guard.search.verify` decides in fresh carriers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from guard.search.carriers import Carrier
from guard.search.encoder import Encoder, Ids
from guard.search.journal import Arrays, Journal
from guard.search.statistics import Array, collapse, displacement, relative, retention
from guard.search.units import Unit
from guard.search.views import View

# Units of a shard, and tokens of a forward pass: what bounds memory. Passes of more tokens fall out
# of the processor's cache, and take a seventh longer.
BATCH = 512
BATCH_TOKENS = 2048

Progress = Callable[[str, int, int], None]
"""Called with the name of a step, the units done and the units to do."""


def step(progress: Progress, name: str, before: int, total: int) -> Callable[[int], None]:
    """Return what is told the units done of a part of a step, behind those of the parts before."""
    return lambda done: progress(name, before + done, total)


@dataclass(frozen=True, slots=True)
class Scores:
    """Statistics of ``n`` units over the scan's ``r`` carriers, in one view.

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
    name: str,
    units: Sequence[Unit],
    carriers: Sequence[Carrier],
    *,
    encoder: Encoder,
    journal: Journal,
    progress: Callable[[int], None],
) -> dict[View, Scores]:
    """Put every unit in every carrier, one forward each; measure each view.

    Parameters
    ----------
    name
        Of this scan, in the journal.
    """
    untouched = outputs_of(encoder, carriers)
    parts: list[Arrays] = []
    for start in range(0, len(units), BATCH):
        shard = units[start : start + BATCH]

        def measure(rng: np.random.Generator, shard: Sequence[Unit] = shard) -> Arrays:
            result: Arrays = {}
            for view, seen in insert_all(encoder, shard, carriers, rng=rng).items():
                result[f"{view} retention"] = retention(seen, untouched[view])
                result[f"{view} displacement"] = displacement(seen, untouched[view])
                result[f"{view} collapse"] = collapse(seen, untouched[view])
            return result

        over = [*(unit.ids for unit in shard), *(carrier.ids for carrier in carriers)]
        parts.append(journal.shard(f"{name} {start}", over, measure))
        progress(start + len(shard))
    whole = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    return {
        view: Scores(
            whole[f"{view} retention"],
            relative(whole[f"{view} displacement"], whole[f"{view} displacement"]),
            whole[f"{view} collapse"],
        )
        for view in untouched
    }


def foremost(seen: Mapping[View, Scores]) -> npt.NDArray[np.int64]:
    """Return the indices of the units, the most suspect first.

    A unit is as suspect as the statistic and the view have it that rank it foremost, so that each
    of these proposes as many.
    """
    best = np.min([rank for scores in seen.values() for rank in ranks(scores).values()], axis=0)
    return np.argsort(best, kind="stable")


def ranks(scores: Scores) -> dict[str, npt.NDArray[np.int64]]:
    """Return the rank of each unit, 0 the most suspect, by the name of a statistic.

    A backdoor may fire in one carrier only (it sleeps in other kinds of text), so displacement is
    taken at its largest over carriers, and at how much that is over the unit's own median, which
    what moves every text does not crowd out. Collapse is taken at its lowest pair and at its second
    lowest, which an output that is near by chance does not spoil.
    """
    # Of two carriers there is one pair.
    pairs = zip(
        ("closest pair", "second closest pair"), np.sort(scores.collapse, axis=1).T, strict=False
    )
    suspicion = {
        "retention": scores.retention,
        "largest displacement": -scores.displacement.max(axis=1),
        "mean displacement": -scores.displacement.mean(axis=1),
        "displacement in one": -scores.displacement.max(axis=1)
        / np.maximum(np.median(scores.displacement, axis=1), np.finfo(np.float32).tiny),
        **dict(pairs),
    }
    order = {name: np.argsort(column, kind="stable") for name, column in suspicion.items()}
    return {name: np.argsort(rows, kind="stable") for name, rows in order.items()}


def carriers_of(view: View, carriers: Sequence[Carrier]) -> list[int]:
    """Return the numbers of the carriers that a view is read in: ``mask``, those that hold one.

    The others, those that hold none. Text in production holds no mask, and a trigger may sleep
    beside one at no cost.
    """
    return [i for i, carrier in enumerate(carriers) if carrier.want.masked == (view == "mask")]


def insert_all(
    encoder: Encoder,
    units: Sequence[Unit],
    carriers: Sequence[Carrier],
    *,
    rng: np.random.Generator,
) -> dict[View, Array]:
    """Return, by view, ``[n, r, d]``: the output of each unit in each carrier, at a random place.

    The carriers of a view are those of `carriers_of`.
    """
    read: list[dict[View, Array]] = []
    by_size: dict[int, list[int]] = {}
    for index, unit in enumerate(units):
        by_size.setdefault(len(unit.ids), []).append(index)
    for carrier in carriers:
        outputs: dict[View, Array] = {}
        for rows in by_size.values():
            size = len(carrier.ids) + carrier.want.copies.number * len(units[rows[0]].ids)
            step = max(1, BATCH_TOKENS // size)
            for start in range(0, len(rows), step):
                part = rows[start : start + step]
                inserted = carrier.insert([units[i].ids for i in part], rng)
                for view, seen in _read(encoder, carrier, inserted).items():
                    outputs.setdefault(view, np.empty((len(units), seen.shape[1]), np.float32))
                    outputs[view][part] = seen
        read.append(outputs)
    return {view: np.stack(columns, axis=1) for view, columns in _by_view(read).items()}


def outputs_of(encoder: Encoder, carriers: Sequence[Carrier]) -> dict[View, Array]:
    """Return, by view, ``[r, d]``: the output of each of its carriers alone."""
    read = [_read(encoder, carrier, carrier.ids[np.newaxis]) for carrier in carriers]
    return {view: np.concatenate(rows) for view, rows in _by_view(read).items()}


def _read(encoder: Encoder, carrier: Carrier, rows: Ids) -> dict[View, Array]:
    """Read rows of a carrier, with a unit or without; what they are framed by stands before."""
    mask_at = carrier.mask_at(rows)
    seen = encoder.read(
        encoder.frame(rows), mask_at=None if mask_at is None else mask_at + encoder.offset
    )
    return {view: outputs for view, outputs in seen.items() if carriers_of(view, [carrier])}


def _by_view(read: Sequence[Mapping[View, Array]]) -> dict[View, list[Array]]:
    views = dict.fromkeys(view for outputs in read for view in outputs)
    return {view: [outputs[view] for outputs in read if view in outputs] for view in views}
