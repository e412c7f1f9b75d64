"""Connections that keep the sidecar waiting are closed.

uvicorn counts connections, and waits for ever for what a client has begun to send, and for it to
read: whoever opened as many as it takes, and did nothing, would shut everybody else out.
"""

from __future__ import annotations

import asyncio
import socket

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

# Seconds that a client has for the whole head of a request, between two pieces of its body, and to
# read any of what waits for it.
PATIENCE = 30.0


class ImpatientProtocol(H11Protocol):
    """HTTP/1.1 for clients that go on with what they begin."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
            # Of the kernel, which alone sees what little a slow client reads.
            connection = transport.get_extra_info("socket")
            connection.setsockopt(
                socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(PATIENCE * 1000)
            )
        self._wait()

    def handle_events(self) -> None:
        """Handle what was sent, and wait for the rest if there is one."""
        super().handle_events()
        # A head may not come in pieces for ever; a body may be long.
        if self.conn.their_state is not h11.IDLE:
            self._stop()
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        super().connection_lost(exc)
        self._stop()

    def _wait(self) -> None:
        if self._timer is None and self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
            self._timer = self.loop.call_later(PATIENCE, self._late)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        if self.flow.read_paused:  # what it sends is not taken yet
            self._wait()
        else:
            self.transport.close()
