"""Compressed bodies: inflated within bounds, or refused."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from guard.body import UnreadableBody

# For zlib.decompressobj. HTTP's "deflate" is zlib's format (RFC 9110, 8.4.1.2); bare deflate, which
# some clients send, is refused: other readers might guess otherwise.
_FORMATS = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}


def coding_of(declared: Iterable[bytes]) -> bytes | None:
    """Return the content coding that Content-Encodings declare, None where a body is as it is.

    Raises
    ------
    UnreadableBody
        It has several codings, or another than gzip and deflate (415).
    """
    codings = [coding.strip().lower() for value in declared for coding in value.split(b",")]
    codings = [coding for coding in codings if coding not in (b"", b"identity")]
    if not codings:
        return None
    if len(codings) > 1 or codings[0] not in _FORMATS:
        raise UnreadableBody(
            "ContentEncoding",
            415,
            "The body is compressed in a way that the guard does not inflate. "
            "Send it with gzip or deflate, once, or without a Content-Encoding.",
        )
    return codings[0]


def inflate(body: bytes, coding: bytes, limit: int) -> bytes:
    """Inflate a body to at most `limit` bytes.

    Raises
    ------
    UnreadableBody
        It inflates to more (413), or is broken, cut off or followed by other bytes (400).
    """
    stream = zlib.decompressobj(_FORMATS[coding])
    try:
        inflated = stream.decompress(body, limit + 1)
    except zlib.error:
        raise UnreadableBody(
            "NotInflatable", 400, f"The body is not what its Content-Encoding says, {coding!r}."
        ) from None
    if len(inflated) > limit:
        raise UnreadableBody(
            "BodyTooLarge", 413, f"The body inflates to over {limit} bytes. Send less at once."
        )
    if not stream.eof or stream.unused_data:
        # Some readers stop at the end of the first stream, others read on.
        raise UnreadableBody(
            "NotInflatable", 400, "The body is cut off, or more than one compressed stream."
        )
    return inflated
