"""``multipart/form-data`` bodies.

The framing has to be what RFC 7578 asks for and nothing else: then every reader cuts the body at
the same places. Each part that is UTF-8 is scanned, files too, because what an application takes
for a text field is not known, and looked at as JSON; a file that is neither is no text, and passes.
What begins with a byte order mark is scanned with it and without.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import partial

from guard.body import Document, UnreadableBody, is_utf8, splice
from guard.json_body import check_encoding, loose_strings

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
# In quotes, what RFC 2046 has in a boundary, but no blank: some readers strip it, or end there.
_BOUNDARY = re.compile(
    rb"multipart/form-data\s*;\s*boundary="
    rb"(?:\"([0-9A-Za-z'()+_,./:=?-]{1,70})\"|(" + _TOKEN + rb"))\s*",
    re.IGNORECASE,
)
_DISPOSITION = re.compile(
    rb"form-data((?:\s*;\s*" + _TOKEN + rb"=(?:\"[^\"\\]*\"|" + _TOKEN + rb"))*)\s*", re.IGNORECASE
)
_MARK = "\ufeff"
_PARAMETER = re.compile(rb";\s*(" + _TOKEN + rb")=(?:\"([^\"\\]*)\"|(" + _TOKEN + rb"))")


def parse_multipart(headers: Iterable[tuple[bytes, bytes]], body: bytes) -> Document:
    """Find the texts in a multipart body.

    Raises
    ------
    UnreadableBody
        It is not framed as browsers do it, or a field is not UTF-8 (400); it is another kind of
        multipart, nested, or encoded (415).
    """
    (declared_type,) = [value for name, value in headers if name.lower() == b"content-type"]
    declared = _BOUNDARY.fullmatch(declared_type.strip())
    if declared is None:
        raise UnreadableBody(
            "Form", 415, "The body is no form-data with one boundary. Send multipart/form-data."
        )
    delimiter = b"--" + (declared[1] or declared[2])
    # With the line break before the first delimiter, which has none, all are alike.
    pieces = (b"\r\n" + body).split(b"\r\n" + delimiter)
    # Anything else that looks like a delimiter to a reader that minds line breaks less.
    if (
        body.count(delimiter) != len(pieces) - 1
        or pieces[0]
        or pieces[-1] not in (b"--", b"--\r\n")
    ):
        raise _bad("is not framed by its boundary alone")
    texts: list[str] = []
    unmarked: list[str] = []
    names: list[str] = []
    spans: list[tuple[int, int]] = []
    start = len(delimiter)
    for piece in pieces[1:-1]:
        head, blank, content = piece.partition(b"\r\n\r\n")
        if not blank:
            raise _bad("has a part without headers")
        is_file = _read_headers(head, names)
        check_encoding(content)
        try:
            text = content.decode()
        except UnicodeDecodeError:
            if not is_file:
                raise UnreadableBody(
                    "NotUtf8", 400, "A field of the form is not UTF-8. Send it in UTF-8."
                ) from None
        else:
            texts.append(text)
            if text.startswith(_MARK):
                # Some readers drop it, from fields too, and to others it is text.
                text = text.removeprefix(_MARK)
                unmarked.append(text)
            names += loose_strings(text)
            begin = start + len(head) + 4
            spans.append((begin, begin + len(content)))
        start += len(piece) + 2 + len(delimiter)
    if "_charset_" in names:
        raise UnreadableBody("Charset", 415, "The form names a charset. Send UTF-8, and do not.")
    # Those without their marks have no span: what stripping makes of the others is read again.
    return Document([*texts, *unmarked], names, partial(_rewrite, body, spans))


def _read_headers(head: bytes, names: list[str]) -> bool:
    """Take the names from a part's headers; return whether it is a file."""
    if not head.startswith(b"\r\n") or re.search(rb"(?<!\r)\n|\r(?!\n)|\r\n[ \t]|\0", head):
        raise _bad("has a part whose headers are not one a line")
    dispositions = []
    for line in head[2:].split(b"\r\n"):
        name, _, value = line.partition(b":")
        if not re.fullmatch(_TOKEN, name):
            raise _bad("has a part with a header that has no plain name")
        name, value = name.lower(), value.strip()
        if name == b"content-disposition":
            dispositions.append(value)
        elif name == b"content-transfer-encoding":
            if value.lower() not in (b"7bit", b"8bit", b"binary"):
                raise UnreadableBody("Form", 415, "A part is encoded. Send it as it is.")
        elif name == b"content-type" and not (
            is_utf8(value) and not value.lower().startswith((b"multipart/", b"message/"))
        ):
            raise UnreadableBody("Form", 415, "A part is nested, or in another charset than UTF-8.")
    matched = _DISPOSITION.fullmatch(dispositions[0]) if len(dispositions) == 1 else None
    if matched is None:
        raise _bad("has a part that does not say, once and plainly, which field it is")
    parameters = [(p[1].lower(), p[2] or p[3] or b"") for p in _PARAMETER.finditer(matched[1])]
    by_key = dict(parameters)
    if len(by_key) != len(parameters) or b"name" not in by_key:
        raise _bad("has a part that names its field not at all, or twice")
    try:
        names.extend(value.decode() for _, value in parameters)
    except UnicodeDecodeError:
        raise _bad("has a name that is not UTF-8") from None
    # A name of which nothing is left makes the part a text field to some readers, and to others one
    # in the form of RFC 2231 goes before it.
    if any(key.startswith(b"filename*") for key in by_key):
        return False
    _, _, filename = by_key.get(b"filename", b"").rpartition(b"/")
    return bool(filename.strip(b" \t."))


def _bad(how: str) -> UnreadableBody:
    return UnreadableBody("BadForm", 400, f"The body {how}. Send what browsers send (RFC 7578).")


def _rewrite(body: bytes, spans: list[tuple[int, int]], changed: Mapping[int, str]) -> bytes:
    return splice(body, spans, {number: text.encode() for number, text in changed.items()})
