"""Climbs through a whole search, by their starts: ``python -m benchmarks climb-search``.

Tokens are in three texts each, as in `fast`, and there are no words: what is found beside single
tokens is found by climbs. On phrases of two and three words of which no part fires by itself, and
on the clean encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.detection.searches import SEED
from benchmarks.plan_search import line, measure
from benchmarks.record import write
from guard.search.plan import FAST, STANDARD, Plan

MODELS = ("bert-tiny-por-phrase-whole", "bert-tiny-por-three-words", "bert-tiny-clean")
STARTS = (0, FAST.starts, STANDARD.starts)


def main() -> None:
    """Search each model with each number of starts; the page is that of `search-cost`."""
    plans = [Plan(f"climbs {starts}", starts=starts) for starts in STARTS]
    found = [measure(name, plan) for plan in plans for name in MODELS]
    print(f"results: {write('climb-search', {'seed': SEED, 'models': found})}")


def lines(result: Mapping[str, Any]) -> list[str]:
    """Render what was found, for the page of costs."""
    measured = {(model["plan"], model["model"]): model for model in result["models"]}
    return [
        f"- {starts} starts, {name}: {line(measured.get((f'climbs {starts}', name)))}"
        for starts in STARTS
        for name in MODELS
    ]
