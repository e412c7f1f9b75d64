"""What searches find in the zoo: ``python -m benchmarks detection``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from benchmarks import record
from benchmarks.assets import AssetError, cache_dir
from benchmarks.attacks.samples import unit_ids
from benchmarks.detection.cases import PARTS, Part, kept, measure, source
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
    path = record.write("detection", collect(zoo, record.earlier("detection")))
    DOCUMENT.write_text(render(json.loads(path.read_bytes())), encoding="utf-8")
    print(f"results: {path}, {DOCUMENT}")


def collect(zoo: Sequence[Entry], earlier: Mapping[str, Any]) -> dict[str, Json]:
    """Return everything that was built and run, of the zoo as it is now.

    The whole zoo takes a night, and no one cache need hold all of it: what is missing here is taken
    over from the results of before, and a case of other code than today's, or of a model that is
    not the listed one, says so (``earlier``).
    """
    before = {model["name"]: model for model in earlier.get("zoo", ())}
    known = {
        (case["search"], case["model"], case["part"]): case for case in earlier.get("cases", ())
    }
    built = {entry.name: stored(entry) for entry in zoo}
    models: list[dict[str, Any]] = []
    for entry in zoo:
        if (found := built[entry.name]) is not None:
            old = before.get(entry.name, {})
            same = (old.get("model"), old.get("twin")) == (found.model, found.twin)
            models.append(
                {
                    **asdict(found),
                    # Of a build that found part of it in the cache, that part took its time before.
                    "seconds": max(found.seconds, old["seconds"]) if same else found.seconds,
                    "attack": type(entry.planting.attack).__name__ if entry.planting else None,
                    "planting": entry.planting.name if entry.planting else None,
                    "list": _list_of(entry),
                    "twin_only": entry.twin_only,
                    "tokens": _tokens(entry, cache_dir() / found.model),
                }
            )
        elif entry.name in before:
            models.append({**before[entry.name], "list": _list_of(entry)})
    folders = {model["name"]: (model["model"], model["twin"]) for model in models}
    cases: list[Json] = []
    for search in SEARCHES:
        for entry in zoo:
            for part in PARTS:
                if (case := kept(entry, search, part)) is not None:
                    cases.append({**asdict(case), "earlier": False})
                elif (old := known.get((search, entry.name, part))) is not None:
                    today = source(*folders[entry.name], search)
                    cases.append({**old, "earlier": old["source"] != today})
    return {
        "zoo": models,
        "not_built": [
            name for name, found in built.items() if found is None and name not in before
        ],
        "cases": cases,
    }


def _tokens(entry: Entry, folder: Path) -> dict[str, Json]:
    """Return how many tokens each trigger has: budgets differ by it."""
    if entry.planting is None:
        return {}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return {text: len(unit_ids(tokenizer, text)) for text in entry.planting.triggers}


def _list_of(entry: Entry) -> str:
    if entry.kind == "drawn":
        # What the first eight showed, and then the next, the search was changed for.
        number = int(entry.name.rpartition("-")[2])
        return f"drawn at random, {number // 8 * 8:02} to {number // 8 * 8 + 7:02}"
    return "held out" if entry.held_out else "others"


__all__ = ["PARTS", "SEARCHES", "collect", "render", "run"]
