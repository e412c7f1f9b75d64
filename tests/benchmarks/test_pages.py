"""Every page of figures is what its committed results file renders to: none is edited, none old."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import (
    ablation,
    calibration,
    directions,
    fronts,
    memory,
    monitor_page,
    rounded,
    search_cost,
    soak,
)
from benchmarks.detection import table as detection
from benchmarks.mitigation import rivals_page
from benchmarks.mitigation import table as mitigation
from benchmarks.record import RESULTS

PAGES = Path(__file__).parents[2] / "docs" / "benchmarks"
# Page -> what renders it, and of which results.
RENDERED: dict[str, tuple[Callable[..., str], tuple[str, ...]]] = {
    "ablation": (ablation.render, ("ablation",)),
    "calibration": (calibration.render, ("calibration",)),
    "directions": (directions.render, ("directions",)),
    "detection": (detection.render, ("detection",)),
    "fronts": (fronts.render, ("fronts",)),
    "memory": (memory.render, ("memory",)),
    "mitigation": (mitigation.render, ("mitigation",)),
    "monitor": (monitor_page.render, ("monitor",)),
    "rivals": (rivals_page.render, ("mitigation-rivals",)),
    "rounded": (rounded.render, ("rounded",)),
    "search-cost": (
        search_cost.render,
        ("search-cost-pairs", "detection", "pair-search", "climb-search"),
    ),
    "soak": (soak.render, ("soak",)),
}


def results(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_bytes())


@pytest.mark.parametrize("page", RENDERED)
def test_the_page_is_of_the_results(page: str) -> None:
    render, sources = RENDERED[page]
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    assert text == render(*map(results, sources))


def test_the_plot_is_of_the_results() -> None:
    plot = (PAGES / "search-cost.svg").read_bytes()
    assert plot == search_cost.plot(results("detection"))


def test_no_page_is_left_out() -> None:
    """The zoo's is written by hand."""
    assert {path.stem for path in PAGES.glob("*.md")} == {*RENDERED, "zoo"}
