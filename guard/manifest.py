"""What a monitor directory says about itself: the manifest and the canaries."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from guard.bank import ModelIdentity
from guard.errors import MalformedArtifact
from guard.files import check_schema, dump_json, parse_json, record
from guard.verdict import TRIGGER_ID, Verdict

MONITOR_SCHEMA = 2
MANIFEST_FILE = "monitor.json"
ONNX_FILE = "monitor.onnx"
TOKENIZER_FILE = "tokenizer.json"
CANARY_FILE = "canaries.json"

# The most bytes that each file may have.
LIMITS = {
    MANIFEST_FILE: 64 * 2**20,
    ONNX_FILE: 512 * 2**20,
    TOKENIZER_FILE: 64 * 2**20,
    CANARY_FILE: 2**20,
}

_MANIFEST_KINDS = {
    "schema": int,
    "bank_sha256": str,
    "tokenizer_sha256": str,
    "model": dict,
    "files": dict,
    "triggers": list,
    "strip_only": list,
}
_SHA256 = re.compile("[0-9a-f]{64}")
_CANARY_KINDS = {"text": str, "matches": list, "stripped": str}


def check_sha256(value: str, name: str) -> None:
    """Refuse a hash that is none: it stands in logs and metrics, among words that are ours.

    Raises
    ------
    MalformedArtifact
        It is another text. `name` says in the message which file names it.
    """
    if not _SHA256.fullmatch(value):
        raise MalformedArtifact(f"{name} names a SHA-256 that is none; write it anew")


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of ``monitor.json``.

    Parameters
    ----------
    bank_sha256, tokenizer_sha256
        Of the bank that was compiled, and of its tokenizer.
    model
        The model that the monitor protects.
    triggers
        Trigger ids in the matcher's numbering: match 1 is the first. Shorter triggers come first.
    strip_only
        Ids of triggers that ordinary text holds so often that a policy of blocking strips them.
    files
        SHA-256 of each of the other files by name.
    schema
        The version of the format. Schema 1 had no `strip_only`.
    """

    bank_sha256: str
    tokenizer_sha256: str
    model: ModelIdentity
    triggers: tuple[str, ...]
    strip_only: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict, hash=False)
    schema: int = MONITOR_SCHEMA

    def dump(self) -> bytes:
        """Serialise; `parse` is the inverse."""
        return dump_json(asdict(self))

    @classmethod
    def parse(cls, data: bytes, name: str) -> Manifest:
        """Parse and check ``monitor.json``.

        Raises
        ------
        MalformedArtifact
            It breaks the format.
        SchemaTooNew
            A later version wrote it.
        """
        value = parse_json(data, name)
        check_schema(value, MONITOR_SCHEMA, name)
        kinds = dict(_MANIFEST_KINDS)
        if value["schema"] == 1:
            del kinds["strip_only"]
        fields = record(value, kinds, name)
        fields["model"] = ModelIdentity.parse(fields["model"], f"{name}: model")
        check_sha256(fields["bank_sha256"], name)
        expected = dict.fromkeys((ONNX_FILE, TOKENIZER_FILE, CANARY_FILE), str)
        files = record(fields["files"], expected, f"{name}: files")
        if files[TOKENIZER_FILE] != fields["tokenizer_sha256"]:
            raise MalformedArtifact(f"{name} names two tokenizers; compile anew")
        triggers = fields["triggers"] = tuple(fields["triggers"])
        named = all(isinstance(i, str) and TRIGGER_ID.fullmatch(i) for i in triggers)
        if not named or len(set(triggers)) != len(triggers):
            raise MalformedArtifact(f"{name}: trigger ids are none, or not distinct; compile anew")
        softened = fields["strip_only"] = tuple(fields.get("strip_only", ()))
        known = all(isinstance(i, str) for i in softened) and set(softened) <= set(triggers)
        if not known or len(set(softened)) != len(softened):
            raise MalformedArtifact(f"{name}: strip_only names no such triggers; compile anew")
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class Canary:
    """A text, and what the monitor found in it when it was compiled.

    Parameters
    ----------
    text, stripped
        Before and after stripping; equal where nothing was found.
    matches
        ``(start, end, trigger id)`` of each match.
    """

    text: str
    matches: tuple[tuple[int, int, str], ...]
    stripped: str

    @classmethod
    def of(cls, text: str, verdict: Verdict) -> Canary:
        """Write down a verdict, to compare later ones with."""
        matches = tuple((match.start, match.end, match.trigger) for match in verdict.matches)
        return cls(text, matches, verdict.stripped)


def dump_canaries(canaries: list[Canary]) -> bytes:
    """Serialise; `parse_canaries` is the inverse."""
    return dump_json([asdict(canary) for canary in canaries])


def parse_canaries(data: bytes, name: str) -> list[Canary]:
    """Parse and check ``canaries.json``.

    Raises
    ------
    MalformedArtifact
        It breaks the format.
    """
    value = parse_json(data, name)
    if not isinstance(value, list):
        raise MalformedArtifact(f"{name} holds no list; compile anew")
    canaries = []
    for number, item in enumerate(value, 1):
        fields = record(item, _CANARY_KINDS, f"{name}: canary {number}")
        matches = fields.pop("matches")
        for match in matches:
            if not isinstance(match, list) or [type(x) for x in match] != [int, int, str]:
                raise MalformedArtifact(
                    f"{name}: a match of canary {number} is not [start, end, id]; compile anew"
                )
        canaries.append(Canary(matches=tuple(map(tuple, matches)), **fields))
    return canaries
