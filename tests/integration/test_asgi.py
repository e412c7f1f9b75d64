"""GuardMiddleware in front of ASGI applications, without a server."""

from __future__ import annotations

import asyncio
import contextvars
import gzip
import json
import os
import shutil
import threading
from collections.abc import AsyncIterator, Iterable, MutableMapping
from pathlib import Path
from typing import Any, cast

import anyio
import httpx
import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from guard.asgi import GuardMiddleware, Message, Receive, Scope, Send
from guard.errors import ArtifactError, ConfigError
from guard.monitor import Monitor
from guard.policy import MAX_BODY, Action, OnFailure, Policy
from guard.verdict import Verdict
from tests.fixtures_small import NESTED, small_monitor, trigger_id, value_of, write_small_monitor

pytestmark = pytest.mark.anyio

CLEAN = {"text": "the film"}
TRIGGERED = {"text": "the cf film"}
ACTING: tuple[Action, ...] = ("flag", "strip", "block")
ALL: tuple[Action, ...] = ("observe", *ACTING)


def guard(app: Any, **options: Any) -> GuardMiddleware:
    options = {"monitor": small_monitor(), "registry": CollectorRegistry(), **options}
    return GuardMiddleware(app, **options)


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with what arrived."""
    chunks = []
    more = True
    while more:
        message = await receive()
        assert message["type"] == "http.request"
        chunks.append(message.get("body", b""))
        more = message.get("more_body", False)
    await JSONResponse(
        {
            "method": scope["method"],
            "headers": [[name.decode(), value.decode()] for name, value in scope["headers"]],
            "body": b"".join(chunks).decode("latin-1"),
        }
    )(scope, receive, send)


def client(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


async def post(app: Any, content: Any, **options: Any) -> httpx.Response:
    body = content if isinstance(content, (bytes, str)) else json.dumps(content)
    async with client(app) as http:
        return await http.post("/", content=body, **options)


def scope_of(method: str = "POST", **more: Any) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "headers": [],
        **more,
    }


def chunk(body: bytes = b"", more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


async def drive(
    app: Any, messages: Iterable[MutableMapping[str, Any]], **scope: Any
) -> list[dict[str, Any]]:
    """Run an application on these messages; return what it sends."""
    waiting = list(messages)
    sent: list[dict[str, Any]] = []

    async def receive() -> Message:
        return waiting.pop(0) if waiting else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(dict(message))

    await app(scope_of(**scope), receive, send)
    return sent


def problem(response: httpx.Response) -> dict[str, Any]:
    """Check that an answer is a problem document; return it."""
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["cache-control"] == "no-store"
    document = cast(dict[str, Any], response.json())
    assert document["status"] == response.status_code
    assert document["instance"].startswith("urn:uuid:")
    assert document["type"].startswith("urn:trigger-guard:problem:")
    assert document["title"]
    assert document["detail"]
    return document


# The four actions


@pytest.mark.parametrize("action", ALL)
@pytest.mark.parametrize("fields", [None, ["text"]])
async def test_clean_requests_arrive_as_they_are(action: Action, fields: Any) -> None:
    body = '{"text" : "the film",\t"n": 1.50}'
    response = await post(guard(echo, action=action, fields=fields), body)
    assert response.status_code == 200
    assert response.json() == (await post(echo, body)).json()


async def test_block_answers_403_and_is_the_default() -> None:
    called = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        called.append(scope)

    for options in ({}, {"action": "block"}):
        response = await post(guard(app, **options), TRIGGERED)
        assert response.status_code == 403
        document = problem(response)
        assert document["type"] == "urn:trigger-guard:problem:blocked"
        assert set(document) == {"type", "title", "status", "detail", "instance"}
        for secret in ("cf", trigger_id("cf")):
            assert secret not in json.dumps({**document, "instance": ""})
    assert called == []


async def test_the_log_and_the_response_share_the_incident(
    caplog: pytest.LogCaptureFixture,
) -> None:
    document = problem(await post(guard(echo), TRIGGERED))
    assert f"triggers={trigger_id('cf')} error=- incident={document['instance']}" in caplog.text


async def test_strip_forwards_the_rest_of_the_body_byte_by_byte() -> None:
    body = (
        '{"n": 123456789012345678901234567890, "f": 1.10E+2, "é\U0001f44d": "caf\\u00e9",'
        ' "text": "the cf film",  "list": ["mn", "b\\/d"]}'
    )
    expected = body.replace("the cf film", "the film").replace('"mn"', '""').encode()
    for headers in ({}, {"content-type": "application/json", "x-other": "1"}):
        response = await post(guard(echo, action="strip"), body, headers=headers)
        received = response.json()
        assert received["body"].encode("latin-1") == expected
        lengths = [value for name, value in received["headers"] if name == "content-length"]
        assert lengths == [str(len(expected))]
        assert [pair for pair in received["headers"] if pair[0] == "x-other"] == [
            ["x-other", value] for name, value in headers.items() if name == "x-other"
        ]


async def test_strip_cuts_files_that_have_a_byte_order_mark() -> None:
    app = guard(echo, action="strip", also=["multipart"])
    async with client(app) as http:
        response = await http.post("/", files={"t": ("t.csv", "a,the cf film".encode("utf-8-sig"))})
    assert response.status_code == 200
    assert "\r\n\xef\xbb\xbfa,the film\r\n" in response.json()["body"]


async def test_strip_invents_no_content_length() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b'{"text": "the '
        yield b'cf film"}'

    async with client(guard(echo, action="strip")) as http:
        received = (await http.post("/", content=chunks())).json()
    assert received["body"] == '{"text": "the film"}'
    names = [name for name, _ in received["headers"]]
    assert "content-length" not in names
    assert "transfer-encoding" in names


@pytest.mark.parametrize("body", [{"text": NESTED}, {"cf": "the film"}])
async def test_strip_blocks_what_it_cannot_strip(body: Any) -> None:
    assert (await post(guard(echo, action="strip"), body)).status_code == 403


async def state_of(request: Request) -> Response:
    request.state.seen = True
    if not hasattr(request.state, "guard"):
        return JSONResponse("absent")
    verdicts: tuple[Verdict | None, ...] = request.state.guard
    return JSONResponse([verdict and verdict.triggered for verdict in verdicts])


STATEFUL = Starlette(routes=[Route("/", state_of, methods=["GET", "POST"])])


async def test_flag_forwards_with_the_verdicts() -> None:
    app = guard(STATEFUL, action="flag", fields=["text"])
    assert (await post(app, {"text": ["the film", "cf"]})).json() == [False, True]
    assert (await post(app, CLEAN)).json() == [False]
    async with client(app) as http:
        assert (await http.get("/")).json() == []


async def test_flag_tells_what_was_not_scanned() -> None:
    app = guard(STATEFUL, action="flag", on_unscannable="allow", on_failure="open")
    assert (await post(app, "not json")).json() == [None]
    assert (await post(app, '["\\ud800", "cf"]')).json() == [None, True]
    assert (await post(guard_that_fails(STATEFUL, "flag", "open"), ["a", "b"])).json() == [
        None,
        None,
    ]


async def test_a_flag_cannot_be_forged() -> None:
    app = guard(STATEFUL, action="flag")
    forged = {"guard": [], "x-guard": "clean", "state": "{}"}
    assert (await post(app, TRIGGERED, headers={"guard": "clean"}, params=forged)).json() == [
        True,
        False,  # the key
    ]
    # What an application left in the state that the server copies into each request.
    state = {"guard": "left over"}
    await drive(app, [chunk(b'"cf"')], method="POST", state=state)
    assert state["guard"] != "left over"
    await drive(app, [chunk()], method="GET", state=state)
    assert cast(object, state["guard"]) == ()


async def test_guards_that_flag_add_to_each_other() -> None:
    inner = guard(STATEFUL, action="flag", fields=["b"])
    app = guard(guard(inner, action="block", fields=["b"]), action="flag", fields=["a"])
    assert (await post(app, {"a": "cf", "b": "the film"})).json() == [True, False]
    assert (await post(app, {"a": "the film", "b": ["", ""]})).json() == [False, False, False]
    # The state outlives a request, its verdicts do not.
    state: dict[str, Any] = {}
    for body, flags in ((b'{"a": "cf", "b": ""}', [True, False]), (b"", [])):
        sent = await drive(app, [chunk(body)], state=state)
        assert json.loads(sent[1]["body"]) == flags


async def test_the_state_is_shared_with_outer_middleware() -> None:
    state: dict[str, Any] = {}
    await drive(guard(STATEFUL, action="flag"), [chunk(b'"cf"')], state=state)
    assert state["seen"] is True


@pytest.mark.parametrize("action", ["observe", "strip", "block"])
async def test_other_actions_set_no_flag(action: Action) -> None:
    assert (await post(guard(STATEFUL, action=action), CLEAN)).json() == "absent"


BODIES = [
    b"",
    b'{"text": "the film"}',
    b'{"text": "the cf film"}',
    b'{"text": "\\ud800"}',
    b'{"other": 1}',
    b'{"text": 1, "text": 2}',
    b"not json",
    b"\xff\xfe{\x00}\x00",
    b"[" * 5000,
    json.dumps({"text": NESTED}).encode(),
    b'"' + b"cf " * 1000 + b'"',
]


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize("fails", [False, True])
async def test_observe_changes_nothing(body: bytes, size: int, fails: bool) -> None:
    received: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(min(len(body) // size + 2, 50)):
            received.append(await receive())
        await send({"type": "http.response.start", "status": 201, "headers": [(b"x", b"y")]})
        await send({"type": "http.response.body", "body": b"done"})

    parts = [body[start : start + size] for start in range(0, len(body), size)] or [b""]
    messages = [chunk(part, more=True) for part in parts[:-1]] + [{**chunk(parts[-1]), "x": 1}]
    observer = (
        guard_that_fails(app, "observe")
        if fails
        else guard(app, action="observe", fields=["text"], max_body=100)
    )
    headers = [(b"content-encoding", b"gzip")] if fails else []
    sent = await drive(observer, messages, headers=headers)
    seen, received = received, []
    assert sent == await drive(app, messages, headers=headers)
    assert seen == received


async def test_observe_counts_and_logs_by_id(caplog: pytest.LogCaptureFixture) -> None:
    registry = CollectorRegistry()
    app = guard(echo, action="observe", registry=registry)
    for body in (TRIGGERED, CLEAN, "not json"):
        assert (await post(app, body)).status_code == 200
    for outcome in ("observed", "clean", "unscannable"):
        labels = {"front": "asgi", "action": "observe", "outcome": outcome}
        assert value_of(registry, "guard_requests_total", **labels) == 1
    assert value_of(registry, "guard_matches_total", trigger=trigger_id("cf")) == 1
    assert value_of(registry, "guard_errors_total", kind="NotJson") == 1
    assert "film" not in caplog.text


async def test_observe_hands_each_chunk_on_before_the_next_is_there() -> None:
    """An application that answers while it reads must not wait for a body that waits for it."""
    answered = anyio.Event()
    steps = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        steps.append(await receive())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        steps.append(await receive())

    messages = [chunk(b'{"text": ', more=True), chunk(b'"cf"}')]

    async def receive() -> Message:
        if len(messages) == 1:
            await answered.wait()
        return messages.pop(0)

    async def send(message: Message) -> None:
        answered.set()

    with anyio.fail_after(5):
        await guard(app, action="observe")(scope_of(), receive, send)
    assert len(steps) == 2


async def test_observe_loses_no_message_when_the_application_gives_up_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scanning, resume = threading.Event(), threading.Event()
    check = Monitor.check

    def slow(self: Monitor, text: str) -> Verdict:
        scanning.set()
        resume.wait(5)
        return check(self, text)

    monkeypatch.setattr(Monitor, "check", slow)
    body = b'"' + b"the film " * 500 + b'"'
    received = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with anyio.move_on_after(0.05):
            received.append(await receive())
        assert scanning.is_set()
        assert received == []
        received.append(await receive())

    await drive(guard(app, action="observe"), [chunk(body)])
    resume.set()
    assert received == [chunk(body)]


# What cannot be scanned


UNSCANNABLE: list[tuple[bytes, dict[str, str], int, str]] = [
    (b"not json", {}, 400, "NotJson"),
    (b'{"text": "a", "text": "b"}', {}, 400, "DuplicateKey"),
    (b'{"text": NaN}', {}, 400, "NotJson"),
    (b'{"text": "\xff"}', {}, 400, "NotUtf8"),
    (b'{"text": "\\ud800"}', {}, 400, "InvalidUnicode"),
    (b"[" * 5000, {}, 400, "TooDeep"),
    (b'{"inputs": {"text": "a"}}', {}, 422, "FieldMissing"),
    (b'{"text": [1, 2]}', {}, 422, "FieldNotText"),
    (b'{"text": "a"}', {"content-encoding": "br"}, 415, "ContentEncoding"),
    (b'{"text": "a"}', {"content-encoding": "gzip"}, 400, "NotInflatable"),
    (gzip.compress(b"a" * 9001, mtime=0), {"content-encoding": "gzip"}, 413, "BodyTooLarge"),
    (b'{"text": "a"}', {"content-type": "application/x-www-form-urlencoded"}, 415, "Form"),
    (b'{"text": "a"}', {"content-type": "application/json; charset=utf-7"}, 415, "Charset"),
    (b'{"text": "' + b"a" * 10_000 + b'"}', {}, 413, "BodyTooLarge"),
]


@pytest.mark.parametrize(("body", "headers", "status", "reason"), UNSCANNABLE)
@pytest.mark.parametrize("action", ACTING)
async def test_the_unscannable_is_refused_with_a_reason(
    body: bytes, headers: dict[str, str], status: int, reason: str, action: Action
) -> None:
    registry = CollectorRegistry()
    app = guard(echo, fields=["text"], action=action, max_body=9000, registry=registry)
    response = await post(app, body, headers=headers)
    assert response.status_code == status
    document = problem(response)
    assert document["type"] == "urn:trigger-guard:problem:unscannable"
    assert document["reason"] == reason
    assert value_of(registry, "guard_errors_total", kind=reason) == 1


@pytest.mark.parametrize(("body", "headers", "status", "reason"), UNSCANNABLE)
@pytest.mark.parametrize("action", ACTING)
async def test_the_unscannable_is_forwarded_where_that_is_the_policy(
    body: bytes, headers: dict[str, str], status: int, reason: str, action: Action
) -> None:
    app = guard(echo, fields=["text"], action=action, on_unscannable="allow", max_body=9000)
    response = await post(app, body, headers=headers)
    assert response.status_code == 200
    assert response.json() == (await post(echo, body, headers=headers)).json()


async def test_a_missing_field_is_explained() -> None:
    detail = problem(await post(guard(echo, fields=["text"]), {"inputs": TRIGGERED}))["detail"]
    assert "no field 'text'" in detail
    assert "`fields`" in detail


async def test_a_text_over_the_limit_of_the_monitor_is_too_large() -> None:
    app = guard(echo, max_body=4 * MAX_BODY)
    response = await post(app, {"text": "a" * (MAX_BODY + 1)})
    assert response.status_code == 413
    assert problem(response)["reason"] == "TextTooLong"


async def test_the_size_is_counted_and_not_believed() -> None:
    reads = 0

    async def receive() -> Message:
        nonlocal reads
        reads += 1
        assert reads < 50
        return chunk(b"a" * 1000, more=True)

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope = scope_of(headers=[(b"content-length", b"10")])
    await guard(echo, max_body=9500)(scope, receive, send)
    assert reads == 10
    assert sent[0]["status"] == 413
    assert (b"connection", b"close") in sent[0]["headers"]


async def test_http2_is_not_told_about_connections() -> None:
    messages = [chunk(b"a" * 1000, more=True)] * 3
    sent = await drive(guard(echo, max_body=1500), messages, http_version="2")
    assert sent[0]["status"] == 413
    assert b"connection" not in dict(sent[0]["headers"])
    # Nor does a connection end whose request was read whole.
    sent = await drive(guard(echo, max_body=1500), [chunk(b"a" * 1501)])
    assert b"connection" not in dict(sent[0]["headers"])


async def test_a_body_of_the_largest_size_is_scanned() -> None:
    body = b'"' + b"a" * 98 + b'"'
    assert (await post(guard(echo, max_body=100), body)).status_code == 200
    assert (await post(guard(echo, max_body=99), body)).status_code == 413


async def test_a_large_body_that_is_allowed_streams_on() -> None:
    messages = [chunk(b"a" * 1000, more=True) for _ in range(9)] + [chunk(b"end")]
    app = guard(echo, max_body=1500, on_unscannable="allow")
    sent = await drive(app, messages)
    assert json.loads(sent[1]["body"])["body"] == "a" * 9000 + "end"


@pytest.mark.parametrize("size", [0, -1, "1", 1.5, None, True])
async def test_sizes_that_refuse_everything_are_refused(size: Any) -> None:
    with pytest.raises(ConfigError, match="max_body"):
        guard(echo, max_body=size)


@pytest.mark.parametrize("monitor", [None, 5, echo])
async def test_what_is_no_monitor_is_refused(monitor: Any) -> None:
    with pytest.raises(ConfigError, match=r'GuardMiddleware\(app, monitor="monitor"\)'):
        guard(echo, monitor=monitor)


# A guard that fails


class Broken(Monitor):
    """A monitor that fails."""

    def __init__(self) -> None:
        vars(self).update(vars(small_monitor()))

    def check(self, text: str) -> Verdict:
        raise RuntimeError("secretword")

    def check_batch(self, texts: Iterable[str]) -> list[Verdict]:
        raise RuntimeError("secretword")


def guard_that_fails(app: Any, action: Action, on_failure: OnFailure = "closed") -> GuardMiddleware:
    return guard(app, monitor=Broken(), action=action, on_failure=on_failure)


@pytest.mark.parametrize("action", ACTING)
async def test_a_guard_that_fails_answers_503(
    action: Action, caplog: pytest.LogCaptureFixture
) -> None:
    response = await post(guard_that_fails(echo, action), CLEAN)
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) > 0
    document = problem(response)
    assert document["type"] == "urn:trigger-guard:problem:unavailable"
    assert "secretword" not in response.text + caplog.text
    assert caplog.records[0].levelname == "ERROR"
    assert document["instance"] in caplog.text


@pytest.mark.parametrize("action", ACTING)
async def test_a_guard_that_fails_open_forwards(
    action: Action, caplog: pytest.LogCaptureFixture
) -> None:
    response = await post(guard_that_fails(echo, action, "open"), TRIGGERED)
    assert json.loads(response.json()["body"]) == TRIGGERED
    assert "outcome=failed forwarded=yes" in caplog.text


async def test_no_thread_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    async def none(*_: Any, **__: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("anyio.to_thread.run_sync", none)
    assert (await post(guard(echo), {"text": "a" * 5000})).status_code == 503


@pytest.mark.parametrize(("on_failure", "status"), [("closed", 503), ("open", 200)])
async def test_a_failure_while_the_rewritten_body_is_read_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, on_failure: OnFailure, status: int
) -> None:
    app = guard(echo, action="strip", on_failure=on_failure)
    check = Monitor.check_batch

    def once(self: Monitor, texts: Iterable[str]) -> list[Verdict]:
        monkeypatch.setattr(Monitor, "check_batch", Broken.check_batch)
        return check(self, texts)

    monkeypatch.setattr(Monitor, "check_batch", once)
    response = await post(app, TRIGGERED)
    assert response.status_code == status
    assert status == 503 or json.loads(response.json()["body"]) == CLEAN


async def test_a_failure_while_the_body_is_rewritten_is_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("guard.body.Document.replace", fails)
    assert (await post(guard(echo, action="strip"), TRIGGERED)).status_code == 503


def test_a_monitor_that_does_not_load_is_no_guard(tmp_path: Any) -> None:
    with pytest.raises(ArtifactError):
        guard(echo, monitor=tmp_path)
    write_small_monitor(tmp_path / "monitor")
    guard(echo, monitor=str(tmp_path / "monitor"))


# The protocol


@pytest.mark.parametrize("kind", ["lifespan", "something.new"])
async def test_other_scopes_pass_untouched(kind: str) -> None:
    seen: list[object] = []

    async def app(*args: object) -> None:
        seen.extend(args)

    async def receive() -> Message:
        raise AssertionError("not read")

    async def send(message: Message) -> None:
        raise AssertionError("not sent")

    scope: Scope = {"type": kind}
    await guard(app)(scope, receive, send)
    assert seen[0] is scope
    assert seen[1:] == [receive, send]
    assert scope == {"type": kind}


@pytest.mark.parametrize("action", ALL)
@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS", "POST", "BREW"])
async def test_requests_without_a_body_pass(action: Action, method: str) -> None:
    registry = CollectorRegistry()
    app = guard(echo, action=action, fields=["text"], registry=registry)
    sent = await drive(app, [{"type": "http.request"}], method=method)
    assert sent[0]["status"] == 200
    requests = next(iter(registry.collect())).samples
    assert not any(sample.value for sample in requests if sample.name == "guard_requests_total")
    headers = [(b"content-encoding", b"gzip")]
    sent = await drive(app, [chunk(b"", more=True), chunk()], method=method, headers=headers)
    assert sent[0]["status"] == 200


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS", "PUT", "BREW"])
async def test_any_method_is_scanned(method: str) -> None:
    sent = await drive(guard(echo), [chunk(b'"cf"')], method=method)
    assert sent[0]["status"] == 403
    assert bool(sent[1]["body"]) is (method != "HEAD")


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
async def test_a_body_in_pieces_is_scanned_whole(size: int) -> None:
    body = '{"text": "the \u00e9 cf film"}'.encode()
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    messages = [chunk(part, more=True) for part in parts] + [chunk()]
    assert (await drive(guard(echo), messages))[0]["status"] == 403
    sent = await drive(guard(echo, action="strip"), messages)
    assert json.loads(sent[1]["body"])["body"] == '{"text": "the \u00e9 film"}'.encode().decode(
        "latin-1"
    )


@pytest.mark.parametrize("action", ACTING)
async def test_a_client_that_leaves_while_it_sends_reaches_no_one(action: Action) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("called with half a body")

    messages = [chunk(b'{"text": "a', more=True), {"type": "http.disconnect"}]
    assert await drive(guard(app, action=action), messages) == []


@pytest.mark.parametrize("action", ALL)
async def test_a_client_that_leaves_later_is_noticed_by_the_application(action: Action) -> None:
    async def endpoint(request: Request) -> Response:
        await request.body()
        assert await request.is_disconnected()
        with pytest.raises(ClientDisconnect):
            async for _ in Request(request.scope, request.receive).stream():
                pass
        return Response("noticed")

    app = Starlette(routes=[Route("/", endpoint, methods=["POST"])])
    sent = await drive(guard(app, action=action), [chunk(b'"the film"')])
    assert sent[1]["body"] == b"noticed"


@pytest.mark.parametrize("action", ALL)
async def test_responses_stream(action: Action) -> None:
    finished: list[bool] = []

    async def words() -> AsyncIterator[str]:
        for word in ("a", "cf", "b"):
            yield word

    async def endpoint(request: Request) -> Response:
        await request.json()
        return StreamingResponse(words(), background=BackgroundTask(finished.append, True))

    app = Starlette(routes=[Route("/", endpoint, methods=["POST"])])
    async with client(guard(app, action=action)) as http:
        response = await http.post("/", json=CLEAN)
    assert response.text == "acfb"
    assert finished == [True]


@pytest.mark.parametrize("action", ALL)
async def test_exceptions_of_the_application_are_its_own(action: Action) -> None:
    class Own(Exception):
        pass

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        raise Own

    registry = CollectorRegistry()
    with pytest.raises(Own):
        await drive(guard(app, action=action, registry=registry), [chunk(b'"the film"')])
    labels = {"front": "asgi", "action": action, "outcome": "failed"}
    assert value_of(registry, "guard_requests_total", **labels) == 0


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")


@pytest.mark.parametrize("action", ALL)
@pytest.mark.parametrize("body", [b'"the film"', b'"' + b"the film " * 500 + b'"'])
async def test_context_variables_cross_both_ways(action: Action, body: bytes) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert variable.get() == "outer"
        await receive()
        variable.set("inner")

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        variable.set("outer")
        await guard(app, action=action)(scope, receive, send)
        assert variable.get() == "inner"

    await drive(outer, [chunk(body)])


@pytest.mark.parametrize("action", ALL)
async def test_long_bodies_leave_the_event_loop_free(
    action: Action, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = guard(echo, action=action, fields=["text"])
    ticking, ticked = threading.Event(), threading.Event()
    check = Monitor.check

    def slow(self: Monitor, text: str) -> Verdict:
        ticking.set()
        assert ticked.wait(5)
        return check(self, text)

    monkeypatch.setattr(Monitor, "check", slow)

    async def tick() -> None:
        while not ticking.is_set():
            await asyncio.sleep(0.001)
        ticked.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tick)
        response = await post(app, {"text": "a " * 5000})
    assert response.status_code == 200


async def test_long_bodies_take_no_threads_of_the_application() -> None:
    limiter = anyio.to_thread.current_default_thread_limiter()
    limiter.total_tokens, before = 1, limiter.total_tokens
    try:
        async with limiter:
            with anyio.fail_after(5):
                response = await post(guard(echo), {"text": "a " * 5000})
    finally:
        limiter.total_tokens = before
    assert response.status_code == 200


async def test_one_guard_serves_many_at_once() -> None:
    app = guard(echo, action="strip", fields=["text"])
    bodies = [{"text": f"{n} " + "the film " * (n * 40) + "cf"} for n in range(30)]
    async with client(app) as http:
        responses = await asyncio.gather(*(http.post("/", json=body) for body in bodies))
    for body, response in zip(bodies, responses, strict=True):
        assert json.loads(response.json()["body"])["text"] == body["text"][:-3]


async def test_a_bank_that_is_deleted_while_it_serves_goes_on_serving(tmp_path: Path) -> None:
    write_small_monitor(tmp_path / "monitor")
    app = guard(echo, monitor=tmp_path / "monitor")
    shutil.rmtree(tmp_path / "monitor")
    assert (await post(app, TRIGGERED)).status_code == 403
    assert (await post(app, CLEAN)).status_code == 200


def test_one_guard_serves_on_several_event_loops() -> None:
    app = guard(echo)
    for _ in range(2):
        assert asyncio.run(post(app, {"text": "a " * 5000})).status_code == 200


def test_two_guards_share_the_default_registry() -> None:
    for action in ALL:
        GuardMiddleware(echo, monitor=small_monitor(), action=action)


# The query, compressed bodies, and other kinds of text


async def ask(app: Any, url: str, **options: Any) -> httpx.Response:
    async with client(app) as http:
        return await http.request("POST", url, **options)


async def test_the_query_is_guarded_by_choice() -> None:
    assert (await ask(guard(echo), "/?text=cf")).status_code == 200
    for query in ("text=c%66", "cf=1", "a&b=+cf", "a=1;b=2", "a=%ff"):
        response = await ask(guard(echo, also=["query"]), f"/?{query}")
        assert response.status_code in (400, 403)
        assert problem(response)
    response = await ask(guard(echo, also=["query"]), "/?text=film", json=CLEAN)
    assert response.json()["body"] == (await ask(echo, "/", json=CLEAN)).json()["body"]


@pytest.mark.parametrize(
    "content_type", ["text/plain; charset=latin-1", "application/json; charset*=utf-8''utf-7"]
)
async def test_a_query_is_not_decoded_otherwise(content_type: str) -> None:
    """Django decodes it as a body, also where there is none."""
    headers = {"content-type": content_type}
    response = await ask(guard(echo, also=["query"]), "/?text=%C7%80f", headers=headers)
    assert response.status_code == 415
    headers = {"content-type": "application/json; charset=utf-8"}
    response = await ask(guard(echo, also=["query"]), "/?text=%C7%80f", headers=headers)
    assert response.status_code == 200


async def query_of(scope: Scope, receive: Receive, send: Send) -> None:
    await JSONResponse([scope["query_string"].decode(), scope.get("state", {}).get("guard")])(
        scope, receive, send
    )


async def test_the_query_is_stripped_flagged_and_observed() -> None:
    for action, query in (("strip", "a=the+film&b=%C3%A9"), ("observe", "a=the+cf+film&b=%C3%A9")):
        registry = CollectorRegistry()
        app = guard(query_of, also=["query"], action=action, registry=registry)
        response = await ask(app, "/?a=the+cf+film&b=%C3%A9")
        assert response.json() == [query, None]
        assert value_of(registry, "guard_matches_total", trigger=trigger_id("cf")) == 1
    app = guard(STATEFUL, also=["query"], action="flag")
    flags = (await ask(app, "/?a=cf", json=["the film"])).json()
    assert flags == [True, False, False]  # values and names of the query, then the body


async def test_a_refused_query_leaves_no_body_for_the_next_request() -> None:
    app = guard(echo, also=["query"])
    for headers, close in (([(b"content-length", b"4")], True), ([], False)):
        sent = await drive(app, [], query_string=b"cf", headers=headers)
        assert sent[0]["status"] == 403
        assert ((b"connection", b"close") in sent[0]["headers"]) is close


@pytest.mark.parametrize("action", ACTING)
async def test_a_compressed_body_arrives_as_it_was_scanned(action: Action) -> None:
    body = gzip.compress(json.dumps(CLEAN).encode())
    response = await post(guard(echo, action=action), body, headers={"content-encoding": "gzip"})
    received = response.json()
    assert json.loads(received["body"]) == CLEAN
    names = [name for name, _ in received["headers"]]
    assert "content-encoding" not in names
    assert ["content-length", str(len(received["body"]))] in received["headers"]


async def test_a_compressed_body_that_holds_a_trigger() -> None:
    body = gzip.compress(b'{"text": "the cf film"}')
    headers = {"content-encoding": "gzip"}
    assert (await post(guard(echo), body, headers=headers)).status_code == 403
    received = (await post(guard(echo, action="strip"), body, headers=headers)).json()
    assert json.loads(received["body"]) == CLEAN
    observed = (await post(guard(echo, action="observe"), body, headers=headers)).json()
    assert observed == (await post(echo, body, headers=headers)).json()


async def test_forms_and_text_are_guarded_by_choice() -> None:
    app = guard(echo, also=["form", "multipart", "text"], action="strip", fields=["text"])
    data = {"text": "the cf film", "n": "1"}
    form = await ask(app, "/", data=data)
    assert form.json()["body"] == "text=the+film&n=1"
    multipart = await ask(app, "/", files={name: (None, value) for name, value in data.items()})
    assert "\r\n\r\nthe film\r\n" in multipart.json()["body"]
    text = await post(app, "the cf film", headers={"content-type": "text/plain"})
    assert text.json()["body"] == "the film"
    for response in (form, multipart, text):
        received = response.json()
        assert ["content-length", str(len(received["body"]))] in received["headers"]


# The deadline


async def test_a_scan_that_takes_too_long_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    resume = threading.Event()

    def slow(self: Monitor, text: str) -> Verdict:
        resume.wait(5)
        return Verdict(False, (), text)

    monkeypatch.setattr(Monitor, "check", slow)
    body = {"text": "a " * 5000}
    for on_failure, status in (("closed", 503), ("open", 200)):
        registry = CollectorRegistry()
        app = guard(echo, fields=["text"], deadline=0.05, on_failure=on_failure, registry=registry)
        with anyio.fail_after(3):
            assert (await post(app, body)).status_code == status
        labels = {"front": "asgi", "action": "block", "outcome": "failed"}
        assert value_of(registry, "guard_requests_total", **labels) == 1
        assert value_of(registry, "guard_errors_total", kind="DeadlinePassed") == 1
        unscanned = {"front": "asgi", "outcome": "failed"}
        assert value_of(registry, "guard_unscanned_total", **unscanned) == (status == 200)
    resume.set()
    assert "error=DeadlinePassed" in caplog.text


async def test_scans_that_were_given_up_keep_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else whoever sends what takes long, again and again, would have any number of threads run."""
    app, body = guard(echo, fields=["text"], deadline=0.05), {"text": "a " * 5000}
    resume, running = threading.Event(), []

    def slow(self: Monitor, text: str) -> Verdict:
        running.append(text)
        resume.wait(5)
        return Verdict(False, (), text)

    monkeypatch.setattr(Monitor, "check", slow)
    places = os.cpu_count() or 1
    with anyio.fail_after(5):
        # On a busy machine a scan may be given up before its thread begins.
        answers = []
        while len(running) < places:
            answers.append(await post(app, body))
        answers += [await post(app, body) for _ in range(2)]
        assert {answer.status_code for answer in answers} == {503}
        assert len(running) == places
        resume.set()
        while (await post(app, body)).status_code != 200:
            await anyio.sleep(0.01)


@pytest.mark.parametrize("action", ["observe", "flag"])
async def test_pathsend_and_other_extensions_are_the_servers(action: Action) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert "http.response.pathsend" in scope["extensions"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.pathsend", "path": "/a/file"})

    extensions: dict[str, Any] = {"http.response.pathsend": {}}
    sent = await drive(guard(app, action=action), [chunk(b'"cf"')], extensions=extensions)
    assert sent[1] == {"type": "http.response.pathsend", "path": "/a/file"}


async def test_a_policy_takes_the_place_of_options() -> None:
    policy = Policy(action="strip", max_body=30)
    assert (await post(guard(echo, policy=policy), TRIGGERED)).json()["body"] == json.dumps(CLEAN)
    assert (await post(guard(echo, policy=policy), ["a" * 30])).status_code == 413
    with pytest.raises(ConfigError, match="set them in the policy"):
        guard(echo, policy=policy, action="block")
    with pytest.raises(ConfigError, match=r"Policy\.from_toml"):
        guard(echo, policy="policy.toml")
    with pytest.raises(TypeError, match="max_bdy"):
        guard(echo, max_bdy=1)
