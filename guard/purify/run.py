"""Purification: train against the bank, scan again, and again until nothing is found."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from guard.bank import BANK_FILE, BANK_LIMITS, TriggerBank
from guard.errors import ConfigError, HashMismatch
from guard.files import Json, check_output, dump_json, new_directory, sha256_file
from guard.purify.arithmetic import multiplies_bfloat16
from guard.purify.results import DEFAULT, Purified, Settings
from guard.purify.rounds import NotPreserved, Rounds
from guard.purify.training import device
from guard.purify.workplace import ROUND_FILE, Workplace
from guard.purify.write import check_files, model_files
from guard.search.belongs import check_bank
from guard.search.carriers import USER_KIND, builtin_texts, user_texts
from guard.search.checkpoint import load, resolve
from guard.search.encoder import Encoder
from guard.search.report import sha256_of, versions
from guard.search.scan import Progress

PURIFICATION_SCHEMA = 1
RECORD_FILE = "purification.json"
BEFORE, AFTER = "scan-before", "scan-after"


class NothingToPurify(ConfigError):
    """The bank found no triggers."""


def purify(
    model: str,
    bank: TriggerBank,
    out: Path,
    *,
    revision: str | None = None,
    texts: Path | None = None,
    seed: int | None = None,
    settings: Settings = DEFAULT,
    progress: Progress,
) -> Purified:
    """Train a model to ignore the units of a bank, and to be itself otherwise.

    Written after Patronus' purification (arXiv 2512.06899). The model keeps its outputs on
    ordinary text, and on text with other rare units, and gives text with a banked unit the outputs
    that a frozen copy gives the text without it. What is written is scanned; what the scan finds is
    trained against as well.

    A run that was interrupted goes on from its last checkpoint when it is called again with the
    same arguments. It keeps its state in a directory beside `out`.

    Parameters
    ----------
    model, revision
        As in `guard.search.encoder.Encoder.load`.
    bank
        What a search found in this model.
    out
        Directory for the purified model, which ``from_pretrained`` loads; the scans are in it.
    texts
        A file of the user's own text, as one more kind of text to train on and to scan in.
    seed
        Same seed, model, bank, versions and machine: same weights. Drawn at random by default.
    progress
        Told how far each step is.

    Raises
    ------
    NothingToPurify
        The bank is of this model, and found nothing.
    ConfigError
        The text cannot be used.
    HashMismatch
        The bank is of another model, or what was scanned is not what would be written.
    MalformedArtifact
        The bank names a token that the model has not.
    ModelError
        The model cannot be loaded, or not without what lies outside its directory.
    ArtifactError
        The disk is full, or `out` is not to be written to.
    NotPreserved
        Training has taken the model from what it was; no round is kept.
    GuardError
        The bank's units leave no text that the model could be preserved on.
    """
    kinds: dict[str, list[str]] = builtin_texts()
    if texts is not None:
        kinds[USER_KIND] = user_texts(texts)
    folder, revision = resolve(model, revision)
    encoder = Encoder.load(str(folder))
    check_bank(encoder, bank)
    if not bank.triggers:
        raise NothingToPurify(
            f"nothing to purify: the bank found no triggers (its verdict: {bank.verdict})"
        )
    check_files(folder)
    check_output(out, _names(folder), owner=RECORD_FILE)
    for scan_of in (out / BEFORE, out / AFTER):
        if scan_of.exists():
            check_output(scan_of, BANK_LIMITS, owner=BANK_FILE)
    # Its scans' banks are of this name, and are written last.
    replace(encoder.identity, name=str(out))
    about = _about(kinds)
    state = {
        "weights": encoder.identity.weights_sha256,
        # What is copied beside them, and says what they compute.
        "files": {
            path.name: sha256_file(path)
            for path in model_files(folder)
            if path.suffix != ".safetensors"
        },
        "bank": bank.sha256,
        "settings": asdict(settings),
        # A scan that was kept goes on as the last one.
        "scanned_in": "float32",
        **about,
    }
    place = Workplace(out, state, folder, seed)
    rounds = Rounds(
        folder,
        encoder,
        kinds=kinds,
        texts=texts,
        name=str(out),
        place=place,
        settings=settings,
        progress=progress,
    )
    identity = replace(encoder.identity, name=model, revision=revision)
    # The encoder has another copy of the weights.
    del encoder
    try:
        records, scan = rounds.run(bank)
    except NotPreserved:
        # Going on from here would come to the same.
        place.remove()
        raise
    record: dict[str, Json] = {
        "schema": PURIFICATION_SCHEMA,
        "model": asdict(identity),
        "bank_sha256": bank.sha256,
        "weights_sha256": scan.model.weights_sha256,
        "verdict": scan.verdict,
        "seed": place.seed,
        "rounds": [asdict(one) for one in records],
        "settings": asdict(settings),
        **about,
    }
    made = place.made(len(records))
    with new_directory(out, _names(folder), owner=RECORD_FILE) as fresh:
        for path in model_files(made):
            if path.name != ROUND_FILE:
                shutil.copyfile(path, fresh / path.name)
        # A scan that was kept may be of other weights than those that lie beside it by now.
        written = load(str(fresh)).identity.weights_sha256
        if written != scan.model.weights_sha256:
            raise HashMismatch(
                f"the weights in {made} have SHA-256 {written[:16]}…, and those that were scanned "
                f"{scan.model.weights_sha256[:16]}…; remove {made.parent}, and run the same again"
            )
        bank.save(fresh / BEFORE)
        scan.save(fresh / AFTER)
        (fresh / RECORD_FILE).write_bytes(dump_json(record))
    place.remove()
    left_out = {path.name for path in folder.iterdir()} - {*_names(folder)}
    return Purified(record, tuple(records), scan, tuple(sorted(left_out)))


def _about(kinds: Mapping[str, Sequence[str]]) -> dict[str, Json]:
    """Return with what a model is purified, beside bank, seed and settings."""
    return {
        # Of its training; scans are in float32.
        "arithmetic": "bfloat16" if multiplies_bfloat16(device()) else "float32",
        "texts_sha256": sha256_of(kinds),
        "versions": versions(),
    }


def _names(folder: Path) -> list[str]:
    """Return all that is written."""
    return [*(path.name for path in model_files(folder)), RECORD_FILE, BEFORE, AFTER]
