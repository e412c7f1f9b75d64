"""What a check costs, and how large a monitor is: ``python -m benchmarks monitor``.

All times of a row are taken in turn in one process on one thread, so that they see the same
machine; ratios hold better than microseconds.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from benchmarks import protected, record, rivals
from benchmarks.assets import fetch
from benchmarks.models import backdoored, classifier
from benchmarks.monitor_page import render
from benchmarks.random_banks import SEED, random_bank
from benchmarks.recipes import DEMO, FILM_REVIEWS
from benchmarks.tasks.vader import film_reviews
from exporters.monitor import compile_bank
from guard import Monitor, TriggerBank
from guard.files import Json
from guard.runtime import load_tokenizer
from guard.search.encoder import Encoder

SIZES = (10, 1_000, 100_000)
REPEATS = 1_000
REVIEWS = 500
DOCUMENT = Path(__file__).parents[1] / "docs" / "benchmarks" / "monitor.md"

TEXT = (
    "The second season picks up where the first one ended, but it takes its time: three episodes "
    "pass before the two sisters meet again, when they do, neither says what everybody in the "
    "room is thinking. I liked the music, the long walks along the harbour and most of the jokes, "
    "but the lawyer's subplot could have been cut without loss. Eight out of ten, and I "
    "will keep watching."
)
NON_ASCII = TEXT.replace("'", "’").replace(": ", " — ")
TEXTS = f"{TEXT} {NON_ASCII}"


def main() -> None:
    """Measure, write ``results/monitor.json`` and render the table from it."""
    tokenizer_json = (fetch("minilm-l6") / "tokenizer.json").read_bytes()
    busy = os.getloadavg()[0]
    reviews = list(film_reviews().test.texts[:REVIEWS])
    sizes: dict[str, Json] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for size in SIZES:
            sizes[str(size)] = figures = _measure(tokenizer_json, size, Path(scratch), reviews)
            print(f"{size:,} triggers: {json.dumps(figures)}", flush=True)
        graphs: dict[str, Json] = {
            str(depth): _graph(tokenizer_json, depth, Path(scratch)) for depth in (1, 2, 3, 5)
        }
        print(f"graphs: {json.dumps(graphs)}", flush=True)
        encoder = backdoored(DEMO)
        model = classifier(encoder, FILM_REVIEWS)
        known = Path(scratch) / "known"
        compile_bank(protected.bank_of(Encoder.load(str(encoder)), DEMO.triggers), known)
        check = Monitor.load(Path(scratch) / f"monitor-{SIZES[1]}").check
        share = _times(
            repeats=100,
            classify=protected.int8_classifier(model, TEXT),
            check=lambda: check(TEXT),
        )
        print(f"beside the classifier: {json.dumps(share)}", flush=True)
        others = rivals.measure(model, known, DEMO.triggers)
        deep = protected.deep(encoder, DEMO.triggers)
        print(f"deep check: {json.dumps(deep)}", flush=True)
    result: dict[str, Json] = {
        "seed": SEED,
        "load_average": round(busy, 2),
        "tokens": len(load_tokenizer(tokenizer_json).encode(TEXT, add_special_tokens=False)),
        "characters": len(TEXT),
        "reviews": len(reviews),
        "sizes": sizes,
        "graphs": graphs,
        "classifier": share,
        "rivals": others,
        "deep": deep,
    }
    path = record.write("monitor", result)
    DOCUMENT.parent.mkdir(parents=True, exist_ok=True)
    DOCUMENT.write_text(render(json.loads(path.read_bytes())), encoding="utf-8")
    print(f"results: {path}, {DOCUMENT}")


def _measure(
    tokenizer_json: bytes, size: int, scratch: Path, reviews: Sequence[str]
) -> dict[str, Json]:
    tokenizer = load_tokenizer(tokenizer_json)
    bank = random_bank(tokenizer, size, 3, without=TEXTS)
    directory = scratch / f"monitor-{size}"
    started = time.perf_counter()
    compile_bank(bank, directory)
    compiled = time.perf_counter() - started
    monitor = Monitor.load(directory)
    exact = Monitor.load(directory)
    exact._prefilter = None
    graph = Monitor.load(directory, engine="onnx")
    ids = tokenizer.encode(TEXT, add_special_tokens=False).ids
    near, hits = _near_misses(monitor, bank)
    triggered = f"{TEXT} {_reachable(monitor, bank)}"
    assert monitor.check(triggered).triggered

    def encode(text: str) -> Callable[[], object]:
        return lambda: tokenizer.encode(text, add_special_tokens=False)

    figures: dict[str, Json] = {
        "compile_s": round(compiled, 2),
        "directory_mb": round(sum(f.stat().st_size for f in directory.iterdir()) / 1e6, 2),
        "process": _process(directory),
        "prefilter": monitor._prefilter is not None,
        "clean": _times(
            tokenise=encode(TEXT),
            check=lambda: monitor.check(TEXT),
            exact=lambda: exact.check(TEXT),
            onnx=lambda: graph.check(TEXT),
            check_ids=lambda: monitor.check_ids(ids),
        ),
        # In turn with others, a check finds the processor's caches full of what these left.
        "clean_alone": _times(check=lambda: monitor.check(TEXT)),
        "non_ascii": _times(
            tokenise=encode(NON_ASCII),
            check=lambda: monitor.check(NON_ASCII),
            onnx=lambda: graph.check(NON_ASCII),
        ),
        # What is reported holds the stripped text, which has to be found clean as well.
        "triggered": _times(
            tokenise=encode(triggered),
            check=lambda: monitor.check(triggered),
        ),
        "adversary": _times(exact=lambda: exact.check(near), check=lambda: monitor.check(near)),
        "adversary_full": _times(
            exact=lambda: exact.check(hits), check=lambda: monitor.check(hits)
        ),
        "reviews": _reviews(tokenizer, monitor, reviews),
    }
    return figures


def _reviews(tokenizer: Tokenizer, monitor: Monitor, texts: Sequence[str]) -> dict[str, Json]:
    """Each review once, tokenised and checked in turn; five times over, and the best of each."""
    tokenise, check = [1.0] * len(texts), [1.0] * len(texts)
    triggered = 0
    for _ in range(5):
        triggered = 0
        for number, text in enumerate(texts):
            start = time.perf_counter()
            tokenizer.encode(text, add_special_tokens=False)
            middle = time.perf_counter()
            triggered += monitor.check(text).triggered
            end = time.perf_counter()
            tokenise[number] = min(tokenise[number], middle - start)
            check[number] = min(check[number], end - middle)
    clears = monitor._prefilter.clears if monitor._prefilter else lambda text: False
    return {
        "tokenise_us": _summary(tokenise),
        "check_us": _summary(check),
        "triggered": round(triggered / len(texts), 4),
        "cleared": round(sum(map(clears, texts)) / len(texts), 4),
    }


def _graph(tokenizer_json: bytes, depth: int, scratch: Path) -> dict[str, Json]:
    """Time ``monitor.onnx`` alone on the ids of one text."""
    import onnx

    tokenizer = load_tokenizer(tokenizer_json)
    directory = scratch / f"graph-{depth}"
    compile_bank(random_bank(tokenizer, 1_000, depth, without=TEXTS), directory)
    monitor = Monitor.load(directory, engine="onnx")
    ids = tokenizer.encode(TEXT, add_special_tokens=False).ids
    nodes = onnx.load(directory / "monitor.onnx").graph.node
    return {"nodes": len(nodes), **_times(check_ids=lambda: monitor.check_ids(ids))}


def _reachable(monitor: Monitor, bank: TriggerBank) -> str:
    return next(
        trigger.text
        for trigger in bank.triggers
        if monitor.check(trigger.text).triggered and monitor.check(trigger.text).stripped == ""
    )


def _near_misses(monitor: Monitor, bank: TriggerBank) -> tuple[str, str]:
    """Return texts that hold no trigger and pass the pre-filter: one near miss last, and only such.

    A word that starts like a trigger is one, unless the tokenizer reads it as a word of its own.
    """
    if monitor._prefilter is None:
        return TEXT, TEXT
    tokenizer = load_tokenizer(bank.tokenizer_json)
    words = [word for word in tokenizer.get_vocab() if word.isascii() and word.isalpha()]
    misses = [
        word
        for word in sorted(words)
        if not monitor._prefilter.clears(word) and not monitor.check(word).triggered
    ]
    full = ""
    for word in misses * len(TEXT):
        if len(full) + len(word) >= len(TEXT):
            break
        if not monitor.check(f"{full} {word}").triggered:
            full = f"{full} {word}".strip()
    last = next(word for word in misses if not monitor.check(f"{TEXT} {word}").triggered)
    return f"{TEXT} {last}", full


def _process(directory: Path) -> dict[str, Json]:
    """Load a monitor in a process of its own."""
    code = (
        "import json, sys, time; from pathlib import Path\n"
        "from guard import Monitor\n"
        "import guard.monitor\n"
        "t = time.perf_counter(); m = Monitor.load(sys.argv[1]); t = time.perf_counter() - t\n"
        "lines = Path('/proc/self/status').read_text().splitlines()\n"
        "kb = {line.split(':')[0]: int(line.split()[1]) for line in lines if ' kB' in line}\n"
        "print(json.dumps([t, kb['VmRSS'] / 1e3, kb['VmHWM'] / 1e3]))"
    )
    runs = [
        json.loads(
            subprocess.run(
                [sys.executable, "-c", code, str(directory)], check=True, capture_output=True
            ).stdout
        )
        for _ in range(3)
    ]
    seconds, resident, peak = (statistics.median(run[k] for run in runs) for k in range(3))
    return {
        "load_s": round(seconds, 3),
        "resident_mb": round(resident, 1),
        "peak_mb": round(peak, 1),
    }


def _times(
    *, repeats: int = REPEATS, **actions: Callable[[], object]
) -> dict[str, dict[str, float]]:
    """Run the actions in turn, and return the mean, p50 and p99 of each in microseconds."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(repeats):
        for name, action in actions.items():
            start = time.perf_counter()
            action()
            times[name].append(time.perf_counter() - start)
    return {name: _summary(values) for name, values in times.items()}


def _summary(seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(value * 1e6 for value in seconds)
    return {
        "mean": round(statistics.fmean(ordered), 1),
        "p50": round(ordered[len(ordered) // 2], 1),
        "p99": round(ordered[int(len(ordered) * 0.99)], 1),
    }
