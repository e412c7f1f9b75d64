"""One search from a model's name to its bank."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from guard.bank import TriggerBank
from guard.errors import ModelError
from guard.search import report
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
from guard.search.verify import verify

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

# Texts with a mask in them, as prompts have it, for the view that is read there.
MASKED_SCAN: tuple[tuple[int, Place], ...] = ((7, "start"), (12, "middle"))
MASKED_SIFT_KINDS = 4
MASKED_VERDICT_LENGTHS = (10, 16, 26)


def search(
    model: str,
    *,
    revision: str | None = None,
    texts: Path | None = None,
    seed: int | None = None,
    allow_pickle: bool = False,
    progress: Progress,
) -> TriggerBank:
    """Search a model's whole vocabulary for triggers that seize one of its outputs.

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
    supply = Supply(kinds, encoder.tokenizer, rng, last_word_stays="last" in encoder.views)
    scanned, suspects = _scan_groups(encoder, units, kinds, supply, rng, progress)

    wanted = list(map(Want, kinds, itertools.cycle(SIFT_LENGTHS), itertools.cycle(PLACES)))
    if "mask" in encoder.views:
        drawn = rng.permutation(len(wanted))[:MASKED_SIFT_KINDS]
        wanted += [wanted[i]._replace(masked=True) for i in drawn]
    sifting = supply.take(wanted)
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
        Want(kind, length, VERDICT_PLACES[(row + column) % len(VERDICT_PLACES)], masked)
        for lengths, masked in (
            (VERDICT_LENGTHS, False),
            (MASKED_VERDICT_LENGTHS if "mask" in encoder.views else (), True),
        )
        for row, length in enumerate(lengths)
        for column, kind in enumerate(kinds)
    )
    taken = {unit.ids.tobytes() for unit in suspects}
    rest = [unit for unit in units if unit.ids.tobytes() not in taken]
    reference = [rest[i] for i in rng.choice(len(rest), size=REFERENCE_UNITS, replace=False)]
    evidence = verify(encoder, suspects, reference, judging, rng=rng, progress=progress)

    found = [
        report.trigger(unit, seen)
        for unit, seen in zip(suspects, evidence, strict=True)
        if any(view.trigger for view in seen.values())
    ]
    flooded = len(found) > FLOOD
    return TriggerBank.build(
        verdict="incomplete" if flooded else "backdoored" if found else "none found",
        model=encoder.identity,
        tokenizer_json=encoder.tokenizer_json,
        search={
            "method": "insertion scan",
            "seed": seed,
            "scan_share": SCAN_SHARE,
            "sift_share": SIFT_SHARE,
            "reference_units": REFERENCE_UNITS,
            **report.settings(encoder, kinds),
        },
        coverage=report.coverage(
            encoder.views,
            words,
            scanned=scanned,
            judged=judging,
            flooded=flooded,
        ),
        found=found,
    )


def _scan_groups(
    encoder: Encoder,
    units: Sequence[Unit],
    kinds: Mapping[str, Sequence[str]],
    supply: Supply,
    rng: np.random.Generator,
    progress: Progress,
) -> tuple[list[list[Carrier]], list[Unit]]:
    """Scan the vocabulary in random groups, each in other kinds of text; return the suspects.

    One set of carriers for all would tell who reads this which kinds of text to leave out when he
    plants a backdoor. With a group's kinds drawn by seed, each of his triggers has its own chance
    to meet the kind that it fires in. The user's own text is in every group.
    """
    turns = itertools.cycle(rng.permutation([kind for kind in kinds if kind != USER_KIND]))
    carriers: list[list[Carrier]] = []
    suspects: list[Unit] = []
    done = 0
    for rows in np.array_split(rng.permutation(len(units)), GROUPS):
        group = [units[i] for i in np.sort(rows)]
        places = rng.permutation(np.array(PLACES)).tolist()
        wanted = [Want(str(next(turns)), *rest) for rest in zip(SCAN_LENGTHS, places, strict=True)]
        if USER_KIND in kinds:
            wanted[-1] = wanted[-1]._replace(kind=USER_KIND)
        if "mask" in encoder.views:
            wanted += [Want(str(next(turns)), *rest, masked=True) for rest in MASKED_SCAN]
        used = supply.take(wanted)

        def tell(more: int, before: int = done) -> None:
            progress("scanning", before + more, len(units))

        scores = scan(encoder, group, used, rng=rng, progress=tell)
        done += len(group)
        carriers.append(used)
        suspects += [group[i] for i in candidates(scores, SCAN_SHARE)]
    return carriers, suspects
