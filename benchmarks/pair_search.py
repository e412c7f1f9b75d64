"""Pairs through a whole search: ``python -m benchmarks pair-search``.

`thorough` spends most of its time on words; here, tokens and words are in three texts each, as in
`fast`, and the pairs are those of `thorough`. On pairs that were planted with negatives, so that no
single word of theirs fires, and on the clean encoder.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.assets import cache_dir
from benchmarks.detection.judge import Judgement, judge
from benchmarks.detection.searches import SEED
from benchmarks.record import remembered, write
from benchmarks.sources import fingerprint
from benchmarks.zoo import ZOO, Entry, build, select
from benchmarks.zoo.build import held_out_texts
from guard.files import Json
from guard.search.carriers import builtin_texts
from guard.search.gradients import Differentiable
from guard.search.plan import THOROUGH, Plan
from guard.search.run import search_units
from guard.search.units import vocabulary
from guard.terminal import Progress

MODELS = ("bert-tiny-por-phrase-whole", "bert-tiny-clean")
PLAN = Plan("pairs", words=THOROUGH.words, pairs=THOROUGH.pairs)


def main() -> None:
    """Search both models, and write the results; the page is that of `search-cost`."""
    found = [measure(name) for name in MODELS]
    print(f"results: {write('pair-search', {'seed': SEED, 'models': found})}")


def measure(name: str) -> Json:
    """Search a model of the zoo, or return what was found with today's code."""
    (entry,) = select(ZOO, name)
    (built,) = build([entry])
    path = cache_dir() / "pair-search" / f"{name}.json"
    source = fingerprint(built.model, ("guard/search", "benchmarks/pair_search.py"))
    folder = cache_dir() / built.model
    return remembered(path, source, lambda: {**_search(entry, folder), "source": source})


def _search(entry: Entry, folder: Path) -> dict[str, Json]:
    encoder = Differentiable.load(str(folder))
    started = time.perf_counter()
    with Progress() as progress:
        bank = search_units(
            encoder,
            vocabulary(encoder.tokenizer),
            builtin_texts(),
            plan=PLAN,
            seed=SEED,
            progress=progress,
        )
    units = [trigger.token_ids for trigger in bank.triggers]
    judgement = Judgement({}, tuple(range(len(units))))
    if entry.planting is not None:
        judgement = judge(folder, entry.planting, held_out_texts(), units)
    return {
        "model": entry.name,
        "banked": [trigger.text for trigger in bank.triggers],
        "found": judgement.found,
        "spurious": [bank.triggers[i].text for i in judgement.spurious],
        "million_token_forwards": round(encoder.cost / 1e6, 1),
        "seconds": round(time.perf_counter() - started),
        "covers": bank.coverage["assumes"],
    }


def lines(result: Mapping[str, Any]) -> list[str]:
    """Render what was found, for the page of costs."""
    told = []
    for model in result["models"]:
        found = model["found"]
        hits = ", ".join(f"`{text}` {'found' if hit else 'missed'}" for text, hit in found.items())
        spurious = ", ".join(f"`{text}`" for text in model["spurious"]) or "nothing"
        told.append(
            f"- {model['model']}: {hits or 'nothing planted'}; {spurious} spurious; "
            f"{len(model['banked'])} units banked; {model['million_token_forwards']} million "
            f"token-forwards, {model['seconds']:,} s on one thread beside other work (code "
            f"`{model['source']}`)"
        )
    measured = {model["model"] for model in result["models"]}
    return told + [f"- {name}: not measured" for name in MODELS if name not in measured]
