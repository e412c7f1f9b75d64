"""Bodies that are no JSON: text, forms, multipart, compressed, and WebSocket messages."""

from __future__ import annotations

import gzip
import json
import random
import struct
import zlib
from functools import partial
from typing import Any, get_args
from urllib.parse import parse_qsl, urlencode

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.body import Document, UnreadableBody
from guard.content import (
    Kind,
    Reader,
    check_kinds,
    decode_message,
    parse_message,
    parse_text,
)
from guard.errors import ConfigError
from guard.fields import compile_fields
from guard.forms import parse_form

LIMIT = 10_000
ALL: frozenset[Kind] = frozenset(get_args(Kind))
FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=B"

valid_text = st.text(st.characters(exclude_categories=["Cs"]))


def read(
    body: bytes, content_type: str = "", also: frozenset[Kind] = ALL, **headers: str
) -> tuple[Document, bytes]:
    pairs = {"Content-Type": content_type, **headers}
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in pairs.items()]
    body, reader = Reader(compile_fields(["text"]), also, LIMIT).open(raw, body)
    return reader(body), body


def refusal(*args: Any, **headers: Any) -> tuple[str, int]:
    with pytest.raises(UnreadableBody) as caught:
        read(*args, **headers)
    return caught.value.kind, caught.value.status


@pytest.mark.parametrize("also", ["text", ["json"], [None], ["form", "xml"], None, 1])
def test_kinds_that_do_not_exist(also: Any) -> None:
    with pytest.raises(ConfigError, match="choose from text, form, multipart, query"):
        check_kinds(also)


# text/plain


def test_a_text_is_one_text() -> None:
    document, body = read(b"the film", "text/plain; charset=UTF-8")
    assert (document.texts, document.keys, body) == (["the film"], [], b"the film")
    assert document.replace(["é"]) == "é".encode()
    assert document.replace(document.texts) == body


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"text": "\\u0063f"}', ["text", "cf"]),
        (b'{"text": "a", "text": "\\u0063f"}', ["text", "a", "text", "cf"]),
        (b'{"text": "\\u0063f", "x": NaN}', ["text", "cf", "x"]),
        (b' ["\\u0063f"] and so on', ["cf"]),
        (b'{"a": 1}\n{"b": ["\\u0063f"]}', ["a", "b", "cf"]),
        (b'{"text": "c\tf"}', ["text", "c\tf"]),
        # More digits than Python reads, and other readers do.
        (b'{"n": ' + b"9" * 5000 + b', "text": "\\u0063f"}', ["n", "text", "cf"]),
        (b"[not json", []),
        (rb"\u0063\u0066", []),
        (rb"{text: '\u0063f'}", ["{text: 'cf'}"]),
        # As YAML has it, and as a reader of lines that skips what is none.
        (b'{"text": "\\u0063f",}', ['{"text": "cf",}']),
        (b'#\n{"text": "\\u0063\\u0066"}', ['#\n{"text": "cf"}']),
        (
            b'["mn"] {"text": "\\ud83d\\ude00 \\u0063\\ud800f"',
            ["mn", ' {"text": "\U0001f600 c\ufffdf"'],
        ),
    ],
)
def test_a_text_that_is_json_too_is_scanned_as_both(body: bytes, found: list[str]) -> None:
    document, _ = read(body, "text/plain")
    assert document.texts == [body.decode()]
    assert document.keys == found


def test_texts_that_readers_read_differently() -> None:
    assert refusal(b"\xef\xbb\xbfcf", "text/plain") == ("NotUtf8", 400)
    assert refusal(b"c\xfff", "text/plain") == ("NotUtf8", 400)
    assert refusal(b"cf", "text/plain; charset=utf-16") == ("Charset", 415)
    # Whoever reads ASCII makes of an é two signs that BERT's normaliser drops.
    assert refusal("céf".encode(), "text/plain; charset=us-ascii") == ("Charset", 415)
    assert refusal(b"[" * 9000, "text/plain") == ("TooDeep", 400)


def test_a_kind_that_is_not_asked_for_is_json_or_refused() -> None:
    none: frozenset[Kind] = frozenset()
    assert read(b'{"text": "a"}', "text/plain", none)[0].texts == ["a"]
    assert refusal(b"the film", "text/plain", none) == ("NotJson", 400)
    assert refusal(b"text=a", FORM, none) == ("Form", 415)
    assert refusal(b"", MULTIPART, none) == ("Form", 415)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (FORM, "application/json"),
        ("application/json", "application/json"),
        # Of these some readers take the second, or join both with a comma and take the last.
        (MULTIPART, "multipart/form-data; boundary=C"),
    ],
)
def test_two_content_types_are_refused(one: str, other: str) -> None:
    with pytest.raises(UnreadableBody, match="two content types"):
        Reader(None, ALL, LIMIT).open(
            [(b"content-type", one.encode()), (b"Content-Type", other.encode())], b"{}"
        )


# Forms


@given(st.lists(st.tuples(valid_text, valid_text)), valid_text)
def test_a_form_is_read_and_rewritten_as_it_was_meant(
    pairs: list[tuple[str, str]], new: str
) -> None:
    form = urlencode(pairs).encode()
    document = parse_form(form)
    assert document.texts == [value for _, value in pairs]
    assert document.keys == [name for name, _ in pairs if name]
    assert document.replace(document.texts) == form
    changed = [text + new for text in document.texts]
    rewritten = parse_qsl(document.replace(changed).decode(), keep_blank_values=True)
    assert rewritten == [(name, text) for (name, _), text in zip(pairs, changed, strict=True)]


def test_what_stripping_leaves_alone_keeps_its_spelling() -> None:
    document = parse_form(b"a=%63f&b=x%20y+z&&c&=d")
    assert document.texts == ["cf", "x y z", "d"]
    assert document.keys == ["a", "b", "c"]
    assert document.replace(["", "x y z", "d"]) == b"a=&b=x%20y+z&&c&=d"


def test_forms_that_readers_read_differently() -> None:
    assert refusal(b"a=b;text=cf", FORM) == ("BadForm", 400)
    # To Starlette a C and a control character, which BERT's normaliser makes a c of.
    assert refusal(b"text=\xc7\x80f", FORM) == ("BadForm", 400)
    assert refusal(b"text=c%fff", FORM) == ("NotUtf8", 400)
    # Readers that give up the value for one bad escape read no a here.
    for escape in b"%", b"%zz", b"%6", b"%u0061", b"%%36":
        assert refusal(b"text=mb%61+" + escape, FORM) == ("BadForm", 400)
        assert refusal(escape + b"=mb%61", FORM) == ("BadForm", 400)
    assert refusal(b"text=%00c&_charset_=utf-16", FORM) == ("Charset", 415)
    assert refusal(b"text=a", f"{FORM}; charset=latin-1") == ("Charset", 415)


def test_a_form_that_is_json_too() -> None:
    document, _ = read(b'{"text": "\\u0063f"}', FORM)
    assert "cf" in document.keys


@pytest.mark.parametrize(
    ("body", "content_type", "found"),
    [
        (b'"&text=a+%63f+film&"', "application/json", ["text", "a cf film"]),
        (b"text=left+right;c%66=", "text/plain", ["text", "cf", "left right", ""]),
        (b'{"a": "1=c%2\xc3\xa9"}', "", ['c%2\xe9"}', 'c%2\xc3\xa9"}']),
        (b'{"a": "cf"}', "", []),
        (b"a & b", "text/plain", []),
    ],
)
def test_what_is_no_form_is_looked_at_as_one_where_forms_are_read(
    body: bytes, content_type: str, found: list[str]
) -> None:
    """There are readers that take any body for one, whatever its type is."""
    headers = [(b"content-type", content_type.encode())] if content_type else []
    with_forms, without = (
        Reader(None, also, LIMIT).open(headers, body)[1](body) for also in (ALL, ALL - {"form"})
    )
    assert with_forms.texts == without.texts
    assert sorted(with_forms.keys) == sorted([*without.keys, *found])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16-le", "utf-16-be", "utf-16", "utf-32"])
@pytest.mark.parametrize(
    "content_type", ["text/plain", FORM, f"application/json; a={FORM}", "application/json"]
)
def test_json_in_another_encoding(encoding: str, content_type: str) -> None:
    """The json module finds out by itself, and so does what is built on it."""
    body = '{"text": "\\u0063f"}'.encode(encoding)
    assert json.loads(body) == {"text": "cf"}
    assert refusal(body, content_type)[1] == 400
    # More digits than Python reads, and other readers do.
    digits = f'{{"n": {"9" * 5000}}}'.encode(encoding)
    with pytest.raises(UnreadableBody, match="is JSON in utf"):
        parse_text(digits)
    with pytest.raises(UnreadableBody, match="is JSON in utf"):
        decode_message(body, LIMIT)
    with pytest.raises(UnreadableBody, match="is over 4 bytes"):
        decode_message(body, 4)
    part = multipart({"text": "x", "y": ("a.json", body)})
    assert refusal(part, MULTIPART) == ("NotUtf8", 400)


# multipart/form-data


def part(value: bytes, disposition: str = 'form-data; name="text"', *more: str) -> bytes:
    head = "\r\n".join((f"Content-Disposition: {disposition}", *more))
    return b"--B\r\n" + head.encode() + b"\r\n\r\n" + value + b"\r\n"


def multipart(parts: dict[str, str | tuple[str, bytes]]) -> bytes:
    """Frame fields and files as browsers do."""
    body = b""
    for name, value in parts.items():
        file = "" if isinstance(value, str) else f'; filename="{value[0]}"'
        content = value.encode() if isinstance(value, str) else value[1]
        head = f'--B\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        body += head.encode() + content + b"\r\n"
    return body + b"--B--\r\n"


def test_a_part_is_looked_at_as_json() -> None:
    body = multipart({"a": '{"text": "\\u0063f"}', "b": ("b.json", b'["m\\u006e"]')})
    document, _ = read(body, MULTIPART)
    assert {"text", "cf", "mn"} <= {*document.keys}


@pytest.mark.parametrize(
    "header",
    [
        "Content-Type: text/plain; charset=latin-1",
        "Content-Type: text/plain; charset=utf-8; charset=iso-8859-1",
        "Content-Type: text/plain; xcharset=utf-8; charset=iso-8859-1",
        "Content-Type: text/plain; charset*=utf-8''iso-8859-1",
        "Content-Type: text/plain; charset*0=iso-8859-1",
        "Content-Type: text/plain; charset = iso-8859-1",
        "Content-Type : text/plain; charset=iso-8859-1",
    ],
)
def test_a_part_in_another_charset_is_refused(header: str) -> None:
    """To Werkzeug a C and a control character, which BERT's normaliser makes a c of."""
    disposition = b'Content-Disposition: form-data; name="text"\r\n'
    body = b"--B\r\n" + disposition + header.encode() + b"\r\n\r\n\xc7\x80f\r\n--B--\r\n"
    assert refusal(body, MULTIPART) in (("Form", 415), ("BadForm", 400))
    assert read(body.replace(header.encode(), b"Content-Type: text/plain"), MULTIPART)[0].texts


def test_each_part_that_is_text_is_read() -> None:
    body = (
        part("the é".encode())
        + part(b"a,cf", 'form-data; name="table"; filename="t.csv"', "Content-Type: text/csv")
        + part(b"\xff\xd8\xff", 'form-data; name=photo; filename="p.jpg"')
        + part(b"", "form-data; name=empty")
        + b"--B--\r\n"
    )
    document, _ = read(body, MULTIPART)
    assert document.texts == ["the é", "a,cf", ""]
    assert document.keys == ["text", "table", "t.csv", "photo", "p.jpg", "empty"]
    assert document.replace(document.texts) == body
    changed = document.replace(["é", "a,", "x"])
    assert changed == body.replace(b"the ", b"").replace(b"cf", b"").replace(
        b"name=empty\r\n\r\n", b"name=empty\r\n\r\nx"
    )


@pytest.mark.parametrize("name", ["t.csv", ""])
def test_a_part_with_a_byte_order_mark_is_read_with_it_and_without(name: str) -> None:
    """Spreadsheets write tables so."""
    for content in 'cf,"the film"', '{"text": "c\\u0066"}\n[]':
        body = multipart({"t": (name, content.encode("utf-8-sig"))})
        document, _ = read(body, MULTIPART)
        assert document.texts == ["\ufeff" + content, content]
        assert ("cf" in document.keys) == (content[0] == "{")
        assert document.replace(["\ufeffa", "a"]) == multipart({"t": (name, b"\xef\xbb\xbfa")})


@given(st.lists(st.tuples(st.text("abc", min_size=1), valid_text), min_size=1))
def test_what_a_client_library_sends_is_read(fields: list[tuple[str, str]]) -> None:
    files = [(name, (None, value)) for name, value in fields]
    request = httpx.Request("POST", "http://test", files=files)
    document, body = read(request.read(), request.headers["content-type"])
    assert document.texts == [value for _, value in fields]
    assert document.replace(document.texts) == body


END = b"--B--\r\n"


@pytest.mark.parametrize(
    ("body", "refused"),
    [
        (b"cf" + part(b"a") + END, ("BadForm", 400)),
        (b"cf\r\n" + part(b"a") + END, ("BadForm", 400)),
        (part(b"a") + END + b"cf", ("BadForm", 400)),
        (part(b"a"), ("BadForm", 400)),
        (b"", ("BadForm", 400)),
        # Readers that end lines at a line feed would find another part.
        (part(b"a\n--B\nContent-Disposition: form-data; name=x\n\ncf") + END, ("BadForm", 400)),
        (part(b"a", "form-data; name=x\nX: y") + END, ("BadForm", 400)),
        (part(b"a", "form-data;\r\n name=x") + END, ("BadForm", 400)),
        (part(b"a", "form-data") + END, ("BadForm", 400)),
        (part(b"a", "attachment; name=x") + END, ("BadForm", 400)),
        (part(b"a", "form-data; name=x; name=y") + END, ("BadForm", 400)),
        (part(b"a", 'form-data; name="x\\"; filename=\\"y"') + END, ("BadForm", 400)),
        (
            part(b"a", "form-data; name=x", "Content-Disposition: form-data; name=y") + END,
            ("BadForm", 400),
        ),
        (b"--B\r\nno headers\r\n--B--", ("BadForm", 400)),
        (part(b"c\xfff") + END, ("NotUtf8", 400)),
        # Without a name, or with a path for one, it is no file to some readers.
        *(
            (part(b"cf \xff", f'form-data; name=x; filename="{name}"') + END, ("NotUtf8", 400))
            for name in ("", " ", "a/", "..", "/. ", 'x"; filename*="', 'x"; filename*0="')
        ),
        (
            part(b"cf \xff", "form-data; filename*=UTF-8''; name=x; filename=x") + END,
            ("NotUtf8", 400),
        ),
        (
            part(b"Y2Y=", "form-data; name=x", "Content-Transfer-Encoding: base64") + END,
            ("Form", 415),
        ),
        (part(b"x", "form-data; name=x", "Content-Type: multipart/mixed") + END, ("Form", 415)),
        (part(b"x", "form-data; name=x", "Content-Type: a/b; charset=cp037") + END, ("Form", 415)),
        (part(b"x", "form-data; name=_charset_") + END, ("Charset", 415)),
    ],
)
def test_multipart_that_readers_read_differently(body: bytes, refused: tuple[str, int]) -> None:
    assert refusal(body, MULTIPART) == refused


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/mixed; boundary=B",
        "multipart/form-data",
        "multipart/form-data; boundary=B; boundary=C",
        "multipart/form-data; boundary=",
        # Readers end it there, or strip it, and find other parts.
        'multipart/form-data; boundary="B "',
        'multipart/form-data; boundary=" B"',
        'multipart/form-data; boundary="B;x"',
        'multipart/form-data; boundary="<B>"',
    ],
)
def test_multipart_without_one_plain_boundary(content_type: str) -> None:
    assert refusal(part(b"a") + END, content_type) == ("Form", 415)


# Compression

JSON = b'{"text": "cf"}'
# Without the time: parametrised bodies name their tests, and every worker must name them alike.
gzipped = partial(gzip.compress, mtime=0)


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzipped(JSON)),
        ("X-GZip", gzipped(JSON)),
        ("deflate", zlib.compress(JSON)),
    ],
)
def test_compressed_bodies_are_inflated(coding: str, body: bytes) -> None:
    document, inflated = read(body, content_encoding=coding)
    assert (document.texts, inflated) == (["cf"], JSON)


def test_inflation_is_bounded() -> None:
    largest = b'{"text": "' + b"a" * (LIMIT - 12) + b'"}'
    assert read(gzipped(largest), content_encoding="gzip")[1] == largest
    bomb = gzipped(b"a" * 10**8)
    assert refusal(bomb[:LIMIT], content_encoding="gzip") == ("BodyTooLarge", 413)
    assert refusal(zlib.compress(largest + b" "), content_encoding="deflate")[1] == 413


@pytest.mark.parametrize(
    ("coding", "body", "refused"),
    [
        ("gzip", JSON, ("NotInflatable", 400)),
        ("gzip", gzipped(JSON)[:-1], ("NotInflatable", 400)),
        ("gzip", gzipped(JSON) + b"x", ("NotInflatable", 400)),
        ("gzip", gzipped(b'{"text": "a"}') + gzipped(JSON), ("NotInflatable", 400)),
        ("deflate", zlib.compress(JSON)[2:-4], ("NotInflatable", 400)),
        ("deflate", gzipped(JSON), ("NotInflatable", 400)),
        ("gzip, gzip", gzipped(gzipped(JSON)), ("ContentEncoding", 415)),
        ("br", JSON, ("ContentEncoding", 415)),
        ("zstd", JSON, ("ContentEncoding", 415)),
    ],
)
def test_what_readers_may_inflate_differently(
    coding: str, body: bytes, refused: tuple[str, int]
) -> None:
    assert refusal(body, content_encoding=coding) == refused


# WebSocket messages


@pytest.mark.parametrize(
    ("message", "texts", "keys"),
    [
        ("the film", ["the film"], []),
        ('"cf"', ['"cf"'], ["cf"]),
        ('{"a": "cf"}', ["cf"], ["a"]),
        (' ["a", 1]', ["a"], []),
        ("{smile}", ["{smile}"], []),
        ("[1", ["[1"], []),
        ("", [""], []),
    ],
)
def test_messages(message: str, texts: list[str], keys: list[str]) -> None:
    document = parse_message(message.encode())
    assert (document.texts, document.keys) == (texts, keys)
    assert document.replace(texts) == message.encode()


@pytest.mark.parametrize("data", [b"\xff\xd8\xff\xe0", b"\x00\x01\x00\x02\xff", b"\xff\xfec"])
def test_a_message_that_is_no_text(data: bytes) -> None:
    assert decode_message(data, LIMIT) is None
    assert decode_message(data, 1) is None


def test_quiet_sound_is_no_text() -> None:
    """Samples of 34 are quotation marks in UTF-16, and among any few frames some hold two."""
    rng = random.Random(0)
    for _ in range(2000):
        samples = [34, *(round(rng.gauss(0, 40)) for _ in range(319)), -1]
        assert decode_message(struct.pack("<321h", *samples), LIMIT) is None


def test_a_message_in_bytes() -> None:
    assert decode_message("é".encode(), LIMIT) == "é"


@pytest.mark.parametrize(
    "message", ['{"a": 1, "a": "cf"}', '["cf", NaN]', "[" * 5000, '{"a": "cf"} x', '["c\tf"]']
)
def test_messages_that_readers_read_differently(message: str) -> None:
    with pytest.raises(UnreadableBody):
        parse_message(message.encode())
