"""GuardMiddleware: guards the JSON bodies that an ASGI application receives.

It looks at neither the method nor the content type to decide whether there is something to scan,
because applications need not respect them: any HTTP request with a body is scanned. Text in the
URL or in headers is not, nor are WebSocket messages.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from functools import partial
from typing import Any, TypeAlias

from prometheus_client import CollectorRegistry

from guard.body import UnreadableBody, check_headers, compile_fields, parse
from guard.engine import Engine, offload
from guard.errors import ConfigError, TextTooLong
from guard.live import LiveMonitor
from guard.metrics import kind_of
from guard.monitor import Monitor
from guard.policy import Action, Decision, OnFailure, OnUnscannable, Policy

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_BODY = 2**20
# Where guards leave their verdicts to those further in. Clients cannot put anything into a scope.
_FLAGS = "trigger_guard.verdicts"
RETRY_AFTER_SECONDS = 5


class GuardMiddleware:
    """Scan the text in request bodies before, or while, the application reads them.

    Parameters
    ----------
    app
        The ASGI application to guard.
    monitor
        A `Monitor`, or the directory of one. Starlette makes its middleware at the first event, so
        pass it a `Monitor`: one that does not load then stops the start.
    fields
        Where the text is: dotted paths such as ``"text"`` or ``"inputs.text"``. Lists are passed
        through on the way, and below the named place every string is scanned. Every field has to
        be in every body, so that a wrong declaration shows at the first request and not never.
        Numbers and booleans there are refused, because they may be token ids.
        None, the default, scans every string of the body, keys included. Numbers are then not
        looked at: an endpoint that takes token ids needs another guard.
    action
        ``"block"`` (the default) answers 403 where there is a trigger. ``"strip"`` forwards the
        body without it, and answers 403 where that cannot be done. ``"flag"`` forwards, with the
        verdicts in ``scope["state"]["guard"]``, which is ``request.state.guard`` in Starlette: a
        tuple, with None for what could not be scanned, and empty for a request without a body.
        Of several guards that flag, the outermost one's verdicts come first; what else was in
        that place is replaced, and what runs between guard and endpoint has to leave it alone.
        ``"observe"`` changes nothing and only counts and logs what the application reads.
    on_failure
        ``"closed"`` answers 503 while the guard itself is broken; ``"open"`` forwards unscanned.
    on_unscannable
        ``"block"`` answers 4xx to a body that cannot be scanned: one that is not JSON, is over
        `max_body`, is compressed, or lacks a field. ``"allow"`` forwards it.
    max_body
        Bytes of a body that are read at most, counted as they arrive.
    registry
        Where to register the metrics; the default registry if None.

    Raises
    ------
    ConfigError
        An option has no such value or type.
    ArtifactError
        The monitor does not load.
    """

    # Its name in metrics and logs.
    front = "asgi"

    def __init__(
        self,
        app: App,
        *,
        monitor: Monitor | LiveMonitor | str | os.PathLike[str],
        fields: Iterable[str] | None = None,
        action: Action = "block",
        on_failure: OnFailure = "closed",
        on_unscannable: OnUnscannable = "block",
        max_body: int = MAX_BODY,
        registry: CollectorRegistry | None = None,
    ) -> None:
        if type(max_body) is not int or max_body < 1:
            raise ConfigError(f"max_body={max_body!r} is no number of bytes; set it to 1 or more")
        self.app = app
        self._fields = compile_fields(fields)
        self._max_body = max_body
        policy = Policy(action=action, on_failure=on_failure, on_unscannable=on_unscannable)
        self._engine = Engine(monitor, policy, front=self.front, registry=registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif self._engine.policy.action == "observe":
            await self.app(scope, _Observer(self, scope, receive), send)
        else:
            await self._guard(scope, receive, send)

    async def _guard(self, scope: Scope, receive: Receive, send: Send) -> None:
        buffer = bytearray()
        more = True
        while more and len(buffer) <= self._max_body:
            message = await receive()
            if message["type"] != "http.request":
                return  # the client left: there is nothing whole to forward, and no one to answer
            buffer += message.get("body", b"")
            more = message.get("more_body", False)
        body = bytes(buffer)
        del buffer
        decision = None
        if body:
            decision, body = await self.inspect(scope, body)
            if not decision.forward:
                await _refuse(decision, scope, send, unread=more)
                return
        if self._engine.policy.action == "flag":
            # Set for every request, so that what is there is never someone else's: servers copy
            # their state into each, and only the scope is sure to be of this one.
            scope[_FLAGS] = (*scope.get(_FLAGS, ()), *(decision.verdicts if decision else ()))
            scope.setdefault("state", {})["guard"] = scope[_FLAGS]
        elif decision and decision.outcome == "stripped":
            scope = {**scope, "headers": _with_length(scope["headers"], len(body))}
        first: Message = {"type": "http.request", "body": body, "more_body": more}
        await self.app(scope, _replay(first, receive), send)

    async def inspect(self, scope: Scope, body: bytes) -> tuple[Decision, bytes]:
        """Decide on a body; return what to forward in its place. Never raises an Exception."""
        try:
            with self._engine.in_flight:
                return await offload(len(body), self._inspect, scope["headers"], body)
        except Exception as error:  # InputError or a failure: the policy tells them apart
            return self._engine.undecided(error), body

    def _inspect(
        self, headers: Iterable[tuple[bytes, bytes]], body: bytes
    ) -> tuple[Decision, bytes]:
        check_headers(headers)
        if len(body) > self._max_body:
            raise UnreadableBody(
                "BodyTooLarge", 413, f"The body is over {self._max_body} bytes. Send less at once."
            )
        document = parse(body, self._fields)
        decision = self._engine.decide(document.texts, document.keys)
        if decision.outcome == "stripped":
            body = document.replace(decision.texts)
        return decision, body


class _Observer:
    """The application's `receive`, which keeps a copy of the body and scans it at its end.

    Every message is handed on as it came and when the application asks for it, so that even an
    application that answers while it reads works as without the guard.
    """

    def __init__(self, guard: GuardMiddleware, scope: Scope, receive: Receive) -> None:
        self._inspect: Callable[[bytes], Awaitable[object]] = partial(guard.inspect, dict(scope))
        self._limit = guard._max_body
        self._receive = receive
        self._buffer = bytearray()
        self._done = False
        self._held: Message | None = None

    async def __call__(self) -> Message:
        if self._held is not None:
            message, self._held = self._held, None
            return message
        message = await self._receive()
        if self._done or message["type"] != "http.request":
            return message
        self._buffer += message.get("body", b"")
        self._done = not message.get("more_body", False) or len(self._buffer) > self._limit
        if self._done and self._buffer:
            # Whoever cancels this call finds the message at the next one.
            self._held = message
            await self._inspect(bytes(self._buffer))
            self._held = None
            self._buffer.clear()
        return message


def _replay(first: Message, receive: Receive) -> Receive:
    pending = [first]

    async def replayed() -> Message:
        return pending.pop() if pending else await receive()

    return replayed


def _with_length(headers: Iterable[tuple[bytes, bytes]], length: int) -> list[tuple[bytes, bytes]]:
    return [
        (name, str(length).encode() if name.lower() == b"content-length" else value)
        for name, value in headers
    ]


async def _refuse(decision: Decision, scope: Scope, send: Send, *, unread: bool) -> None:
    """Answer with problem details (RFC 9457) that say why, and never which text."""
    status, problem = _problem(decision)
    body = json.dumps(problem).encode()
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    if status == 503:
        headers.append((b"retry-after", str(RETRY_AFTER_SECONDS).encode()))
    if unread and scope.get("http_version") in ("1.0", "1.1"):
        # What is left of the body must not be taken for the next request on this connection.
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def _problem(decision: Decision) -> tuple[int, dict[str, object]]:
    """Return the status and the problem document of a refusal."""
    error = decision.error
    problem: dict[str, object]
    if decision.outcome == "blocked":
        status, problem = (
            403,
            {
                "type": "urn:trigger-guard:problem:blocked",
                "title": "Refused because of its text",
                "detail": "A text in this request is not allowed here. Rephrase it, or quote the "
                "instance to the operator if this looks wrong.",
            },
        )
    elif decision.outcome == "unscannable" and error is not None:
        default = 413 if isinstance(error, TextTooLong) else 400
        status = error.status if isinstance(error, UnreadableBody) else default
        problem = {
            "type": "urn:trigger-guard:problem:unscannable",
            "title": "The request cannot be scanned",
            "detail": str(error),
            "reason": kind_of(error),
        }
    else:
        status, problem = (
            503,
            {
                "type": "urn:trigger-guard:problem:unavailable",
                "title": "The guard is not available",
                "detail": "The guard in front of this service failed, so the request was not "
                "forwarded. Try again later, and quote the instance to the operator.",
            },
        )
    return status, {**problem, "status": status, "instance": decision.incident}
