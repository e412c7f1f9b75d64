"""A server that is played byte by byte, to stand behind the sidecar."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it came."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes
    whole: bool

    def values(self, name: str) -> list[str]:
        """Return the values of a header, in order."""
        return [value for key, value in self.headers if key == name]


Respond = Callable[[socket.socket, Received], None]


class Upstream:
    """What it received, and how it answers: `respond` sends bytes over the connection."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.received: list[Received] = []
        self.respond: Respond = lambda connection, _: connection.sendall(OK)
        self.arrived = threading.Event()
        self.closed = threading.Event()

    def answer(self, response: bytes) -> None:
        """Answer every request with these bytes."""
        self.respond = lambda connection, _: connection.sendall(response)

    def serve(self, connection: socket.socket) -> None:
        """Serve one connection until either side closes it."""
        with closing(connection), connection.makefile("rb") as file:
            try:
                while line := file.readline():
                    request = _read(line, file)
                    self.received.append(request)
                    self.arrived.set()
                    if not request.whole:
                        break
                    self.respond(connection, request)
            except OSError:
                pass
        self.closed.set()


def reset(connection: socket.socket) -> None:
    """Break a connection off so that the other end sees an error, not an end."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    raise ConnectionResetError


def _read(line: bytes, file: object) -> Received:
    readline, read = file.readline, file.read  # type: ignore[attr-defined]
    headers = []
    while (raw := readline().strip()) != b"":
        name, _, value = raw.decode("latin-1").partition(":")
        headers.append((name.lower(), value.strip()))
    fields = dict(headers)
    body, whole = b"", True
    if fields.get("transfer-encoding") == "chunked":
        while True:
            size = readline()
            if not size:
                whole = False
                break
            body += read(int(size, 16))
            readline()
            if int(size, 16) == 0:
                break
    elif length := int(fields.get("content-length", 0)):
        body = read(length)
        whole = len(body) == length
    return Received(line.decode("latin-1").strip(), headers, body, whole)


@contextmanager
def playing() -> Iterator[Upstream]:
    """Listen on a free port."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        upstream = Upstream(listener.getsockname()[1])
        connections: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                connections.append(connection)
                threading.Thread(target=upstream.serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield upstream
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for connection in connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
