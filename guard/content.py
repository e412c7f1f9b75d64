"""What kind of text a request carries, by its headers, and the reader for it.

JSON is what a body is taken for, whatever its type says, unless an operator has other kinds read
too. A type is the sender's word: what is read as text or as a form is therefore also looked at as
JSON, because an application may, and where forms are read, what is none is looked at as one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias, get_args

from guard.body import Document, UnreadableBody, is_utf8
from guard.errors import ConfigError
from guard.fields import Fields
from guard.forms import loose_pairs, parse_form
from guard.inflate import coding_of, inflate
from guard.json_body import check_encoding, loose_strings, parse
from guard.multipart import parse_multipart

Kind: TypeAlias = Literal["text", "form", "multipart", "query"]
BodyKind: TypeAlias = Literal["json", "text", "form", "multipart"]
Headers: TypeAlias = Iterable[tuple[bytes, bytes]]

# How JSON begins that has texts in it.
_JSON = re.compile(r'[ \t\r\n\ufeff]*["{[]')


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads the bodies of requests.

    Parameters
    ----------
    fields
        Where the text is in JSON; None for everywhere.
    also
        What is read beside JSON.
    max_body
        Bytes of the largest body, inflated.
    """

    fields: Fields | None
    also: frozenset[Kind]
    max_body: int

    def open(self, headers: Headers, body: bytes) -> tuple[bytes, Callable[[bytes], Document]]:
        """Return a body inflated, and what finds the texts in it and in what is made of it.

        Raises
        ------
        UnreadableBody
            It cannot be told what an application would read; the reader raises it too.
        """
        kind, coding = check_headers(headers, self.also)
        if len(body) > self.max_body:
            raise UnreadableBody(
                "BodyTooLarge", 413, f"The body is over {self.max_body} bytes. Send less at once."
            )
        if coding is not None:
            body = inflate(body, coding, self.max_body)
        return body, partial(self._read, kind, headers)

    def _read(self, kind: BodyKind, headers: Headers, body: bytes) -> Document:
        if kind == "multipart":
            return parse_multipart(headers, body)
        if kind == "form":
            check_encoding(body)
            document = parse_form(body)
            document.keys.extend(loose_strings(body.decode()))
            return document
        document = parse(body, self.fields) if kind == "json" else parse_text(body)
        if "form" in self.also:
            document.keys.extend(loose_pairs(body))
        return document


def check_headers(
    headers: Headers, also: frozenset[Kind] = frozenset()
) -> tuple[BodyKind, bytes | None]:
    """Return what kind a body is, and its content coding if it has one.

    Headers by which an application would read another text are refused.

    Raises
    ------
    UnreadableBody
        The body is of a kind that is not read, compressed in a way that is not read, or declared to
        be in another charset than UTF-8 (415).
    """
    types: list[bytes] = []
    codings: list[bytes] = []
    for name, value in headers:
        name = name.lower()
        if name == b"content-type":
            types.append(value.lower())
        elif name == b"content-encoding":
            codings.append(value)
    coding = coding_of(codings)
    if not types:
        return "json", coding
    if len(types) > 1:
        # Of two boundaries or charsets, some readers take the first and others the last.
        raise UnreadableBody("Form", 415, "The body has two content types. Send it with one.")
    _check_charset(types[0])
    return _kind(types[0], also), coding


def check_query_headers(headers: Headers) -> None:
    """Refuse headers by which an application would decode the query otherwise than as UTF-8.

    Some take the charset of the body for it, also where there is no body.

    Raises
    ------
    UnreadableBody
        They declare another charset (415).
    """
    for name, value in headers:
        if name.lower() == b"content-type":
            _check_charset(value)


def _check_charset(content_type: bytes) -> None:
    if not is_utf8(content_type):
        raise UnreadableBody("Charset", 415, "The guard reads UTF-8. Send no other charset.")


def _kind(value: bytes, also: frozenset[Kind]) -> BodyKind:
    # Looked for anywhere in it, because readers of forms are not strict about the rest.
    if b"application/x-www-form-urlencoded" in value:
        if "form" not in also:
            raise UnreadableBody("Form", 415, "The body is a form. Send JSON.")
        return "form"
    if b"multipart/" in value:
        if "multipart" not in also:
            raise UnreadableBody("Form", 415, "The body is a form. Send JSON.")
        return "multipart"
    essence = value.partition(b";")[0].strip()
    return "text" if essence == b"text/plain" and "text" in also else "json"


def parse_text(body: bytes) -> Document:
    """Take a body as one text, and any strings that it would hold as JSON.

    Raises
    ------
    UnreadableBody
        It is not UTF-8 without a byte order mark, or JSON in another encoding (400).
    """
    check_encoding(body)
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise UnreadableBody(
            "NotUtf8", 400, f"The body is not UTF-8 at byte {error.start}. Send it in UTF-8."
        ) from None
    if text.startswith("\ufeff"):
        raise UnreadableBody("NotUtf8", 400, "The body has a byte order mark. Send it without.")

    def rewrite(changed: Mapping[int, str]) -> bytes:
        return changed.get(0, text).encode()

    return Document([text], loose_strings(text), rewrite)


def decode_message(message: bytes, limit: int) -> str | None:
    """Return the text of a binary WebSocket message, or None if it is none.

    Parameters
    ----------
    limit
        Bytes that are looked into at most; what is longer and begins as JSON would is refused.

    Raises
    ------
    UnreadableBody
        There is JSON in another encoding than UTF-8 (400), or may be (413).
    """
    encoding = json.detect_encoding(message)
    if len(message) <= limit:
        check_encoding(message)
    elif encoding != "utf-8" and _JSON.match(message[:64].decode(encoding, "replace")):
        raise UnreadableBody("BodyTooLarge", 413, f"The message is over {limit} bytes.")
    try:
        return message.decode()
    except UnicodeDecodeError:
        return None


def parse_message(message: bytes) -> Document:
    """Take a WebSocket message, in UTF-8: as JSON if it is an object or a list, else as one text.

    Raises
    ------
    UnreadableBody
        It is JSON that not all parsers read alike (400).
    """
    if message.lstrip(b" \t\r\n")[:1] in (b"{", b"["):
        try:
            return parse(message, None)
        except UnreadableBody as error:
            # Braces do not make a text JSON; what some reader takes for JSON is refused.
            if error.kind != "NotJson" or loose_strings(message.decode()):
                raise
    return parse_text(message)


def check_kinds(also: Iterable[str]) -> frozenset[Kind]:
    """Check the kinds that are read beside JSON.

    Raises
    ------
    ConfigError
        There is no such kind.
    """
    kinds = tuple(also) if isinstance(also, Iterable) and not isinstance(also, str) else None
    if kinds is None or any(kind not in get_args(Kind) for kind in kinds):
        raise ConfigError(
            f"also={also!r} is no list of what can be read; write it like also=['form', 'query'], "
            f"and choose from {', '.join(get_args(Kind))}"
        )
    return frozenset(kinds)  # type: ignore[arg-type]
