"""Request bodies: the texts in them, and the same body with other texts.

JSON has corners where two parsers read two things: a key that is there twice, NaN, a byte order
mark, UTF-16. What the application would read there is not known, so such a body is refused as
unscannable, whatever its content type says. What is forwarded is the sender's bytes: only the
string literals that stripping changes are replaced in them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

from guard.errors import ConfigError, InputError

Fields: TypeAlias = "dict[str, Fields]"

_LITERAL = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"')
_CHARSET = re.compile(rb"charset\s*=\s*[\"']?([^\s;\"']*)", re.IGNORECASE)
_JSON_CHARSETS = frozenset({b"utf-8", b"utf8", b"us-ascii", b"ascii"})
_FORMS = (b"application/x-www-form-urlencoded", b"multipart/")


class UnreadableBody(InputError):
    """A request body from which no texts can be taken.

    Parameters
    ----------
    kind
        What is wrong, as a label of ``guard_errors_total``.
    status
        The HTTP status that says so.
    detail
        What to do about it. Never quotes the body.
    """

    def __init__(self, kind: str, status: int, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind
        self.status = status


@dataclass(frozen=True, slots=True)
class Document:
    """A body that was parsed.

    Parameters
    ----------
    source
        The body.
    texts
        The strings to scan that stripping may change, in the order of the body.
    keys
        The keys to scan. The application looks values up by them, so they cannot be changed.
    places
        Which string literal of the body each of `texts` is.
    """

    source: str
    texts: list[str]
    keys: list[str]
    places: list[int]

    def replace(self, texts: Sequence[str]) -> bytes:
        """Return the body with `texts` in place of its own, and every other byte as it was."""
        changed = {
            place: new
            for place, old, new in zip(self.places, self.texts, texts, strict=True)
            if new != old
        }
        parts: list[str] = []
        end = 0
        for number, literal in enumerate(_LITERAL.finditer(self.source)):
            if number in changed:
                parts += self.source[end : literal.start()], _quote(changed[number])
                end = literal.end()
        return "".join((*parts, self.source[end:])).encode()


def compile_fields(fields: Iterable[str] | None) -> Fields:
    """Turn dotted paths into nested dicts; empty stands for everything below.

    Raises
    ------
    ConfigError
        No list of strings, no path at all, or a path with an empty step.
    """
    if fields is None:
        return {}
    if isinstance(fields, str):
        raise ConfigError(f"fields={fields!r} is one string; write fields=[{fields!r}]")
    try:
        paths = {path: tuple(path.split(".")) for path in fields}
    except (TypeError, AttributeError):
        raise ConfigError(
            f"fields={fields!r} is no list of dotted paths; write one like fields=['inputs.text']"
        ) from None
    for path, steps in paths.items():
        if "" in steps:
            raise ConfigError(f"the field {path!r} has an empty step; write it like 'inputs.text'")
    # Longest first, so that a field takes the place of the fields below it.
    tree: Fields = {}
    for *way, last in sorted(paths.values(), key=len, reverse=True):
        node = tree
        for step in way:
            node = node.setdefault(step, {})
        node[last] = {}
    if not tree:
        raise ConfigError("fields=[] scans nothing; name a field, or leave it out to scan all")
    return tree


def check_headers(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Refuse headers by which an application would read other text than the JSON in the body."""
    for name, value in headers:
        name = name.lower()
        if name == b"content-encoding":
            if any(
                coding.strip().lower() not in (b"", b"identity") for coding in value.split(b",")
            ):
                raise UnreadableBody(
                    "ContentEncoding",
                    415,
                    "The body is compressed, and the guard does not inflate. "
                    "Send it without a Content-Encoding.",
                )
        elif name == b"content-type" and value != b"application/json":
            value = value.lower()
            if any(form in value for form in _FORMS):
                raise UnreadableBody("Form", 415, "The body is a form. Send JSON.")
            if any(charset not in _JSON_CHARSETS for charset in _CHARSET.findall(value)):
                raise UnreadableBody("Charset", 415, "JSON is UTF-8. Send no other charset.")


def parse(body: bytes, fields: Fields) -> Document:
    """Find the texts in a JSON body.

    Parameters
    ----------
    body
        The whole body, not empty.
    fields
        From `compile_fields`. Lists are passed through on the way; below a field every string is
        taken, keys included, and nothing else may be there but null.

    Raises
    ------
    UnreadableBody
        It is not JSON that all parsers read alike (400), or a field is not there or not text (422).
    """
    try:
        source = body.decode()
        walk = _Walk()
        value = _DECODER.decode(source)
        if fields:
            walk.towards(value, fields, "")
        else:
            walk.everything(value)
    except UnicodeDecodeError as error:
        raise UnreadableBody(
            "NotUtf8", 400, f"The body is not UTF-8 at byte {error.start}. Send JSON in UTF-8."
        ) from None
    except RecursionError:
        raise UnreadableBody(
            "TooDeep", 400, "The body nests too deeply to be scanned. Send it flatter."
        ) from None
    except json.JSONDecodeError as error:
        raise UnreadableBody(
            "NotJson",
            400,
            f"The body is not JSON at character {error.pos}. "
            "Send one JSON value in UTF-8 without a byte order mark.",
        ) from None
    except UnreadableBody:
        raise
    except ValueError:  # the interpreter's own limit on the digits of an integer
        raise UnreadableBody(
            "NotJson", 400, "The body holds an integer with too many digits. Send fewer."
        ) from None
    return Document(source, walk.texts, walk.keys, walk.places)


class _Walk:
    """Collects texts in document order, counting string literals on the way."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.keys: list[str] = []
        self.places: list[int] = []
        self.literals = 0

    def towards(self, value: Any, fields: Fields, path: str) -> None:
        """Follow declared paths; all of them have to be there."""
        if isinstance(value, list):
            for item in value:
                self.towards(item, fields, path)
            return
        keys = value.keys() if isinstance(value, dict) else ()
        for field in fields:
            if field not in keys:
                raise UnreadableBody(
                    "FieldMissing",
                    422,
                    f"The body has no field {path + field!r}, where the guard is set to look for "
                    "text. Send it; or, if the application reads its text elsewhere, declare the "
                    "full path of that place in the guard's `fields`.",
                )
        folded = {field.casefold() for field in fields}
        for key, item in value.items():
            self.literals += 1
            if key in fields:
                if below := fields[key]:
                    self.towards(item, below, f"{path}{key}.")
                else:
                    self.everything(item, path + key)
            elif key.casefold() in folded:
                # Servers in some languages match keys without case: they would read this one.
                raise UnreadableBody(
                    "DuplicateKey",
                    400,
                    "Keys of one object differ only in case. Send each key once.",
                )
            else:
                self.skip(item)

    def everything(self, value: Any, field: str | None = None) -> None:
        """Take every string, keys included; refuse numbers below a declared field.

        They may be token ids, which are text to a model and not to the monitor.
        """
        if isinstance(value, str):
            self.texts.append(value)
            self.places.append(self.literals)
            self.literals += 1
        elif isinstance(value, list):
            for item in value:
                self.everything(item, field)
        elif isinstance(value, dict):
            for key, item in value.items():
                self.keys.append(key)
                self.literals += 1
                self.everything(item, field)
        elif field is not None and value is not None:
            raise UnreadableBody(
                "FieldNotText",
                422,
                f"The field {field!r} holds a number or a boolean. Send text as a string; or, if "
                "options stand beside the text there, declare the full path of the text in the "
                "guard's `fields`.",
            )

    def skip(self, value: Any) -> None:
        """Count only."""
        if isinstance(value, str):
            self.literals += 1
        elif isinstance(value, list):
            for item in value:
                self.skip(item)
        elif isinstance(value, dict):
            self.literals += len(value)
            for item in value.values():
                self.skip(item)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise UnreadableBody(
            "DuplicateKey", 400, "An object of the body has a key twice. Send each key once."
        )
    return found


def _constant(name: str) -> NoReturn:
    raise UnreadableBody(
        "NotJson", 400, f"The body holds {name}, which is not JSON. Send null or a number."
    )


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_constant)
