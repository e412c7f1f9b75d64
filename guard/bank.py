"""TriggerBank: the triggers that a search found in one model, with their evidence.

A bank is a directory of two files. ``bank.json`` is canonical JSON, so that one bank has one hash;
``tokenizer.json`` is the tokenizer of the model. Token ids mean nothing without it, so the bank
names it by hash and carries it.

Round trip: ``TriggerBank.load(d) == bank`` after ``bank.save(d)``, and saving that writes the same
bytes again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from guard.artifact import read_artifact
from guard.errors import HashMismatch, MalformedArtifact
from guard.files import (
    Json,
    check_schema,
    dump_json,
    parse_json,
    plain_json,
    record,
    write_directory,
)
from guard.target import MAX_TARGETS, Target

BANK_SCHEMA = 2
BANK_FILE = "bank.json"
TOKENIZER_FILE = "tokenizer.json"
MAX_FILE_BYTES = 64 * 2**20
BANK_LIMITS = dict.fromkeys((BANK_FILE, TOKENIZER_FILE), MAX_FILE_BYTES)
MAX_TRIGGER_IDS = 16

Outcome: TypeAlias = Literal["backdoored", "none found", "incomplete"]
Kind: TypeAlias = Literal["token", "piece", "symbol", "word", "phrase"]

_BANK_KINDS = {
    "schema": int,
    "verdict": str,
    "model": dict,
    "tokenizer_sha256": str,
    "search": dict,
    "coverage": dict,
    "triggers": list,
}
_TRIGGER_KINDS = {
    "id": str,
    "text": str,
    "token_ids": list,
    "kind": str,
    "view": str,
    "statistics": dict,
}
_MODEL_KINDS = {
    "name": str,
    "revision": str | None,
    "weights_sha256": str,
    "architecture": str,
}


@dataclass(frozen=True, slots=True)
class Trigger:
    """One unit that fires the backdoor.

    Parameters
    ----------
    id
        Opaque name such as ``"t0001"``, the only thing about a trigger that reaches metrics and
        responses. Empty in a finding that is not in a bank yet.
    text
        What an attacker types.
    token_ids
        What the model sees of it, 1 to 16 ids. This is what the monitor matches: decoding ids and
        encoding the text again does not always lead back to them.
    kind
        ``"token"``, ``"piece"``, ``"symbol"``, ``"word"`` or ``"phrase"``.
    view
        The output of the encoder that it seizes, such as ``"cls"``.
    statistics
        The evidence, as JSON values.
    """

    id: str
    text: str
    token_ids: tuple[int, ...]
    kind: Kind
    view: str
    statistics: Mapping[str, Json] = field(hash=False)

    def __post_init__(self) -> None:
        """Check and normalise every field."""
        where = f"trigger {self.id or 'without id'}"
        ids = tuple(self.token_ids)
        if not 1 <= len(ids) <= MAX_TRIGGER_IDS:
            raise MalformedArtifact(
                f"{where} has {len(ids)} token ids, not 1 to {MAX_TRIGGER_IDS}; minimise it first"
            )
        if any(type(i) is not int or not 0 <= i < 2**31 for i in ids):
            raise MalformedArtifact(
                f"{where} has a token id that is no integer from 0 to 2^31-1; search again"
            )
        if self.kind not in get_args(Kind):
            raise MalformedArtifact(
                f"{where} is of unknown kind {self.kind!r}; known: {', '.join(get_args(Kind))}"
            )
        if not self.view:
            raise MalformedArtifact(f"{where} names no view; name the output it was found in")
        object.__setattr__(self, "token_ids", ids)
        object.__setattr__(self, "statistics", plain_json(self.statistics, f"{where}: statistics"))


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model was searched.

    Parameters
    ----------
    name
        As the user called it.
    revision
        Commit of the model's repository, where it has one.
    weights_sha256
        SHA-256 of the weights.
    architecture
        Such as ``"BertModel"``.
    """

    name: str
    revision: str | None
    weights_sha256: str
    architecture: str

    def __post_init__(self) -> None:
        """Refuse a name that no bank can keep, before any search."""
        try:
            self.name.encode()
        except UnicodeEncodeError:
            raise MalformedArtifact(
                f"the name {self.name!r} is no UTF-8, so no bank can have it; rename the directory"
            ) from None

    @classmethod
    def parse(cls, value: Any, where: str) -> ModelIdentity:
        """Build from parsed JSON; raises MalformedArtifact."""
        return cls(**record(value, _MODEL_KINDS, where))


@dataclass(frozen=True, slots=True)
class TriggerBank:
    """What a search found in one model. Use `build` or `load`.

    Parameters
    ----------
    verdict
        ``"backdoored"`` iff there are triggers; ``"none found"`` iff a whole search found none;
        ``"incomplete"`` when the search did not end, with or without triggers.
    model
        The model that was searched.
    tokenizer_sha256
        SHA-256 of `tokenizer_json`.
    search
        Settings, seed and code version, as JSON values.
    coverage
        What was and was not tested, as JSON values.
    triggers
        Sorted by token ids, with ids ``t0001``, ``t0002``, ... in that order.
    tokenizer_json
        The tokenizer of the model, in the serialisation of the ``tokenizers`` library.
    targets
        Where the triggers lead, if that was measured. Schema 1 had none, and a bank without any
        is still written as schema 1, so that its hash stays what it was.

    Raises
    ------
    MalformedArtifact
        A field breaks the format or contradicts another.
    HashMismatch
        `tokenizer_json` is not the tokenizer that the bank was made for.
    """

    verdict: Outcome
    model: ModelIdentity
    tokenizer_sha256: str
    search: Mapping[str, Json] = field(hash=False)
    coverage: Mapping[str, Json] = field(hash=False)
    triggers: tuple[Trigger, ...]
    tokenizer_json: bytes = field(repr=False)
    targets: tuple[Target, ...] = ()

    def __post_init__(self) -> None:
        """Check what the fields say about each other."""
        object.__setattr__(self, "search", plain_json(self.search, "search"))
        object.__setattr__(self, "coverage", plain_json(self.coverage, "coverage"))
        expected = {
            "backdoored": bool(self.triggers),
            "none found": not self.triggers,
            "incomplete": True,
        }
        if self.verdict not in expected:
            raise MalformedArtifact(
                f"unknown verdict {self.verdict!r}; known: {', '.join(get_args(Outcome))}"
            )
        if not expected[self.verdict]:
            raise MalformedArtifact(
                f"the verdict {self.verdict!r} contradicts {len(self.triggers)} triggers; "
                "search again"
            )
        for left, right in zip(self.triggers, self.triggers[1:], strict=False):
            if left.token_ids >= right.token_ids:
                raise MalformedArtifact(
                    f"triggers {left.id} and {right.id} have the same token ids, or are out of "
                    "order; use TriggerBank.build, and keep one finding for each id sequence"
                )
        for number, trigger in enumerate(self.triggers, 1):
            if trigger.id != _id(number):
                raise MalformedArtifact(
                    f"trigger {number} has the id {trigger.id!r}, not {_id(number)!r}; "
                    "use TriggerBank.build"
                )
        known = {trigger.id for trigger in self.triggers}
        if len(self.targets) > MAX_TARGETS or not all(
            known.issuperset(target.triggers) for target in self.targets
        ):
            raise MalformedArtifact(
                f"there are over {MAX_TARGETS} targets, or one of no trigger of the bank; search "
                "for them again"
            )
        found = hashlib.sha256(self.tokenizer_json).hexdigest()
        if found != self.tokenizer_sha256:
            raise HashMismatch(
                f"{TOKENIZER_FILE} has SHA-256 {found}, and the bank was made for "
                f"{self.tokenizer_sha256}; restore the tokenizer, or search again"
            )

    @classmethod
    def build(
        cls,
        *,
        verdict: Outcome,
        model: ModelIdentity,
        tokenizer_json: bytes,
        search: Mapping[str, Json],
        coverage: Mapping[str, Json],
        found: Iterable[Trigger],
    ) -> TriggerBank:
        """Make a bank from findings in any order, whose ids are replaced.

        Raises
        ------
        MalformedArtifact
            Two findings have the same token ids, or the verdict contradicts them.
        """
        ordered = sorted(found, key=lambda trigger: trigger.token_ids)
        return cls(
            verdict=verdict,
            model=model,
            tokenizer_sha256=hashlib.sha256(tokenizer_json).hexdigest(),
            search=search,
            coverage=coverage,
            triggers=tuple(replace(t, id=_id(n)) for n, t in enumerate(ordered, 1)),
            tokenizer_json=tokenizer_json,
        )

    @property
    def sha256(self) -> str:
        """SHA-256 of the bytes of ``bank.json``; what monitors and reports name the bank by."""
        return hashlib.sha256(self.dump()).hexdigest()

    def save(self, directory: str | PathLike[str]) -> None:
        """Write the bank; an earlier bank there is replaced.

        Raises
        ------
        OutputExists
            The directory exists and is not a bank.
        MalformedArtifact
            The bank is too large to be read again.
        """
        files = {BANK_FILE: self.dump(), TOKENIZER_FILE: self.tokenizer_json}
        for name, data in files.items():
            if len(data) > MAX_FILE_BYTES:
                raise MalformedArtifact(
                    f"{name} would have {len(data)} bytes, over the limit of {MAX_FILE_BYTES}; "
                    "keep fewer triggers or statistics"
                )
        write_directory(Path(directory), files, owner=BANK_FILE)

    @classmethod
    def load(cls, directory: str | PathLike[str]) -> TriggerBank:
        """Read a bank and check all of it.

        Raises
        ------
        ArtifactError
            `MalformedArtifact`, `SchemaTooNew` or `HashMismatch`: the directory is not a bank, or
            is not intact.
        """
        directory = Path(directory)
        return cls.parse(read_artifact(directory, BANK_LIMITS), directory)

    @classmethod
    def parse(cls, data: Mapping[str, bytes], directory: Path) -> TriggerBank:
        """Make a bank of the files of a directory, as `load` does, which see."""
        name = str(directory / BANK_FILE)
        value = parse_json(data[BANK_FILE], name)
        check_schema(value, BANK_SCHEMA, name)
        kinds = _BANK_KINDS if value["schema"] == 1 else {**_BANK_KINDS, "targets": list}
        fields = record(value, kinds, name)
        if fields.pop("schema") > 1:
            fields["targets"] = tuple(
                Target.parse(target, f"{name}: target {number}")
                for number, target in enumerate(fields["targets"], 1)
            )
            if not fields["targets"]:
                raise MalformedArtifact(f"{name} has schema 2 and no targets; write it anew")
        fields["model"] = ModelIdentity.parse(fields["model"], f"{name}: model")
        fields["triggers"] = tuple(
            Trigger(**record(trigger, _TRIGGER_KINDS, f"{name}: trigger {number}"))
            for number, trigger in enumerate(fields["triggers"], 1)
        )
        return cls(**fields, tokenizer_json=data[TOKENIZER_FILE])

    def dump(self) -> bytes:
        """Serialise to the bytes of ``bank.json``."""
        # By name and without asdict's deep copies, which cost seconds in a large bank.
        value = {key: getattr(self, key) for key in _BANK_KINDS if key != "schema"}
        value["schema"] = 1
        if self.targets:
            value |= {"schema": BANK_SCHEMA, "targets": [asdict(target) for target in self.targets]}
        value["model"] = asdict(self.model)
        value["triggers"] = [
            {key: getattr(trigger, key) for key in _TRIGGER_KINDS} for trigger in self.triggers
        ]
        return dump_json(value)


def _id(number: int) -> str:
    return f"t{number:04d}"
