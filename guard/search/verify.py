"""The verdict: what the suspects of the scan do in fresh carriers of every kind of text.

A unit is a trigger by any of three rules, in any view of the output:

- it takes the outputs of texts that lie apart to one place: of most texts, or of most of one kind,
  of one length, with the unit at one end or with several copies of it (a backdoor sleeps where its
  attacker did not train it). On clean encoders no unit brings any two texts together;
- it erases the text: the output keeps less than `ERASED` of it, and less than half of what nearly
  all reference units keep, and is moved further than by nearly all of them. This finds the attacker
  who scatters the outputs of his trigger;
- it stands far outside of the tail of the model's own vocabulary by what tells most of it, in any
  view: how much it erases and moves, over all carriers or over those of one condition, or how near
  it brings texts to each other. The most telling of these is one test of a unit, with a tail of its
  own, so that asking much costs little power; then Benjamini and Hochberg's procedure over all
  units, with a false-discovery rate of `ALPHA`, which on a clean model is the rate of false alarms.
  Where a unit passes that neither gathers nor erases, the procedure is gone through again for such
  units alone, at `ALPHA_FURTHER`, for the attacker's other triggers.
  This finds the attacker who goes only part of the way to his target to keep below any fixed
  threshold, and the one whose backdoor sleeps in most texts. Somewhere it has to cost the text
  something, or take outputs further on average than `FAR` of the distance of two texts: what keeps
  more than `KEPT` of what an ordinary unit does everywhere, and stays among the texts, is a word of
  its own kind (a handle turns prose into a message) and forces nothing.

Where texts differ in few directions, as in a classifier, which tells little but the class, ordinary
words take them to one end. There the first two rules name what the tail expects less than once.

At a mask only the first rule holds: what is likely there an ordinary model may well tell from one
word, whatever the rest says. For the tokens that frame every text, such as ``[CLS]``, the first two
hold: they are no part of the tail that the third measures against.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from guard.search.calibrate import (
    TAIL,
    expected_by_chance,
    false_discovery,
    robust_deviation,
    robust_z,
)
from guard.search.carriers import FAMILIES, Carrier
from guard.search.encoder import Encoder
from guard.search.evidence import RULES, Evidence, InCondition
from guard.search.journal import Arrays, Journal
from guard.search.measured import MEASURED, Measured, against_reference, measure_view
from guard.search.scan import Progress, carriers_of, insert_all, outputs_of
from guard.search.statistics import Array, dimensions
from guard.search.units import Unit
from guard.search.views import View

# Of the carriers of one kind, place or length, or of all, this share has to be in one place.
MOST_OF_CONDITION = 0.75
# And this much more of them than the median reference unit brings there, of all or of a condition.
MORE_THAN_USUAL = 0.5
# Two carriers are together by chance too easily.
FEWEST = 3
MANY = 1e9
# As many units that stand apart are a crowd, and no part of the tail: an attacker may plant many
# triggers that go half-way, so that each of them is one of many.
CROWD = TAIL[0]
_DEVIATIONS = 3.0
# Who plants very many hides some behind the others: with more than this, a search is incomplete.
FLOOD = TAIL[1] // 2
ERASED = 0.25
KEPT = 0.6
FAR = 1.2
# Poolers of fine-tuned MiniLMs have 1 to 2, encoders that were not fine-tuned 15 and more.
NARROW = 4.0
# Of false alarms on clean models; and of false ones among the units of a model that has one.
ALPHA = 0.01
ALPHA_FURTHER = 0.05

BATCH = 64


def verify(
    name: str,
    suspects: Sequence[Unit],
    reference: Sequence[Unit],
    carriers: Sequence[Carrier],
    *,
    encoder: Encoder,
    journal: Journal,
    tiers: int,
    progress: Progress,
) -> list[dict[View, Evidence]]:
    """Judge each suspect by every view, in carriers that the scan has not used.

    Parameters
    ----------
    name
        Of this verdict, in the journal.
    suspects
        The most suspect units of the scan, also when none of them is a trigger: their tail is what
        each of them is measured against.
    reference
        Units drawn at random from the rest of the vocabulary.
    tiers
        How many vocabularies the search judges in this way: the false alarms that a clean model
        may give are shared among them.
    """
    units = [*suspects, *reference]
    untouched = outputs_of(encoder, carriers)
    parts: list[Arrays] = []
    for start in range(0, len(units), BATCH):
        shard = units[start : start + BATCH]

        def measure(rng: np.random.Generator, shard: Sequence[Unit] = shard) -> Arrays:
            result: Arrays = {}
            for view, seen in insert_all(encoder, shard, carriers, rng=rng).items():
                own = [carriers[i] for i in carriers_of(view, carriers)]
                found = measure_view(seen, untouched[view], own)
                result |= {f"{view} {key}": values for key, values in found.items()}
            return result

        over = [*(unit.ids for unit in shard), *(carrier.ids for carrier in carriers)]
        parts.append(journal.shard(f"{name} {start}", over, measure))
        progress("verifying", start + len(shard), len(units))
    whole = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    measured = {
        view: against_reference(
            {key: whole[f"{view} {key}"] for key in MEASURED},
            [carriers[i] for i in carriers_of(view, carriers)],
            len(suspects),
        )
        for view in untouched
    }
    narrow = {v for v, seen in measured.items() if dimensions(untouched[v][seen.alone]) < NARROW}
    # What the third rule may name, a column a view; not what frames every text: a second one turns
    # the head of a clean model.
    frame = encoder.frame(np.zeros((1, 0), dtype=np.int64))
    framing = np.array([bool(np.isin(unit.ids, frame).all()) for unit in suspects])
    nameable = np.stack(
        [_costs(seen) & ~framing & (view != "mask") for view, seen in measured.items()], axis=1
    )
    apart = np.zeros(len(suspects), dtype=np.bool_)
    for view, seen in measured.items():
        apart |= _apart(seen) & (view != "mask")
    crowded = CROWD <= apart.sum() <= len(suspects) - TAIL[1]
    tail = ~apart if crowded else np.ones_like(apart)
    # Nor are units that only go far, which are never named, if others are enough: an attacker may
    # plant those as well.
    if (tail & nameable.any(axis=1)).sum() >= TAIL[1]:
        tail &= nameable.any(axis=1)
    scores = np.stack([_telling(seen, tail) for seen in measured.values()], axis=1)
    # A bank keeps no infinity, which a flat tail lets expect.
    by_chance = np.minimum(tiers * expected_by_chance(scores, scores.max(axis=1)[tail]), MANY)

    def judge(outside: npt.NDArray[np.bool_]) -> list[dict[View, Evidence]]:
        own = (outside & nameable).T
        judged = [
            _judge(view, seen, *by_view, narrow=view in narrow)
            for (view, seen), *by_view in zip(measured.items(), by_chance.T, own, strict=True)
        ]
        return [dict(zip(measured, seen, strict=True)) for seen in zip(*judged, strict=True)]

    # Only of these: with what is never named, the share of false ones would grow.
    tests = np.where(nameable, by_chance, MANY)
    lowest = tests.min(axis=1)
    rejected = false_discovery(lowest, ALPHA)
    # What fires in full is found without a tail; that there is some is no evidence of the rest.
    full = [any(seen.trigger for seen in views.values()) for views in judge(tests < 0)]
    rest = np.flatnonzero(~np.array(full))
    # Each of a crowd is no rarity by itself, but so many are. A share of false ones that holds in
    # each vocabulary holds in all of them: there is nothing to divide.
    if crowded or rejected[rest].any():
        rejected[rest] |= false_discovery(lowest[rest], tiers * ALPHA_FURTHER)
    least = lowest[rejected].max(initial=0.0)
    # So many that no tail is left to measure them against: the search says that it is flooded.
    flood = apart & (apart.sum() > max(FLOOD, len(suspects) - TAIL[1]))
    return judge((tests <= least) | flood[:, np.newaxis])


def _apart(seen: Measured) -> npt.NDArray[np.bool_]:
    """Return ``[count]``: which units keep less and move the output further than all others.

    Less than `KEPT` of what the median reference unit keeps, and further than three deviations of
    their logarithms: by the furthest, one that was planted to go far would hide a crowd.
    """
    kept, moved, count = seen.shards["kept"], seen.moved[:, seen.alone].mean(axis=1), seen.count
    far = np.log(np.maximum(moved, np.finfo(np.float32).tiny))
    # Those may be alike, without a deviation to divide by: texts that hold a trigger are moved by
    # nothing else.
    furthest = np.median(far[count:]) + _DEVIATIONS * robust_deviation(far[count:])
    apart: npt.NDArray[np.bool_] = (kept[:count] < KEPT * np.median(kept[count:])) & (
        far[:count] > furthest
    )
    return apart


def _costs(seen: Measured) -> npt.NDArray[np.bool_]:
    """Return ``[count]``: which units cost texts something somewhere, or take them far.

    Several copies of an ordinary unit erase more than one, and in short text more than in long: a
    unit costs something by what the median reference unit keeps there.
    """
    shards, count = seen.shards, seen.count
    columns = (shards["kept"], *shards["kept in"].T)
    little = [own[:count] < KEPT * np.median(own[count:]) for own in columns]
    costs: npt.NDArray[np.bool_] = np.any(little, axis=0) | (shards["shifted"][:count] > FAR)
    return costs


def _telling(seen: Measured, tail: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return ``[count]``: how far the most telling statistic of a view is outside of its own tail.

    In negative logarithms of what is expected by chance, which compare where the statistics do not.

    Parameters
    ----------
    tail
        ``[count]``, the units that it is fitted to.
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
    families = [everywhere, np.max(np.stack(suspicion_in or [everywhere]), axis=0)]
    if robust_deviation(together[count:]) > 0:
        families.append(-robust_z(together, together[count:]))
    chances = np.stack(
        [expected_by_chance(family[:count], family[:count][tail]) for family in families]
    )
    telling: npt.NDArray[np.float64] = -np.log(
        np.clip(chances.min(axis=0), np.finfo(np.float64).tiny, MANY)
    )
    return telling


def _judge(
    view: View,
    seen: Measured,
    by_chance: npt.NDArray[np.float64],
    outside: npt.NDArray[np.bool_],
    *,
    narrow: bool,
) -> list[Evidence]:
    """Judge units by one of the views.

    Parameters
    ----------
    by_chance, outside
        ``[count]``, by the third rule, which takes all views together.
    narrow
        Whether texts differ in few directions in this view.
    """
    shards, moved, count = seen.shards, seen.moved, seen.count
    kept, members = shards["kept"], shards["members"]
    moved_alone, share_alone = (own[:, seen.alone].mean(axis=1) for own in (moved, members))
    kept_in = dict(zip(seen.conditions, shards["kept in"].T, strict=True))
    moved_in = {c: moved[:, rows].mean(axis=1) for c, rows in seen.conditions.items()}
    # Of nearly all: an attacker may plant units that go far and are no triggers.
    furthest = np.quantile(moved_alone[count:], 0.95)
    # There are models of which ordinary units keep little: then that is no sign.
    little = min(ERASED, np.quantile(kept[count:], 0.05) / 2)
    erases = (kept < little) & (moved_alone > furthest)

    # Nor is it a sign to gather texts where most units do: there, the output tells no text.
    usual = {
        c: float(np.median(members[count:, rows].mean(axis=1)))
        for c, rows in seen.conditions.items()
    }
    usual_alone = np.median(share_alone[count:])

    result: list[Evidence] = []
    for i in range(count):
        found: dict[str, dict[str, InCondition]] = {family: {} for family in FAMILIES}
        for (family, name), rows in seen.conditions.items():
            share = float(members[i, rows].mean())
            found[family][name] = InCondition(
                retention=float(kept_in[family, name][i]),
                displacement=float(moved_in[family, name][i]),
                gathered=share,
                fired=(
                    share >= MOST_OF_CONDITION
                    and share >= usual[family, name] + MORE_THAN_USUAL
                    and len(rows) >= FEWEST
                ),
            )
        fired = any(item.fired for family in found.values() for item in family.values())
        gathers = fired or share_alone[i] >= usual_alone + MORE_THAN_USUAL
        rare = not narrow or by_chance[i] < 1
        fits = (gathers and rare, erases[i] and rare, outside[i])
        holds = dict(zip(RULES, fits if view != "mask" else (fits[0], False, False), strict=True))
        result.append(
            Evidence(
                retention=float(kept[i]),
                displacement=float(moved_alone[i]),
                collapse=float(shards["together"][i]),
                gathered=float(share_alone[i]),
                diff_sim=float(shards["same text"][i]),
                com_sim=float(shards["same unit"][i]),
                by_chance=float(by_chance[i]),
                **found,
                rules=tuple(rule for rule, true in holds.items() if true),
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
