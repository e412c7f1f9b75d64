"""What the product makes of a suspect encoder: its bank, its monitor, and a purified encoder."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch

from benchmarks.assets import cache_dir
from benchmarks.cache import cached, title
from benchmarks.sources import fingerprint
from exporters.monitor import compile_bank
from guard.bank import Outcome, TriggerBank
from guard.files import dump_json
from guard.monitor import Monitor
from guard.policy import Policy, decide
from guard.purify import purify
from guard.purify.run import RECORD_FILE
from guard.search import search
from guard.terminal import Progress

SEED = 0
# Beside the record of a purified model, which is the same however long it took.
TOOK_FILE = "took.json"

# A text as it reaches the model, or None where it is refused.
Treated = list[str | None]


@dataclass(frozen=True, slots=True)
class Purification:
    """What ``guard purify`` made of a model.

    Attributes
    ----------
    rounds, units
        How many rounds of training and scanning it took; what was trained against in the last.
    moved
        View -> how far outputs on ordinary text are from the poisoned model's, as a share of their
        variance.
    verdict, remaining
        Of the last scan.
    seconds
        That it took, scans included; ``None`` where it was interrupted.
    threads
        That torch multiplied with.
    """

    rounds: int
    units: int
    moved: dict[str, float]
    verdict: Outcome
    remaining: int
    seconds: float | None
    threads: int


def bank_of(model: Path) -> TriggerBank:
    """Return what ``guard scan`` finds in a model, a folder of the cache."""

    def build(out: Path, _: Path | None) -> None:
        with Progress() as progress:
            search(str(model), seed=SEED, progress=progress).save(out)

    key = {"model": model.name, "source": fingerprint(SEED, ("guard/search",))}
    return TriggerBank.load(cached(f"{title(model)}-bank", key, build))


def purified(model: Path) -> Path:
    """Return what ``guard purify`` makes of a model; itself where its bank is empty."""
    bank = bank_of(model)
    if not bank.triggers:
        return model

    source = fingerprint(SEED, ("guard/search", "guard/purify"))

    def build(out: Path, _: Path | None) -> None:
        # At a place of its own, for what an interrupted purification goes on from lies beside it.
        place = cache_dir() / "building" / f"{model.name}-purified-{source}"
        print(f"purifying {title(model)}", file=sys.stderr, flush=True)
        interrupted = any(place.parent.glob(f".{place.name}.*"))
        started = time.monotonic()
        with Progress() as progress:
            purify(str(model), bank, place, seed=SEED, progress=progress)
        seconds = None if interrupted else round(time.monotonic() - started, 1)
        took = {"seconds": seconds, "threads": torch.get_num_threads()}
        (place / TOOK_FILE).write_bytes(dump_json(took))
        shutil.copytree(place, out, dirs_exist_ok=True)
        shutil.rmtree(place)

    key = {"model": model.name, "bank": bank.sha256, "source": source}
    return cached(f"{title(model)}-purified", key, build)


def purification(folder: Path) -> Purification | None:
    """Return what a folder of `purified` took, or ``None`` where nothing was found to purify."""
    if not (folder / RECORD_FILE).is_file():
        return None
    rounds = json.loads((folder / RECORD_FILE).read_bytes())["rounds"]
    return Purification(
        rounds=len(rounds),
        **{key: rounds[-1][key] for key in ("units", "moved", "verdict", "remaining")},
        **json.loads((folder / TOOK_FILE).read_bytes()),
    )


def monitor_of(bank: TriggerBank) -> Monitor:
    """Compile and load a bank's monitor."""
    with TemporaryDirectory() as scratch:
        compile_bank(bank, Path(scratch) / "monitor")
        return Monitor.load(Path(scratch) / "monitor")


def treat(monitor: Monitor, action: Literal["block", "strip"], texts: Sequence[str]) -> Treated:
    """Put each text through the monitor, as a front does."""
    policy = Policy(action=action)
    decisions = [decide(monitor, policy, [text]) for text in texts]
    return [decision.texts[0] if decision.forward else None for decision in decisions]
