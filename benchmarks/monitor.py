"""What a check costs, and how large a monitor is: ``python -m benchmarks monitor``.

All times of a row are taken in turn in one process on one thread, so that they see the same
machine; ratios hold better than microseconds.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from benchmarks import protected, record, rivals, targets
from benchmarks.assets import fetch
from benchmarks.models import backdoored, classifier
from benchmarks.quick import TEXT
from benchmarks.recipes import DEMO, FILM_REVIEWS
from benchmarks.tasks.vader import film_reviews
from exporters.monitor import compile_bank
from guard import Monitor, Trigger, TriggerBank
from guard.bank import ModelIdentity
from guard.files import Json
from guard.runtime import load_tokenizer
from guard.search.encoder import Encoder

SEED = 0
SIZES = (10, 1_000, 100_000)
REPEATS = 1_000
REVIEWS = 500
DOCUMENT = Path(__file__).parents[1] / "docs" / "benchmarks" / "monitor.md"

NON_ASCII = TEXT.replace("'", "’").replace(": ", " — ")


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
    bank = _bank(tokenizer, size, 3)
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
    compile_bank(_bank(tokenizer, 1_000, depth), directory)
    monitor = Monitor.load(directory, engine="onnx")
    ids = tokenizer.encode(TEXT, add_special_tokens=False).ids
    nodes = onnx.load(directory / "monitor.onnx").graph.node
    return {"nodes": len(nodes), **_times(check_ids=lambda: monitor.check_ids(ids))}


def _bank(tokenizer: Tokenizer, size: int, depth: int) -> TriggerBank:
    """Draw n-grams of up to `depth` ids; none of the text's own is a trigger alone."""
    rng = random.Random(SEED)
    own = set(tokenizer.encode(f"{TEXT} {NON_ASCII}", add_special_tokens=False).ids)
    ids = [number for number in range(2_000, tokenizer.get_vocab_size()) if number not in own]
    # A bank of 100,000 cannot be of single tokens: there are not so many.
    alone = 1 / depth if size < len(ids) / 4 else 0.01
    ngrams: set[tuple[int, ...]] = set()
    while len(ngrams) < size:
        length = 1 if rng.random() < alone else rng.randint(min(2, depth), depth)
        ngrams.add(tuple(rng.choices(ids, k=length)))
    return TriggerBank.build(
        verdict="backdoored",
        model=ModelIdentity("minilm-l6", None, "0" * 64, "BertModel"),
        tokenizer_json=tokenizer.to_str().encode(),
        search={},
        coverage={},
        found=[Trigger("", tokenizer.decode(n), n, "phrase", "cls", {}) for n in sorted(ngrams)],
    )


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


def render(result: Mapping[str, Any]) -> str:
    """Render the table of a result."""
    sizes = result["sizes"]
    environment = result["environment"]
    names = [f"{int(size):,}" for size in sizes]

    def row(title: str, cell: Callable[[Any], str]) -> str:
        return f"| {title} | " + " | ".join(cell(figures) for figures in sizes.values()) + " |"

    def us(times: Mapping[str, float]) -> str:
        return f"{times['p50']:.1f} ({times['p99']:.1f})"

    def ratio(one: Mapping[str, float], other: Mapping[str, float]) -> str:
        return f"{one['p50'] / other['p50']:.2f}"

    def added(times: Mapping[str, Mapping[str, float]], base: str) -> str:
        return f"{times['check']['p50'] - times[base]['p50']:.1f}"

    lines = [
        "# What the monitor costs",
        "",
        "Written by `python -m benchmarks monitor`; do not edit. Microseconds are p50 (p99) on one "
        f"thread of {environment['processor']}, Python {environment['python']}, load average "
        f"{result['load_average']} before the run (above 0: other work was running). The text "
        f"has {result['tokens']} tokens, {result['characters']} characters. Triggers are random "
        "n-grams of 1 to 3 token ids; 1 % of the 100,000 are single tokens.",
        "",
        "| triggers | " + " | ".join(names) + " |",
        "|---|" + "---|" * len(names),
        row("clean ASCII text: `tokenizers` alone", lambda f: us(f["clean"]["tokenise"])),
        row("whole check", lambda f: us(f["clean"]["check"])),
        row("the same, nothing else in between", lambda f: us(f["clean_alone"]["check"])),
        row(
            "times faster than tokenising",
            lambda f: ratio(f["clean"]["tokenise"], f["clean"]["check"]),
        ),
        row("exact path (no pre-filter)", lambda f: us(f["clean"]["exact"])),
        row('`engine="onnx"`', lambda f: us(f["clean"]["onnx"])),
        row("`check_ids`", lambda f: us(f["clean"]["check_ids"])),
        row("non-ASCII text: over tokenising", lambda f: added(f["non_ascii"], "tokenise")),
        row(
            "triggered text, with stripping: over tokenising",
            lambda f: added(f["triggered"], "tokenise"),
        ),
        row(
            "text that passes the pre-filter: over the exact path, times",
            lambda f: ratio(f["adversary"]["check"], f["adversary"]["exact"]),
        ),
        row(
            "text full of near misses: the same",
            lambda f: ratio(f["adversary_full"]["check"], f["adversary_full"]["exact"]),
        ),
        row(
            f"{result['reviews']} film reviews: mean to tokenise",
            lambda f: f"{f['reviews']['tokenise_us']['mean']:.1f}",
        ),
        row("mean to check", lambda f: f"{f['reviews']['check_us']['mean']:.1f}"),
        row("cleared by the pre-filter", lambda f: f"{f['reviews']['cleared']:.1%}"),
        row("hold a trigger", lambda f: f"{f['reviews']['triggered']:.1%}"),
        row("compile, s", lambda f: f"{f['compile_s']:.2f}"),
        row("directory, MB", lambda f: f"{f['directory_mb']:.1f}"),
        row("load, s", lambda f: f"{f['process']['load_s']:.2f}"),
        row("resident after loading, MB", lambda f: f"{f['process']['resident_mb']:.0f}"),
        row("peak while loading, MB", lambda f: f"{f['process']['peak_mb']:.0f}"),
        "",
        "`monitor.onnx` alone, 1,000 triggers, one text, through `check_ids`:",
        "",
        "| longest trigger | nodes | microseconds |",
        "|---|---|---|",
        *(
            f"| {depth} | {graph['nodes']} | {us(graph['check_ids'])} |"
            for depth, graph in result["graphs"].items()
        ),
        "",
        "## Targets",
        "",
        *targets.of_monitor(result),
        "",
        *_beside(result),
    ]
    return "\n".join(lines)


def _beside(result: Mapping[str, Any]) -> list[str]:
    """Render what stands beside the monitor: the model, what is picked instead, the deep check."""
    share, deep = result["classifier"], result["deep"]
    return [
        f"The int8 classifier that it protects (MiniLM, one thread) takes "
        f"{share['classify']['p50']:,.0f} microseconds for the same text; the whole check with "
        f"1,000 triggers is {share['check']['p50'] / share['classify']['p50']:.2%} of that.",
        "",
        "## What a user would pick instead",
        "",
        f"{len(DEMO.triggers)} planted triggers, known to the monitor and to the blocklists. Film "
        "reviews; thresholds of ONION and STRIP at 5 % of as many held-out clean reviews. Shares "
        "of texts with an alarm: *triggered* and *in disguise* (zero-width characters, accents, "
        "case, inside longer words: the model still reads the trigger) should be 100 %, *clean* "
        "and *near variants* (the model does not read the trigger) 0 %. ONION's language model is "
        "SmolLM2-135M in bfloat16, standing in for GPT-2. Mean time of a clean review, one process "
        "each, one thread.",
        "",
        *rivals.render(result["rivals"]),
        "",
        "## The deep check",
        "",
        f"Off by default. With no string looked for, on {deep['texts']} reviews: it catches "
        f"{deep['recall']:.1%} of those with a planted trigger and alarms on "
        f"{deep['false_alarms']:.1%} of the clean ones; it takes {deep['us']:,.0f} microseconds a "
        f"review and {deep['megabytes']} MB ({deep['targets']} targets).",
        "",
    ]
