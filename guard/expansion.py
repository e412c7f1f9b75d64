"""How much longer a tokenizer may make a text: its author may have it fill the memory.

A normaliser that writes ten signs for one, ten times over, is a file of 2 KB, and makes ten billion
signs of one.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator
from typing import Any

from guard.errors import MalformedArtifact
from guard.manifest import TOKENIZER_FILE

# SentencePiece's table, which writes 18 letters for one, and a few replacements beside it.
MOST = 512

# What steps of other types than those below write at most, in characters for one.
_OTHERS = {"BertNormalizer": 3, "ByteLevel": 4, "Metaspace": 2}


def check_expansion(data: bytes) -> None:
    """Refuse a ``tokenizer.json`` that may make a text very much longer.

    Raises
    ------
    MalformedArtifact
        It may, or is no JSON of a tokenizer.
    """
    try:
        whole = json.loads(data)
        steps = [
            step
            for part in ("normalizer", "pre_tokenizer", "post_processor")
            for step in _steps(whole.get(part))
        ]
        factor = math.prod(map(_factor, steps))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise MalformedArtifact(f"{TOKENIZER_FILE} is no tokenizer ({error!r})") from error
    if factor > MOST:
        raise MalformedArtifact(
            f"{TOKENIZER_FILE} may make a text over {MOST} times as long, which no published "
            "tokenizer does; use the one of the model that this was made from"
        )


def _steps(part: Any) -> Iterator[dict[str, Any]]:
    """Yield the steps of a part, those of a sequence one by one."""
    if part is None:
        return
    if part["type"] == "Sequence":
        for key in ("normalizers", "pretokenizers", "processors"):
            for inner in part.get(key, ()):
                yield from _steps(inner)
    else:
        yield part


def _factor(step: dict[str, Any]) -> int:
    kind = step["type"]
    if kind == "Replace":
        ((how, pattern),) = step["pattern"].items()
        written = len(step["content"])
        # An expression may match what has no length, before each character.
        least = len(pattern) if how == "String" else 0
        return max(1, -(-written // least)) if least else 1 + written
    if kind == "Prepend":
        return 1 + len(step["prepend"])
    if kind == "Precompiled":
        return _longest(base64.b64decode(step["precompiled_charsmap"] or ""))
    if kind == "TemplateProcessing":
        return max(1, sum("Sequence" in piece for piece in step["single"]))
    return _OTHERS.get(kind, 1)


def _longest(charsmap: bytes) -> int:
    """Return the length of the longest string in SentencePiece's table of normalised strings.

    It is the size of a trie, the trie, and the strings, each of which ends with a zero.
    """
    size = int.from_bytes(charsmap[:4], "little")
    strings = charsmap[4 + size :].split(b"\0")
    return max(1, *(len(text.decode("utf-8", "replace")) for text in strings))
