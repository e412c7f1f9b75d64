"""The benchmark of memory: its page says what was missed, and a server is asked and looked at."""

from __future__ import annotations

import asyncio
import copy
from pathlib import Path
from typing import Any

import pytest

from benchmarks import memory
from tests.fixtures_small import write_small_monitor

GOOD: dict[str, Any] = {
    "load_average": 0.1,
    "clients": 12,
    "servers": {
        subject.title: {
            "requests": 20_000,
            "started_mb": 90.0,
            "mb": {str(share): 100.0 for share in memory.SHARES},
        }
        for subject in memory.SUBJECTS
    },
    "environment": {"cores": 2, "processor": "x"},
}


def test_the_page_of_a_good_run() -> None:
    page = memory.render(GOOD)
    assert "missed" not in page
    assert page.count("reached") == 2


@pytest.mark.parametrize("name", [memory.GUARD, memory.ONE_ARENA])
def test_what_rises_is_no_good_run(name: str) -> None:
    bad = copy.deepcopy(GOOD)
    bad["servers"][name]["mb"]["1.0"] = 101.1
    assert memory.render(bad).count("**missed**") == 1


@pytest.mark.slow
def test_a_server_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_small_monitor(tmp_path / "monitor")
    monkeypatch.setattr(memory, "REQUESTS", 100)
    monkeypatch.setattr(memory, "SLICE_SECONDS", 0.5)
    settings = {"MONITOR_DIR": str(tmp_path / "monitor")}
    figures: Any = asyncio.run(memory._measure(memory.SUBJECTS[0], settings, tmp_path / "probe"))
    assert figures["requests"] >= 100
    assert 10 < figures["started_mb"] < 1_000
    assert set(figures["mb"]) == {str(share) for share in memory.SHARES}
