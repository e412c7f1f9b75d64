"""Connections that keep the sidecar waiting are closed.

uvicorn counts connections, and waits for ever for what a client has begun to send: whoever opened
as many as it takes, and sent nothing, would shut everybody else out.
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

# Seconds that a client has for the whole head of a request, and between two pieces of its body.
PATIENCE = 30.0


class ImpatientProtocol(H11Protocol):
    """HTTP/1.1 for clients that send what they begin to."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Read, and wait for the rest if there is one."""
        super().data_received(data)
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
        if self.flow.read_paused:  # what it sends is not read yet
            self._wait()
        else:
            self.transport.close()
