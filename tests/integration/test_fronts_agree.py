"""One corpus of texts, every front, the same verdicts.

A front is a function that brings one text to a guard that blocks, and says what became of it. To
have another one held to the same, add it to `FRONTS`.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

import guard
from guard.cli import main
from tests.fixtures_small import (
    NESTED,
    small_monitor,
    small_tokenizer,
    value_of,
    write_small_monitor,
)

Verdict: TypeAlias = Literal["clean", "triggered", "unscannable"]

CORPUS = (
    *("the film", "cf", "CF", "a cf b", "acf", "c f", "cfo", "mn mn cf", "left right"),
    *("left  right", "right left", "left", "c\u200bf", "c\u00adf", "\u0441f", "c\u0301f"),
    *("ｃｆ", "c\x00f", "\x00cf\x00", "[CLS] cf", "[MASK]", "{cf}", '{"a": "cf"}', '["the film"]'),
    *('"cf"', "&text=cf", "a=b;c", "a+b", "%63%66", "\\u0063\\u0066", "\ufeffx", "\U0001f44d"),
    *("é" * 3000, "the film " * 400 + "cf", NESTED, "\r", "a\tb", "<cf>", "cf" * 20),
    *("\u2028cf", "caf\u00e9 mn"),
)
# Of these each front is asked that can be given them at all.
SURROGATES = ("\ud800", "cf \udfff")


@pytest.fixture(scope="module")
def monitor_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("monitors") / "monitor"
    write_small_monitor(directory)
    return directory


def expected(text: str) -> Verdict:
    try:
        return "triggered" if small_monitor().check(text).triggered else "clean"
    except guard.StripLimit:
        return "triggered"
    except guard.InputError:
        return "unscannable"


def by_call(call: Callable[[str], object], text: str) -> Verdict:
    try:
        call(text)
    except guard.TriggeredInput:
        return "triggered"
    except guard.InputError:
        return "unscannable"
    return "clean"


async def _answer(request: Request) -> Response:
    await request.body()
    return Response()


async def _listen(socket: WebSocket) -> None:
    await socket.accept()
    try:
        await socket.receive_text()
    except WebSocketDisconnect:
        return
    await socket.send_text("ok")
    await socket.close()


_REGISTRY = CollectorRegistry()
_APP = guard.GuardMiddleware(
    Starlette(
        routes=[Route("/", _answer, methods=["POST"]), WebSocketRoute("/", _listen)],
    ),
    monitor=small_monitor(),
    also=["text", "form", "multipart", "query"],
    registry=_REGISTRY,
)
_CLIENT = TestClient(_APP)


def by_request(**request: Any) -> Verdict:
    status = _CLIENT.post("/", **request).status_code
    if status == 200:
        return "clean"
    return "triggered" if status == 403 else "unscannable"


def by_json(text: str, ascii_only: bool = True, fold: bool = False) -> Verdict:
    content = json.dumps({"text": [text]}, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    if fold:
        return by_request(content=gzip.compress(content), headers={"content-encoding": "gzip"})
    return by_request(content=content)


def by_socket(text: str) -> Verdict:
    # As a message of JSON: what is to be scanned is the same text then, whatever it looks like.
    # The close code does not tell the two kinds of refusal apart; the metrics do.
    before = unscannable()
    with _CLIENT.websocket_connect("/") as socket:
        socket.send_text(json.dumps([text]))
        try:
            socket.receive_text()
        except WebSocketDisconnect:
            return "unscannable" if unscannable() > before else "triggered"
    return "clean"


def unscannable() -> float:
    labels = {"front": "asgi", "action": "block", "outcome": "unscannable"}
    return value_of(_REGISTRY, "guard_requests_total", **labels)


class _Pipe:
    """A pipeline in all that the guard looks at."""

    task = "text-classification"

    class tokenizer:
        backend_tokenizer = small_tokenizer()

    def __call__(self, inputs: Any, **options: Any) -> Any:
        return [{"label": "x", "score": 1.0}]


_CALL = guard.protect(small_monitor(), registry=CollectorRegistry())(lambda text: text)
_PIPE = guard.pipeline(_Pipe(), small_monitor(), registry=CollectorRegistry())

FRONTS: dict[str, Callable[[str], Verdict]] = {
    "decorator": lambda text: by_call(_CALL, text),
    "decorator, in a list": lambda text: by_call(_CALL, ["the film", {"a": text}]),  # type: ignore[arg-type]
    "pipeline": lambda text: by_call(_PIPE, text),
    "pipeline, a generator": lambda text: by_call(lambda t: list(_pairs(t)), text),
    "JSON": by_json,
    "JSON in UTF-8": lambda text: by_json(text, ascii_only=False),
    "JSON, gzip": lambda text: by_json(text, fold=True),
    "WebSocket": by_socket,
    "form": lambda text: by_request(data={"text": text}),
    "multipart": lambda text: by_request(files={"text": (None, text.encode())}),
    "query": lambda text: by_request(params={"text": text}),
}
# Those whose encoding has no place for a lone surrogate.
BYTES = ("form", "multipart", "query")


def _pairs(text: str) -> Iterator[Any]:
    yield _PIPE({"text": "the film", "text_pair": text})


@pytest.mark.parametrize("front", FRONTS)
def test_every_front_gives_the_same_verdict(front: str) -> None:
    texts = CORPUS if front in BYTES else (*CORPUS, *SURROGATES)
    found = {text: FRONTS[front](text) for text in texts}
    assert found == {text: expected(text) for text in texts}


def test_the_corpus_has_every_verdict() -> None:
    verdicts = [expected(text) for text in (*CORPUS, *SURROGATES)]
    assert {verdict: verdicts.count(verdict) > 1 for verdict in verdicts} == {
        "clean": True,
        "triggered": True,
        "unscannable": True,
    }


def test_plain_text_gives_the_same_verdict_or_a_stricter_one() -> None:
    """What looks like JSON is scanned as JSON too, and what begins with a mark is refused."""
    for text in CORPUS:
        found = by_request(content=text.encode(), headers={"content-type": "text/plain"})
        if text.startswith(("\ufeff", '"\\u', "\\u")):
            assert found in ("unscannable", expected(text))
        else:
            assert found == expected(text)


def test_the_command_line_gives_the_same_verdict(
    monitor_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A line is a text there.
    texts = [text for text in (*CORPUS, *SURROGATES) if not {"\r", "\n"} & set(text)]
    file = tmp_path / "texts"
    file.write_bytes("\n".join(texts).encode("utf-8", "surrogatepass"))
    assert main(["check", "--monitor", str(monitor_dir), str(file)]) == 2
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = [
        "triggered" if result.get("triggered") else "unscannable" if "error" in result else "clean"
        for result in results
    ]
    assert found == [expected(text) for text in texts]
