"""Requests per second under uvicorn, with the guard and without: a part of the fronts' figures.

Both servers of a pair run at once, each in a process of its own on loopback, and wrk asks them in
turn; the idle one takes no time. What counts is the ratio of a round.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from benchmarks.debian import libraries, programs
from benchmarks.served import serve
from examples.fastapi_app import classifier_app
from guard import GuardMiddleware
from guard.files import Json

# Prints what the run came to as JSON; "status" counts what was not answered with 2xx or 3xx.
_SCRIPT = """
wrk.method = "POST"
wrk.body = [==[%s]==]
wrk.headers["Content-Type"] = "application/json"
done = function(summary)
  local e = summary.errors
  print(string.format('{"requests": %%d, "us": %%d, "failed": %%d}', summary.requests,
    summary.duration, e.connect + e.read + e.write + e.status + e.timeout))
end
"""


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """Read the body and answer with nothing."""
    if scope["type"] != "http":  # uvicorn goes on without the lifespan events
        raise NotImplementedError
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def unguarded_empty() -> Any:
    """Make the application that does nothing."""
    return bare


def guarded_empty() -> Any:
    """Make the same, guarded by the monitor in MONITOR_DIR."""
    return GuardMiddleware(bare, monitor=os.environ["MONITOR_DIR"], fields=["text"])


def unguarded_classifier() -> FastAPI:
    """Make the example without its guard, of the classifier in MODEL_DIR."""
    return classifier_app(os.environ["MODEL_DIR"])


@dataclass(frozen=True, slots=True)
class Pair:
    """Two applications that differ in the guard alone.

    Parameters
    ----------
    unguarded, guarded
        Where uvicorn finds the functions that make them.
    path
        The endpoint.
    rounds
        How often each is asked.
    seconds
        How long at a time.
    """

    unguarded: str
    guarded: str
    path: str
    rounds: int
    seconds: int


EMPTY = Pair("benchmarks.rates:unguarded_empty", "benchmarks.rates:guarded_empty", "/", 5, 3)
CLASSIFIER = Pair(
    "benchmarks.rates:unguarded_classifier", "examples.fastapi_app:from_env", "/classify", 10, 3
)
# One event loop is kept busy by few connections; more would only wait in its queue.
CONNECTIONS = 4
_WARM_UP = 1
PACKAGES = ("wrk", "libluajit-5.1-2", "libluajit-5.1-common")


async def measure(
    pair: Pair, body: bytes, scratch: Path, settings: dict[str, str]
) -> dict[str, Json]:
    """Return the requests per second of each round, and the median of the rounds' ratios."""
    wrk = programs(["wrk"], PACKAGES)["wrk"]
    script = scratch / "post.lua"
    script.write_text(_SCRIPT % body.decode(), encoding="utf-8")
    rates: dict[str, list[float]] = {"unguarded": [], "guarded": []}
    async with AsyncExitStack() as stack:
        urls = {}
        for name, factory in (("unguarded", pair.unguarded), ("guarded", pair.guarded)):
            command = ["uvicorn", "--factory", factory, "--no-access-log"]
            server = await stack.enter_async_context(
                serve(scratch / f"{name}.probe", command, ["--port", "0"], settings)
            )
            urls[name] = f"http://127.0.0.1:{server.port}{pair.path}"
            await _rate(wrk, script, urls[name], _WARM_UP)
        for number in range(pair.rounds):
            # Which one is first alternates, so that a machine that slows down favours neither.
            for name in sorted(urls, reverse=bool(number % 2)):
                rates[name].append(await _rate(wrk, script, urls[name], pair.seconds))
    ratios = [
        guarded / unguarded
        for guarded, unguarded in zip(rates["guarded"], rates["unguarded"], strict=True)
    ]
    return {
        "seconds": pair.seconds,
        "connections": CONNECTIONS,
        **{name: [round(rate, 1) for rate in values] for name, values in rates.items()},
        "ratio": round(statistics.median(ratios), 4),
        "ratio_range": [round(min(ratios), 4), round(max(ratios), 4)],
    }


async def _rate(wrk: str, script: Path, url: str, seconds: int) -> float:
    process = await asyncio.create_subprocess_exec(
        *(wrk, "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", script, url),
        env={**os.environ, "LD_LIBRARY_PATH": libraries()},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"wrk ended with {process.returncode}: {output.decode()}")
    figures = json.loads(output.splitlines()[-1])
    if figures["failed"] or not figures["requests"]:
        raise RuntimeError(f"not every request to {url} was answered with 200: {figures}")
    return float(figures["requests"] / figures["us"] * 1e6)
