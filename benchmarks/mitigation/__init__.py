"""Attack success and accuracy under every defence: ``python -m benchmarks mitigation``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.assets import AssetError
from benchmarks.mitigation.cells import MAX_TEXTS, READ_WORDS, kept, measure
from benchmarks.mitigation.table import render
from benchmarks.recipes import TASK
from benchmarks.tasks import TASKS
from benchmarks.zoo import ZOO
from benchmarks.zoo.build import stored
from benchmarks.zoo.entry import Entry
from guard.files import Json

DOCUMENT = Path(__file__).parents[2] / "docs" / "benchmarks" / "mitigation.md"

# Several attacks, kinds of triggers and encoders; an attacker who has read the search among them.
MODELS = (
    "bert-tiny-por",
    "bert-tiny-gated",
    "bert-tiny-uor",
    "bert-tiny-por-pooler",
    "bert-tiny-por-common",
    "bert-tiny-shy",
    "minilm-l3-por",
    "minilm-l6-por",
    "minilm-l6-por-gated",
    "minilm-l6-por-held-out",
    "minilm-l6-neuba",
    "minilm-l6-uor",
    "minilm-l6-por-common",
    "minilm-l6-por-name",
    "mpnet-base-por",
)


def run(model: str | None, task: str | None) -> None:
    """Measure the cells that are missing, of one model or task or of all, then write the table.

    Raises
    ------
    AssetError
        The model or the task is not in the table (the known ones are listed), or none of the
        models is built.
    """
    for name, known in ((model, MODELS), (task, tuple(TASKS))):
        if name is not None and name not in known:
            raise AssetError(f"{name!r} is not in the table; known: {', '.join(known)}")
    entries = [entry for entry in declared() if model in (None, entry.name)]
    built = [entry for entry in entries if stored(entry) is not None]
    if not built:
        raise AssetError("none of these models is built; python -m benchmarks zoo build")
    for entry in built:
        for name in TASKS if task is None else (task,):
            measure(entry, name)
            path = write()
    print(f"results: {path}, {DOCUMENT}")


def declared() -> list[Entry]:
    """Return the models of the table."""
    entries = {entry.name: entry for entry in ZOO}
    return [entries[name] for name in MODELS]


def write() -> Path:
    """Write results and table of all cells that were measured so far."""
    path = record.write(
        "mitigation", collect(declared(), list(TASKS), record.earlier("mitigation"))
    )
    DOCUMENT.write_text(render(json.loads(path.read_bytes())), encoding="utf-8")
    return path


def collect(
    entries: Sequence[Entry], tasks: Sequence[str], earlier: Mapping[str, Any]
) -> dict[str, Json]:
    """Return the cells that were measured, and what is missing.

    One that is not in this cache is taken over from the results of before, and says so: its code
    may be other than today's (``earlier``).
    """
    before = {(cell["model"], cell["task"]): cell for cell in earlier.get("cells", ())}
    cells: list[Json] = []
    for entry in entries:
        for task in tasks:
            if (cell := kept(entry, task)) is not None:
                cells.append({**asdict(cell), "earlier": False})
            elif (old := before.get((entry.name, task))) is not None:
                cells.append({**old, "earlier": True})
    attacks = {e.name: type(e.planting.attack).__name__ for e in entries if e.planting}
    return {
        "models": [entry.name for entry in entries],
        "attacks": attacks,
        "triggers": {e.name: len(e.planting.triggers) for e in entries if e.planting},
        "recipe": {"texts": MAX_TEXTS, "words": READ_WORDS, **asdict(TASK)},
        "tasks": list(tasks),
        "cells": cells,
    }


__all__ = ["MODELS", "collect", "declared", "render", "run", "write"]
