"""A whole search by a plan of a benchmark's own, of one model of the zoo, and what it found."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.assets import cache_dir
from benchmarks.detection.judge import Judgement, judge
from benchmarks.detection.searches import SEED
from benchmarks.record import remembered
from benchmarks.sources import fingerprint
from benchmarks.zoo import ZOO, Entry, build, select
from benchmarks.zoo.build import held_out_texts
from guard.files import Json
from guard.search.carriers import builtin_texts
from guard.search.gradients import Differentiable
from guard.search.plan import Plan
from guard.search.run import search_units
from guard.search.units import vocabulary
from guard.terminal import Progress


def measure(name: str, plan: Plan) -> Json:
    """Search a model of the zoo, or return what was found with today's code."""
    (entry,) = select(ZOO, name)
    (built,) = build([entry])
    path = cache_dir() / "plan-search" / f"{name} {plan.name}.json"
    code = fingerprint(built.model, ("guard/search", "benchmarks/plan_search.py"))
    folder = cache_dir() / built.model
    # A benchmark may change its plan, of which no hash of code says anything.
    return remembered(
        path, f"{code} {plan}", lambda: {**_search(entry, folder, plan), "source": code}
    )


def _search(entry: Entry, folder: Path, plan: Plan) -> dict[str, Json]:
    encoder = Differentiable.load(str(folder))
    started = time.perf_counter()
    with Progress() as progress:
        bank = search_units(
            encoder,
            vocabulary(encoder.tokenizer),
            builtin_texts(),
            plan=plan,
            seed=SEED,
            progress=progress,
        )
    units = [trigger.token_ids for trigger in bank.triggers]
    judgement = Judgement({}, tuple(range(len(units))))
    if entry.planting is not None:
        judgement = judge(folder, entry.planting, held_out_texts(), units)
    return {
        "model": entry.name,
        "plan": plan.name,
        "banked": [trigger.text for trigger in bank.triggers],
        "found": judgement.found,
        "spurious": [bank.triggers[i].text for i in judgement.spurious],
        "million_token_forwards": round(encoder.cost / 1e6, 1),
        "seconds": round(time.perf_counter() - started),
        "covers": bank.coverage["assumes"],
    }


def line(model: Mapping[str, Any] | None) -> str:
    """Render what was found in a model, for a page, or that the results hold nothing of it."""
    if model is None:
        return "not measured"
    hits = ", ".join(
        f"`{text}` {'found' if hit else 'missed'}" for text, hit in model["found"].items()
    )
    spurious = ", ".join(f"`{text}`" for text in model["spurious"]) or "nothing"
    return (
        f"{hits or 'nothing planted'}; {spurious} spurious; {len(model['banked'])} units banked; "
        f"{model['million_token_forwards']} million token-forwards, {model['seconds']:,} s on one "
        f"thread beside other work (code `{model['source']}`)"
    )
