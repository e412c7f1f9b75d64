"""The soak: its traffic is what it says, its checks can fail, and a short one for real."""

from __future__ import annotations

import asyncio
import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest

from benchmarks import soak, traffic
from guard.body import UnreadableBody
from guard.fields import compile_fields
from guard.json_body import parse

GOOD: dict[str, Any] = {
    "sent": dict.fromkeys(traffic.KINDS, 5),
    "statuses": {
        "clean": {"200": 5},
        "triggered": {"403": 5},
        "malformed": {"400": 5},
        "slow": {"200": 2, "403": 3},
        "aborted": {"none": 5},
    },
    "unexpected": 0,
    "unexpected_by": {},
    "requests_per_second": 5.0,
    "clean_ms": {"p50": 1.0, "p99": 2.0},
    "memory_mb": {"started": 90.0, "after_warm_up": 100.0, "end": 101.0, "growth": 0.01},
    "before": {"tasks": 4, "threads": 2, "files": 10},
    "after": {"tasks": 4, "threads": 9, "files": 11},
    "errors_logged": 0,
    "first_errors": [],
}


def test_a_good_run_passes_every_check() -> None:
    assert all(soak.passed(GOOD).values())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("statuses", "clean", "502"), 1),
        (("statuses", "triggered", "200"), 1),
        (("unexpected",), 1),
        (("errors_logged",), 1),
        (("after", "tasks"), 5),
        (("after", "files"), 13),
        (("memory_mb", "growth"), 0.06),
    ],
)
def test_each_check_can_fail(path: tuple[str, ...], value: object) -> None:
    bad = copy.deepcopy(GOOD)
    place = bad
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    assert list(soak.passed(bad).values()).count(False) == 1
    result = {
        "minutes": 30.0,
        "clients": 24,
        "load_average": 0.1,
        "environment": {"cores": 2, "processor": "x"},
        "servers": {"one": GOOD, "other": bad},
    }
    assert soak.render(result).count("**no**") == 1


def test_what_is_malformed_cannot_be_scanned() -> None:
    fields = compile_fields(["text"])
    rng = random.Random(0)
    bodies = set()
    for _ in range(500):
        request, ends = traffic.malformed(rng)
        head, _, body = request.partition(b"\r\n\r\n")
        if not ends and b"content-encoding" not in head:
            bodies.add(body)
    assert len(bodies) > 5
    for body in bodies - {
        b"",
        b'{"text": "\\ud800"}',
    }:  # refused by the application; by the monitor
        with pytest.raises(UnreadableBody):
            parse(body, fields)


@pytest.mark.slow
def test_a_short_soak(tmp_path: Path) -> None:
    result: Any = asyncio.run(soak._soak(4, tmp_path))
    for name, server in result["servers"].items():
        assert server["unexpected_by"] == {}, name
        assert server["first_errors"] == [], name
        assert server["after"]["tasks"] <= server["before"]["tasks"], name
        assert all(server["sent"][kind] for kind in ("clean", "triggered", "malformed")), name
    json.dumps(result)
