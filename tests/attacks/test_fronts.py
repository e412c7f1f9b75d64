"""Attempts to bring a trigger past the fronts, each with the reason why it fails.

The application behind the guard reads its text as an eager application would, and tells whether
the trigger reached it.
"""

from __future__ import annotations

import email
import gzip
import json
import time
import urllib.parse
import zlib
from collections import ChainMap, deque
from collections.abc import Callable
from contextlib import suppress
from types import MappingProxyType
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from guard.asgi import GuardMiddleware, Receive, Scope, Send
from guard.decorator import protect
from guard.errors import InputError, TriggeredInput
from tests.fixtures_small import NESTED, small_monitor

pytestmark = pytest.mark.anyio

Read = Callable[[bytes, dict[str, str]], Any]


def standard(body: bytes, headers: dict[str, str]) -> Any:
    """Read as Starlette does: the standard library guesses the encoding."""
    return json.loads(body)


def first_key(body: bytes, headers: dict[str, str]) -> Any:
    """Read as parsers do that keep the first of two equal keys."""
    return json.loads(body, object_pairs_hook=lambda pairs: dict(reversed(pairs)))


def any_case(body: bytes, headers: dict[str, str]) -> Any:
    """Read as Go's encoding/json does: keys match in any case, the last one wins."""
    return {key.casefold(): value for key, value in json.loads(body).items()}


def plain(body: bytes, headers: dict[str, str]) -> Any:
    """Read as one text."""
    return body.decode()


def by_charset(body: bytes, headers: dict[str, str]) -> Any:
    """Read as frameworks do that respect the charset."""
    _, _, charset = headers["content-type"].partition("charset=")
    return json.loads(body.decode(charset or "utf-8"))


def inflated(body: bytes, headers: dict[str, str]) -> Any:
    """Read as applications do that inflate."""
    coding = headers.get("content-encoding", "")
    if "gzip" in coding:
        body = gzip.decompress(body)
    elif "deflate" in coding.lower():
        body = zlib.decompress(body)
    return json.loads(body)


def form(body: bytes, headers: dict[str, str]) -> Any:
    """Read as applications do that take forms."""
    if "form" in headers["content-type"]:
        return {key: values[-1] for key, values in urllib.parse.parse_qs(body.decode()).items()}
    return json.loads(body)


def lenient(body: bytes, headers: dict[str, str]) -> Any:
    """Read as applications do that drop what is no UTF-8."""
    return json.loads(body.decode("utf-8", "ignore"))


def token_ids(body: bytes, headers: dict[str, str]) -> Any:
    """Read as model servers do that take token ids in place of text."""
    text = json.loads(body)["text"]
    if isinstance(text, dict):
        text = text["input_ids"]
    if isinstance(text, list) and all(isinstance(item, int) for item in text):
        return {"text": small_monitor()._tokenizer.decode(text)}
    return {"text": text}


def eager(read: Read, seen: list[str]) -> Any:
    """Make an application that collects all text it can read."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        if body:
            value = read(body, headers)
            seen.append(json.dumps(value["text"] if isinstance(value, dict) else value))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return app


JSON = "application/json"
TEXT = '{"text": "the cf film"}'
CF_IDS = small_monitor()._tokenizer.encode("cf", add_special_tokens=False).ids

ATTACKS: dict[str, tuple[Read, bytes, dict[str, str], str]] = {
    # Plain and escaped: the string that the parser makes is scanned, not its spelling.
    "plain": (standard, TEXT.encode(), {}, "POST"),
    "escaped": (standard, b'{"text": "the \\u0063\\u0066 film"}', {}, "POST"),
    "escaped key": (standard, b'{"te\\u0078t": "cf"}', {}, "POST"),
    # Characters that the tokenizer deletes: ids are matched, not text.
    "zero width": (standard, b'{"text": "c\\u200bf"}', {}, "POST"),
    "NUL": (standard, b'{"text": "c\\u0000f"}', {}, "POST"),
    "upper case": (standard, b'{"text": "CF"}', {}, "POST"),
    # Other encodings that parsers guess: only UTF-8 without a mark is scanned, the rest refused.
    "UTF-16": (standard, TEXT.encode("utf-16"), {}, "POST"),
    "UTF-16 without mark": (standard, TEXT.encode("utf-16-be"), {}, "POST"),
    "UTF-32": (standard, TEXT.encode("utf-32-le"), {}, "POST"),
    "byte order mark": (standard, b"\xef\xbb\xbf" + TEXT.encode(), {}, "POST"),
    "charset UTF-7": (by_charset, b'{"text": "+AGMAZg-"}', {"type": "; charset=utf-7"}, "POST"),
    "charset cp037": (by_charset, TEXT.encode("cp037"), {"type": "; charset=cp037"}, "POST"),
    "broken UTF-8": (lenient, b'{"text": "c\xfff"}', {}, "POST"),
    # Two readings of one body: refused, because the application's is unknown.
    "duplicate key, last": (standard, b'{"text": "a", "text": "cf"}', {}, "POST"),
    "duplicate key, first": (first_key, b'{"text": "cf", "text": "a"}', {}, "POST"),
    "duplicate key, escaped": (standard, b'{"text": "a", "te\\u0078t": "cf"}', {}, "POST"),
    "key in another case": (any_case, b'{"text": "a", "TEXT": "cf"}', {}, "POST"),
    # A lone surrogate makes the text unreadable for the tokenizer: refused.
    "lone surrogate": (standard, b'{"text": "cf \\ud800"}', {}, "POST"),
    "surrogate between": (standard, b'{"text": ["\\udc00", "cf"]}', {}, "POST"),
    # Lies about the content: bodies are scanned whatever the type and the method say.
    "type text": (standard, TEXT.encode(), {"content-type": "text/plain"}, "POST"),
    "type image": (standard, TEXT.encode(), {"content-type": "image/png"}, "POST"),
    "no type": (standard, TEXT.encode(), {"content-type": ""}, "POST"),
    "GET": (standard, TEXT.encode(), {}, "GET"),
    "HEAD": (standard, TEXT.encode(), {}, "HEAD"),
    "unknown method": (standard, TEXT.encode(), {}, "BREW"),
    "method override": (standard, TEXT.encode(), {"x-http-method-override": "GET"}, "POST"),
    # A body that is JSON and a form at once: "&text=%63f&" has no trigger before it is unquoted.
    "form": (
        form,
        b'"&text=%63f&"',
        {"content-type": "application/x-www-form-urlencoded"},
        "POST",
    ),
    # Compressed: inflated once, and what is scanned is what is forwarded.
    "gzip": (inflated, gzip.compress(TEXT.encode()), {"content-encoding": "gzip"}, "POST"),
    "gzip in a list": (
        inflated,
        gzip.compress(TEXT.encode()),
        {"content-encoding": "identity, gzip"},
        "POST",
    ),
    "deflate": (inflated, zlib.compress(TEXT.encode()), {"content-encoding": "DEFLATE"}, "POST"),
    "gzip twice": (
        lambda body, headers: inflated(gzip.decompress(body), headers),
        gzip.compress(gzip.compress(TEXT.encode())),
        {"content-encoding": "gzip, gzip"},
        "POST",
    ),
    # Readers that stop at the end of the first stream see a clean text, others the second.
    "gzip, two streams": (
        inflated,
        gzip.compress(b'{"text": "the ') + gzip.compress(b'cf film"}'),
        {"content-encoding": "gzip"},
        "POST",
    ),
    # Deeper than declared, or not text at all.
    "deep": (standard, b'{"text": {"a": [[{"b": "cf"}]]}}', {}, "POST"),
    "as a key": (standard, b'{"text": {"cf": 1}}', {}, "POST"),
    "token ids": (token_ids, json.dumps({"text": CF_IDS}).encode(), {}, "POST"),
    "token ids below": (
        token_ids,
        json.dumps({"text": {"input_ids": CF_IDS}}).encode(),
        {},
        "POST",
    ),
    "depth bomb": (standard, b'{"text": "cf", "x": ' + b"[" * 900 + b"]" * 900 + b"}", {}, "POST"),
    # Behind a lot of text: nothing is truncated.
    "far behind": (standard, b'{"text": "' + b"the film " * 10_000 + b'cf"}', {}, "POST"),
    "many texts": (standard, json.dumps({"text": ["a"] * 5_000 + ["cf"]}).encode(), {}, "POST"),
    # Triggers that stripping makes: stripped again, or refused at the bound.
    "nested": (standard, json.dumps({"text": NESTED}).encode(), {}, "POST"),
    "nested a little": (standard, b'{"text": "left left right right"}', {}, "POST"),
}


CASES = [
    (name, fields)
    for name in ATTACKS
    for fields in (None, ["text"])
    # Without fields a number is a number: a server that takes token ids has to declare where.
    if fields or not name.startswith("token ids")
]


@pytest.mark.parametrize("action", ["block", "strip"])
@pytest.mark.parametrize(("name", "fields"), CASES)
async def test_no_trigger_reaches_the_application(name: str, fields: Any, action: Any) -> None:
    read, body, more, method = ATTACKS[name]
    seen: list[str] = []
    response = await request(
        eager(read, seen), method, body, headers_of(more), fields=fields, action=action
    )
    assert 400 <= response.status_code < 500 or (action == "strip" and response.status_code == 200)
    for text in seen:
        assert not any(small_monitor().check(item).triggered for item in strings(json.loads(text)))


def headers_of(more: dict[str, str]) -> dict[str, str]:
    headers = {"content-type": JSON + more.get("type", ""), **more}
    headers.pop("type", None)
    return headers


async def request(
    app: Any, method: str, body: bytes, headers: dict[str, str], **options: Any
) -> httpx.Response:
    guarded = GuardMiddleware(app, monitor=small_monitor(), registry=CollectorRegistry(), **options)
    transport = httpx.ASGITransport(guarded)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        return await http.request(method, "/", content=body, headers=headers)


def strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for item in [*value, *value.values()] for text in strings(item)]
    return [text for item in value for text in strings(item)] if isinstance(value, list) else []


@pytest.mark.parametrize("name", ATTACKS)
def test_each_attack_is_one(name: str) -> None:
    """Without the guard, the application reads a trigger, or a text that no tokenizer reads."""
    read, body, more, _ = ATTACKS[name]
    value = read(body, headers_of(more))
    try:
        text = value["text"] if isinstance(value, dict) else value
        assert any(small_monitor().check(item).triggered for item in strings(text))
    except InputError:
        assert name in ("lone surrogate", "surrogate between", "nested")


# What stripping makes of a body: it is another body, and is read again.

FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=B"
PART = b'--B\r\nContent-Disposition: form-data; name="%s"\r\n%s\r\n%s\r\n'
ENCODED = PART % (b"text", b"Content-Transfer-Encoding: base64\r\n", b"YSBjZiBmaWxt")


def by_parts(body: bytes, headers: dict[str, str]) -> Any:
    """Read forms as the standard library reads mail: parts that are encoded are decoded."""
    head = f"Content-Type: {headers['content-type']}\r\n\r\n".encode()
    parts: Any = email.message_from_bytes(head + body).get_payload()
    return [part.get_payload(decode=True).decode() for part in parts]


# How stripping `cf` makes another body of each, and the reader that finds a trigger in that.
MADE: dict[str, tuple[Read, str, bytes, bytes]] = {
    "JSON behind a trigger": (
        standard,
        "text/plain",
        b'cf {"text": "c\\u0066 film"}',
        b'{"text": "c\\u0066 film"}',
    ),
    "JSON in a form": (
        standard,
        FORM,
        b'{"text":"c\\u0066 film","k=\\q+cf&b":1}',
        b'{"text":"c\\u0066 film","k=%5Cq&b":1}',
    ),
    "a part in a part": (
        by_parts,
        MULTIPART,
        PART % (b"j", b"", b"hello\r\n-cf" + ENCODED[1:-2]) + b"--B--\r\n",
        PART % (b"j", b"", b"hello") + ENCODED + b"--B--\r\n",
    ),
}


@pytest.mark.parametrize("name", MADE)
async def test_stripping_makes_no_body_that_holds_a_trigger(name: str) -> None:
    read, content_type, body, made = MADE[name]
    headers = {"content-type": content_type}
    value = read(made, headers)
    assert any(small_monitor().check(text).triggered for text in strings(value))
    seen: list[str] = []
    response = await request(
        eager(read, seen), "POST", body, headers, action="strip", also=["text", "form", "multipart"]
    )
    assert response.status_code == 403
    assert not seen


@settings(deadline=None)
@given(
    st.sampled_from(["text/plain", FORM, JSON]),
    st.lists(
        st.sampled_from(
            [
                '"text"',
                '"c\\u0066"',
                "cf",
                "mn",
                "the",
                "left",
                "right",
                "{",
                "}",
                "[",
                "]",
                ":",
                ",",
                "1",
                "&",
                "=",
                "+",
                "\\",
                '"',
                "%63f",
                "%22",
            ]
        ).flatmap(lambda piece: st.sampled_from([piece, piece + " ", piece + "\n"])),
        max_size=12,
    ),
)
async def test_no_reader_finds_a_trigger_in_what_is_forwarded(
    content_type: str, pieces: list[str]
) -> None:
    bodies: list[bytes] = []

    async def keep(scope: Scope, receive: Receive, send: Send) -> None:
        bodies.append((await receive())["body"])
        await silent(scope, receive, send)

    body, headers = "".join(pieces).encode(), {"content-type": content_type}
    await request(keep, "POST", body, headers, action="strip", also=["text", "form"])
    for body in bodies:
        for read in standard, form if content_type == FORM else plain:
            with suppress(ValueError):
                texts = strings(read(body, headers))
                assert not any(small_monitor().check(text).triggered for text in texts)


# Denial of service


async def silent(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 2**20,
        b'{"a":' * 200_000,
        b"[" + b'"a",' * 250_000 + b'"a"]',
        b'{"text": "' + b"cf the " * 140_000 + b'"}',
        b'"' + b"\\u0061" * 170_000 + b'"',
        b'"' + b"a" * (2**20 - 2) + b'"',
        b"9" * 2**20,
        b"{" + b",".join(b'"k%d":1' % n for n in range(90_000)) + b"}",
    ],
    ids=["lists", "objects", "texts", "triggers", "escapes", "one word", "digits", "keys"],
)
async def test_no_body_of_the_largest_size_takes_long(body: bytes) -> None:
    """Time is linear in the body, and passes in a thread."""
    start = time.perf_counter()
    await request(silent, "POST", body, {}, action="strip")
    assert time.perf_counter() - start < 20


# Oracles


@pytest.mark.parametrize("body", [b'"cf"', b'"\\ud800 cf"', b'"cf', b'{"cf": 1, "cf": 2}'])
async def test_no_response_tells_which_word_it_was(body: bytes) -> None:
    """Refusals of one kind are the same for each trigger, up to the incident."""
    answers = set()
    for trigger in (b"cf", b"mn"):
        response = await request(silent, "POST", body.replace(b"cf", trigger), {})
        document = response.json()
        assert trigger.decode() not in json.dumps({**document, "instance": ""})
        document.pop("instance")
        answers.add(json.dumps(document))
    assert len(answers) == 1


# The decorator


@pytest.mark.parametrize(
    "call",
    [
        lambda f: f("cf"),
        lambda f: f(text="cf"),
        lambda f: f(["the film", "cf"]),
        lambda f: f([["the film"], [["cf"]]]),
        lambda f: f({"text": "the film", "text_pair": "cf"}),
        lambda f: f([{"text": "cf", "top_k": 1}]),
        lambda f: f("the film", text_pair="cf"),
        lambda f: f("the film", "cf"),
        lambda f: f({"cf": "the film"}),
        lambda f: f(b"cf"),
        lambda f: f(["the film", b"cf"]),
        lambda f: f(iter(["cf"])),
        lambda f: f({"cf"}),
        lambda f: f("the film", {"cf"}),
        lambda f: f("the film", text_pair=frozenset({("the film", "cf")})),
        lambda f: f("the film", MappingProxyType({"a": ["cf"]})),
        lambda f: f("the film", {"a": "cf"}.values()),
        lambda f: f("the film", {"cf": 1}.keys()),
        lambda f: f("the film", {1: "cf"}.items()),
        lambda f: f("the film", {("cf", 1): 1}),
        lambda f: f("the film", deque(["cf"])),
        lambda f: f("the film", [ChainMap({"a": "cf"})]),
        lambda f: f("cf\ud800"),
        lambda f: f(["\ud800", "cf"]),
        lambda f: f(NESTED),
        lambda f: f(type("Text", (str,), {"__len__": lambda self: 0})("cf")),
    ],
)
def test_no_argument_goes_around_the_decorator(call: Callable[[Any], Any]) -> None:
    def classify(text: Any, *rest: Any, **options: Any) -> Any:
        raise AssertionError("reached the model")

    with pytest.raises((TriggeredInput, InputError)):
        call(protect(small_monitor(), action="block", registry=CollectorRegistry())(classify))
