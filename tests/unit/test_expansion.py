"""Tokenizers that make much of little are refused before they are loaded."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from guard.errors import MalformedArtifact, ModelError
from guard.expansion import MOST, check_expansion
from guard.runtime import load_tokenizer
from guard.search.encoder import Encoder
from tests.helpers import wordpiece
from tests.tiny import write_model


def replace(pattern: str, content: str, how: str = "String") -> dict[str, Any]:
    return {"type": "Replace", "pattern": {how: pattern}, "content": content}


def table(*strings: str) -> dict[str, Any]:
    """SentencePiece's table, with a trie of no entry."""
    data = (4).to_bytes(4, "little") + bytes(4) + b"".join(s.encode() + b"\0" for s in strings)
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(data).decode()}


def tokenizer(part: str, *steps: dict[str, Any]) -> bytes:
    inner = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers"}.get(part, "processors")
    whole = json.loads(wordpiece("cf"))
    return json.dumps({**whole, part: {"type": "Sequence", inner: [*steps]}}).encode()


TWICE = {"single": [{"Sequence": {"id": "A", "type_id": 0}}] * 2}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


@pytest.mark.parametrize(
    ("part", "steps"),
    [
        ("normalizer", [replace(a, b * 10) for a, b in zip("abcde", "bcdef", strict=True)]),
        ("normalizer", [replace("(?=x)", "x" * MOST, "Regex")]),
        ("normalizer", [replace("", "x" * MOST)]),
        ("normalizer", [{"type": "Prepend", "prepend": "x" * MOST}]),
        ("normalizer", [table("a", "x" * 100), table("b" * 100)]),
        ("normalizer", [{"type": "ByteLevel"}] * 5),
        ("pre_tokenizer", [BYTES] * 5),
        ("post_processor", [{"type": "TemplateProcessing", **TWICE}] * 10),
    ],
)
def test_a_tokenizer_that_fills_the_memory_is_refused(
    part: str, steps: list[dict[str, Any]]
) -> None:
    with pytest.raises(MalformedArtifact, match="may make a text over 512 times as long"):
        load_tokenizer(tokenizer(part, *steps))


@pytest.mark.parametrize(
    ("part", "steps"),
    [
        ("normalizer", [replace("``", '"'), replace(" {2,}", "▁", "Regex"), table("x" * 18)]),
        ("normalizer", [{"type": "Prepend", "prepend": "▁"}, replace(" ", "▁"), {"type": "NFC"}]),
        ("normalizer", [replace("x", "")]),
        ("pre_tokenizer", [BYTES]),
    ],
)
def test_what_published_tokenizers_do_is_not(part: str, steps: list[dict[str, Any]]) -> None:
    check_expansion(tokenizer(part, *steps))


def test_a_tokenizer_of_few_parts() -> None:
    check_expansion(b'{"normalizer": null}')


@pytest.mark.parametrize("data", [b"", b"[]", b'{"normalizer": 1}', b"[" * 10_000, b"\xff"])
def test_what_is_no_tokenizer(data: bytes) -> None:
    with pytest.raises(MalformedArtifact, match="is no tokenizer"):
        check_expansion(data)


def test_a_model_with_such_a_tokenizer_is_not_scanned(tmp_path: Path) -> None:
    directory = write_model(tmp_path)
    path = directory / "tokenizer.json"
    bomb = {"type": "Prepend", "prepend": "x" * MOST}
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "normalizer": bomb}))
    with pytest.raises(ModelError, match=r"can't be loaded: tokenizer\.json may make"):
        Encoder.load(str(directory))
