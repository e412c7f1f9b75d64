"""The messages of one WebSocket, guarded as they arrive."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from guard.body import UnreadableBody
from guard.content import decode_message, parse_message
from guard.engine import Engine
from guard.errors import TextTooLong
from guard.policy import Decision, undecided

Message = MutableMapping[str, Any]

# RFC 6455, 7.4.1, and the IANA registry for 1013.
POLICY_VIOLATION, TOO_BIG, TRY_AGAIN_LATER = 1008, 1009, 1013


class GuardedSocket:
    """The `receive` and `send` of an application behind one WebSocket.

    A message that is refused closes the connection: the application finds it disconnected, as if
    the client had gone, and the client gets 1008 for a text that is not allowed or cannot be
    scanned, 1009 for one that is too long, 1013 while the guard is broken.

    Parameters
    ----------
    engine
        What decides.
    receive, send
        Those of the server.
    flag
        Called with each decision on a message.
    """

    def __init__(
        self,
        engine: Engine,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
        flag: Callable[[Decision], None],
    ) -> None:
        self._engine = engine
        self._receive = receive
        self._send = send
        self._flag = flag
        self._held: Message | None = None
        self._closed: Message | None = None

    async def receive(self) -> Message:
        """Return the next message that may reach the application."""
        if self._closed is not None:
            return dict(self._closed)
        # Whoever cancels this call while it scans finds the message at the next one.
        message = self._held = self._held or await self._receive()
        if message["type"] == "websocket.receive":
            for key in ("text", "bytes"):
                if message.get(key):
                    message = await self._guard(message, key)
        self._held = None
        return message

    async def send(self, message: Message) -> None:
        """Send a message, unless the guard has closed the connection."""
        if self._closed is not None:
            # What servers raise after a disconnect, by the ASGI specification.
            raise OSError("the guard has closed this WebSocket")
        await self._send(message)

    async def _guard(self, message: Message, key: str) -> Message:
        data = message[key]
        rewritten: bytes | None = None
        texts: list[str] = []
        try:
            found = await self._engine.offload(len(data), self._inspect, data)
            if found is None:
                return message
            decision, rewritten, texts = found
        except Exception as error:  # no message that can be read, or a failure
            decision = undecided(self._engine.policy, error)
        decision = self._engine.report(decision, texts)
        self._flag(decision)
        if not decision.forward:
            return await self._close(decision)
        if rewritten is None:
            return message
        return {**message, key: rewritten.decode() if key == "text" else rewritten}

    def _inspect(self, data: str | bytes) -> tuple[Decision, bytes | None, list[str]] | None:
        limit = self._engine.policy.max_body
        text = decode_message(data, limit) if isinstance(data, bytes) else data
        if text is None:
            return None
        if len(text) > limit or len(encoded := text.encode("utf-8", "surrogatepass")) > limit:
            raise UnreadableBody("BodyTooLarge", 413, f"The message is over {limit} bytes.")
        decision, forwarded, texts = self._engine.evaluate_body(encoded, parse_message)
        return decision, None if forwarded is encoded else forwarded, texts

    async def _close(self, decision: Decision) -> Message:
        code, reason = POLICY_VIOLATION, decision.incident
        error = decision.error
        if decision.outcome == "failed":
            code = TRY_AGAIN_LATER
        elif isinstance(error, TextTooLong) or getattr(error, "status", None) == 413:
            code = TOO_BIG
        self._closed = {"type": "websocket.disconnect", "code": code, "reason": reason}
        await self._send({"type": "websocket.close", "code": code, "reason": reason})
        return dict(self._closed)
