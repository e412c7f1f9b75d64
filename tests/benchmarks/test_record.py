"""Measurements that are kept."""

from __future__ import annotations

from pathlib import Path

from benchmarks.record import remembered
from guard.files import Json


def test_what_was_measured_with_the_same_source_is_not_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "kept" / "one.json"
    calls: list[int] = []

    def measure() -> Json:
        calls.append(len(calls))
        return {"call": calls[-1]}

    assert remembered(path, "a", measure) == {"call": 0}
    assert remembered(path, "a", measure) == {"call": 0}
    assert remembered(path, "b", measure) == {"call": 1}
    assert remembered(path, "b", measure) == {"call": 1}
    assert calls == [0, 1]
