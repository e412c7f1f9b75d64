"""JSON bodies: the texts in them, and the same body with other texts.

JSON has corners where two parsers read two things: a key that is there twice, NaN, a byte order
mark, UTF-16. What the application would read there is not known, so such a body is refused as
unscannable, whatever its content type says. What is forwarded is the sender's bytes: only the
string literals that stripping changes are replaced in them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence, Set
from functools import partial
from typing import Any, NoReturn

from guard.body import Document, UnreadableBody
from guard.fields import Fields, Place, Tree

_BLANK = re.compile(r"[ \t\r\n]*")
_LITERAL = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"')
_QUOTE = re.compile("[\"']")
_ESCAPES = re.compile(r"(?:\\u[0-9A-Fa-f]{4})+")


def parse(body: bytes, fields: Fields | None) -> Document:
    """Find the texts in a JSON body.

    Parameters
    ----------
    body
        The whole body, not empty.
    fields
        From `compile_fields`. Below a field every string is taken, keys included, and nothing else
        may be there but null. None takes every string of the body.

    Raises
    ------
    UnreadableBody
        It is not JSON that all parsers read alike (400), or a field is not there or not text (422).
    """
    try:
        source = body.decode()
        walk = _Walk()
        value = _DECODER.decode(source)
        if fields is None:
            walk.everything(value)
        elif fields.queries:
            walk.located(value, (), _places(value, fields), fields.names)
        else:
            walk.towards(value, fields.tree, "")
    except UnicodeDecodeError as error:
        raise UnreadableBody(
            "NotUtf8", 400, f"The body is not UTF-8 at byte {error.start}. Send JSON in UTF-8."
        ) from None
    except RecursionError:
        raise _too_deep("body") from None
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
    return Document(walk.texts, walk.keys, partial(_rewrite, source, walk.places))


def loose_strings(source: str) -> list[str]:
    """Return the strings that any reader may find in a text if it takes that for JSON.

    Raises
    ------
    UnreadableBody
        It nests too deeply (400).
    """
    found: list[str] = []

    def take(value: Any) -> None:
        if isinstance(value, str):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            for item in value:
                take(item)

    # Some readers take the first value and leave the rest, others a value a line.
    place = 0
    try:
        while (blank := _BLANK.match(source, place)) and blank.end() < len(source):
            value, place = _LOOSE.raw_decode(source, blank.end())
            take(value)
    except RecursionError:
        raise _too_deep("text") from None
    except ValueError:
        # And others forgive a flaw, or skip the line: escapes would hide what they read then.
        rest = source[place:]
        if _QUOTE.search(rest) and (plain := _ESCAPES.sub(_unescaped, rest)) != rest:
            found.append(plain)
    return found


def check_encoding(data: bytes) -> None:
    """Refuse JSON in another encoding than UTF-8, which the json module finds out by itself.

    Raises
    ------
    UnreadableBody
        There is text in it, or it nests too deeply to tell (400).
    """
    encoding = json.detect_encoding(data)
    if encoding == "utf-8":
        return
    try:
        value = json.loads(data, parse_int=float)
    except RecursionError:
        raise _too_deep("text") from None
    except ValueError:
        return
    if isinstance(value, (str, list, dict)):
        raise UnreadableBody("NotUtf8", 400, f"There is JSON in {encoding}. Send UTF-8.")


def _places(value: Any, fields: Fields) -> dict[Place, str]:
    """Name the query that found each place; each has to find something in every body."""
    places: dict[Place, str] = {}
    for query in fields.queries:
        found = [match.parts for match in query.finditer(value)]
        if not found:
            raise UnreadableBody(
                "FieldMissing",
                422,
                f"The body has nothing at {str(query)!r}, where the guard is set to look for text. "
                "Send it; or, if the application reads its text elsewhere, declare that place in "
                "the guard's `fields`.",
            )
        places |= dict.fromkeys(found, str(query))
    return places


class _Walk:
    """Collects texts in document order, counting string literals on the way."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.keys: list[str] = []
        self.places: list[int] = []
        self.literals = 0

    def towards(self, value: Any, fields: Tree, path: str) -> None:
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

    def located(
        self, value: Any, here: Place, places: Mapping[Place, str], names: Mapping[str, Set[str]]
    ) -> None:
        """Take what is at the places, and count the rest."""
        if here in places:
            self.everything(value, places[here])
        elif isinstance(value, str):
            self.literals += 1
        elif isinstance(value, list):
            for number, item in enumerate(value):
                self.located(item, (*here, number), places, names)
        elif isinstance(value, dict):
            for key, item in value.items():
                if key not in names.get(key.casefold(), (key,)):
                    raise UnreadableBody(
                        "DuplicateKey",
                        400,
                        "A key differs only in case from one that the guard is set to look for. "
                        "Send keys as they are documented.",
                    )
                self.literals += 1
                self.located(item, (*here, key), places, names)

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


def _too_deep(what: str) -> UnreadableBody:
    return UnreadableBody(
        "TooDeep", 400, f"The {what} nests too deeply to be scanned. Send it flatter."
    )


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


def _rewrite(source: str, places: Sequence[int], changed: Mapping[int, str]) -> bytes:
    """Replace the string literals at `places` whose texts changed."""
    fresh = {places[number]: text for number, text in changed.items()}
    parts: list[str] = []
    end = 0
    for number, literal in enumerate(_LITERAL.finditer(source)):
        if number in fresh:
            parts += source[end : literal.start()], _quote(fresh[number])
            end = literal.end()
    return "".join((*parts, source[end:])).encode()


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _unescaped(escapes: re.Match[str]) -> str:
    """Decode adjacent escapes; half of a pair becomes what a reader puts in its place."""
    units = bytes.fromhex(escapes[0].replace("\\u", ""))
    return units.decode("utf-16-be", "replace")


# Objects stay pairs, so that no key is lost to its double. Python reads no integer of very many
# digits, and other readers do.
_LOOSE = json.JSONDecoder(object_pairs_hook=list, parse_int=float, strict=False)
_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_constant)
