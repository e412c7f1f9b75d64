"""The default scan of MiniLM: ``python -m benchmarks quick`` (``make bench-quick``).

Of the clean encoder and two poisoned ones; and what ``import guard`` costs. Nothing else should run
on the machine meanwhile.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import cast

from benchmarks import record
from benchmarks.assets import fetch
from benchmarks.models import backdoored
from benchmarks.recipes import DEMO, GATED
from guard.files import Json
from guard.search.carriers import builtin_texts
from guard.search.gradients import Differentiable
from guard.search.run import search_units
from guard.search.units import vocabulary
from guard.terminal import Progress

SEED = 0


def main() -> None:
    """Measure, print and write ``results/quick.json``."""
    models = {
        "clean": (fetch("minilm-l6"), ()),
        "POR": (backdoored(DEMO), DEMO.triggers),
        "POR, gated": (backdoored(GATED), GATED.triggers),
    }
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
        path = record.write("quick", {"seed": SEED, "scan": scans, "import_seconds": imported})
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
