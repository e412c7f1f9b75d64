"""How rare clean encoders are for the third rule: ``python -m benchmarks calibration``.

The rule takes for granted what tail the vocabulary of a clean model has. Here it is asked of clean
encoders, by several seeds, how small a rate of false alarms would have to be for none to be named.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.assets import AssetError, cache_dir
from benchmarks.record import remembered, write
from benchmarks.sources import ROOT, fingerprint
from benchmarks.zoo import ZOO
from benchmarks.zoo.build import stored
from guard.files import Json
from guard.search import tail
from guard.search.calibrate import SHAPE, too_many
from guard.search.carriers import builtin_texts
from guard.search.gradients import Differentiable
from guard.search.plan import Plan
from guard.search.run import search_units
from guard.search.tail import ALPHA, ALPHA_NAMED
from guard.search.units import vocabulary
from guard.terminal import Progress

DOCUMENT = ROOT / "docs" / "benchmarks" / "calibration.md"
SEEDS = range(3)
# Rates that are tried.
RATES = tuple(float(rate) for rate in np.logspace(0, -12, 121))
# Of the vocabulary, so many of the rarest are told.
RAREST = 5


def main() -> None:
    """Ask every clean encoder that is built, and write the page."""
    models: list[Json] = []
    for entry in ZOO:
        found = stored(entry)
        if found is None or entry.planting is not None or entry.twin_only:
            continue
        folder = cache_dir() / found.model
        source = fingerprint(folder.name, ("guard/search", "benchmarks/calibration.py"))
        for seed in SEEDS:
            path = cache_dir() / "calibration" / f"{entry.name}-{seed}.json"
            seen = remembered(path, source, partial(ask, folder, seed))
            models.append({"model": entry.name, "seed": seed, "seen": seen})
            print(f"{entry.name}, seed {seed}", flush=True)
    if not models:
        raise AssetError("no clean encoder of the zoo is built; python -m benchmarks zoo build")
    settings: dict[str, Json] = {"shape": SHAPE, "alpha": ALPHA}
    path = write("calibration", {**settings, "models": models})
    DOCUMENT.write_text(render(json.loads(path.read_bytes())), encoding="utf-8")
    print(f"results: {path}, {DOCUMENT}")


def ask(folder: Path, seed: int) -> Json:
    """Search the tokens of an encoder; return what its first verdict rests on.

    ``expected`` are the rarest units that may be named, by how many as rare chance lets expect;
    ``rate`` is the lowest rate at which there would be too many, 1 if there never are.
    """
    asked: list[np.ndarray[Any, np.dtype[np.float64]]] = []

    def watch(expected: Any, rate: float, false: float) -> bool:
        asked.append(np.sort(expected))
        return too_many(expected, rate, false)

    encoder = Differentiable.load(str(folder))
    with patch.object(tail, "too_many", watch), Progress() as progress:
        bank = search_units(
            encoder,
            vocabulary(encoder.tokenizer),
            builtin_texts(),
            plan=Plan("tokens"),
            seed=seed,
            progress=progress,
        )
    enough = [rate for rate in RATES if too_many(asked[0], rate, ALPHA_NAMED)]
    return {
        "expected": [float(f"{value:.3g}") for value in asked[0][:RAREST]],
        "rate": min(enough, default=1.0),
        "verdict": bank.verdict,
    }


def render(result: Mapping[str, Any]) -> str:
    """Render the page from its results."""
    models: Sequence[Mapping[str, Any]] = result["models"]
    accused = sum(model["seen"]["verdict"] != "none found" for model in models)
    lines = [
        "# False alarms",
        "",
        "Written by `python -m benchmarks calibration`; do not edit. Every token of clean "
        f"encoders, in three texts each, by {len({model['seed'] for model in models})} seeds: "
        f"{accused} of {len(models)} searches name anything.",
        "",
        "*Expected*: the rarest units that the third rule may name, by how many as rare a "
        f"vocabulary has by chance, if its tail has the shape {result['shape']}. *Rate*: the rate "
        "of false alarms at which the rule would have named some, of one vocabulary; a search of "
        f"`fast` judges several, and shares {result['alpha']} among them. If the tail is what it "
        "is taken for, a rate of r or less is met in a share r of the lines, and in fewer where it "
        "is lighter.",
        "",
        "| encoder | seed | expected | rate | verdict |",
        "|---|---|---|---|---|",
    ]
    for model in models:
        seen = model["seen"]
        expected = ", ".join(f"{value:.2g}" for value in seen["expected"])
        rate = f"{seen['rate']:.2g}" if seen["rate"] < 1 else "none"
        lines.append(
            f"| {model['model']} | {model['seed']} | {expected} | {rate} | {seen['verdict']} |"
        )
    return "\n".join([*lines, ""])
