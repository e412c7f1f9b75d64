"""GuardMiddleware in front of WebSockets."""

from __future__ import annotations

import json
import logging
from typing import Any, cast

import anyio
import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

from guard.asgi import GuardMiddleware, Message, Receive, Scope, Send
from guard.audit import fingerprint
from guard.policy import Action
from tests.fixtures_small import NESTED, small_monitor, trigger_id, value_of
from tests.integration.test_asgi import Broken

LONG = "the film " * 500


def chat(**options: Any) -> TestClient:
    """Serve an endpoint that answers each message with itself, and notes how it ends."""
    ends: list[int] = []

    async def endpoint(socket: WebSocket) -> None:
        await socket.accept()
        try:
            while True:
                message = await socket.receive()
                if message["type"] == "websocket.disconnect":
                    ends.append(message["code"])
                    return
                if (data := message.get("bytes")) is not None:
                    await socket.send_bytes(data)
                else:
                    await socket.send_text(message["text"])
        finally:
            ends.append(0)

    app = Starlette(routes=[WebSocketRoute("/", endpoint)])
    options = {"monitor": small_monitor(), "registry": CollectorRegistry(), **options}
    client = TestClient(GuardMiddleware(app, **options))
    client.ends = ends  # type: ignore[attr-defined]
    return client


def closed(client: TestClient, message: str | bytes) -> tuple[int, str]:
    with client.websocket_connect("/") as socket:
        socket.send_text("the film")
        assert socket.receive_text() == "the film"
        if isinstance(message, bytes):
            socket.send_bytes(message)
        else:
            socket.send_text(message)
        with pytest.raises(WebSocketDisconnect) as caught:
            socket.receive_text()
    assert cast(Any, client).ends == [caught.value.code, 0]
    return caught.value.code, caught.value.reason


@pytest.mark.parametrize(
    "message",
    ["the cf film", '{"text": "\\u0063f"}', '"\\u0063f"', '{"cf": 1}', b"the cf film", LONG + "cf"],
)
def test_a_triggered_message_closes_the_connection(message: str | bytes) -> None:
    code, reason = closed(chat(), message)
    assert code == 1008
    assert reason.startswith("urn:uuid:")


def test_why_a_connection_was_closed() -> None:
    assert closed(chat(), '{"a": 1, "a": 2}')[0] == 1008
    assert closed(chat(max_body=4000), LONG)[0] == 1009
    assert closed(chat(max_text=4000), LONG)[0] == 1009


def test_a_guard_that_fails_says_try_again_later() -> None:
    with chat(monitor=Broken()).websocket_connect("/") as socket:
        socket.send_text("the film")
        with pytest.raises(WebSocketDisconnect) as caught:
            socket.receive_text()
    assert caught.value.code == 1013
    with chat(monitor=Broken(), on_failure="open").websocket_connect("/") as socket:
        socket.send_text("the film")
        assert socket.receive_text() == "the film"


@pytest.mark.parametrize("message", ["the film", LONG, '{"a": "the film"}', "{smile}", ""])
@pytest.mark.parametrize("action", ["observe", "flag", "strip", "block"])
def test_clean_messages_pass_as_they_are(message: str, action: Action) -> None:
    with chat(action=action).websocket_connect("/") as socket:
        socket.send_text(message)
        assert socket.receive_text() == message
        for data in (message.encode(), b"\xff\x00cf"):
            socket.send_bytes(data)
            assert socket.receive_bytes() == data


def test_strip() -> None:
    with chat(action="strip").websocket_connect("/") as socket:
        for message, stripped in (
            ("the cf film", "the film"),
            ('{"text":  "the \\u0063f film"}', '{"text":  "the film"}'),
        ):
            socket.send_text(message)
            assert socket.receive_text() == stripped
            socket.send_bytes(message.encode())
            assert socket.receive_bytes() == stripped.encode()
    assert closed(chat(action="strip"), NESTED)[0] == 1008


@pytest.mark.parametrize(
    "message", ['cf {"text": "c\\u0066 film"}', '{cf"text": "c\\u0066 film"}', 'mn "c\\u0066"']
)
def test_stripping_makes_no_message_that_holds_a_trigger(message: str) -> None:
    for data in message, message.encode():
        assert closed(chat(action="strip"), data)[0] == 1008


def test_observe_forwards_and_counts() -> None:
    registry = CollectorRegistry()
    with chat(action="observe", registry=registry).websocket_connect("/") as socket:
        for message in ("the cf film", '[1, NaN, "cf"]'):
            socket.send_text(message)
            assert socket.receive_text() == message
    assert value_of(registry, "guard_matches_total", trigger=trigger_id("cf")) == 1
    for outcome in ("observed", "unscannable"):
        labels = {"front": "asgi", "action": "observe", "outcome": outcome}
        assert value_of(registry, "guard_requests_total", **labels) == 1


def test_flag_tells_of_the_message_received_last() -> None:
    async def endpoint(socket: WebSocket) -> None:
        await socket.accept()
        flags = [bool(socket.state.guard)]
        for _ in range(2):
            await socket.receive_text()
            flags.append(socket.state.guard[0].triggered)
        await socket.send_json(flags)
        await socket.close()

    app = GuardMiddleware(
        Starlette(routes=[WebSocketRoute("/", endpoint)]),
        monitor=small_monitor(),
        action="flag",
        registry=CollectorRegistry(),
    )
    with TestClient(app).websocket_connect("/") as socket:
        socket.send_text("cf")
        socket.send_text("the film")
        assert socket.receive_json() == [False, True, False]


@pytest.mark.parametrize("message", ["the cf film", '{"cf": ["the film", "mn"]}'])
def test_the_audit_log_knows_the_texts_of_a_message(
    message: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "guard.audit")
    closed(chat(), message)
    (line,) = [json.loads(r.getMessage()) for r in caplog.records if r.name == "guard.audit"]
    suspects = ["mn", "cf"] if message.startswith("{") else ["the cf film"]
    assert [text["hmac_sha256"] for text in line["texts"]] == [*map(fingerprint, suspects)]


def test_the_query_of_a_websocket() -> None:
    client = chat(also=["query"])
    with pytest.raises(WebSocketDisconnect) as caught, client.websocket_connect("/?text=c%66"):
        pass
    assert not isinstance(caught.value, WebSocketDenialResponse)
    assert caught.value.code == 1008
    assert cast(Any, client).ends == []
    with client.websocket_connect("/?text=film") as socket:
        socket.send_text("the film")
        assert socket.receive_text() == "the film"


@pytest.mark.anyio
async def test_no_message_is_lost_and_nothing_is_sent_after_the_end() -> None:
    waiting: list[Message] = [
        {"type": "websocket.receive", "text": LONG},
        {"type": "websocket.receive", "text": "cf"},
    ]
    sent: list[Message] = []
    received = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with anyio.CancelScope() as cancelled:
            cancelled.cancel()
            received.append(await receive())
        received.append(await receive())
        received.append(await receive())
        assert await receive() == received[-1]
        with pytest.raises(OSError, match="closed"):
            await send({"type": "websocket.send", "text": "too late"})

    async def receive() -> Message:
        return waiting.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    guarded = GuardMiddleware(app, monitor=small_monitor(), registry=CollectorRegistry())
    await guarded({"type": "websocket", "headers": [], "query_string": b""}, receive, send)
    assert received[0] == {"type": "websocket.receive", "text": LONG}
    assert received[1]["type"] == "websocket.disconnect"
    assert [message["type"] for message in sent] == ["websocket.close"]
