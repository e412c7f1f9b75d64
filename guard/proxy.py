"""ReverseProxy: an ASGI application that is another server, in whatever language that is written.

It passes on what HTTP has from end to end, and keeps what is between two neighbours to itself
(RFC 9110, 7.6): method, target, headers in their order, body and status go through as they came;
``Connection`` and what it names, ``TE``, ``Trailer``, ``Upgrade`` and the framing do not. ``Host``
is the client's own. ``X-Forwarded-For`` and ``Via`` grow by one; ``X-Forwarded-Proto`` and
``X-Forwarded-Host`` are set where no one further out has set them, so that the server may trust
them as far as it could without this in between. Bodies stream in both directions, and a response
that the server breaks off is broken off here too, never ended as if it were whole.

Under ``"flag"`` the server reads in ``X-Trigger-Guard`` what was found: ``clean``, ``triggered`` or
``unscanned``. What a client writes there is taken out, under any action.

Not passed on: trailers, 103 Early Hints, and changes of protocol, WebSocket among them. What
expects ``100 Continue`` gets it from here.
"""

from __future__ import annotations

import json
import logging
import re
import ssl
from collections.abc import AsyncIterator, Iterable, Sequence
from urllib.parse import urlsplit

import anyio
import httpcore
from prometheus_client import CollectorRegistry

from guard.asgi import FLAGS, GuardMiddleware, Receive, Scope, Send
from guard.errors import ConfigError
from guard.metrics import UpstreamError, metrics_on
from guard.verdict import Verdict

logger = logging.getLogger("guard")

# Seconds. Servers close idle connections too (Node.js after 5), and a request that meets that
# fails.
KEEPALIVE = 2.0
CONNECT_TIMEOUT = 5.0

_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer "
    b"transfer-encoding upgrade".split()
)
# A client may not have these taken out by naming them in Connection.
_KEPT = frozenset(
    b"content-length content-type cookie host via x-forwarded-for x-forwarded-host "
    b"x-forwarded-proto".split()
)

# Where "flag" tells the server what was found. Servers that keep headers as variables of an
# environment read an underscore as a dash.
_VERDICT = b"x-trigger-guard"

_HOST = re.compile(r"[A-Za-z0-9._:%-]+")

_Headers = list[tuple[bytes, bytes]]


class GuardedProxy(GuardMiddleware):
    """The middleware, as the front ``"proxy"``."""

    front = "proxy"


class ReverseProxy:
    """Forward every request to one server.

    Parameters
    ----------
    upstream
        ``http://host:port`` or ``https://host:port`` of the server, without a path.
    timeout
        Seconds that the server may take to begin its response, and between two pieces of it.
    registry
        Where failures of the server are counted; the default registry if None.

    Attributes
    ----------
    address
        Host and port of the server.

    Raises
    ------
    ConfigError
        `upstream` is no such URL, or `timeout` no number of seconds.
    """

    def __init__(
        self, upstream: str, *, timeout: float = 60.0, registry: CollectorRegistry | None = None
    ) -> None:
        self._origin = _origin(upstream)
        self.address = self._origin[1:]
        if not 0 < timeout < float("inf"):
            raise ConfigError(f"timeout={timeout!r} is no number of seconds; set it above 0")
        self._timeouts = {"connect": CONNECT_TIMEOUT, "read": timeout, "write": timeout}
        self._errors = metrics_on(registry).upstream_errors
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl.create_default_context() if upstream.startswith("https:") else None,
            max_connections=None,
            keepalive_expiry=KEEPALIVE,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the server's start and end."""
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await self._pool.aclose()
            await send({"type": "lifespan.shutdown.complete"})
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        target = scope["raw_path"]
        if scope["method"] == "CONNECT":
            await _answer(scope, send, 501, "not-implemented", "This server opens no tunnels.")
            return
        if not target.startswith(b"/") and target != b"*":
            await _answer(scope, send, 400, "bad-target", "Send a path, not a whole URL.")
            return
        if scope["query_string"]:
            target += b"?" + scope["query_string"]
        upload = _Upload(receive)
        scheme, host, port = self._origin
        request = httpcore.Request(
            scope["method"],
            httpcore.URL(scheme=scheme, host=host, port=port, target=target),
            headers=_forwarded(scope),
            content=upload,
            extensions={"timeout": self._timeouts},
        )
        async with anyio.create_task_group() as group:
            # Whoever left needs no answer, and the server need not go on computing one.
            group.start_soon(upload.cancel_when_gone, group.cancel_scope)
            await self._exchange(request, upload, scope, send)
            group.cancel_scope.cancel()

    async def _exchange(
        self, request: httpcore.Request, upload: _Upload, scope: Scope, send: Send
    ) -> None:
        started = False
        try:
            response = await self._pool.handle_async_request(request)
            upload.finished.set()
            try:
                if response.status == 101:
                    raise httpcore.RemoteProtocolError("it changes the protocol, unasked for")
                headers = _end_to_end(response.headers)
                started = True
                await send(
                    {"type": "http.response.start", "status": response.status, "headers": headers}
                )
                async for chunk in response.aiter_stream():
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            finally:
                await response.aclose()
            await send({"type": "http.response.body"})
        except _ClientGone:
            pass
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            kind = "truncated" if started else _kind(error)
            self._errors.labels(kind).inc()
            logger.warning("upstream=%s error=%s", kind, type(error).__name__)
            # Left unfinished, so that the server closes the connection: the client sees the end
            # of the response missing, as it is.
            if not started:
                await _answer(scope, send, *_FAILURES[kind])


class _ClientGone(Exception):
    """The client left before the end of its request."""


class _Upload:
    """The body of a request, as it comes."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.finished = anyio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        more = True
        while more:
            message = await self._receive()
            if message["type"] != "http.request":
                raise _ClientGone  # the server must not take what came for the whole
            if body := message.get("body", b""):
                yield body
            more = message.get("more_body", False)
        self.finished.set()

    async def cancel_when_gone(self, scope: anyio.CancelScope) -> None:
        await self.finished.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass  # the rest of a body that was answered before its end
        scope.cancel()


_FAILURES: dict[UpstreamError, tuple[int, str, str]] = {
    "unreachable": (502, "upstream-unreachable", "The server behind this one cannot be reached."),
    "broken": (502, "upstream-broken", "The server behind this one gave no valid response."),
    "timeout": (504, "upstream-timeout", "The server behind this one took too long."),
}


def _kind(error: Exception) -> UpstreamError:
    if isinstance(error, (httpcore.ConnectError, httpcore.ConnectTimeout)):
        return "unreachable"
    return "timeout" if isinstance(error, httpcore.TimeoutException) else "broken"


def _origin(upstream: str) -> tuple[str, str, int]:
    """Return scheme, host and port."""
    try:
        url = urlsplit(upstream)
        port = url.port
    except ValueError:
        url, port = urlsplit(""), None
    if (
        url.scheme not in ("http", "https")
        or not _HOST.fullmatch(url.hostname or "")
        or url.path not in ("", "/")
        or url.query
        or url.fragment
        or url.username is not None
    ):
        raise ConfigError(
            f"{upstream!r} is no server to forward to; give it as http://127.0.0.1:8000, without a "
            "path or a password, and a name that is not ASCII as it is looked up (xn--...)"
        )
    assert url.hostname is not None
    return url.scheme, url.hostname, port or (443 if url.scheme == "https" else 80)


def _end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> _Headers:
    """Leave out the headers that are for the next neighbour only."""
    headers = [(name.lower(), value) for name, value in headers]
    named = {
        option.strip().lower()
        for name, value in headers
        if name == b"connection"
        for option in value.split(b",")
    }
    dropped = _HOP_BY_HOP | (named - _KEPT)
    return [(name, value) for name, value in headers if name not in dropped]


def _forwarded(scope: Scope) -> _Headers:
    """Return the headers of the request that is made of the client's."""
    chunked = any(name == b"transfer-encoding" for name, _ in scope["headers"])
    # The guard has read the body, so it is here that the client is told to go on.
    dropped = {b"expect", b"content-length"} if chunked else {b"expect"}
    headers = [
        (name, value)
        for name, value in _end_to_end(scope["headers"])
        if name not in dropped and name.replace(b"_", b"-") != _VERDICT
    ]
    if FLAGS in scope:
        headers.append((_VERDICT, _verdict(scope[FLAGS])))
    given = {name for name, _ in headers}
    if chunked:
        headers.append((b"transfer-encoding", b"chunked"))
    _append(headers, b"via", f"{scope['http_version']} trigger-guard".encode())
    if scope.get("client"):
        _append(headers, b"x-forwarded-for", scope["client"][0].encode())
    if b"x-forwarded-proto" not in given:
        headers.append((b"x-forwarded-proto", scope["scheme"].encode()))
    host = next((value for name, value in headers if name == b"host"), None)
    if host is None:
        headers.append((b"host", b""))  # HTTP/1.0 needs none, and 1.1 does
    elif b"x-forwarded-host" not in given:
        headers.append((b"x-forwarded-host", host))
    return headers


def _verdict(verdicts: Sequence[Verdict | None]) -> bytes:
    if any(verdict is not None and verdict.triggered for verdict in verdicts):
        return b"triggered"
    return b"unscanned" if None in verdicts else b"clean"


def _append(headers: _Headers, name: bytes, value: bytes) -> None:
    """Add to a header that is a list, at its end."""
    before = [old for key, old in headers if key == name]
    headers[:] = [item for item in headers if item[0] != name]
    headers.append((name, b", ".join([*before, value])))


async def _answer(scope: Scope, send: Send, status: int, kind: str, detail: str) -> None:
    """Answer with problem details (RFC 9457)."""
    problem = {
        "type": f"urn:trigger-guard:problem:{kind}",
        "title": "The request was not served",
        "status": status,
        "detail": detail,
    }
    body = json.dumps(problem).encode()
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
