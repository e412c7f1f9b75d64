"""In how many directions outputs differ: ``python -m benchmarks directions``.

A search judges outputs of few directions as a classifier's, after making all axes alike where that
shows more. Here every model of the zoo that is built is asked how many it has, before and after.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.assets import AssetError, cache_dir
from benchmarks.record import remembered, write
from benchmarks.sources import ROOT, fingerprint
from benchmarks.zoo import ZOO
from benchmarks.zoo.build import stored
from guard.files import Json
from guard.search import axes
from guard.search.axes import NARROW, make_axes_alike
from guard.search.carriers import Carrier, builtin_texts
from guard.search.encoder import Encoder
from guard.search.journal import Journal
from guard.search.scan import outputs_of
from guard.search.statistics import dimensions

DOCUMENT = ROOT / "docs" / "benchmarks" / "directions.md"
SEED = 0
GROUPS = (
    "clean encoders",
    "encoders with a backdoor",
    "classifiers that have hardly learned their task",
    "classifiers that have learned it",
)


def main() -> None:
    """Ask every model that is built, and write the page."""
    models: list[Json] = []
    for entry in ZOO:
        found = stored(entry)
        if found is None:
            continue
        parts = () if entry.twin_only else ((GROUPS[entry.planting is not None], found.model),)
        if found.twin is not None:
            parts = (*parts, (GROUPS[2 + entry.twin_only], found.twin))
        for group, folder in parts:
            source = fingerprint(folder, ("guard/search", "benchmarks/directions.py"))
            path = cache_dir() / "directions" / f"{folder}.json"
            views = remembered(path, source, partial(ask, cache_dir() / folder))
            models.append({"model": entry.name, "group": group, "views": views})
            print(f"{entry.name}, {group}: {views}", flush=True)
    if not models:
        raise AssetError("no model of the zoo is built; python -m benchmarks zoo build")
    path = write("directions", {"narrow": NARROW, "seed": SEED, "models": models})
    DOCUMENT.write_text(render(json.loads(path.read_bytes())), encoding="utf-8")
    print(f"results: {path}, {DOCUMENT}")


def ask(folder: Path) -> Json:
    """Return, by view, how many directions the outputs of the search's own texts differ in.

    ``"raw"`` as they are; ``"alike"`` with all axes alike, which is ``None`` where that shows no
    more.
    """
    encoder = Encoder.load(str(folder))
    read: dict[str, Any] = {}

    def watch(encoder: Encoder, texts: Sequence[Carrier]) -> Any:
        found = outputs_of(encoder, texts)
        read.update({str(view): outputs for view, outputs in found.items()})
        return found

    with patch.object(axes, "outputs_of", watch):
        make_axes_alike(encoder, builtin_texts(), Journal(encoder, SEED, None))
    views: dict[str, Json] = {}
    for view, outputs in read.items():
        raw = dimensions(outputs)
        # What would be done if nothing less were enough.
        factors = axes._alike(outputs, math.nextafter(raw, math.inf))
        alike = round(dimensions(outputs * factors), 1) if factors.size else None
        views[view] = {"raw": round(raw, 1), "alike": alike}
    return views


def render(result: Mapping[str, Any]) -> str:
    """Render the page from its results."""
    lines = [
        "# Directions of outputs",
        "",
        "Written by `python -m benchmarks directions`; do not edit. In how many directions the "
        "outputs of ordinary texts differ (participation ratio), view by view, over the models of "
        "the zoo that were built where this ran; with all axes alike, in how many at most. A view "
        f"of fewer than {result['narrow']:g} (or an eighth of its width, or its classes) is judged "
        "as a classifier's.",
        "",
        "| models | | view | directions | with all axes alike | narrow | narrow then |",
        "|" + "---|" * 7,
    ]
    models: Sequence[Mapping[str, Any]] = result["models"]
    for group in GROUPS:
        own = [model["views"] for model in models if model["group"] == group]
        for view in dict.fromkeys(view for views in own for view in views):
            raw = [views[view]["raw"] for views in own if view in views]
            alike = [
                max(seen["raw"], seen["alike"] or 0.0)
                for views in own
                if (seen := views.get(view)) is not None
            ]
            narrow = [sum(value < result["narrow"] for value in values) for values in (raw, alike)]
            lines.append(
                f"| {group} | {len(raw)} | {view} | {min(raw):.1f} to {max(raw):.1f} | "
                f"{min(alike):.1f} to {max(alike):.1f} | {narrow[0]} | {narrow[1]} |"
            )
    return "\n".join([*lines, ""])
