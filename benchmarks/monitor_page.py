"""The page of what the monitor costs, from a result of `benchmarks.monitor`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks import rivals, targets
from benchmarks.recipes import DEMO


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
