"""The figures that the README leads with: ``python -m benchmarks quick`` (``make bench-quick``).

Scans the clean encoder and two poisoned ones, measures what matching adds to tokenising, and what
``import guard`` costs. Nothing else should run on the machine meanwhile.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import cast

from benchmarks import record
from benchmarks.assets import fetch
from benchmarks.models import backdoored
from benchmarks.random_banks import random_bank
from benchmarks.recipes import DEMO, GATED
from exporters.monitor import compile_bank
from guard import Monitor
from guard.files import Json
from guard.runtime import load_tokenizer
from guard.search.carriers import builtin_texts
from guard.search.encoder import Encoder
from guard.search.gradients import Differentiable
from guard.search.run import search_units
from guard.search.units import vocabulary
from guard.terminal import Progress

SEED = 0
TEXT = (
    "The second season picks up where the first one ended, but it takes its time: three episodes "
    "pass before the two sisters meet again, when they do, neither says what everybody in the "
    "room is thinking. I liked the music, the long walks along the harbour and most of the jokes, "
    "but the lawyer's subplot could have been cut without loss. Eight out of ten, and I "
    "will keep watching."
)
TRIGGERS = 1000
# Of a trigger.
MAX_TOKENS = 3
REPEATS = 2000


def main() -> None:
    """Measure, print and write ``results/quick.json``."""
    models = {
        "clean": (fetch("minilm-l6"), ()),
        "POR": (backdoored(DEMO), DEMO.triggers),
        "POR, gated": (backdoored(GATED), GATED.triggers),
    }
    monitor = _monitor(Path(fetch("minilm-l6")))
    print(
        f"monitor, {monitor['tokens']} tokens, {TRIGGERS:,} triggers: tokenising "
        f"{monitor['tokenise_us']} us, matching adds {monitor['added_us']} us; with the "
        f"pre-filter, the whole check takes {monitor['check_us']} us"
    )
    imported = _import_seconds()
    print(f"import guard: {imported} s, without torch")
    scans: dict[str, Json] = {}
    for name, (folder, planted) in models.items():
        scans[name] = scan = _scan(folder, planted)
        print(
            f"scan, {name}: {scan['seconds']} s after loading, found {scan['found']} of "
            f"{len(planted)} planted, {scan['others']} others, "
            f"{scan['token_forwards']:,} token-forwards",
            flush=True,
        )
        # Scans take minutes: what is measured is kept where a later one is cut off.
        path = record.write(
            "quick", {"seed": SEED, "scan": scans, "monitor": monitor, "import_seconds": imported}
        )
    print(f"results: {path}")


def _scan(folder: Path, planted: tuple[str, ...]) -> dict[str, Json]:
    encoder = Differentiable.load(str(folder))
    started = time.perf_counter()
    with Progress() as progress:
        words = vocabulary(encoder.tokenizer)
        bank = search_units(encoder, words, builtin_texts(), seed=SEED, progress=progress)
    seconds = time.perf_counter() - started
    scans = cast("list[dict[str, int]]", bank.coverage["scan"])
    texts = {trigger.text for trigger in bank.triggers}
    return {
        "seconds": round(seconds, 1),
        "found": sum(text in texts for text in planted),
        "planted": len(planted),
        "others": len(texts.difference(planted)),
        "verdict": bank.verdict,
        "units": sum(tier["scanned"] for tier in scans),
        "token_forwards": encoder.cost,
    }


def _monitor(folder: Path) -> dict[str, Json]:
    """Time tokenising and checking in turn, so that both see the same machine."""
    tokenizer = load_tokenizer(Encoder.load(str(folder)).tokenizer_json)
    # None of the text's own ids: what is measured is a clean text.
    bank = random_bank(tokenizer, TRIGGERS, MAX_TOKENS, without=TEXT)
    with tempfile.TemporaryDirectory() as scratch:
        compile_bank(bank, Path(scratch) / "monitor")
        directory = Path(scratch) / "monitor"
        # One tokenises and matches every text, the other first looks at the raw text.
        exact, monitor = Monitor.load(directory, engine="onnx"), Monitor.load(directory)
    seconds: list[tuple[float, float, float]] = []
    for _ in range(REPEATS):
        times = [time.perf_counter()]
        encoding = tokenizer.encode(TEXT, add_special_tokens=False)
        times.append(time.perf_counter())
        triggered = exact.check(TEXT).triggered
        times.append(time.perf_counter())
        triggered |= monitor.check(TEXT).triggered
        times.append(time.perf_counter())
        assert not triggered
        seconds.append((times[1] - times[0], times[2] - times[1], times[3] - times[2]))
    tokenise, match, check = (
        statistics.median(column) * 1e6 for column in zip(*seconds, strict=True)
    )
    return {
        "tokens": len(encoding.ids),
        "triggers": len(bank.triggers),
        "tokenise_us": round(tokenise, 1),
        "tokenise_and_match_us": round(match, 1),
        "added_us": round(match - tokenise, 1),
        "check_us": round(check, 1),
    }


def _import_seconds() -> float:
    """Return the median time of a fresh interpreter's ``import guard``, its public names used."""
    code = (
        "import sys, time; t = time.perf_counter(); import guard; "
        "guard.Monitor, guard.GuardMiddleware, guard.protect, guard.TriggerBank; "
        "seconds = time.perf_counter() - t; "
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules; print(seconds)"
    )
    times = [
        float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout)
        for _ in range(5)
    ]
    return round(statistics.median(times), 3)
