"""Purification: train against the bank, scan again, and again until nothing is found."""

from __future__ import annotations

import hashlib
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
import transformers

from guard import __version__
from guard.bank import Outcome, TriggerBank
from guard.errors import ArtifactError, ConfigError, HashMismatch
from guard.files import Json, check_output, dump_json, new_directory, parse_json, read_bounded
from guard.purify.loss import Distance, total
from guard.purify.network import Network
from guard.purify.samples import Sampler
from guard.purify.training import Stopping, device, train
from guard.purify.write import model_files, write_model
from guard.search.carriers import USER_KIND, builtin_texts, user_texts
from guard.search.checkpoint import resolve
from guard.search.encoder import Encoder, Ids
from guard.search.run import search
from guard.search.scan import Progress
from guard.search.units import vocabulary

PURIFICATION_SCHEMA = 1
RECORD_FILE = "purification.json"
BEFORE, AFTER = "scan-before", "scan-after"

_SEED_FILE = "seed.json"
_ROUND_FILE = "round.json"
_MAX_BYTES = 1 << 20
# Of the texts, those that are not trained on; and how often each length is drawn from them.
_HELD_OUT_SHARE = 0.1
_HELD_OUT_ROUNDS = 2
# Copies of the weights on the disk at a time: moments, best and last ones in a checkpoint and in
# its successor, and the models of two rounds.
_COPIES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a model is purified.

    Attributes
    ----------
    rounds
        Of training and scanning, at most.
    steps
        Of training, at most, a round.
    learning_rate
        At its highest.
    every
        Steps from one look at the held-out loss, and one checkpoint, to the next.
    patience
        Looks without a lower loss after which a round's training ends.
    """

    rounds: int = 3
    steps: int = 400
    learning_rate: float = 1e-4
    every: int = 50
    patience: int = 3


DEFAULT = Settings()


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What a round came to.

    Attributes
    ----------
    units
        How many were trained against.
    held_out_loss
        Before the first step, and at every look after it.
    moved
        View -> how far outputs on ordinary held-out text are from the frozen copy's, as a share of
        their variance.
    triggered_before, triggered_after
        The same of text with a unit, from the frozen copy's outputs of the text without it.
    verdict, remaining, scan_sha256
        The scan's verdict, how many triggers it found, and the hash of its bank.
    """

    units: int
    held_out_loss: list[float]
    moved: dict[str, float]
    triggered_before: dict[str, float]
    triggered_after: dict[str, float]
    verdict: Outcome
    remaining: int
    scan_sha256: str


@dataclass(frozen=True, slots=True)
class Purified:
    """What became of a model.

    Attributes
    ----------
    record
        The provenance record: model, bank, seed, settings, and the rounds.
    rounds
        What each round came to.
    scan
        The last scan of what was written.
    """

    record: Mapping[str, Json]
    rounds: tuple[Round, ...]
    scan: TriggerBank

    @property
    def verdict(self) -> Outcome:
        """What the last scan says."""
        return self.scan.verdict


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
    ConfigError
        The bank found nothing, so there is nothing to purify; or the text cannot be used.
    HashMismatch
        The bank is of another model.
    ModelError
        The model cannot be loaded.
    ArtifactError
        The disk is full, or `out` is not to be written to.
    """
    if not bank.triggers:
        raise ConfigError(f"the bank holds no triggers (its verdict: {bank.verdict}); scan again")
    kinds: dict[str, list[str]] = builtin_texts()
    if texts is not None:
        kinds[USER_KIND] = user_texts(texts)
    folder, revision = resolve(model, revision)
    encoder = Encoder.load(str(folder))
    _check_bank(bank, encoder)
    check_output(out, _names(folder), owner=RECORD_FILE)
    run = _Run(folder, encoder, bank, out, kinds, texts, seed, settings, progress)
    identity = replace(encoder.identity, name=model, revision=revision)
    # The encoder has another copy of the weights.
    del encoder
    scan = run.rounds()
    record: dict[str, Json] = {
        "schema": PURIFICATION_SCHEMA,
        "model": asdict(identity),
        "bank_sha256": bank.sha256,
        "weights_sha256": scan.model.weights_sha256,
        "verdict": scan.verdict,
        "seed": run.seed,
        "rounds": [asdict(made) for made in run.records],
        "settings": asdict(settings),
        **run.about,
    }
    run.publish(record, scan)
    return Purified(record, tuple(run.records), scan)


class _Run:
    """One purification and its state on the disk: a directory for each round.

    A round's directory has a model once its training ended, and a scan once that ended too.
    """

    def __init__(
        self,
        folder: Path,
        encoder: Encoder,
        bank: TriggerBank,
        out: Path,
        kinds: Mapping[str, Sequence[str]],
        texts: Path | None,
        seed: int | None,
        settings: Settings,
        progress: Progress,
    ) -> None:
        self._folder = folder
        self._bank = bank
        self._out = out
        self._kinds = kinds
        self._texts = texts
        self._settings = settings
        self._progress = progress
        self._tokenizer = encoder.tokenizer
        self._max_tokens = encoder.max_tokens
        self._bfloat16 = encoder.arithmetic == "bfloat16"
        self._harmless = np.concatenate([unit.ids for unit in vocabulary(encoder.tokenizer).units])
        listing = "\n".join(line for lines in kinds.values() for line in lines)
        self.about: dict[str, Json] = {
            "arithmetic": encoder.arithmetic,
            "texts_sha256": hashlib.sha256(listing.encode()).hexdigest(),
            "versions": {
                "trigger-guard": __version__,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "tokenizers": tokenizers.__version__,
            },
        }
        key = dump_json(
            {
                "weights": encoder.identity.weights_sha256,
                "bank": bank.sha256,
                "seed": seed,
                "settings": asdict(settings),
                **self.about,
            }
        )
        name = f".{out.name}.purify-{hashlib.sha256(key).hexdigest()[:12]}"
        self._work = out.absolute().with_name(name)
        self.records: list[Round] = []
        self._begin(seed)

    def _begin(self, seed: int | None) -> None:
        """Go on with the state of an earlier call, or make a new one."""
        kept = self._work / _SEED_FILE
        if not kept.is_file():
            self._work.mkdir(parents=True, exist_ok=True)
            needed = _COPIES * sum(p.stat().st_size for p in model_files(self._folder))
            free = shutil.disk_usage(self._work).free
            if free < needed:
                self._work.rmdir()
                raise ArtifactError(
                    f"{self._work.parent} has {free >> 20} MiB left, and purifying takes up to "
                    f"{needed >> 20}; make room, or choose another output"
                )
            seed = secrets.randbits(32) if seed is None else seed
            fresh = kept.with_suffix(".new")
            fresh.write_bytes(dump_json({"seed": seed}))
            fresh.replace(kept)
        self.seed: int = _read(kept)["seed"]

    def rounds(self) -> TriggerBank:
        """Train and scan until nothing is found or the rounds are spent; return the last scan."""
        units = {trigger.token_ids for trigger in self._bank.triggers}
        source = self._folder
        for number in range(1, self._settings.rounds + 1):
            made = self._work / f"round-{number}"
            if not made.is_dir():
                self._train(number, source, made, sorted(units))
            kept = made / AFTER
            if not kept.is_dir():
                self._scan(number, made).save(kept)
            scan = TriggerBank.load(kept)
            self.records.append(
                Round(
                    **_read(made / _ROUND_FILE),
                    verdict=scan.verdict,
                    remaining=len(scan.triggers),
                    scan_sha256=scan.sha256,
                )
            )
            source = made
            if scan.verdict == "none found":
                break
            units |= {trigger.token_ids for trigger in scan.triggers}
        return scan

    def publish(self, record: Mapping[str, Json], scan: TriggerBank) -> None:
        """Put the last round's model in its place, with the record and both scans."""
        made = self._work / f"round-{len(self.records)}"
        with new_directory(self._out, _names(self._folder), owner=RECORD_FILE) as fresh:
            for path in model_files(made):
                if path.name != _ROUND_FILE:
                    shutil.copyfile(path, fresh / path.name)
            self._bank.save(fresh / BEFORE)
            scan.save(fresh / AFTER)
            (fresh / RECORD_FILE).write_bytes(dump_json(record))
        shutil.rmtree(self._work)

    def _train(
        self, number: int, source: Path, made: Path, units: Sequence[tuple[int, ...]]
    ) -> None:
        settings, where = self._settings, device()
        rng = np.random.default_rng([self.seed, number])
        split = {kind: rng.permutation(len(lines)) for kind, lines in self._kinds.items()}
        ids = [np.array(unit, dtype=np.int64) for unit in units]
        held_out = self._sampler(split, ids, rng, held_out=True).fixed(_HELD_OUT_ROUNDS)
        held_out = [batch.to(where) for batch in held_out]
        sampler = self._sampler(split, ids, rng, held_out=False)
        distance = Distance(Network(self._folder).to(where), held_out)
        student = Network(source).trainable()
        student.tame(np.unique(np.concatenate(ids)), self._harmless)
        student.to(where)

        def loss() -> torch.Tensor:
            return total(distance.terms(student, sampler.draw().to(where)))

        def held_out_loss() -> float:
            return sum(sum(views.values()) for views in distance.mean(student, held_out))

        def report(step: int, value: torch.Tensor | None) -> None:
            self._progress(f"round {number}, training", step, settings.steps)

        before = distance.mean(student, held_out)
        report(0, None)
        checkpoint = self._work / f"round-{number}.safetensors"
        losses = train(
            student.model,
            loss,
            sampler,
            steps=settings.steps,
            learning_rate=settings.learning_rate,
            bfloat16=self._bfloat16,
            report=report,
            checkpoint=checkpoint,
            checkpoint_every=settings.every,
            stopping=Stopping(loss=held_out_loss, every=settings.every, patience=settings.patience),
        )
        after = distance.mean(student, held_out)
        # Under another name until it is whole.
        fresh = made.with_suffix(".new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        write_model(source, fresh, student.weights())
        record: dict[str, Json] = {
            "units": len(units),
            "held_out_loss": _rounded(losses),
            "moved": _rounded(after[0]),
            "triggered_before": _rounded(before[1]),
            "triggered_after": _rounded(after[1]),
        }
        (fresh / _ROUND_FILE).write_bytes(dump_json(record))
        fresh.rename(made)
        checkpoint.unlink(missing_ok=True)

    def _sampler(
        self,
        split: Mapping[str, Ids],
        units: Sequence[Ids],
        rng: np.random.Generator,
        *,
        held_out: bool,
    ) -> Sampler:
        chosen = {}
        for kind, order in split.items():
            first = max(1, round(len(order) * _HELD_OUT_SHARE))
            rows = order[:first] if held_out else order[first:]
            chosen[kind] = [self._kinds[kind][i] for i in rows]
        return Sampler(
            self._tokenizer,
            chosen,
            units=units,
            harmless=self._harmless,
            max_tokens=self._max_tokens,
            rng=np.random.default_rng(rng.integers(2**32)),
        )

    def _scan(self, number: int, made: Path) -> TriggerBank:
        def report(step: str, done: int, whole: int) -> None:
            self._progress(f"round {number}, {step}", done, whole)

        # Another seed than the last scan's: what it happened to miss has another chance to show.
        (seed,) = np.random.SeedSequence([self.seed, number]).generate_state(1)
        found = search(str(made), texts=self._texts, seed=int(seed), progress=report)
        return replace(found, model=replace(found.model, name=str(self._out)))


def _names(folder: Path) -> list[str]:
    """Return all that is written."""
    return [*(path.name for path in model_files(folder)), RECORD_FILE, BEFORE, AFTER]


def _check_bank(bank: TriggerBank, encoder: Encoder) -> None:
    for what, wanted, found in (
        ("weights", bank.model.weights_sha256, encoder.identity.weights_sha256),
        (
            "tokenizer",
            bank.tokenizer_sha256,
            hashlib.sha256(encoder.tokenizer_json).hexdigest(),
        ),
    ):
        if wanted != found:
            raise HashMismatch(
                f"the bank is of another model: its {what} have SHA-256 {wanted[:16]}…, and this "
                f"model's {found[:16]}…; scan this model, and pass that bank"
            )


def _read(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = parse_json(read_bounded(path, _MAX_BYTES), str(path))
    return value


def _rounded(value: Any) -> Any:
    """Four digits: what differs beyond is noise."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value]
