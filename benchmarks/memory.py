"""Whose the memory is that rises under load: ``python -m benchmarks memory``, in ten minutes.

The example grows after its start, as `benchmarks.soak` shows. Here the same traffic meets four
servers, one after the other: the guard before an application that does nothing, the classifier
without the guard, the guarded classifier, and that again with one arena of the C library for all
threads instead of one for each.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.served import serve
from benchmarks.soak import CLIENTS, SEED, prepare
from benchmarks.targets import verdict
from benchmarks.traffic import Traffic
from guard.files import Json

REQUESTS = 20_000
SLICE_SECONDS = 2.0
# What is flat here grows by less in the last half of the requests.
FLAT = 0.01
# Of all that a server is asked, where memory is looked at.
SHARES = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
DOCUMENT = Path(__file__).parents[1] / "docs" / "benchmarks" / "memory.md"


@dataclass(frozen=True, slots=True)
class Subject:
    """A server that is asked.

    Parameters
    ----------
    title
        In the table.
    factory
        Where uvicorn finds the function that makes it.
    environment
        Beside the settings of `prepare`.
    """

    title: str
    factory: str
    environment: dict[str, str] = field(default_factory=dict)


GUARD = "guard, empty handler"
UNGUARDED = "classifier, no guard"
GUARDED = "guarded classifier"
ONE_ARENA = "guarded classifier, one arena"
_EXAMPLE = "examples.fastapi_app:from_env"
SUBJECTS = (
    Subject(GUARD, "benchmarks.rates:guarded_empty"),
    Subject(UNGUARDED, "benchmarks.rates:unguarded_classifier"),
    Subject(GUARDED, _EXAMPLE),
    Subject(ONE_ARENA, _EXAMPLE, {"MALLOC_ARENA_MAX": "1"}),
)


def main() -> None:
    """Measure, write ``results/memory.json`` and render the page from it."""
    busy = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as scratch:
        settings = prepare(Path(scratch))
        servers: dict[str, Json] = {}
        for number, subject in enumerate(SUBJECTS):
            place = Path(scratch) / str(number)
            servers[subject.title] = figures = asyncio.run(_measure(subject, settings, place))
            print(f"{subject.title}: {json.dumps(figures)}", flush=True)
    result: dict[str, Json] = {
        "seed": SEED,
        "load_average": round(busy, 2),
        "clients": CLIENTS,
        "servers": servers,
    }
    path = record.write("memory", result)
    DOCUMENT.write_text(render(json.loads(path.read_bytes())), encoding="utf-8")
    print(f"results: {path}, {DOCUMENT}")


async def _measure(subject: Subject, settings: dict[str, str], probe: Path) -> dict[str, Json]:
    command = ["uvicorn", "--factory", subject.factory, "--no-access-log"]
    async with serve(
        probe, command, ["--port", "0"], {**settings, **subject.environment}
    ) as server:
        traffic = Traffic(server.port, random.Random(SEED))
        samples = [(0, server.resident_mb())]
        while samples[-1][0] < REQUESTS:
            end = time.monotonic() + SLICE_SECONDS
            await asyncio.gather(*(traffic.run(end) for _ in range(CLIENTS)))
            samples.append((sum(traffic.sent.values()), server.resident_mb()))
    return {
        "requests": samples[-1][0],
        "started_mb": round(samples[0][1], 1),
        "mb": {
            str(share): round(next(mb for n, mb in samples if n >= share * REQUESTS), 1)
            for share in SHARES
        },
    }


def render(result: dict[str, Any]) -> str:
    """Render the page of a result."""
    servers, environment = result["servers"], result["environment"]
    growth = {name: s["mb"]["1.0"] / s["mb"]["0.5"] - 1 for name, s in servers.items()}

    lines = [
        "# Memory under load",
        "",
        "Written by `python -m benchmarks memory`; do not edit. Resident MB of a server that "
        f"{result['clients']} clients ask what the [soak](soak.md) asks, one server after the "
        f"other, on {environment['cores']} cores of {environment['processor']}, load average "
        f"{result['load_average']} before the run.",
        "",
        "| share of its requests | " + " | ".join(servers) + " |",
        "|---|" + "---|" * len(servers),
        "| requests in all | "
        + " | ".join(f"{server['requests']:,}" for server in servers.values())
        + " |",
        "| at the start | "
        + " | ".join(str(server["started_mb"]) for server in servers.values())
        + " |",
        *(
            f"| {share:.0%} | "
            + " | ".join(str(server["mb"][str(share)]) for server in servers.values())
            + " |"
            for share in SHARES
        ),
        "| in the last half | " + " | ".join(f"{share:+.1%}" for share in growth.values()) + " |",
        "",
        f"- The guard by itself is flat within {FLAT:.0%}: {verdict(growth[GUARD] <= FLAT)}.",
        f"- So is the whole with one arena: {verdict(growth[ONE_ARENA] <= FLAT)}.",
    ]
    if growth[ONE_ARENA] <= FLAT:
        lines += [
            "",
            f"The classifier rises without the guard as well ({growth[UNGUARDED]:+.1%}, and "
            f"{growth[GUARDED]:+.1%} with it), and with one arena the rise is gone: it is what the "
            "C library keeps for later in the arenas that it gives to each thread. Where memory is "
            "short, start the server with `MALLOC_ARENA_MAX=1`.",
        ]
    return "\n".join([*lines, ""])
