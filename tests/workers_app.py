"""A guarded application that starts quickly, for tests with several worker processes."""

from __future__ import annotations

import os

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from guard import GuardMiddleware, Monitor
from guard.metrics import exposition


async def _who(_request: Request) -> Response:
    return JSONResponse({"pid": os.getpid()})


async def _metrics(_request: Request) -> Response:
    return Response(exposition())


def from_env() -> Starlette:
    """Make the app with the monitor in MONITOR_DIR."""
    app = Starlette(routes=[Route("/", _who, methods=["POST"]), Route("/metrics", _metrics)])
    app.add_middleware(GuardMiddleware, monitor=Monitor.load(os.environ["MONITOR_DIR"]))
    return app
