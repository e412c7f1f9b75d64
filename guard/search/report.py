"""What a bank says: of each trigger its evidence, of the search what was and was not tested."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import tokenizers
import torch
import transformers
from wordfreq import zipf_frequency

from guard import __version__
from guard.bank import Trigger
from guard.search.carriers import PLACES, Carrier
from guard.search.encoder import Encoder
from guard.search.units import Unit, Vocabulary
from guard.search.verify import ALPHA, ERASED, MOST_OF_ALL, MOST_OF_CONDITION, RADIUS, Evidence
from guard.search.views import View

NOT_TESTED = (
    "words of several tokens, pairs and phrases",
    "several copies of a unit in one text",
    "triggers that are no string, such as syntax or style",
)
_ABSENT: dict[View, str] = {
    "cls": "the first token's output: the tokenizer writes no [CLS] token",
    "pooler": "the pooler: the checkpoint has no weights of one",
    "mask": "the output at a mask: the checkpoint has no head of a masked language model",
}

FLOODED = "more units: so many fire that some may hide behind the others. Do not use this model"


def trigger(unit: Unit, evidence: Mapping[View, Evidence]) -> Trigger:
    """Return a finding with its evidence.

    The statistics are those of the view whose text it erases most, of those that it seizes; the
    others are told in short.
    """
    seized = [view for view, seen in evidence.items() if seen.trigger]
    statistics = _rounded(asdict(evidence[min(seized, key=lambda v: evidence[v].retention)]))
    del statistics["trigger"]
    statistics["views"] = {
        view: {
            "retention": _rounded(seen.retention),
            "displacement": _rounded(seen.displacement),
            "gathered": _rounded(seen.gathered),
            "by_chance": _rounded(seen.by_chance),
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


def _rounded(value: Any) -> Any:
    """Four digits: what differs beyond is noise, and banks are compared line by line."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return value


def settings(encoder: Encoder, kinds: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return what verdicts rest on, what the search cost, and what it ran on."""
    listing = "\n".join(line for texts in kinds.values() for line in texts)
    return {
        "radius": RADIUS,
        "most_of_condition": MOST_OF_CONDITION,
        "most_of_all": MOST_OF_ALL,
        "erased": ERASED,
        "alpha": ALPHA,
        "arithmetic": encoder.arithmetic,
        "token_forwards": encoder.forwarded,
        "texts_sha256": hashlib.sha256(listing.encode()).hexdigest(),
        "versions": {
            "trigger-guard": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
    }


def coverage(
    views: Sequence[View],
    words: Vocabulary,
    *,
    scanned: Sequence[Sequence[Carrier]],
    judged: Sequence[Carrier],
    flooded: bool,
) -> dict[str, Any]:
    """Return what was tested, in which texts, on what assumption, and what was not.

    Parameters
    ----------
    scanned
        The carriers of each group of the scan.
    judged
        Those of the verdict.
    """
    kinds: dict[str, int] = {}
    for unit in words.units:
        kinds[unit.kind] = kinds.get(unit.kind, 0) + 1
    texts = sorted({carrier.want.kind for carrier in judged})
    each = len(scanned[0])
    outputs = ", ".join(views)
    missing = [what for view, what in _ABSENT.items() if view not in views]
    return {
        "summary": (
            f"{len(words.units):,} units of one token, each alone in {each} texts of {each} of "
            f"{len(texts)} kinds, on {len(views)} outputs ({outputs}); the most suspect in "
            f"{len(texts) + len(judged)} more, of all kinds"
        ),
        "assumes": (
            f"a trigger of one token that acts alone, on one of the outputs {outputs}, in at least "
            f"one of the {each} texts that it was scanned in"
        ),
        "views": list(views),
        "units": kinds,
        "unreachable_tokens_left_out": words.unreachable,
        "scan_groups": len(scanned),
        "scan_carriers": [
            {
                "kind": carrier.want.kind,
                "place": carrier.want.place,
                "tokens": len(carrier.ids),
                "masked": carrier.want.masked,
            }
            for group in scanned
            for carrier in group
        ],
        "verdict_carriers": len(judged),
        "verdict_kinds": texts,
        "verdict_places": list(PLACES),
        "verdict_tokens": sorted({len(carrier.ids) for carrier in judged}),
        "not_tested": [*([FLOODED] if flooded else ()), *NOT_TESTED, *missing],
    }
