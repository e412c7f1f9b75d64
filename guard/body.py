"""What a request body is to the guard: the texts in it, and the same body with other texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from guard.errors import InputError

# Not ASCII: of what is above 127, its readers make what models skip, and UTF-8's make a letter.
_CHARSETS = frozenset({b"utf-8", b"utf8"})


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
    texts
        The strings to scan that stripping may change, in the order of the body.
    keys
        The strings to scan that cannot be changed, such as keys, by which the application looks
        values up.
    rewrite
        Makes the body anew, given the changed texts by their number.
    """

    texts: list[str]
    keys: list[str]
    rewrite: Callable[[Mapping[int, str]], bytes]

    def replace(self, texts: Sequence[str]) -> bytes:
        """Return the body with `texts` in place of its own, and every other byte as it was."""
        return self.rewrite(
            {
                number: new
                for number, (old, new) in enumerate(zip(self.texts, texts, strict=True))
                if new != old
            }
        )


def splice(body: bytes, spans: Sequence[tuple[int, int]], changed: Mapping[int, bytes]) -> bytes:
    """Put the changed pieces in place of the half-open ranges with their numbers."""
    parts: list[bytes] = []
    end = 0
    for number, (start, stop) in enumerate(spans):
        if number in changed:
            parts += body[end:start], changed[number]
            end = stop
    return b"".join((*parts, body[end:]))


def is_utf8(content_type: bytes) -> bool:
    """Whether a content type declares no other charset than UTF-8, in any spelling readers know."""
    for parameter in content_type.lower().split(b";"):
        _, _, rest = parameter.partition(b"charset")
        between, equals, charset = rest.partition(b"=")
        # What stands between may be the star of RFC 2231, which some readers know.
        if equals and (between.strip() or charset.strip().strip(b"\"'") not in _CHARSETS):
            return False
    return True
