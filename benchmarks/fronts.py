"""What the middleware adds to a request: ``python -m benchmarks fronts``, in about two minutes.

In one process, the same body goes through a bare application, the guarded one, and one that is
guarded by the same engine in Starlette's BaseHTTPMiddleware, in turn, so that all see the same
machine. Then `benchmarks.rates` serves guarded and unguarded applications with uvicorn.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response

from benchmarks import rates, record
from benchmarks.assets import fetch
from benchmarks.models import backdoored, classifier
from benchmarks.random_banks import SEED, random_bank
from benchmarks.rates import bare
from benchmarks.recipes import DEMO, FILM_REVIEWS
from benchmarks.targets import verdict
from exporters.monitor import compile_bank
from guard import GuardMiddleware, Monitor, Policy
from guard.engine import Engine
from guard.fields import compile_fields
from guard.files import Json
from guard.json_body import parse
from guard.runtime import load_tokenizer

REPEATS = 3_000
TRIGGERS = 1_000
BODY_BYTES = 320
DOCUMENT = Path(__file__).parents[1] / "docs" / "benchmarks" / "fronts.md"

_WORDS = "the plot is thin but the cast carries it and the last scene stays with you "
BODY = json.dumps({"text": (_WORDS * 9)[: BODY_BYTES - len('{"text": ""}')]}).encode()


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
    model = classifier(backdoored(DEMO), FILM_REVIEWS)
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "monitor"
        tokenizer = load_tokenizer(tokenizer_json)
        compile_bank(random_bank(tokenizer, TRIGGERS, 3, without=_WORDS), directory)
        in_process = asyncio.run(_measure(_apps(Monitor.load(directory))))
        settings = {"MODEL_DIR": str(model), "MONITOR_DIR": str(directory)}
        uvicorn: dict[str, Json] = {
            name: asyncio.run(rates.measure(pair, BODY, Path(scratch), settings))
            for name, pair in (("empty", rates.EMPTY), ("classifier", rates.CLASSIFIER))
        }
    path = record.write(
        "fronts",
        {
            "seed": SEED,
            "load_average": round(busy, 2),
            "triggers": TRIGGERS,
            "body_bytes": len(BODY),
            "requests": REPEATS,
            "in_process_us": in_process,
            "uvicorn": uvicorn,
        },
    )
    DOCUMENT.write_text(render(json.loads(path.read_bytes())), encoding="utf-8")
    print(f"results: {path}, {DOCUMENT}")


def _apps(monitor: Monitor) -> dict[str, Any]:
    engine = Engine(monitor, Policy(), front="asgi", registry=CollectorRegistry())
    return {
        "bare": bare,
        "guarded": GuardMiddleware(
            bare, monitor=monitor, fields=["text"], registry=CollectorRegistry()
        ),
        "base": Based(bare, engine),
    }


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
    """Render the page of a result."""
    times, environment = result["in_process_us"], result["environment"]
    empty, model = result["uvicorn"]["empty"], result["uvicorn"]["classifier"]
    added = times["guarded"]["p50"] - times["bare"]["p50"]
    base = times["base"]["p50"] - times["bare"]["p50"]

    def row(title: str, name: str) -> str:
        return f"| {title} | {times[name]['p50']:.1f} ({times[name]['p99']:.1f}) |"

    def rate(title: str, pair: Mapping[str, Any]) -> str:
        unguarded, guarded = (statistics.median(pair[name]) for name in ("unguarded", "guarded"))
        low, high = pair["ratio_range"]
        return (
            f"| {title} | {unguarded:,.1f} | {guarded:,.1f} | {pair['ratio']:.1%} "
            f"({low:.1%} to {high:.1%}) |"
        )

    lines = [
        "# What the fronts cost",
        "",
        "Written by `python -m benchmarks fronts`; do not edit. One run on "
        f"{environment['cores']} cores of {environment['processor']}, Python "
        f"{environment['python']}, load average {result['load_average']} before it. The body has "
        f"{result['body_bytes']} bytes and no trigger, the bank {result['triggers']:,}.",
        "",
        "## In one process",
        "",
        f"Microseconds are p50 (p99) of {result['requests']:,} requests, in turn, on one thread.",
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
        "## Under uvicorn",
        "",
        f"Requests per second by wrk, with {empty['connections']} connections on loopback, which "
        "shares the cores with the server's one process. Both are asked in turn, "
        f"{len(empty['guarded'])} times {empty['seconds']} s for the empty handler and "
        f"{len(model['guarded'])} times {model['seconds']} s for the classifier; medians, and of "
        "the ratio of a round its range too.",
        "",
        "| | unguarded | guarded | of the unguarded |",
        "|---|---|---|---|",
        rate("empty handler", empty),
        rate("MiniLM classifier (`examples/fastapi_app.py`)", model),
        "",
        f"- Empty handler: {empty['ratio']:.1%} of the unguarded rate; the target is 60 %: "
        f"{verdict(empty['ratio'] >= 0.6)}.",
        f"- MiniLM classifier: {model['ratio']:.1%}; the target is 98 %: "
        f"{verdict(model['ratio'] >= 0.98)}.",
        "",
        "## Memory",
        "",
        "Half an hour at full load: [soak](soak.md). Whose the memory is that still rises then: "
        "[memory](memory.md).",
        "",
    ]
    return "\n".join(lines)
