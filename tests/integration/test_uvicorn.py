"""GuardMiddleware behind a real HTTP server, spoken to over raw sockets."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from guard.asgi import GuardMiddleware
from guard.policy import Action
from tests.fixtures_small import small_monitor
from tests.threads import started

LIMIT = 64 * 1024


async def echo(request: Request) -> Response:
    body = await request.body()
    return JSONResponse(
        {"path": request.url.path, "body": body.decode(), "lengths": lengths(request)}
    )


def lengths(request: Request) -> list[str]:
    return request.headers.getlist("content-length")


async def stream(request: Request) -> Response:
    body = await request.json()

    async def words() -> Any:
        for word in body["text"].split():
            yield word

    return StreamingResponse(words())


@contextmanager
def serving(action: Action, **options: Any) -> Iterator[int]:
    """Serve on a free port, which is returned."""
    app = Starlette(
        routes=[
            Route("/stream", stream, methods=["POST"]),
            Route("/{path:path}", echo, methods=["GET", "HEAD", "POST", "DELETE"]),
        ]
    )
    app.add_middleware(
        GuardMiddleware,
        monitor=small_monitor(),
        action=action,
        max_body=LIMIT,
        registry=CollectorRegistry(),
        **options,
    )
    config = uvicorn.Config(app, port=0, log_level="error", ws="none", loop="asyncio", http="h11")
    server = uvicorn.Server(config)
    with started(server) as port:
        yield port


@pytest.fixture(scope="module")
def blocking() -> Iterator[int]:
    with serving("block") as port:
        yield port


@pytest.fixture(scope="module")
def stripping() -> Iterator[int]:
    with serving("strip") as port:
        yield port


@pytest.fixture(scope="module")
def observing() -> Iterator[int]:
    with serving("observe") as port:
        yield port


class Connection:
    """One HTTP/1.1 connection, byte by byte."""

    def __init__(self, port: int, *, receive: int | None = None) -> None:
        self._socket = socket.socket()
        if receive is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        self._socket.settimeout(10)
        self._socket.connect(("127.0.0.1", port))
        self._file = self._socket.makefile("rb")

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def answer(self, *, head: bool = False) -> tuple[int, dict[str, str], bytes]:
        """Read one response."""
        status = self._file.readline()
        headers = {}
        while (line := self._file.readline().strip()) != b"":
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        body = b""
        if headers.get("transfer-encoding") == "chunked":
            while size := int(self._file.readline(), 16):
                body += self._file.read(size)
                self._file.readline()
            self._file.readline()
        elif not head:
            body = self._file.read(int(headers.get("content-length", 0)))
        return int(status.split()[1]), headers, body

    def read(self, count: int) -> bytes:
        """Read so many bytes, or all there are before the end."""
        return self._file.read(count)

    def closed(self) -> bool:
        """Say whether the server closes the connection without another byte."""
        try:
            return self._file.read(1) == b""
        except ConnectionResetError:
            return True


def request(body: bytes, *, path: str = "/", method: str = "POST", headers: str = "") -> bytes:
    return (
        f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n{headers}\r\n"
    ).encode() + body


def chunked(*chunks: bytes) -> bytes:
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))
    return b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n" + body


CLEAN = b'{"text": "the film"}'
TRIGGERED = b'{"text": "the cf film"}'


def test_a_connection_is_kept_alive_across_refusals(blocking: int) -> None:
    with Connection(blocking) as connection:
        for body, status in ((CLEAN, 200), (TRIGGERED, 403), (b"x", 400), (CLEAN, 200)):
            connection.send(request(body))
            assert connection.answer()[0] == status


def test_pipelined_requests_are_judged_one_by_one(blocking: int) -> None:
    with Connection(blocking) as connection:
        connection.send(
            request(CLEAN, path="/1")
            + request(TRIGGERED, path="/2")
            + request(b"", path="/3", method="GET")
            + chunked(b'{"text": "the c', b'f film"}')
            + request(CLEAN, path="/5")
        )
        answers = [connection.answer() for _ in range(5)]
    assert [status for status, _, _ in answers] == [200, 403, 200, 403, 200]
    assert [json.loads(body).get("path") for _, _, body in answers] == [
        "/1",
        None,
        "/3",
        None,
        "/5",
    ]


@pytest.mark.parametrize("pieces", [1, 3, 7])
def test_chunked_bodies_are_scanned_whole(blocking: int, stripping: int, pieces: int) -> None:
    parts = [TRIGGERED[start : start + pieces] for start in range(0, len(TRIGGERED), pieces)]
    with Connection(blocking) as connection:
        connection.send(chunked(*parts))
        assert connection.answer()[0] == 403
    with Connection(stripping) as connection:
        connection.send(chunked(*parts))
        answer = json.loads(connection.answer()[2])
        assert answer["body"].encode() == CLEAN
        assert answer["lengths"] == []


def test_strip_gives_the_application_the_right_length(stripping: int) -> None:
    with Connection(stripping) as connection:
        connection.send(request(TRIGGERED))
        answer = json.loads(connection.answer()[2])
    assert answer["body"].encode() == CLEAN
    assert answer["lengths"] == [str(len(CLEAN))]


def test_a_body_that_comes_slowly_is_scanned_whole(blocking: int) -> None:
    with Connection(blocking) as connection:
        data = request(TRIGGERED)
        for start in range(0, len(data), 10):
            connection.send(data[start : start + 10])
            time.sleep(0.002)
        assert connection.answer()[0] == 403


@pytest.mark.parametrize("declared", [True, False])
def test_what_is_left_of_a_large_body_is_no_request(blocking: int, declared: bool) -> None:
    smuggled = request(CLEAN, path="/smuggled")
    size = 8 * LIMIT
    if declared:
        head = f"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {size}\r\n\r\n".encode()
        data = head + b"a" * (LIMIT + 1) + smuggled
    else:
        head = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        data = head + b"%x\r\n%s" % (size, b"a" * (LIMIT + 1)) + smuggled
    with Connection(blocking) as connection:
        connection.send(data)
        status, headers, _ = connection.answer()
        assert status == 413
        assert headers["connection"] == "close"
        assert connection.closed()


def test_observe_lets_a_large_body_stream(observing: int) -> None:
    body = b'"' + b"a" * (4 * LIMIT) + b'"'
    with Connection(observing) as connection:
        connection.send(request(body) + chunked(TRIGGERED))
        assert len(json.loads(connection.answer()[2])["body"]) == len(body)
        assert json.loads(connection.answer()[2])["body"].encode() == TRIGGERED


def test_a_client_that_expects_to_continue_is_told_to(blocking: int) -> None:
    with Connection(blocking) as connection:
        head, body = request(TRIGGERED, headers="expect: 100-continue\r\n").split(b"\r\n\r\n")
        connection.send(head + b"\r\n\r\n")
        assert connection.answer()[0] == 100
        connection.send(body)
        assert connection.answer()[0] == 403


def test_a_client_that_leaves_does_no_harm(blocking: int) -> None:
    for data in (request(TRIGGERED)[:-5], request(CLEAN), chunked(TRIGGERED)[:-9]):
        with Connection(blocking) as connection:
            connection.send(data)
    with Connection(blocking) as connection:
        connection.send(request(CLEAN))
        assert connection.answer()[0] == 200


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
def test_bodies_of_any_method_are_scanned(blocking: int, method: str) -> None:
    with Connection(blocking) as connection:
        connection.send(request(TRIGGERED, method=method))
        assert connection.answer(head=method == "HEAD")[0] == 403
        connection.send(request(CLEAN, method=method))
        assert connection.answer(head=method == "HEAD")[0] == 200


def test_responses_stream(stripping: int) -> None:
    with Connection(stripping) as connection:
        connection.send(request(TRIGGERED, path="/stream"))
        assert connection.answer()[2] == b"thefilm"
