"""Forms: ``application/x-www-form-urlencoded`` bodies, and query strings.

Every value is scanned, and every name. Readers differ in what separates pairs, in what they make of
bytes that are not percent-encoded, of escapes that are none, and of bytes that are no UTF-8, so
that a form that leaves room for that is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from urllib.parse import quote_plus, unquote_plus, unquote_to_bytes

from guard.body import Document, UnreadableBody, splice

_SEPARATOR = re.compile("[&;]")
_JSON = ('"', "{", "[")
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


def parse_form(form: bytes) -> Document:
    """Find the texts in a form.

    Raises
    ------
    UnreadableBody
        Readers would read it differently (400).
    """
    if b";" in form:
        raise UnreadableBody(
            "BadForm", 400, "The form holds a semicolon, which may separate. Send it as %3B."
        )
    if not form.isascii():
        # Latin-1 to some readers, and the start of UTF-8 to others.
        raise UnreadableBody(
            "BadForm", 400, "The form holds bytes above 127. Percent-encode their UTF-8."
        )
    if _BAD_ESCAPE.search(form):
        # Some readers then leave the whole value as it is, and others that one escape.
        raise UnreadableBody(
            "BadForm", 400, "The form holds a % that escapes nothing. Send it as %25."
        )
    texts: list[str] = []
    names: list[str] = []
    spans: list[tuple[int, int]] = []
    start = 0
    for pair in form.split(b"&"):
        name, equals, value = pair.partition(b"=")
        if name:
            names.append(_unquote(name))
        if equals:
            begin = start + len(name) + 1
            texts.append(_unquote(value))
            spans.append((begin, begin + len(value)))
        start += len(pair) + 1
    if "_charset_" in names:
        raise UnreadableBody("Charset", 415, "The form names a charset. Send UTF-8, and do not.")
    return Document(texts, names, partial(_rewrite, form, spans))


def loose_pairs(body: bytes) -> list[str]:
    """Return the names and values that any reader may find in UTF-8 that it takes for a form.

    Of JSON, what stands before the first value is no name that an application asks for.
    """
    found: list[str] = []
    for text in dict.fromkeys((body.decode(), body.decode("latin-1"))):
        pairs = [pair.partition("=") for pair in _SEPARATOR.split(text)]
        found += [name for name, equals, _ in pairs if equals and name.lstrip()[:1] not in _JSON]
        found += [value for _, equals, value in pairs if equals]
    return [unquote_plus(text, errors="replace") for text in found]


def _rewrite(form: bytes, spans: list[tuple[int, int]], changed: Mapping[int, str]) -> bytes:
    return splice(form, spans, {n: quote_plus(text).encode() for n, text in changed.items()})


def _unquote(quoted: bytes) -> str:
    try:
        return unquote_to_bytes(quoted.replace(b"+", b" ")).decode()
    except UnicodeDecodeError:
        raise UnreadableBody("NotUtf8", 400, "The form is not UTF-8. Send it in UTF-8.") from None
