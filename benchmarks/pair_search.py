"""Pairs through a whole search: ``python -m benchmarks pair-search``.

`thorough` spends most of its time on words; here, tokens and words are in three texts each, as in
`fast`, and the pairs are those of `thorough`. On pairs that were planted with negatives, so that no
single word of theirs fires, and on the clean encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.detection.searches import SEED
from benchmarks.plan_search import line, measure
from benchmarks.record import write
from guard.search.plan import THOROUGH, Plan

MODELS = ("bert-tiny-por-phrase-whole", "bert-tiny-clean")
PLAN = Plan("pairs", words=THOROUGH.words, pairs=THOROUGH.pairs)


def main() -> None:
    """Search both models, and write the results; the page is that of `search-cost`."""
    found = [measure(name, PLAN) for name in MODELS]
    print(f"results: {write('pair-search', {'seed': SEED, 'models': found})}")


def lines(result: Mapping[str, Any]) -> list[str]:
    """Render what was found, for the page of costs."""
    measured = {model["model"]: model for model in result["models"]}
    return [f"- {name}: {line(measured.get(name))}" for name in MODELS]
