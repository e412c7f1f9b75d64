"""What searches find in the zoo: ``python -m benchmarks detection``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks import record
from benchmarks.assets import AssetError
from benchmarks.detection.cases import PARTS, Part, kept, measure
from benchmarks.detection.searches import SEARCHES
from benchmarks.detection.table import render
from benchmarks.zoo.build import stored
from benchmarks.zoo.entry import Entry
from guard.files import Json

DOCUMENT = Path(__file__).parents[2] / "docs" / "benchmarks" / "detection.md"


def run(zoo: Sequence[Entry], chosen: Sequence[Entry], search: str, parts: Sequence[Part]) -> None:
    """Run a search on chosen models, then write results and table of all that was run so far.

    Raises
    ------
    AssetError
        The search is unknown (the known ones are listed), or none of the models is built.
    """
    if search not in SEARCHES:
        raise AssetError(f"no search {search!r}; known: {', '.join(SEARCHES)}")
    if not any(stored(entry) for entry in chosen):
        raise AssetError("none of these models is built; python -m benchmarks zoo build")
    measure(chosen, search, parts)
    path = record.write("detection", collect(zoo))
    DOCUMENT.write_text(render(json.loads(path.read_bytes())), encoding="utf-8")
    print(f"results: {path}, {DOCUMENT}")


def collect(zoo: Sequence[Entry]) -> dict[str, Json]:
    """Return everything that was built and run, of the zoo as it is now."""
    built = [(entry, found) for entry in zoo if (found := stored(entry)) is not None]
    cases = [
        asdict(case)
        for search in SEARCHES
        for entry, _ in built
        for part in PARTS
        if (case := kept(entry, search, part)) is not None
    ]
    models = [
        {
            **asdict(found),
            "attack": entry.planting and type(entry.planting.attack).__name__,
            "planting": entry.planting and entry.planting.name,
            "list": "held out" if entry.held_out else "others",
        }
        for entry, found in built
    ]
    return {
        "zoo": models,
        "not_built": [entry.name for entry in zoo if stored(entry) is None],
        "cases": cases,
    }


__all__ = ["PARTS", "SEARCHES", "collect", "render", "run"]
