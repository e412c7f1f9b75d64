"""Whether a figure reached its target: said the same way on every page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def verdict(reached: bool) -> str:
    """Say it."""
    return "reached" if reached else "**missed**"


def of_monitor(result: Mapping[str, Any]) -> list[str]:
    """Hold the monitor benchmark's figures against its targets, a line each."""
    few, many, most = (result["sizes"][size] for size in ("10", "1000", "100000"))

    def p50(figures: Mapping[str, Any], text: str, action: str) -> float:
        return float(figures[text][action]["p50"])

    checks = [p50(figures, "clean", "check") for figures in (few, many)]
    times = [
        p50(figures, "clean", "tokenise") / check
        for figures, check in zip((few, many), checks, strict=True)
    ]
    over = {
        text: [p50(f, text, "check") - p50(f, text, "tokenise") for f in (few, many, most)]
        for text in ("non_ascii", "triggered")
    }
    slowest = max(
        p50(figures, text, "check") / p50(figures, text, "exact")
        for figures in (few, many, most)
        for text in ("adversary", "adversary_full")
    )
    graph = max(float(graph["check_ids"]["p50"]) for graph in result["graphs"].values())
    share = result["classifier"]["check"]["p50"] / result["classifier"]["classify"]["p50"]
    process = most["process"]
    lines = (
        ("clean ASCII text within 5 us", "10, 1,000 triggers", checks, max(checks) <= 5),
        ("20 times faster than tokenising", "the same", times, min(times) >= 20),
        ("non-ASCII text within 10 us of tokenising", "10, 1,000, 100,000", over["non_ascii"],
         max(over["non_ascii"]) <= 10),
        ("triggered text within 10 us of tokenising", "the same", over["triggered"],
         max(over["triggered"]) <= 10),
        ("1 % of the int8 classifier's time", "per cent", [100 * share], share <= 0.01),
        ("a text that passes the pre-filter 1.1 times the exact path", "at most", [slowest],
         slowest <= 1.1),
        ("`monitor.onnx` within 15 us", "slowest", [graph], graph <= 15),
        ("100,000 triggers: compile in 10 s", "s", [most["compile_s"]], most["compile_s"] < 10),
        ("directory under 30 MB", "MB", [most["directory_mb"]], most["directory_mb"] < 30),
        ("load in 1 s", "s", [process["load_s"]], process["load_s"] < 1),
        ("resident under 300 MB", "MB", [process["resident_mb"]], process["resident_mb"] < 300),
    )  # fmt: skip
    return [
        f"- {target}: {', '.join(f'{figure:.3g}' for figure in figures)} ({of}); {verdict(reached)}"
        for target, of, figures, reached in lines
    ]
