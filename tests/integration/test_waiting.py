"""Clients that begin something and do not go on, on real connections."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator, Iterator

import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from guard import waiting
from guard.sidecar import _server
from tests.integration.test_uvicorn import Connection, request
from tests.threads import started

PATIENCE = 1.0
LIMIT = 3
# More than any buffer of a socket takes.
BIG = 16 * 2**20
HEAD = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n"


async def length(asked: Request) -> Response:
    return PlainTextResponse(str(len(await asked.body())))


async def big(_: Request) -> Response:
    return PlainTextResponse(b"x" * BIG)


async def slow(_: Request) -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(4):
            await anyio.sleep(PATIENCE / 2)
            yield b"x"

    return StreamingResponse(pieces())


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(waiting, "PATIENCE", PATIENCE)
    routes = [Route("/", length, methods=["POST"]), Route("/big", big), Route("/slow", slow)]
    app = Starlette(routes=routes)
    with started(_server(app, lifespan="off", drain=1, limit=LIMIT)) as port:
        yield port


@pytest.mark.parametrize(
    "begun",
    [b"", HEAD[:20], HEAD, HEAD + b"\r\nab"],
    ids=["nothing", "half a line", "half a head", "half a body"],
)
def test_who_does_not_go_on_is_not_waited_for(port: int, begun: bytes) -> None:
    with Connection(port) as connection:
        connection.send(begun)
        assert connection.closed()


def test_nor_behind_a_request_that_was_answered(port: int) -> None:
    with Connection(port) as connection:
        connection.send(request(b"ab") + HEAD + b"\r\n")
        assert connection.answer()[::2] == (200, b"2")
        assert connection.closed()


def test_a_head_may_not_come_in_pieces_for_ever(port: int) -> None:
    start = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        try:
            while time.monotonic() < start + 20 * PATIENCE:
                client.sendall(b"X")
                time.sleep(PATIENCE / 5)
        except (BrokenPipeError, ConnectionResetError):
            pass
    assert time.monotonic() < start + 10 * PATIENCE


def test_a_body_may_take_longer(port: int) -> None:
    with Connection(port) as connection:
        connection.send(HEAD + b"\r\n")
        for byte in b"abcd":
            time.sleep(PATIENCE / 3)
            connection.send(bytes([byte]))
        assert connection.answer()[::2] == (200, b"4")
        # And the connection is as good as before.
        connection.send(request(b"ab"))
        assert connection.answer()[::2] == (200, b"2")


def test_an_answer_may_take_longer(port: int) -> None:
    with Connection(port) as connection:
        connection.send(request(b"", path="/slow", method="GET"))
        assert connection.answer()[::2] == (200, b"xxxx")


def test_who_reads_slowly_is_served(port: int) -> None:
    with Connection(port) as connection:
        connection.send(request(b"", path="/big", method="GET"))
        for _ in range(8):
            time.sleep(PATIENCE / 3)
            connection.read(BIG // 16)
        assert len(connection.read(BIG // 2)) == BIG // 2


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the kernel's, of Linux")
def test_who_does_not_read_is_not_served(port: int) -> None:
    with Connection(port, receive=4096) as connection:
        connection.send(request(b"", path="/big", method="GET"))
        time.sleep(8 * PATIENCE)
        received = 0
        try:
            while piece := connection.read(65536):
                received += len(piece)
        except ConnectionResetError:
            pass
        assert received < BIG


def test_silent_connections_do_not_shut_others_out(port: int) -> None:
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(LIMIT)]
    try:
        with Connection(port) as connection:
            connection.send(request(b"ab"))
            assert connection.answer()[0] == 503
        time.sleep(3 * PATIENCE)
        with Connection(port) as connection:
            connection.send(request(b"ab"))
            assert connection.answer()[0] == 200
    finally:
        for client in silent:
            client.close()
