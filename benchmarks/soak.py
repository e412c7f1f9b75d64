"""Mixed traffic at full load for half an hour: ``python -m benchmarks soak --minutes 30``.

Two processes serve as a user would start them: the FastAPI example, and ``guard proxy`` in front of
it. Clients send clean, triggered, malformed, slow and aborted requests to both over raw sockets,
each the next as soon as the last was answered. The processes are looked at from outside: resident
memory, threads and open files in /proc, lines that they log, and, by a signal, how many tasks they
hold.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.served import Served, serve
from benchmarks.traffic import KINDS, TRIGGERS, Traffic
from exporters.monitor import compile_bank
from guard.files import Json

SEED = 0
CLIENTS = 12  # for each of the two servers
WARM_UP = 0.2  # of the time; what memory is compared with begins after it
FLAT = 0.05
DOCUMENT = Path(__file__).parents[1] / "docs" / "benchmarks" / "soak.md"


def main(minutes: float = 30.0) -> None:
    """Soak, write ``results/soak.json`` and render the page from it."""
    busy = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as scratch:
        result = asyncio.run(_soak(minutes * 60, Path(scratch)))
    result |= {"seed": SEED, "minutes": minutes, "load_average": round(busy, 2)}
    path = record.write("soak", result)
    DOCUMENT.write_text(render(json.loads(path.read_bytes())), encoding="utf-8")
    print(f"results: {path}, {DOCUMENT}")


def prepare(scratch: Path) -> dict[str, str]:
    """Write a classifier with bert-tiny's weights and a monitor; return the example's settings."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from benchmarks.encoders import encoder
    from benchmarks.protected import bank_of
    from guard.search.encoder import Encoder

    source = encoder("bert-tiny")
    torch.manual_seed(SEED)
    # Its head is not trained: which class it names does not matter here.
    model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=2)
    model.save_pretrained(scratch / "model")
    AutoTokenizer.from_pretrained(source).save_pretrained(scratch / "model")
    bank = bank_of(Encoder.load(str(source)), TRIGGERS)
    compile_bank(bank, scratch / "monitor")
    return {
        "MODEL_DIR": str(scratch / "model"),
        "MONITOR_DIR": str(scratch / "monitor"),
        "GUARD_ACTION": "block",
    }


async def _soak(seconds: float, scratch: Path) -> dict[str, Json]:
    settings = prepare(scratch)
    async with (
        serve(
            scratch / "fastapi",
            ["uvicorn", "--factory", "examples.fastapi_app:from_env", "--no-access-log"],
            ["--port", "0"],
            settings,
        ) as example,
        serve(
            scratch / "proxy",
            ["guard", "proxy", "--monitor", settings["MONITOR_DIR"]],
            [
                *("--upstream", f"http://127.0.0.1:{example.port}"),
                *("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"),
            ],
            {},
        ) as proxy,
    ):
        servers = {"FastAPI example": example, "guard proxy": proxy}
        before = {name: await server.state() for name, server in servers.items()}
        traffic = {
            name: Traffic(server.port, random.Random(f"{SEED} {name}"))
            for name, server in servers.items()
        }
        start = time.monotonic()
        samples: dict[str, list[float]] = {name: [] for name in servers}
        async with asyncio.TaskGroup() as group:
            for load in traffic.values():
                for _ in range(CLIENTS):
                    group.create_task(load.run(start + seconds))
            group.create_task(_watch(servers, samples, start, seconds))
        took = time.monotonic() - start
        await asyncio.sleep(10)  # idle connections close after 5 s
        for load in traffic.values():
            # The proxy's pool drops what the server closed at the next request.
            await load.run(time.monotonic() + 0.1)
        after = {name: await server.state() for name, server in servers.items()}
    return {
        "seconds": round(took, 1),
        "clients": 2 * CLIENTS,
        "servers": {
            name: _figures(
                traffic[name], servers[name], samples[name], before[name], after[name], took
            )
            for name in servers
        },
    }


async def _watch(
    servers: dict[str, Served], samples: dict[str, list[float]], start: float, seconds: float
) -> None:
    told = start
    while (now := time.monotonic()) < start + seconds:
        for name, server in servers.items():
            samples[name].append(server.resident_mb())
        if now - told > 60:
            told = now
            latest = {name: round(values[-1], 1) for name, values in samples.items()}
            print(f"{(now - start) / 60:.0f} min: MB {latest}", flush=True)
        await asyncio.sleep(min(5.0, seconds / 100))


def _figures(
    traffic: Traffic,
    server: Served,
    samples: list[float],
    before: dict[str, int],
    after: dict[str, int],
    seconds: float,
) -> dict[str, Json]:
    steady = samples[int(len(samples) * WARM_UP) :]
    tenth = max(1, len(steady) // 10)
    first, last = statistics.median(steady[:tenth]), statistics.median(steady[-tenth:])
    waits = sorted(traffic.waits)
    return {
        "sent": {kind: traffic.sent[kind] for kind in KINDS},
        "statuses": {
            kind: {str(status): number for status, number in sorted(traffic.statuses[kind].items())}
            for kind in KINDS
        },
        "unexpected": sum(traffic.unexpected.values()),
        "unexpected_by": dict(traffic.unexpected),
        "requests_per_second": round(sum(traffic.sent.values()) / seconds, 1),
        "clean_ms": {
            "p50": round(waits[len(waits) // 2] * 1e3, 2),
            "p99": round(waits[int(len(waits) * 0.99)] * 1e3, 2),
        },
        "memory_mb": {
            "started": round(samples[0], 1),
            "after_warm_up": round(first, 1),
            "end": round(last, 1),
            "growth": round(last / first - 1, 4),
        },
        "before": dict(before),
        "after": dict(after),
        "errors_logged": server.errors,
        "first_errors": list(server.first_errors),
    }


def passed(server: dict[str, Any]) -> dict[str, bool]:
    """Return what was asked for, and whether it was so."""
    answered = server["statuses"]
    handled = {kind: sum(answered[kind].values()) for kind in ("clean", "triggered")}
    return {
        "every clean request answered with 200": answered["clean"].get("200") == handled["clean"],
        "every triggered request refused with 403": answered["triggered"].get("403")
        == handled["triggered"],
        "nothing unexpected": server["unexpected"] == 0,
        "no unhandled error": server["errors_logged"] == 0,
        "no leaked task": server["after"]["tasks"] <= server["before"]["tasks"],
        "no leaked connection": server["after"]["files"] <= server["before"]["files"] + 2,
        f"memory flat within {FLAT:.0%}": server["memory_mb"]["growth"] <= FLAT,
    }


def render(result: dict[str, Any]) -> str:
    """Render the page of a result."""
    servers = result["servers"]
    environment = result["environment"]

    def row(title: str, *cells: object) -> str:
        return f"| {title} | " + " | ".join(map(str, cells)) + " |"

    checks = [passed(server) for server in servers.values()]
    lines = [
        "# Soak",
        "",
        f"Written by `python -m benchmarks soak --minutes {result['minutes']:g}`; do not edit. "
        f"{result['clients']} clients, each with its next request as soon as the last was "
        f"answered, for {result['minutes']:g} minutes; server, proxy and clients share "
        f"{environment['cores']} cores of {environment['processor']}, load average "
        f"{result['load_average']} before the run (above 0: other work was running). The "
        "classifier is a bert-tiny; the proxy is in front of the same FastAPI example, so its "
        "requests are scanned twice.",
        "",
        row("", *servers),
        "|---|" + "---|" * len(servers),
        *(
            row(f"{kind} requests", *(f"{server['sent'][kind]:,}" for server in servers.values()))
            for kind in KINDS
        ),
        row("requests per second", *(s["requests_per_second"] for s in servers.values())),
        row(
            "clean request, ms, p50 (p99)",
            *(f"{s['clean_ms']['p50']} ({s['clean_ms']['p99']})" for s in servers.values()),
        ),
        *(
            row(what, *("yes" if check[what] else "**no**" for check in checks))
            for what in checks[0]
        ),
        row(
            "memory after warm-up, at the end, MB",
            *(
                f"{m['after_warm_up']}, {m['end']} ({m['growth']:+.1%})"
                for m in (s["memory_mb"] for s in servers.values())
            ),
        ),
        *(
            row(
                f"{what} before, after",
                *(f"{s['before'][what]}, {s['after'][what]}" for s in servers.values()),
            )
            for what in ("tasks", "threads", "files")
        ),
        "",
        f"Memory is resident memory; the first {WARM_UP:.0%} of the time is warm-up, and the "
        "medians of the first and the last tenth of the rest are compared. What still rises then "
        "is looked into in [memory](memory.md). Statuses by kind:",
        "",
        "| kind | " + " | ".join(servers) + " |",
        "|---|" + "---|" * len(servers),
        *(
            row(
                kind,
                *(
                    ", ".join(f"{k}: {v:,}" for k, v in s["statuses"][kind].items())
                    for s in servers.values()
                ),
            )
            for kind in KINDS
        ),
        "",
        "`none` is a request whose client left before the answer, as it meant to.",
        "",
    ]
    return "\n".join(lines)
