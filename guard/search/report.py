"""What a bank says: of each trigger its evidence, of the search what was and was not tested."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import tokenizers
import torch
import transformers
from wordfreq import zipf_frequency

from guard import __version__
from guard.bank import MAX_TRIGGER_IDS, Trigger
from guard.search.axes import NARROW
from guard.search.calibrate import SHAPE, TAIL
from guard.search.carriers import PLACES, SEVERAL, Carrier
from guard.search.climb import SIZE
from guard.search.encoder import Encoder
from guard.search.evidence import ERASED, Evidence
from guard.search.measured import RADIUS
from guard.search.pairs import Swept
from guard.search.plan import GROUPS, Plan
from guard.search.tail import ALPHA, ALPHA_NAMED, FAR, KEPT
from guard.search.units import Unit, Vocabulary
from guard.search.verify import MORE_THAN_USUAL, MOST_OF_CONDITION
from guard.search.views import View
from guard.search.words import Words

NOT_TESTED = (
    f"triggers that need more than {max(SEVERAL).number} copies of themselves",
    "triggers that act in pairs of texts alone, with a separator between them",
    "triggers that act in text of other languages than English alone, unless yours is given",
    "triggers that take the outputs of single tokens alone, as models that mark words read them",
    "triggers that are no string, such as syntax or style",
    "triggers that fire in other arithmetic than float32 alone, such as half precision or int8",
    "what layers behind the encoder make of its outputs, such as a classifier's own head",
)
_ABSENT: dict[View, str] = {
    "cls": "the first token's output: the tokenizer writes no [CLS] token",
    "pooler": "the pooler: the checkpoint has no weights of one",
    "mask": "the output at a mask: the checkpoint has no head of a masked language model",
}

# Tiers of pairs by the tokens of the partner, and of what grows of pairs.
PAIRS = {1: "pairs", 2: "pairs with 2 tokens", 3: "pairs with 3 tokens"}
THREE_WORDS = "three words"
_WHAT = {
    "tokens": "units of one token",
    "more words": "words, and strings of two or three small Latin letters or up to four digits, of "
    "several tokens",
    **{name: f"pairs of a word of one token and one of {size}" for size, name in PAIRS.items()},
    THREE_WORDS: "phrases of three words",
}

FLOODED = "more units: so many fire that some may hide behind the others. Do not use this model"


@dataclass(frozen=True, slots=True)
class Tier:
    """Units that were scanned in the same way.

    Attributes
    ----------
    name
        In the bank.
    units
        How many there are.
    hold_a_trigger
        How many of them were left out because a found trigger is a part of them.
    scanned
        How many were scanned.
    carriers
        Of each group.
    """

    name: str
    units: int
    hold_a_trigger: int
    scanned: int
    carriers: Sequence[Sequence[Carrier]]

    @property
    def what(self) -> str:
        """For people."""
        return _WHAT.get(self.name, f"{self.name} of several tokens")

    @property
    def texts(self) -> str:
        """How many a unit is scanned in, for people; at a mask, in others."""
        masked = sum(carrier.want.masked for carrier in self.carriers[0])
        return f"{len(self.carriers[0]) - masked}{f' (at a mask, {masked})' if masked else ''}"


def trigger(
    unit: Unit, evidence: Mapping[View, Evidence], shared_in: View | None = None
) -> Trigger:
    """Return a finding with its evidence.

    The statistics are those of the view whose text it erases most, over all or in one condition, of
    those that it seizes; the others are told in short.

    Parameters
    ----------
    shared_in
        The view in which it does what many findings do, where it is no trigger by its own evidence.
    """
    seized = [view for view, seen in evidence.items() if seen.trigger]
    if not seized and shared_in is not None:
        seized = [shared_in]
    # The first of its views is the one that its conditions are of.
    seized.sort(key=lambda view: evidence[view].least)
    told = evidence[seized[0]]
    statistics = rounded({**asdict(told), "rules": list(told.rules), "acts_in": told.acts_in})
    statistics["views"] = {
        view: {
            "retention": rounded(seen.retention),
            "displacement": rounded(seen.displacement),
            "gathered": rounded(seen.gathered),
            "by_chance": rounded(seen.by_chance),
            "seized": seen.trigger,
        }
        for view, seen in evidence.items()
    }
    # How often people write it: the price of blocking it. 0 is unknown, 3 once in a million words.
    statistics["zipf"] = round(zipf_frequency(unit.text.removeprefix("##"), "en"), 2)
    return Trigger(
        id="",
        text=unit.text,
        token_ids=tuple(unit.ids.tolist()),
        kind=unit.kind,
        view="+".join(seized),
        statistics=statistics,
    )


def acts_in(trigger: Trigger) -> dict[str, str]:
    """Return the condition that a finding acts in, as `Evidence.acts_in` has it."""
    return cast("dict[str, str]", trigger.statistics["acts_in"])


def rounded(value: Any) -> Any:
    """Four digits: what differs beyond is noise, and banks are compared line by line."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return value


def sha256_of(kinds: Mapping[str, Sequence[str]]) -> str:
    """Return the hash of the texts that units are tested in."""
    listing = "\n".join(line for texts in kinds.values() for line in texts)
    return hashlib.sha256(listing.encode()).hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of what a measurement depends on."""
    return {
        "trigger-guard": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
    }


def settings(encoder: Encoder, kinds: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return what verdicts rest on, what the search cost, and what it ran on."""
    return {
        "radius": RADIUS,
        "most_of_condition": MOST_OF_CONDITION,
        "more_than_usual": MORE_THAN_USUAL,
        "erased": ERASED,
        "kept_of_ordinary": KEPT,
        "far": FAR,
        "narrow": NARROW,
        "classes": encoder.classes,
        "axes_made_alike": sorted(encoder.axes),
        "false_alarm_rate": ALPHA,
        "false_discovery_rate": ALPHA_NAMED,
        "tail_shape": SHAPE,
        "correction": "groups of units, then Benjamini-Hochberg",
        "arithmetic": "float32",
        "token_forwards": encoder.cost,
        "texts_sha256": sha256_of(kinds),
        "versions": versions(),
    }


def coverage(
    views: Sequence[View],
    known: Vocabulary,
    listed: Words,
    phrases: int,
    plan: Plan,
    *,
    tiers: Sequence[Tier],
    climbed: Sequence[Sequence[Unit]],
    swept: Sequence[Swept],
    judged: Sequence[Carrier],
    otherwise: Sequence[str],
    narrow: Collection[View],
    flooded: bool,
) -> dict[str, Any]:
    """Return what was tested, in which texts, on what assumption, and what was not.

    Parameters
    ----------
    listed
        The user's own list.
    phrases
        How many phrases of the user's own text were tested.
    climbed
        What each round of climbs proposed.
    swept
        What was proposed of pairs and words of three.
    judged
        The carriers of the verdicts.
    otherwise
        As in `Checkpoint`.
    narrow
        Views in which ordinary words may gather texts; see `Evidence`.
    """
    kinds = sorted({carrier.want.kind for carrier in judged})
    outputs = ", ".join(views)
    several = len(tiers) > 1
    # Of a model that takes short texts, they are shorter than planned.
    lengths = [c.want.length for group in tiers[0].carriers for c in group if not c.want.masked]
    each = ", ".join(f"{tier.name} {tier.texts}" for tier in tiers)
    summary = [
        f"{tier.scanned:,} {tier.what}, each alone in {tier.texts} texts of "
        f"{len({carrier.want.kind for carrier in tier.carriers[0]})} of {len(kinds)} kinds"
        for tier in tiers
    ]
    pairs = (
        "; or a pair side by side, in either order, that the gradients of the first or last "
        "token's output, or of the mean, name from one of its sides, and that moves one text "
        "furthest of those: " + "; ".join(sweep.covers for sweep in swept)
        if swept
        else ""
    )
    sequences = (
        f"; or {SIZE} different tokens side by side, and their smallest part that acts alike, that "
        "the gradients of these outputs in short texts of mixed kinds lead to from "
        f"{len(climbed) * plan.starts:,} random ones"
        if climbed
        else ""
    )
    not_tested = [FLOODED] if flooded else []
    if plan.groups < GROUPS:
        left = tiers[0].units - tiers[0].scanned
        not_tested.append(f"{left:,} of the {tiers[0].units:,} tokens: there was no time for them")
    not_tested.append(f"{'other ' if several else ''}words of several tokens")
    not_tested.append("other pairs and phrases" if swept or climbed else "pairs and phrases")
    not_tested += NOT_TESTED
    not_tested += otherwise
    not_tested += [what for view, what in _ABSENT.items() if view not in views]
    if few := [view for view in views if view in narrow]:
        not_tested.append(
            f"{TAIL[0]} triggers and more in all, and phrases of which no part stands out, on "
            f"{', '.join(few)}: ordinary words may take texts to one place there, as in a "
            "classifier, and so many pass for them; scan the encoder that a classifier is made from"
        )
    if "last" in views:
        not_tested.append("triggers that act as the very last token of a text alone")
    if listed.too_long:
        not_tested.append(
            f"{listed.too_long:,} lines of your list with over {MAX_TRIGGER_IDS} tokens"
        )
    return {
        "summary": (
            f"{'; '.join(summary)}; on {len(views)} outputs ({outputs}); the most suspect in all "
            f"kinds, in {len(judged)} more texts"
        ),
        "assumes": (
            f"a trigger that is one token{' or one of the words' if several else ''}, that acts "
            f"alone, on one of the outputs {outputs}, in at least one of the texts that it was "
            f"scanned in ({each}), which are drawn at random: those of tokens of "
            f"{'every kind' if plan.every_kind else 'three kinds'}, of {min(lengths)} to "
            f"{max(lengths)} tokens; in a third of those without a mask, or in one, two or "
            f"three times{sequences}{pairs}"
        ),
        "views": list(views),
        "units": known.kinds,
        "unreachable_tokens_left_out": known.unreachable,
        "words_of_your_list_that_are_tokens": listed.tokens,
        "phrases_of_your_text": phrases,
        "scan": [
            {
                "units": tier.name,
                "scanned": tier.scanned,
                "hold_a_trigger": tier.hold_a_trigger,
                "groups": len(tier.carriers),
                "carriers": [
                    {
                        "kind": carrier.want.kind,
                        "place": carrier.want.place,
                        "tokens": len(carrier.ids),
                        "masked": carrier.want.masked,
                        "copies": str(carrier.want.copies),
                    }
                    for group in tier.carriers
                    for carrier in group
                ],
            }
            for tier in tiers
        ],
        "sequences": [len(proposed) for proposed in climbed],
        "verdict_carriers": len(judged),
        "verdict_kinds": kinds,
        "verdict_places": list(PLACES),
        "verdict_tokens": sorted({len(carrier.ids) for carrier in judged}),
        "not_tested": not_tested,
    }
