"""The benchmark of the fronts: its page says what was missed, and wrk asks real servers."""

from __future__ import annotations

import asyncio
import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import fronts, rates
from benchmarks.assets import AssetError
from benchmarks.debian import programs
from tests.fixtures_small import write_small_monitor

PAIR: dict[str, Any] = {
    "seconds": 3,
    "connections": 4,
    "unguarded": [100.0, 102.0, 98.0],
    "guarded": [99.0, 101.0, 97.0],
    "ratio": 0.99,
    "ratio_range": [0.98, 1.0],
}
GOOD: dict[str, Any] = {
    "load_average": 0.1,
    "triggers": 1_000,
    "body_bytes": 320,
    "requests": 10,
    "in_process_us": {
        "bare": {"p50": 2.0, "p99": 3.0},
        "guarded": {"p50": 32.0, "p99": 40.0},
        "base": {"p50": 152.0, "p99": 200.0},
    },
    "uvicorn": {"empty": PAIR, "classifier": {**PAIR}},
    "environment": {"cores": 2, "processor": "x", "python": "3"},
}


def test_the_page_of_a_good_run() -> None:
    page = fronts.render(GOOD)
    assert "missed" not in page
    assert page.count("reached") == 4


@pytest.mark.parametrize(
    ("path", "value", "missed"),
    [
        (("in_process_us", "guarded", "p50"), 32.1, 2),
        (("in_process_us", "base", "p50"), 151.9, 1),
        (("uvicorn", "empty", "ratio"), 0.599, 1),
        (("uvicorn", "classifier", "ratio"), 0.979, 1),
    ],
)
def test_each_target_can_be_missed(path: tuple[str, ...], value: float, missed: int) -> None:
    bad = copy.deepcopy(GOOD)
    place = bad
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    assert fronts.render(bad).count("**missed**") == missed


@pytest.mark.slow
def test_wrk_asks_both(tmp_path: Path) -> None:
    try:
        programs(["wrk"], rates.PACKAGES)
    except AssetError as error:
        pytest.skip(str(error))
    write_small_monitor(tmp_path / "monitor")
    settings = {"MONITOR_DIR": str(tmp_path / "monitor")}
    pair = replace(rates.EMPTY, rounds=2, seconds=1)

    def measure(body: bytes) -> dict[str, Any]:
        return asyncio.run(rates.measure(pair, body, tmp_path, settings))

    figures = measure(b'{"text": "the good film"}')
    assert len(figures["guarded"]) == len(figures["unguarded"]) == 2
    assert min(figures["guarded"]) > 50
    low, high = figures["ratio_range"]
    assert 0 < low <= figures["ratio"] <= high
    # The guard is there: what it refuses is no figure.
    with pytest.raises(RuntimeError, match="not every request"):
        measure(b'{"text": "the cf film"}')
