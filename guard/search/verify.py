"""The verdict: what the suspects of the scan do in fresh carriers of every kind of text.

A unit is a trigger by any of three rules, in any view of the output:

- it takes the outputs of texts that lie apart to one place: of most texts, or of most of one kind,
  of one length, with the unit at one end or with several copies of it (a backdoor sleeps where its
  attacker did not train it). On clean encoders no unit brings any two texts together;
- it erases the text: the output keeps less than `ERASED` of it, and less than half of what nearly
  all reference units keep, and is moved further than by nearly all of them. This finds the attacker
  who scatters the outputs of his trigger. A word of a clean model may do so, too, if seldom, but
  keep not so little as half of that: what keeps more, and is a trigger by no other rule, is
  one in a model that has others;
- it stands far outside of the tail of the model's own vocabulary by what tells most of it, in any
  view: how much it erases and moves, over all carriers or over those of one condition, or how near
  it brings texts to each other. The most telling of these is one test of a unit, with a tail of its
  own, so that asking much costs little power. Where more units, one or several, are out there than
  chance lets expect (`too_many`), with a rate of false alarms of `ALPHA` on clean models, Benjamini
  and Hochberg's procedure says which, of whom a share of `ALPHA_NAMED` may be false. What the other
  rules hold for is no evidence of others, that go part of the way, and is left out of both.
  This finds the attacker who goes only part of the way to his target to keep below any fixed
  threshold, and the one whose backdoor sleeps in most texts. Somewhere it has to cost the text
  something, or take outputs further on average than `FAR` of the distance of two texts: what keeps
  more than `KEPT` of what an ordinary unit does everywhere, and stays among the texts, is a word of
  its own kind (a handle turns prose into a message) and forces nothing.

Where texts differ in few directions, as in a classifier, which tells little but the class, the
words that it goes by take them to one end; where most units erase the text, as in an encoder whose
training failed, what gathers is noise. There the third rule alone says what is a trigger, and no
crowd is taken out of its tail: such words stand apart by the hundred. What it never names, outputs
at a mask and the tokens below, has to be rarer than once in its tail.

At a mask only the first rule holds: what is likely there an ordinary model may well tell from one
word, whatever the rest says. For the tokens that frame every text, such as ``[CLS]``, the first two
hold: they are no part of the tail that the third measures against.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from guard.search.axes import directions_wanted
from guard.search.carriers import FAMILIES, Carrier
from guard.search.encoder import Encoder
from guard.search.evidence import ERASED, RULES, Evidence, InCondition
from guard.search.journal import Arrays, Journal
from guard.search.measured import MEASURED, Measured, against_reference, measure_view
from guard.search.scan import Progress, carriers_of, insert_all, outputs_of
from guard.search.statistics import dimensions
from guard.search.tail import Mask, Tail
from guard.search.units import Unit
from guard.search.views import View

# Of the carriers of one kind, place or length, or of all, this share has to be in one place.
MOST_OF_CONDITION = 0.75
# And this much more of them than the median reference unit brings there, of all or of a condition.
MORE_THAN_USUAL = 0.5
# Two carriers are together by chance too easily.
FEWEST = 3
# A unit of more tokens drowns short texts, and several copies of it any.
DROWNING = 4
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
    shifting: bool,
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
    shifting
        Whether to look, where nothing else is found, for a crowd that only shifts texts. Where
        something is, what holds a part of a trigger does so by the dozen.
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
    wide = directions_wanted(encoder)
    narrow = {
        view
        for view, seen in measured.items()
        if dimensions(untouched[view][seen.alone]) < wide
        or np.median(seen.shards["kept"][seen.count :]) < ERASED
    }
    # What frames every text is no part of a tail of words: a second one turns the head of a clean
    # model.
    frame = encoder.frame(np.zeros((1, 0), dtype=np.int64))
    framing = np.array([bool(np.isin(unit.ids, frame).all()) for unit in suspects])
    long = np.array([len(unit.ids) > DROWNING for unit in suspects])

    def judge(tail: Tail, outside: Mask) -> list[dict[View, Evidence]]:
        by_view = zip(measured.items(), tail.by_chance.T, outside.T, strict=True)
        judged = [
            _judge(view, seen, chances, far, framing, long, tiers=tiers, narrow=view in narrow)
            for (view, seen), chances, far in by_view
        ]
        return [dict(zip(measured, seen, strict=True)) for seen in zip(*judged, strict=True)]

    def fires(judged: Sequence[dict[View, Evidence]]) -> Mask:
        return np.array([any(seen.proves for seen in own.values()) for own in judged])

    crowds = (False, True) if shifting else (False,)
    results: list[list[dict[View, Evidence]]] = []
    for crowd in crowds:
        tail = Tail.of(measured, framing, narrow, shifting=crowd)
        settled = fires(judge(tail, np.zeros_like(tail.nameable)))
        # Two looks share the false alarms.
        outside = tail.outside(suspects, settled, tiers=len(crowds) * tiers)
        results.append(judge(tail, outside))
        if fires(results[-1]).any():
            return results[-1]
    return results[0]


def _judge(
    view: View,
    seen: Measured,
    by_chance: npt.NDArray[np.float64],
    outside: Mask,
    framing: Mask,
    long: Mask,
    *,
    tiers: int,
    narrow: bool,
) -> list[Evidence]:
    """Judge units by one of the views.

    Parameters
    ----------
    by_chance, outside
        ``[count]``, by the third rule, which takes all views together.
    framing
        ``[count]``, units that frame every text.
    long
        ``[count]``, units that gather texts of one length, or where there are several of them,
        whatever they are.
    tiers
        As in `verify`.
    narrow
        Whether this view tells texts apart so badly that ordinary units gather them.
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
        telling = ("kinds", "places") if long[i] else FAMILIES
        fired = any(item.fired for family in telling for item in found[family].values())
        gathers = fired or share_alone[i] >= usual_alone + MORE_THAN_USUAL
        unnamed = view == "mask" or framing[i]
        told = not narrow or outside[i] or (unnamed and tiers * by_chance[i] < 1)
        fits = (gathers and told, erases[i] and told, outside[i])
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
                narrow=narrow,
                **found,
                rules=tuple(rule for rule, true in holds.items() if true),
            )
        )
    return result
