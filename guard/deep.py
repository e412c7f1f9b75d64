"""The deep check: whether the output of the suspect encoder falls on a target vector.

It is the last resort behind the monitor, for triggers that no string names: whatever leads to a
place where known triggers lead is as harmful as they are. It costs a pass of the encoder for each
text, so it is off unless `Monitor.load` is given its directory, which `exporters.deep` writes:
``encoder.onnx`` in int8, ``tokenizer.json`` and ``deep.json`` with the targets and canaries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from guard.artifact import read_artifact
from guard.bank import ModelIdentity
from guard.errors import CanaryFailure, GuardError, HashMismatch, MalformedArtifact
from guard.files import check_schema, dump_json, parse_json, record
from guard.manifest import TOKENIZER_FILE, check_sha256
from guard.reading import encode, failed
from guard.runtime import load_tokenizer, open_session
from guard.target import MAX_TARGETS, Target

DEEP_SCHEMA = 1
DEEP_FILE = "deep.json"
ENCODER_FILE = "encoder.onnx"
DEEP_LIMITS = {DEEP_FILE: 64 * 2**20, ENCODER_FILE: 2**31 - 1, TOKENIZER_FILE: 64 * 2**20}

# int8 rounds differently on processors without VNNI; more than this is another model.
_TOLERANCE = 0.05

_KINDS = {
    "schema": int,
    "bank_sha256": str,
    "model": dict,
    "max_tokens": int,
    "targets": list,
    "canaries": list,
    "files": dict,
}


@dataclass(frozen=True, slots=True)
class DeepManifest:
    """The content of ``deep.json``.

    Parameters
    ----------
    bank_sha256
        Of the bank that the targets are from.
    model
        The suspect encoder.
    max_tokens
        Texts are cut to so many ids, special tokens included, as the model does.
    targets
        Where outputs must not fall.
    canaries
        Texts with the cosine of their output with each target.
    files
        SHA-256 of the other files by name.
    """

    bank_sha256: str
    model: ModelIdentity
    max_tokens: int
    targets: tuple[Target, ...]
    canaries: tuple[tuple[str, tuple[float, ...]], ...]
    files: dict[str, str]

    def dump(self) -> bytes:
        """Serialise; `parse` is the inverse."""
        return dump_json({**asdict(self), "schema": DEEP_SCHEMA})

    @classmethod
    def parse(cls, data: bytes, name: str) -> DeepManifest:
        """Parse and check ``deep.json``.

        Raises
        ------
        MalformedArtifact
            It breaks the format.
        SchemaTooNew
            A later version wrote it.
        """
        value = parse_json(data, name)
        check_schema(value, DEEP_SCHEMA, name)
        fields = record(value, _KINDS, name)
        del fields["schema"]
        fields["model"] = ModelIdentity.parse(fields["model"], f"{name}: model")
        check_sha256(fields["bank_sha256"], name)
        record(
            fields["files"], dict.fromkeys((ENCODER_FILE, TOKENIZER_FILE), str), f"{name}: files"
        )
        fields["targets"] = tuple(
            Target.parse(target, f"{name}: target {number}")
            for number, target in enumerate(fields["targets"], 1)
        )
        fields["canaries"] = tuple(
            _canary(item, len(fields["targets"]), name) for item in fields["canaries"]
        )
        if not 1 <= len(fields["targets"]) <= MAX_TARGETS or not fields["canaries"]:
            raise MalformedArtifact(f"{name} has no targets or no canaries; export it anew")
        if fields["max_tokens"] < 3 or len({len(t.vector) for t in fields["targets"]}) != 1:
            raise MalformedArtifact(f"{name} has targets of several widths; export it anew")
        return cls(**fields)


def _canary(value: Any, count: int, name: str) -> tuple[str, tuple[float, ...]]:
    match value:
        case [str(text), [*cosines]] if len(cosines) == count:
            if all(type(cosine) is float for cosine in cosines):
                return text, tuple(cosines)
    raise MalformedArtifact(f"{name}: a canary is not a text and its cosines; export it anew")


class DeepCheck:
    """The suspect encoder in int8, and the places where its output must not fall. Use `load`.

    Attributes
    ----------
    weights_sha256, tokenizer_sha256
        Of the encoder, and of its tokenizer.
    """

    def __init__(self, *, encoder: bytes, tokenizer_json: bytes, manifest: DeepManifest) -> None:
        self.weights_sha256 = manifest.model.weights_sha256
        self.tokenizer_sha256 = hashlib.sha256(tokenizer_json).hexdigest()
        self._tokenizer = load_tokenizer(tokenizer_json)
        self._max_tokens = manifest.max_tokens
        self._vectors = np.array([t.vector for t in manifest.targets], dtype=np.float32)
        self._limits = np.array([t.cosine for t in manifest.targets], dtype=np.float32)
        self._session = open_session(encoder, ENCODER_FILE)
        names = [node.name for node in (*self._session.get_inputs(), *self._session.get_outputs())]
        if names != ["input_ids", "cls"]:
            raise MalformedArtifact(f"{ENCODER_FILE} is no encoder of guard's; export it anew")

    @classmethod
    def load(
        cls,
        directory: str | PathLike[str],
        *,
        require_signature: str | PathLike[str] | None = None,
    ) -> DeepCheck:
        """Read a directory, check it against its manifest, and try it on its canaries.

        Parameters
        ----------
        require_signature
            A public key in PEM; only what its owner signed is loaded.

        Raises
        ------
        ArtifactError
            `BadSignature`: it is not signed by that key. `MalformedArtifact`, `SchemaTooNew` or
            `HashMismatch`: it is no deep check, or is not intact. `CanaryFailure`: the encoder does
            not compute here what it did when exported.
        """
        directory = Path(directory)
        data = read_artifact(directory, DEEP_LIMITS, public_key=require_signature)
        return cls.parse(data, directory)

    @classmethod
    def parse(cls, data: Mapping[str, bytes], directory: Path) -> DeepCheck:
        """Make a deep check of the files of a directory, as `load` does, which see."""
        manifest = DeepManifest.parse(data[DEEP_FILE], str(directory / DEEP_FILE))
        for name, sha256 in manifest.files.items():
            if hashlib.sha256(data[name]).hexdigest() != sha256:
                raise HashMismatch(
                    f"{directory / name} is not the file that {DEEP_FILE} names; export it anew"
                )
        check = cls(
            encoder=data[ENCODER_FILE], tokenizer_json=data[TOKENIZER_FILE], manifest=manifest
        )
        for number, (text, expected) in enumerate(manifest.canaries, 1):
            try:
                cosines = check.cosines(text)
            except Exception as error:
                raise CanaryFailure(
                    f"canary {number} of {directory} failed: {error}; export it anew"
                ) from error
            # What is no number is near to nothing.
            if not (np.abs(cosines - np.array(expected)) <= _TOLERANCE).all():
                raise CanaryFailure(
                    f"canary {number} of {directory} has another output than when it was exported: "
                    "this processor rounds int8 differently; export it on one of this kind"
                )
        return check

    def alarms(self, text: str) -> bool:
        """Whether the output of the encoder on a text falls on a target vector."""
        return bool(self.reached(self.cosines(text)).any())

    def reached(self, cosines: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """Return which targets outputs fall on, by their cosines with these."""
        reached: npt.NDArray[np.bool_] = cosines > self._limits
        return reached

    def cosines(self, text: str) -> npt.NDArray[np.float32]:
        """Return the cosine of the output with each target, ``[targets]``.

        Raises
        ------
        InvalidUnicode
            The text holds a lone surrogate.
        GuardError
            The tokenizer failed.
        """
        encoding = encode(self._tokenizer, text)
        try:
            # The model's own special tokens, around what it reads of the text.
            extra = self._tokenizer.num_special_tokens_to_add(False)
            encoding.truncate(self._max_tokens - extra)
            ids = self._tokenizer.post_process(encoding, None, True).ids
        except BaseException as error:
            if not failed(error):
                raise
            # Only the kind of it: panics quote the text.
            raise GuardError(
                f"the tokenizer failed around the text ({type(error).__name__}); do not forward it"
            ) from error
        (cosines,) = self.cosines_of(np.array([ids], dtype=np.int64))
        return np.asarray(cosines, dtype=np.float32)

    def cosines_of(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return the same of rows of ids, ``[n, length]`` -> ``[n, targets]``.

        Special tokens are among the ids.
        """
        (outputs,) = self._session.run(("cls",), {"input_ids": ids})
        lengths = np.linalg.norm(outputs, axis=1, keepdims=True)
        cosines: npt.NDArray[np.float32] = outputs @ self._vectors.T / np.maximum(lengths, 1e-12)
        return cosines
