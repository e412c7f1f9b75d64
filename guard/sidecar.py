"""The process of ``guard proxy``: two servers, signals, and a bank that is followed.

What clients send goes to one port, and health and metrics have another. So no path of the server
behind it is hidden, who may send texts does not thereby read which triggers were met, and both
answer while the first port is at its limit. ``/healthz`` says that the process lives. ``/readyz``
says that it serves, and no longer says so from the first SIGTERM on; it does not ask the server
behind, which has a health check of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import logging.handlers
import os
import signal
import socket
import sys
from collections.abc import Iterator
from types import FrameType

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from guard.asgi import App
from guard.errors import ConfigError
from guard.metrics import exposition
from guard.reload import Follower
from guard.waiting import ImpatientProtocol

logger = logging.getLogger("guard")

# Connections at once. Each may hold a body of `max_body` bytes.
MAX_CONNECTIONS = 1000


class _Server(uvicorn.Server):
    """Leaves the signals to the sidecar: there are two servers, and they end in order."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Sidecar:
    """Serve a guarded application until SIGTERM, and then finish what was begun.

    Parameters
    ----------
    app
        A guarded `ReverseProxy`.
    follower
        Looks after the bank.
    address, admin
        Host and port for clients, and for health and metrics. Port 0 takes a free one.
    drain
        Seconds that requests have to finish after SIGTERM.
    """

    def __init__(
        self,
        app: App,
        follower: Follower,
        *,
        address: tuple[str, int],
        admin: tuple[str, int],
        drain: int,
    ) -> None:
        routes = [
            Route("/healthz", self._healthz),
            Route("/readyz", self._readyz),
            Route("/metrics", self._metrics),
        ]
        self._main = _server(app, lifespan="on", drain=drain, limit=MAX_CONNECTIONS)
        self._admin = _server(Starlette(routes=routes), lifespan="off", drain=1, limit=None)
        self._follower = follower
        self._sockets = [_listen(*address), _listen(*admin)]
        self._hangup = False

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        actions = {"SIGTERM": self._end, "SIGINT": self._end, "SIGHUP": self._hang_up}
        for name, action in actions.items():
            if hasattr(signal, name):  # Windows has no SIGHUP
                signal.signal(getattr(signal, name), action)
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        for what, listener in zip(("clients", "health and metrics"), self._sockets, strict=True):
            host, port = listener.getsockname()[:2]
            logger.info("listening for %s on http://%s:%d", what, host, port)
        following = asyncio.create_task(self._follower.run(told=self._told))
        admin = asyncio.create_task(self._admin.serve([self._sockets[1]]))
        try:
            await self._main.serve([self._sockets[0]])
        finally:
            # Last, so that one can look on while requests finish.
            self._admin.should_exit = True
            await admin
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following

    def _end(self, _number: int, _frame: FrameType | None) -> None:
        # Who asks twice does not want to wait.
        self._main.force_exit = self._main.should_exit
        self._main.should_exit = True

    def _hang_up(self, _number: int, _frame: FrameType | None) -> None:
        self._hangup = True

    def _told(self) -> bool:
        told, self._hangup = self._hangup, False
        return told

    async def _healthz(self, _request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _readyz(self, _request: Request) -> Response:
        ready = self._main.started and not self._main.should_exit
        return JSONResponse(
            {"status": "ready" if ready else "not ready"}, status_code=200 if ready else 503
        )

    async def _metrics(self, _request: Request) -> Response:
        return Response(exposition(), media_type=CONTENT_TYPE_LATEST)


def log_to(audit: str | None) -> None:
    """Log to stderr, and the audit log to a file, to stdout for ``-``, or nowhere for None."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpcore").setLevel(logging.WARNING)
    lines = logging.getLogger("guard.audit")
    lines.propagate = False
    if audit is None:
        lines.setLevel(logging.CRITICAL)
        return
    handler: logging.Handler = logging.StreamHandler(sys.stdout)
    if audit != "-":
        try:
            handler = logging.handlers.WatchedFileHandler(audit, encoding="utf-8")
        except OSError as error:
            raise ConfigError(
                f"{audit} cannot be written ({error.strerror}); name a file in a directory that "
                "exists, or - for stdout"
            ) from error
    lines.addHandler(handler)
    lines.setLevel(logging.INFO)


def _server(app: App, *, lifespan: str, drain: int, limit: int | None) -> _Server:
    return _Server(
        uvicorn.Config(
            app,
            http=ImpatientProtocol,
            ws="none",
            loop="asyncio",
            lifespan=lifespan,  # type: ignore[arg-type]
            log_config=None,
            access_log=False,
            # The answer is the other server's, with its own Server and Date.
            server_header=False,
            date_header=False,
            # X-Forwarded-For of a client is passed on, not believed.
            proxy_headers=False,
            limit_concurrency=limit,
            timeout_graceful_shutdown=drain,
        )
    )


def _listen(host: str, port: int) -> socket.socket:
    listener = None
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family)
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)  # from here on nobody is turned away who read the log
    except (OSError, UnicodeError) as error:  # a name that no domain name can be
        if listener is not None:
            listener.close()
        raise ConfigError(f"cannot listen on {host}:{port} ({error}); choose another") from error
    return listener
