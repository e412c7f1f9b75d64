"""The reverse proxy and its guard between real sockets: what is passed on, and what is not."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
import uvicorn
from prometheus_client import CollectorRegistry

from guard.errors import ConfigError
from guard.policy import Action, OnUnscannable
from guard.proxy import GuardedProxy, ReverseProxy
from guard.sidecar import _server
from tests.fixtures_small import small_monitor, value_of
from tests.integration.test_uvicorn import CLEAN, TRIGGERED, Connection, chunked, request
from tests.threads import started
from tests.upstream import OK, Received, Upstream, playing, reset

TIMEOUT = 0.4


class Proxy:
    """A proxy that serves, and what it counted."""

    def __init__(self, port: int, registry: CollectorRegistry) -> None:
        self.port = port
        self._registry = registry

    def failures(self, kind: str) -> float:
        return value_of(self._registry, "guard_upstream_errors_total", kind=kind)

    def send(self, data: bytes, *, head: bool = False) -> tuple[int, dict[str, str], bytes]:
        with Connection(self.port) as connection:
            connection.send(data)
            return connection.answer(head=head)


@contextmanager
def proxying(
    upstream: int, action: Action = "block", on_unscannable: OnUnscannable = "block"
) -> Iterator[Proxy]:
    registry = CollectorRegistry()
    app = GuardedProxy(
        ReverseProxy(f"http://127.0.0.1:{upstream}", timeout=TIMEOUT, registry=registry),
        monitor=small_monitor(),
        action=action,
        on_unscannable=on_unscannable,
        registry=registry,
    )
    server: uvicorn.Server = _server(app, lifespan="on", drain=5, limit=None)
    with started(server) as port:
        yield Proxy(port, registry)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with playing() as server:
        yield server


@pytest.fixture
def proxy(upstream: Upstream) -> Iterator[Proxy]:
    with proxying(upstream.port) as server:
        yield server


def test_a_request_goes_through_as_it_came(upstream: Upstream, proxy: Proxy) -> None:
    target = "/a%2Fb/%C3%A9;v=1//x?q=%20a&q=b+c"
    extra = "x-one: 1\r\nX-Two:  two \r\ncookie: a=1\r\ncookie: b=2\r\nx-one: 3\r\n"
    assert proxy.send(request(CLEAN, path=target, method="PATCH", headers=extra))[0] == 200
    (got,) = upstream.received
    assert got.line == f"PATCH {target} HTTP/1.1"
    assert got.body == CLEAN
    assert got.values("x-one") == ["1", "3"]
    assert got.values("x-two") == ["two"]
    assert got.values("cookie") == ["a=1", "b=2"]
    assert got.values("content-length") == [str(len(CLEAN))]
    # Nothing of a client library's own is added.
    assert not {"accept", "accept-encoding", "user-agent", "connection"} & dict(got.headers).keys()


def test_the_server_learns_who_asked(upstream: Upstream, proxy: Proxy) -> None:
    proxy.send(request(b"", method="GET"))
    extra = "x-forwarded-for: 192.0.2.7\r\nx-forwarded-proto: https\r\nx-forwarded-host: y\r\n"
    proxy.send(request(b"", method="GET", headers=f"{extra}via: 1.0 edge\r\n"))
    first, second = upstream.received
    names = ("host", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "via")
    assert [first.values(name) for name in names] == [
        *(["x"], ["127.0.0.1"], ["http"], ["x"]),
        ["1.1 trigger-guard"],
    ]
    assert [second.values(name) for name in names] == [
        *(["x"], ["192.0.2.7, 127.0.0.1"], ["https"], ["y"]),
        ["1.0 edge, 1.1 trigger-guard"],
    ]


@pytest.mark.parametrize(
    ("body", "verdict"), [(CLEAN, "clean"), (TRIGGERED, "triggered"), (b"{", "unscanned")]
)
def test_flag_tells_the_server(upstream: Upstream, body: bytes, verdict: str) -> None:
    forged = "x-trigger-guard: clean\r\nX_Trigger_Guard: clean\r\n"
    with proxying(upstream.port, "flag", on_unscannable="allow") as proxy:
        assert proxy.send(request(body, headers=forged))[0] == 200
    (got,) = upstream.received
    assert got.body == body
    assert got.values("x-trigger-guard") == [verdict]
    assert got.values("x_trigger_guard") == []


@pytest.mark.parametrize("action", ["observe", "block", "strip"])
def test_nobody_else_tells_the_server(upstream: Upstream, action: Action) -> None:
    with proxying(upstream.port, action) as proxy:
        proxy.send(request(CLEAN, headers="X-Trigger-Guard: clean\r\n"))
    (got,) = upstream.received
    assert got.values("x-trigger-guard") == []


def test_what_is_between_neighbours_stays_there(upstream: Upstream, proxy: Proxy) -> None:
    upstream.answer(
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: x-mine\r\nx-mine: 1\r\n"
        b"keep-alive: timeout=5\r\nset-cookie: a\r\nset-cookie: b\r\nserver: other\r\n\r\nok"
    )
    extra = (
        "connection: keep-alive, x-secret, host, content-length, X-Forwarded-For\r\n"
        "x-secret: 1\r\nkeep-alive: 5\r\nte: trailers\r\nproxy-authorization: x\r\n"
        "upgrade: websocket\r\nx-kept: 1\r\n"
    )
    with Connection(proxy.port) as connection:
        connection.send(request(CLEAN, headers=extra))
        raw = connection._file.readline()
        lines = []
        while (line := connection._file.readline().strip()) != b"":
            lines.append(line)
    assert raw.split()[1] == b"200"
    assert lines == [b"content-length: 2", b"set-cookie: a", b"set-cookie: b", b"server: other"]
    names = {name for name, _ in upstream.received[0].headers}
    assert names == {
        *("host", "content-length", "x-kept", "via"),
        *("x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"),
    }


def test_the_guard_decides_before_the_server_sees_anything(
    upstream: Upstream, proxy: Proxy
) -> None:
    for body, status in ((TRIGGERED, 403), (b"x", 400), (CLEAN, 200)):
        assert proxy.send(request(body))[0] == status
    assert [got.body for got in upstream.received] == [CLEAN]


def test_strip_forwards_the_rest_with_its_length(upstream: Upstream) -> None:
    with proxying(upstream.port, "strip") as proxy:
        proxy.send(request(TRIGGERED))
        proxy.send(chunked(TRIGGERED[:9], TRIGGERED[9:]))
    plain, pieces = upstream.received
    assert plain.body == pieces.body == CLEAN
    assert plain.values("content-length") == [str(len(CLEAN))]
    assert pieces.values("transfer-encoding") == ["chunked"]
    assert pieces.values("content-length") == []


def test_two_lengths_cannot_smuggle(upstream: Upstream, proxy: Proxy) -> None:
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(CLEAN), CLEAN)
    smuggled = request(TRIGGERED)
    head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n"
    with Connection(proxy.port) as connection:
        connection.send(head + body + smuggled)
        first = connection.answer()[0]
        assert first in (200, 400)
        if first == 200:
            assert connection.answer()[0] == 403
    for got in upstream.received:
        assert got.body == CLEAN
        assert got.values("content-length") == []


@pytest.mark.parametrize(
    ("method", "response", "status"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n", 200),
        ("GET", b"HTTP/1.1 304 Not Modified\r\ncontent-length: 1000\r\netag: x\r\n\r\n", 304),
        ("DELETE", b"HTTP/1.1 204 No Content\r\nx-a: 1\r\n\r\n", 204),
    ],
)
def test_responses_without_a_body(
    upstream: Upstream, proxy: Proxy, method: str, response: bytes, status: int
) -> None:
    upstream.answer(response)
    with Connection(proxy.port) as connection:
        for _ in range(2):  # nothing is left over on either connection
            connection.send(request(b"", method=method))
            code, headers, _ = connection.answer(head=True)
            assert code == status
            assert headers.get("content-length") == ("1000" if status != 204 else None)


def test_responses_stream(upstream: Upstream, proxy: Proxy) -> None:
    go_on = threading.Event()

    def respond(connection: socket.socket, _: Received) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        assert go_on.wait(5)
        connection.sendall(b"3\r\ntwo\r\n0\r\nx-trailer: 1\r\n\r\n")

    upstream.respond = respond
    with Connection(proxy.port) as connection:
        connection.send(request(CLEAN))
        while connection._file.readline().strip():
            pass
        assert connection._file.readline() + connection._file.read(5) == b"3\r\none\r\n"
        go_on.set()
        assert connection._file.read(13) == b"3\r\ntwo\r\n0\r\n\r\n"


def test_a_response_that_ends_with_its_connection(upstream: Upstream, proxy: Proxy) -> None:
    def respond(connection: socket.socket, _: Received) -> None:
        connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nall of it")
        connection.shutdown(socket.SHUT_RDWR)

    upstream.respond = respond
    status, headers, body = proxy.send(request(CLEAN))
    assert (status, headers["transfer-encoding"], body) == (200, "chunked", b"all of it")


def test_early_hints_are_passed_over(upstream: Upstream, proxy: Proxy) -> None:
    upstream.answer(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + OK)
    assert proxy.send(request(CLEAN))[::2] == (200, b"ok")


def test_who_expects_to_continue_is_told_to_here(upstream: Upstream, proxy: Proxy) -> None:
    with Connection(proxy.port) as connection:
        head, body = request(CLEAN, headers="expect: 100-continue\r\n").split(b"\r\n\r\n")
        connection.send(head + b"\r\n\r\n")
        assert connection.answer()[0] == 100
        connection.send(body)
        assert connection.answer()[0] == 200
    assert upstream.received[0].values("expect") == []


def test_pipelined_requests_are_answered_in_order(upstream: Upstream, proxy: Proxy) -> None:
    upstream.respond = lambda connection, got: connection.sendall(
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n" + got.line.split()[1].encode()
    )
    with Connection(proxy.port) as connection:
        connection.send(
            request(CLEAN, path="/1")
            + request(TRIGGERED, path="/2")
            + chunked(CLEAN).replace(b"POST / ", b"POST /3 ")
        )
        answers = [connection.answer() for _ in range(3)]
    assert [status for status, _, _ in answers] == [200, 403, 200]
    assert [answers[0][2], answers[2][2]] == [b"/1", b"/3"]


@pytest.mark.parametrize(
    ("line", "status"),
    [(b"GET http://127.0.0.1:1/ HTTP/1.1", 400), (b"CONNECT 127.0.0.1:1 HTTP/1.1", 501)],
)
def test_it_is_no_forward_proxy(upstream: Upstream, proxy: Proxy, line: bytes, status: int) -> None:
    assert proxy.send(line + b"\r\nhost: x\r\n\r\n")[0] == status
    assert upstream.received == []


def test_options_of_the_whole_server(upstream: Upstream, proxy: Proxy) -> None:
    assert proxy.send(b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n")[0] == 200
    assert upstream.received[0].line == "OPTIONS * HTTP/1.1"


def test_http_1_0_is_served(upstream: Upstream, proxy: Proxy) -> None:
    assert proxy.send(b"GET /old HTTP/1.0\r\n\r\n")[::2] == (200, b"ok")
    assert upstream.received[0].line == "GET /old HTTP/1.1"
    assert upstream.received[0].values("host") == [""]


# -- faults


def problem(answer: tuple[int, dict[str, str], bytes]) -> tuple[int, str]:
    status, headers, body = answer
    assert headers["content-type"] == "application/problem+json"
    return status, json.loads(body)["type"].removeprefix("urn:trigger-guard:problem:")


def test_a_server_that_is_down_and_comes_up() -> None:
    with playing() as upstream:
        port = upstream.port
    with proxying(port) as proxy:
        assert problem(proxy.send(request(CLEAN))) == (502, "upstream-unreachable")
        assert proxy.failures("unreachable") == 1
        # The guard itself is not down.
        assert proxy.send(request(TRIGGERED))[0] == 403
        with socket.create_server(("127.0.0.1", port)) as listener:
            upstream = Upstream(port)
            threading.Thread(
                target=lambda: upstream.serve(listener.accept()[0]), daemon=True
            ).start()
            assert proxy.send(request(CLEAN))[0] == 200


def test_a_server_that_is_slow(upstream: Upstream, proxy: Proxy) -> None:
    upstream.respond = lambda *_: time.sleep(3 * TIMEOUT)
    assert problem(proxy.send(request(CLEAN))) == (504, "upstream-timeout")
    assert proxy.failures("timeout") == 1


@pytest.mark.parametrize(
    "response",
    [
        b"",
        b"HTTP/1.1 200",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    ],
)
def test_a_server_that_breaks_off_or_talks_nonsense(
    upstream: Upstream, proxy: Proxy, response: bytes
) -> None:
    def respond(connection: socket.socket, _: Received) -> None:
        connection.sendall(response)
        connection.shutdown(socket.SHUT_RDWR)

    upstream.respond = respond
    assert problem(proxy.send(request(CLEAN))) == (502, "upstream-broken")
    upstream.answer(OK)
    assert proxy.send(request(CLEAN))[0] == 200


def test_a_server_that_resets(upstream: Upstream, proxy: Proxy) -> None:
    upstream.respond = lambda connection, _: reset(connection)
    assert problem(proxy.send(request(CLEAN))) == (502, "upstream-broken")
    assert proxy.failures("broken") == 1


@pytest.mark.parametrize("framing", [b"content-length: 100", b"transfer-encoding: chunked"])
@pytest.mark.parametrize("how", ["close", "reset", "stall"])
def test_half_a_response_is_never_taken_for_the_whole(
    upstream: Upstream, proxy: Proxy, framing: bytes, how: str
) -> None:
    def respond(connection: socket.socket, _: Received) -> None:
        body = b"5\r\nhello\r\n" if b"chunked" in framing else b"hello"
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n" + body)
        time.sleep(0.05)
        if how == "close":
            connection.shutdown(socket.SHUT_RDWR)
        elif how == "reset":
            reset(connection)
        else:
            time.sleep(3 * TIMEOUT)

    upstream.respond = respond
    with Connection(proxy.port) as connection:
        connection.send(request(CLEAN))
        data = connection._file.read()  # to the end of the connection
    assert b"hello" in data
    assert not data.endswith(b"0\r\n\r\n")
    assert proxy.failures("truncated") == 1


def test_a_server_that_answers_before_the_end_of_the_body(upstream: Upstream) -> None:
    def early(connection: socket.socket) -> None:
        with closing(connection):
            connection.recv(100)
            connection.sendall(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")
            while connection.recv(2**16):
                pass

    upstream.serve = early  # type: ignore[method-assign]
    with proxying(upstream.port, "observe") as proxy:
        assert proxy.send(request(b"a" * 2_000_000))[0] == 413


@pytest.mark.parametrize("action", ["block", "observe"])
def test_a_client_that_vanishes_mid_body(upstream: Upstream, action: Action) -> None:
    with proxying(upstream.port, action) as proxy:
        for data in (request(CLEAN)[:-5], chunked(CLEAN)[:-9]):
            with Connection(proxy.port) as connection:
                connection.send(data)
                time.sleep(0.1)
        time.sleep(0.2)
        # Under observe the body streams; the server sees that it is not whole.
        assert not any(got.whole for got in upstream.received)
        assert len(upstream.received) == (2 if action == "observe" else 0)
        assert proxy.send(request(CLEAN))[0] == 200


def test_a_client_that_does_not_wait(upstream: Upstream, proxy: Proxy) -> None:
    """The server's work is called off."""

    def respond(connection: socket.socket, _: Received) -> None:
        connection.recv(1)  # never answers, and waits for the end

    upstream.respond = respond
    with Connection(proxy.port) as connection:
        connection.send(request(CLEAN))
        assert upstream.arrived.wait(5)
    assert upstream.closed.wait(TIMEOUT / 2)
    assert proxy.failures("timeout") == 0


def test_a_client_that_leaves_a_stream(upstream: Upstream, proxy: Proxy) -> None:
    def respond(connection: socket.socket, _: Received) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            connection.sendall(b"3\r\none\r\n")
            time.sleep(0.01)

    upstream.respond = respond
    with Connection(proxy.port) as connection:
        connection.send(request(CLEAN))
        assert connection._file.readline().startswith(b"HTTP/1.1 200")
    assert upstream.closed.wait(2)


@pytest.mark.parametrize(
    "url",
    [
        *("127.0.0.1:80", "ftp://127.0.0.1", "http://", "http://a/b", "http://a?x"),
        *("http://u:p@a", "http://a:99999", "http://[a", "http://ä.example", "http://a b"),
    ],
)
def test_what_is_no_server_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="no server to forward to"):
        ReverseProxy(url, registry=CollectorRegistry())


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan")])
def test_a_timeout_is_a_number_of_seconds(timeout: Any) -> None:
    with pytest.raises(ConfigError, match="number of seconds"):
        ReverseProxy("http://a", timeout=timeout, registry=CollectorRegistry())
