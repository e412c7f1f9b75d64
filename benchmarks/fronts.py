"""What the middleware adds to a request, in one process: ``python -m benchmarks fronts``.

The same body goes through a bare application, the guarded one, and one that is guarded by the same
engine in Starlette's BaseHTTPMiddleware, in turn, so that all see the same machine.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response

from benchmarks import record
from benchmarks.assets import fetch
from benchmarks.monitor import _bank
from exporters.monitor import compile_bank
from guard import GuardMiddleware, Monitor, Policy
from guard.body import parse
from guard.engine import Engine
from guard.fields import compile_fields
from guard.files import Json
from guard.runtime import load_tokenizer

SEED = 0
REPEATS = 3_000
TRIGGERS = 1_000
BODY_BYTES = 320
DOCUMENT = Path(__file__).parents[1] / "docs" / "benchmarks" / "fronts.md"

_WORDS = "the plot is thin but the cast carries it and the last scene stays with you "
BODY = json.dumps({"text": (_WORDS * 9)[: BODY_BYTES - len('{"text": ""}')]}).encode()


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """Read the body and answer with nothing."""
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


class Based(BaseHTTPMiddleware):
    """The same logic as one would write it without ASGI: parse, decide, pass on."""

    def __init__(self, app: Any, engine: Engine) -> None:
        super().__init__(app)
        self.engine = engine
        self.fields = compile_fields(["text"])

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        document = parse(await request.body(), self.fields)
        if not self.engine.decide(document.texts, document.keys).forward:
            return Response(status_code=403)
        return await call_next(request)


def main() -> None:
    """Measure, write ``results/fronts.json`` and render the table from it."""
    busy = os.getloadavg()[0]
    tokenizer_json = (fetch("minilm-l6") / "tokenizer.json").read_bytes()
    with tempfile.TemporaryDirectory() as scratch:
        compile_bank(_bank(load_tokenizer(tokenizer_json), TRIGGERS, 3), Path(scratch) / "monitor")
        monitor = Monitor.load(Path(scratch) / "monitor")
    engine = Engine(monitor, Policy(), front="asgi", registry=CollectorRegistry())
    apps = {
        "bare": bare,
        "guarded": GuardMiddleware(
            bare, monitor=monitor, fields=["text"], registry=CollectorRegistry()
        ),
        "base": Based(bare, engine),
    }
    path = record.write(
        "fronts",
        {
            "seed": SEED,
            "load_average": round(busy, 2),
            "triggers": TRIGGERS,
            "body_bytes": len(BODY),
            "requests": REPEATS,
            "in_process_us": asyncio.run(_measure(apps)),
        },
    )
    DOCUMENT.write_text(render(json.loads(path.read_bytes())), encoding="utf-8")
    print(f"results: {path}, {DOCUMENT}")


async def _measure(apps: Mapping[str, Any]) -> dict[str, Json]:
    times: dict[str, list[float]] = {name: [] for name in apps}
    for _ in range(REPEATS):
        for name, app in apps.items():
            times[name].append(await _request(app))
    return {
        name: {
            "p50": round(sorted(values)[len(values) // 2] * 1e6, 1),
            "p99": round(sorted(values)[int(len(values) * 0.99)] * 1e6, 1),
        }
        for name, values in times.items()
    }


async def _request(app: Any) -> float:
    waiting = [{"type": "http.request", "body": BODY, "more_body": False}]
    statuses = []

    async def receive() -> Any:
        if waiting:
            return waiting.pop()
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "headers": [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(BODY)).encode()),
        ],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    start = time.perf_counter()
    await app(scope, receive, send)
    seconds = time.perf_counter() - start
    assert statuses == [200]
    return seconds


def render(result: Mapping[str, Any]) -> str:
    """Render the table of a result."""
    times, environment = result["in_process_us"], result["environment"]
    added = times["guarded"]["p50"] - times["bare"]["p50"]
    base = times["base"]["p50"] - times["bare"]["p50"]

    def verdict(reached: bool) -> str:
        return "reached" if reached else "missed"

    def row(title: str, name: str) -> str:
        return f"| {title} | {times[name]['p50']:.1f} ({times[name]['p99']:.1f}) |"

    lines = [
        "# What the fronts cost",
        "",
        "Written by `python -m benchmarks fronts`; do not edit. Microseconds are p50 (p99) of "
        f"{result['requests']:,} requests in one process, in turn, on one thread of "
        f"{environment['processor']}, Python {environment['python']}, load average "
        f"{result['load_average']} before the run. The body has {result['body_bytes']} bytes and "
        f"no trigger, the bank {result['triggers']:,}.",
        "",
        "| | us |",
        "|---|---|",
        row("bare application", "bare"),
        row("behind `GuardMiddleware`", "guarded"),
        row("behind the same logic in `BaseHTTPMiddleware`", "base"),
        "",
        f"- The middleware adds {added:.1f} us at p50; the target is 30: {verdict(added <= 30)}.",
        f"- `BaseHTTPMiddleware` adds {base / added:.1f} times as much; the target is 5: "
        f"{verdict(base >= 5 * added)}.",
        "",
        "Not measured yet: requests per second under uvicorn.",
        "",
    ]
    return "\n".join(lines)
