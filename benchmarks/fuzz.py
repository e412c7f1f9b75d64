"""Does any text get past the monitor? ``python -m benchmarks fuzz``.

A million random hostile texts, over the tokenizers of eight kinds; what every path of the monitor
finds is compared with a slow search through the ids that the tokenizer gives. Then a fuzzer that is
guided by coverage (atheris) looks for texts that take other ways through the code. One disagreement
fails the run.
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import record
from benchmarks.fuzzing.subjects import TOKENIZERS, Disagreement, fuzz, subject
from benchmarks.fuzzing.texts import hostile
from guard.files import Json

SEED = 20261125
INPUTS = 1_000_000
GUIDED_INPUTS = 100_000


def main() -> None:
    """Fuzz, print and write ``results/fuzz.json``."""
    results: dict[str, Json] = {}
    started = time.perf_counter()
    share = -(-INPUTS // len(TOKENIZERS))
    with tempfile.TemporaryDirectory() as scratch:
        for number, (name, make) in enumerate(TOKENIZERS.items()):
            rng = random.Random(f"{SEED} {name}")
            tried = subject(make(), Path(scratch) / str(number))
            try:
                counts = fuzz(tried, rng, (hostile(rng) for _ in range(share)))
            except Disagreement as error:
                sys.exit(f"{name}: {error}")
            results[name] = {**counts, "disagreements": 0}
            print(f"{name}: {counts}", flush=True)
    seconds = round(time.perf_counter() - started)
    guided = _guided()
    print(f"guided by coverage: {guided}")
    path = record.write(
        "fuzz",
        {
            "seed": SEED,
            "inputs": share * len(TOKENIZERS),
            "seconds": seconds,
            "tokenizers": results,
            "guided": guided,
        },
    )
    print(f"{share * len(TOKENIZERS):,} inputs, no disagreement, {seconds} s: {path}")


def _guided() -> dict[str, Json]:
    """Run the guided fuzzer in a process of its own, which it ends itself."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.fuzzing.guided", str(GUIDED_INPUTS), str(SEED)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    end = re.search(r"#(\d+)\s+DONE\s+cov: (\d+) ft: (\d+) corp: (\d+)", done.stdout)
    if done.returncode or end is None:
        sys.exit(f"the guided fuzzer failed:\n{done.stdout[-4000:]}")
    inputs, edges, features, corpus = map(int, end.groups())
    return {
        "inputs": inputs,
        "edges": edges,
        "features": features,
        "corpus": corpus,
        "seconds": round(time.perf_counter() - started),
        "disagreements": 0,
    }
