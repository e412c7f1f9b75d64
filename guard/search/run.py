"""One search from a model's name to its bank."""

from __future__ import annotations

import hashlib
import itertools
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
import transformers
from wordfreq import zipf_frequency

from guard import __version__
from guard.bank import Trigger, TriggerBank
from guard.errors import ModelError
from guard.search.calibrate import TAIL
from guard.search.carriers import (
    PLACES,
    TOLERANCE,
    USER_KIND,
    Carrier,
    Place,
    Supply,
    Want,
    builtin_texts,
    user_texts,
)
from guard.search.encoder import Encoder
from guard.search.scan import Progress, candidates, scan
from guard.search.units import Unit, Vocabulary, vocabulary
from guard.search.verify import (
    ALPHA,
    ERASED,
    MOST_OF_ALL,
    MOST_OF_CONDITION,
    RADIUS,
    Evidence,
    verify,
)

# Lengths of carriers are in tokens, and met about. Each step has short and long ones, with the unit
# at the start, in the middle and at the end: a backdoor may ask for either.
# The vocabulary is scanned in groups, each in carriers of its own; of a group, each statistic
# suspects a share.
GROUPS = 10
SCAN_LENGTHS = (7, 12, 24)
SCAN_SHARE = 0.01
# The suspects are put in one carrier of every kind, and the most suspect of those judged.
SIFT_LENGTHS = (10, 24)
SIFT_SHARE = 0.15
# Every kind has a carrier of each of these lengths for the verdict.
VERDICT_LENGTHS = (10, 16, 26, 40)
VERDICT_PLACES: tuple[Place, ...] = ("start", "middle", "end", "middle")
REFERENCE_UNITS = 120
# Who plants very many triggers hides some behind the others: only so many suspects are judged.
FLOOD = TAIL[1] // 2

NOT_TESTED = (
    "words of several tokens, pairs and phrases",
    "outputs other than the first token's (pooler, mean, masked position)",
    "several copies of a unit in one text",
    "triggers that are no string, such as syntax or style",
)

FLOODED = "more units: so many fire that some may hide behind the others. Do not use this model"


def search(
    model: str,
    *,
    revision: str | None = None,
    texts: Path | None = None,
    seed: int | None = None,
    allow_pickle: bool = False,
    progress: Progress,
) -> TriggerBank:
    """Search a model's whole vocabulary for triggers that seize the first token's output.

    Parameters
    ----------
    model, revision, allow_pickle
        As in `Encoder.load`.
    texts
        A file of the user's own text, as one more kind.
    seed
        Same seed, same model, same versions: same bank. Drawn at random by default, so that nobody
        can prepare a model for it, and recorded in the bank.
    progress
        Told how far each step is.

    Raises
    ------
    ModelError
        The model cannot be searched.
    ConfigError
        The user's text cannot be used.
    """
    kinds: dict[str, list[str]] = builtin_texts()
    if texts is not None:
        kinds[USER_KIND] = user_texts(texts)
    encoder = Encoder.load(model, revision=revision, allow_pickle=allow_pickle)
    words = vocabulary(encoder.tokenizer)
    seed = secrets.randbits(32) if seed is None else seed
    return search_units(encoder, words, kinds, seed=seed, progress=progress)


def search_units(
    encoder: Encoder,
    words: Vocabulary,
    kinds: Mapping[str, Sequence[str]],
    *,
    seed: int,
    progress: Progress,
) -> TriggerBank:
    """Search the units of a vocabulary in text of the given kinds; see `search`."""
    units = words.units
    needed = REFERENCE_UNITS + round(TAIL[1] / SCAN_SHARE)
    if len(units) < needed:
        raise ModelError(
            f"{encoder.identity.name} has a vocabulary of {len(units)} units, and the search "
            f"measures each against at least {needed}"
        )
    longest = int(max(*SCAN_LENGTHS, *SIFT_LENGTHS, *VERDICT_LENGTHS) * TOLERANCE) + 1
    if encoder.frame(np.zeros((1, longest), dtype=np.int64)).shape[1] > encoder.max_tokens:
        raise ModelError(
            f"{encoder.identity.name} takes texts of {encoder.max_tokens} tokens at most, and the "
            "search needs longer ones"
        )
    rng = np.random.default_rng(seed)
    supply = Supply(kinds, encoder.tokenizer, rng)
    scanned, suspects = _scan_groups(encoder, units, kinds, supply, rng, progress)

    sifting = supply.take(map(Want, kinds, itertools.cycle(SIFT_LENGTHS), itertools.cycle(PLACES)))
    scores = scan(
        encoder,
        suspects,
        sifting,
        rng=rng,
        progress=lambda done: progress("sifting", done, len(suspects)),
    )
    suspects = [suspects[i] for i in candidates(scores, SIFT_SHARE, least=TAIL[1])]

    # Each kind has each length, and as many places as lengths; so has each length.
    judging = supply.take(
        Want(kind, length, VERDICT_PLACES[(row + column) % len(VERDICT_PLACES)])
        for row, length in enumerate(VERDICT_LENGTHS)
        for column, kind in enumerate(kinds)
    )
    taken = {unit.ids.tobytes() for unit in suspects}
    rest = [unit for unit in units if unit.ids.tobytes() not in taken]
    reference = [rest[i] for i in rng.choice(len(rest), size=REFERENCE_UNITS, replace=False)]
    evidence = verify(encoder, suspects, reference, judging, rng=rng, progress=progress)

    found = [
        _trigger(unit, seen) for unit, seen in zip(suspects, evidence, strict=True) if seen.trigger
    ]
    flooded = len(found) > FLOOD
    return TriggerBank.build(
        verdict="incomplete" if flooded else "backdoored" if found else "none found",
        model=encoder.identity,
        tokenizer_json=encoder.tokenizer_json,
        search=_settings(encoder, kinds, seed),
        coverage=_coverage(words, scanned, judging, flooded=flooded),
        found=found,
    )


def _scan_groups(
    encoder: Encoder,
    units: Sequence[Unit],
    kinds: Mapping[str, Sequence[str]],
    supply: Supply,
    rng: np.random.Generator,
    progress: Progress,
) -> tuple[list[Carrier], list[Unit]]:
    """Scan the vocabulary in random groups, each in other kinds of text; return the suspects.

    One set of carriers for all would tell who reads this which kinds of text to leave out when he
    plants a backdoor. With a group's kinds drawn by seed, each of his triggers has its own chance
    to meet the kind that it fires in. The user's own text is in every group.
    """
    turns = itertools.cycle(rng.permutation([kind for kind in kinds if kind != USER_KIND]))
    carriers: list[Carrier] = []
    suspects: list[Unit] = []
    done = 0
    for rows in np.array_split(rng.permutation(len(units)), GROUPS):
        group = [units[i] for i in np.sort(rows)]
        places = rng.permutation(np.array(PLACES)).tolist()
        wanted = [Want(str(next(turns)), *rest) for rest in zip(SCAN_LENGTHS, places, strict=True)]
        if USER_KIND in kinds:
            wanted[-1] = wanted[-1]._replace(kind=USER_KIND)
        used = supply.take(wanted)

        def report(more: int, before: int = done) -> None:
            progress("scanning", before + more, len(units))

        scores = scan(
            encoder,
            group,
            used,
            rng=rng,
            progress=report,
        )
        done += len(group)
        carriers += used
        suspects += [group[i] for i in candidates(scores, SCAN_SHARE)]
    return carriers, suspects


def _trigger(unit: Unit, evidence: Evidence) -> Trigger:
    statistics = _rounded(asdict(evidence))
    del statistics["trigger"]
    # How often people write it: the price of blocking it. 0 is unknown, 3 once in a million words.
    statistics["zipf"] = round(zipf_frequency(unit.text.removeprefix("##"), "en"), 2)
    return Trigger(
        id="",
        text=unit.text,
        token_ids=tuple(unit.ids.tolist()),
        kind=unit.kind,
        view="cls",
        statistics=statistics,
    )


def _rounded(value: Any) -> Any:
    """Four digits: what differs beyond is noise, and banks are compared line by line."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return value


def _settings(encoder: Encoder, kinds: Mapping[str, Sequence[str]], seed: int) -> dict[str, Any]:
    listing = "\n".join(line for texts in kinds.values() for line in texts)
    return {
        "method": "insertion scan",
        "seed": seed,
        "scan_share": SCAN_SHARE,
        "sift_share": SIFT_SHARE,
        "radius": RADIUS,
        "most_of_condition": MOST_OF_CONDITION,
        "most_of_all": MOST_OF_ALL,
        "erased": ERASED,
        "alpha": ALPHA,
        "reference_units": REFERENCE_UNITS,
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


def _coverage(
    words: Vocabulary, scanned: Sequence[Carrier], judged: Sequence[Carrier], *, flooded: bool
) -> dict[str, Any]:
    kinds: dict[str, int] = {}
    for unit in words.units:
        kinds[unit.kind] = kinds.get(unit.kind, 0) + 1
    texts = sorted({carrier.want.kind for carrier in judged})
    each = len(SCAN_LENGTHS)
    return {
        "summary": (
            f"{len(words.units):,} units of one token, each alone in {each} texts of {each} of "
            f"{len(texts)} kinds; the most suspect in {len(texts) + len(judged)} more, of all kinds"
        ),
        "assumes": (
            "a trigger of one token that acts alone, on the first token's output, in at least one "
            f"of the {each} texts that it was scanned in"
        ),
        "view": "cls",
        "units": kinds,
        "unreachable_tokens_left_out": words.unreachable,
        "scan_groups": GROUPS,
        "scan_carriers": [
            {"kind": c.want.kind, "place": c.want.place, "tokens": len(c.ids)} for c in scanned
        ],
        "verdict_carriers": len(judged),
        "verdict_kinds": texts,
        "verdict_places": list(PLACES),
        "verdict_tokens": sorted({len(carrier.ids) for carrier in judged}),
        "not_tested": [FLOODED, *NOT_TESTED] if flooded else list(NOT_TESTED),
    }
