"""GuardMiddleware: guards the text that an ASGI application receives.

It looks at neither the method nor, unless told, the content type to decide whether there is
something to scan, because applications need not respect them: any HTTP request with a body is
scanned, and every message of a WebSocket that is text. Text in a path or in headers is not.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from functools import partial
from typing import Any, TypeAlias, Unpack

from prometheus_client import CollectorRegistry

from guard.content import Kind, Reader, check_kinds, check_query_headers
from guard.engine import Engine
from guard.fields import compile_fields
from guard.forms import parse_form
from guard.live import LiveMonitor
from guard.monitor import Monitor
from guard.policy import Decision, Policy, PolicyOptions, undecided
from guard.problem import refuse
from guard.websocket import POLICY_VIOLATION, TRY_AGAIN_LATER, GuardedSocket

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

# Where guards leave their verdicts to those further in. Clients cannot put anything into a scope.
FLAGS = "trigger_guard.verdicts"


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
        Where the text is in JSON: dotted paths such as ``"text"`` or ``"inputs.text"``, which pass
        through lists, or JSONPath (RFC 9535) such as ``"$.messages[*].content"``. Below the named
        place every string is scanned. Every field has to be in every JSON body, so that a wrong
        declaration shows at the first request and not never. Numbers and booleans there are
        refused, because they may be token ids.
        None, the default, scans every string of the body, keys included. Numbers are then not
        looked at: an endpoint that takes token ids needs another guard.
    also
        What is read beside JSON bodies, of which every text is scanned: ``"text"`` (bodies of type
        text/plain), ``"form"``, ``"multipart"`` (each part that is UTF-8) and ``"query"`` (the
        parameters in the URL, decided on before the body). Without them, forms are refused as
        unscannable, text is taken for JSON, and the query is not looked at.
    policy
        What to do; or leave it out and write options of `Policy` as keyword arguments.
    registry
        Where to register the metrics; the default registry if None.
    **options
        Those of `Policy`. Its ``action`` here: ``"block"`` (the default) answers 403 where there is
        a trigger. ``"strip"`` forwards the request without it, and answers 403 where that cannot be
        done. ``"flag"`` forwards, with the verdicts in ``scope["state"]["guard"]``, which is
        ``request.state.guard`` in Starlette: a tuple, with None for what could not be scanned, and
        empty for a request without text. Of several guards that flag, the outermost one's verdicts
        come first; what else was in that place is replaced, and what runs between guard and
        endpoint has to leave it alone. ``"observe"`` changes nothing and only counts and logs what
        the application reads. ``on_failure="closed"`` answers 503 while the guard itself is broken,
        ``on_unscannable="block"`` 4xx to what cannot be scanned: a body that is not JSON, is over
        ``max_body``, is compressed in another way than gzip or deflate, or lacks a field.

    Raises
    ------
    ConfigError
        An option has no such value or type.
    ArtifactError
        The monitor does not load.

    Notes
    -----
    A body that was compressed is forwarded inflated, without its Content-Encoding: the application
    reads what was scanned. Under ``"observe"`` it stays as it came.

    Messages of a WebSocket are scanned one by one, those in bytes too if they are UTF-8; one that
    is a JSON object or list is scanned as such, whatever `fields` says. JSON in UTF-16 or UTF-32 is
    refused, and other bytes pass. Where one is refused, the connection is closed, with 1008, 1009
    (too large) or 1013 (the guard is broken). Under ``"flag"`` the verdicts are those of the last
    message.
    """

    # Its name in metrics and logs.
    front = "asgi"

    def __init__(
        self,
        app: App,
        *,
        monitor: Monitor | LiveMonitor | str | os.PathLike[str],
        fields: Iterable[str] | None = None,
        also: Iterable[Kind] = (),
        policy: Policy | None = None,
        registry: CollectorRegistry | None = None,
        **options: Unpack[PolicyOptions],
    ) -> None:
        self.app = app
        self.policy = Policy.of(policy, options)
        kinds = check_kinds(also)
        self._reader = Reader(compile_fields(fields), kinds, self.policy.max_body)
        self._with_query = "query" in kinds
        self._engine = Engine(monitor, self.policy, front=self.front, registry=registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "http":
            if self.policy.action == "observe":
                if self._with_query:
                    await self._inspect_query(scope)
                await self.app(scope, _Observer(self, scope, receive), send)
            else:
                await self._guard(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._guard_socket(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _guard(self, scope: Scope, receive: Receive, send: Send) -> None:
        verdicts = scope.get(FLAGS, ())
        if self._with_query and scope.get("query_string"):
            decision, scope = await self._inspect_query(scope)
            if not decision.forward:
                await refuse(decision, scope, send, unread=_has_body(scope))
                return
            verdicts += decision.verdicts
        buffer = bytearray()
        more = True
        while more and len(buffer) <= self.policy.max_body:
            message = await receive()
            if message["type"] != "http.request":
                return  # the client left: there is nothing whole to forward, and no one to answer
            buffer += message.get("body", b"")
            more = message.get("more_body", False)
        body = bytes(buffer)
        del buffer
        if body:
            decision, forwarded = await self.inspect(scope, body)
            if not decision.forward:
                await refuse(decision, scope, send, unread=more)
                return
            verdicts += decision.verdicts
            if forwarded is not body:
                scope = {**scope, "headers": _of_length(scope["headers"], len(forwarded))}
                body = forwarded
        if self.policy.action == "flag":
            # Set for every request, so that what is there is never someone else's: servers copy
            # their state into each, and only the scope is sure to be of this one.
            scope[FLAGS] = verdicts
            scope.setdefault("state", {})["guard"] = verdicts
        first: Message = {"type": "http.request", "body": body, "more_body": more}
        await self.app(scope, _replay(first, receive), send)

    async def _guard_socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        verdicts = scope.get(FLAGS, ())
        if self._with_query and scope.get("query_string"):
            decision, scope = await self._inspect_query(scope)
            if not decision.forward:
                code = TRY_AGAIN_LATER if decision.outcome == "failed" else POLICY_VIOLATION
                await receive()  # the client's wish to connect, which is what is answered
                await send({"type": "websocket.close", "code": code, "reason": decision.incident})
                return
            verdicts += decision.verdicts

        def flag(decision: Decision) -> None:
            if self.policy.action == "flag":
                scope[FLAGS] = scope.setdefault("state", {})["guard"] = decision.verdicts

        if self.policy.action == "flag":
            scope[FLAGS] = scope.setdefault("state", {})["guard"] = verdicts
        socket = GuardedSocket(self._engine, receive, send, flag)
        await self.app(scope, socket.receive, socket.send)

    async def inspect(self, scope: Scope, body: bytes) -> tuple[Decision, bytes]:
        """Decide on a body; return what to forward in its place. Never raises an Exception.

        What is returned is `body` itself where it is to be forwarded as it came.
        """
        headers = scope["headers"]
        size = len(body)
        if any(name.lower() == b"content-encoding" for name, _ in headers):
            size = self.policy.max_body  # it may inflate to that
        texts: list[str] = []
        forwarded = body
        try:
            decision, forwarded, texts = await self._engine.offload(
                size, self._inspect, headers, body
            )
        except Exception as error:  # InputError or a failure: the policy tells them apart
            decision = undecided(self.policy, error)
        return self._engine.report(decision, texts), forwarded

    def _inspect(
        self, headers: Iterable[tuple[bytes, bytes]], body: bytes
    ) -> tuple[Decision, bytes, list[str]]:
        return self._engine.evaluate_body(*self._reader.open(headers, body))

    async def _inspect_query(self, scope: Scope) -> tuple[Decision, Scope]:
        """Decide on the query; return the scope to forward in place of this one."""
        query = scope.get("query_string", b"")
        texts: list[str] = []
        try:
            decision, forwarded, texts = await self._engine.offload(
                len(query), self._decide_query, scope["headers"], query
            )
        except Exception as error:
            decision, forwarded = undecided(self.policy, error), query
        decision = self._engine.report(decision, texts)
        return decision, scope if forwarded is query else {**scope, "query_string": forwarded}

    def _decide_query(
        self, headers: Iterable[tuple[bytes, bytes]], query: bytes
    ) -> tuple[Decision, bytes, list[str]]:
        check_query_headers(headers)
        return self._engine.evaluate_body(query, parse_form)


class _Observer:
    """The application's `receive`, which keeps a copy of the body and scans it at its end.

    Every message is handed on as it came and when the application asks for it, so that even an
    application that answers while it reads works as without the guard.
    """

    def __init__(self, guard: GuardMiddleware, scope: Scope, receive: Receive) -> None:
        self._inspect: Callable[[bytes], Awaitable[object]] = partial(guard.inspect, dict(scope))
        self._limit = guard.policy.max_body
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


def _of_length(headers: Iterable[tuple[bytes, bytes]], length: int) -> list[tuple[bytes, bytes]]:
    """Return the headers of a body that is not as it was sent, and no longer compressed."""
    return [
        (name, str(length).encode() if name.lower() == b"content-length" else value)
        for name, value in headers
        if name.lower() != b"content-encoding"
    ]


def _has_body(scope: Scope) -> bool:
    return any(
        name.lower() in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"]
    )
