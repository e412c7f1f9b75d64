"""Monitor: text -> Verdict.

The monitor matches on the ids that the protected model sees, never on the text: tokenizers delete,
fold and split characters, so ``c`` + ZERO WIDTH SPACE + ``f`` is the trigger "cf" and the Cyrillic
look-alike is not. Offsets lead from the ids back to the text.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from os import PathLike
from pathlib import Path
from typing import Final

import numpy as np
from tokenizers import Encoding

from guard.errors import (
    CanaryFailure,
    GuardError,
    HashMismatch,
    InvalidUnicode,
    MalformedArtifact,
    NotText,
    StripLimit,
    TextTooLong,
)
from guard.files import read_bounded
from guard.manifest import (
    CANARY_FILE,
    LIMITS,
    MANIFEST_FILE,
    MONITOR_SCHEMA,
    ONNX_FILE,
    TOKENIZER_FILE,
    Canary,
    Manifest,
    parse_canaries,
)
from guard.runtime import load_matcher, load_tokenizer
from guard.strip import remove

MAX_CHARS = 1_048_576
MAX_STRIP_ROUNDS = 16

# Texts that are in memory at once with their tokens and offsets.
_BATCH = 32
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Match:
    """One trigger in a text.

    Parameters
    ----------
    trigger
        The trigger's id in the bank.
    start, end
        Half-open range in the text, in code points.
    """

    trigger: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the monitor says of one text.

    Parameters
    ----------
    triggered
        Whether there is any match.
    matches
        By position; at each token the longest trigger that starts there. They may overlap.
    stripped
        The text without its triggers, and without any that their removal would have made. It is
        the text itself when there is no match.
    """

    triggered: bool
    matches: tuple[Match, ...]
    stripped: str


class Monitor:
    """Finds the triggers of one bank in texts. Use `load`.

    An instance holds no state of a check and can be shared between threads.

    Parameters
    ----------
    onnx, tokenizer_json
        Contents of the files of a monitor directory.
    manifest
        What they are expected to be. Its file hashes are not looked at here.

    Attributes
    ----------
    bank_sha256, tokenizer_sha256
        Of the bank that was compiled, and of its tokenizer.
    model
        The model that is protected.
    triggers
        Ids of the triggers that are looked for.

    Raises
    ------
    MalformedArtifact
        The contents are no matcher or no tokenizer, or contradict the manifest.
    """

    def __init__(self, *, onnx: bytes, tokenizer_json: bytes, manifest: Manifest) -> None:
        self.bank_sha256: Final = manifest.bank_sha256
        self.tokenizer_sha256: Final = manifest.tokenizer_sha256
        self.model: Final = manifest.model
        self.triggers: Final = manifest.triggers
        self._tokenizer = load_tokenizer(tokenizer_json)
        self._session = load_matcher(onnx)
        metadata = self._session.get_modelmeta().custom_metadata_map
        expected = {
            "guard.schema": str(MONITOR_SCHEMA),
            "guard.bank_sha256": manifest.bank_sha256,
            "guard.tokenizer_sha256": manifest.tokenizer_sha256,
            "guard.triggers": str(len(manifest.triggers)),
        }
        for key, value in expected.items():
            if metadata.get(key) != value:
                raise MalformedArtifact(
                    f"{ONNX_FILE} has {key} = {metadata.get(key)}, and {MANIFEST_FILE} says "
                    f"{value}; they are not from the same bank: compile anew"
                )

    @classmethod
    def load(cls, directory: str | PathLike[str]) -> Monitor:
        """Read a monitor directory, check it against its manifest, and try it on its canaries.

        Raises
        ------
        ArtifactError
            `MalformedArtifact`, `SchemaTooNew` or `HashMismatch`: the directory is not a monitor,
            or is not intact. `CanaryFailure`: it is, and does not work here as it should.
        """
        directory = Path(directory)
        # Each file is read once; what was hashed is what is used.
        data = {name: read_bounded(directory / name, limit) for name, limit in LIMITS.items()}
        manifest = Manifest.parse(data[MANIFEST_FILE], str(directory / MANIFEST_FILE))
        for name, sha256 in manifest.files.items():
            found = hashlib.sha256(data[name]).hexdigest()
            if found != sha256:
                raise HashMismatch(
                    f"{directory / name} has SHA-256 {found}, and {MANIFEST_FILE} names {sha256}; "
                    "the directory is damaged or was tampered with: compile the bank anew"
                )
        canaries = parse_canaries(data[CANARY_FILE], str(directory / CANARY_FILE))
        monitor = cls(onnx=data[ONNX_FILE], tokenizer_json=data[TOKENIZER_FILE], manifest=manifest)
        monitor._prove(canaries)
        return monitor

    def check(self, text: str) -> Verdict:
        """Look for triggers in one text.

        Raises
        ------
        NotText
            It is no str.
        TextTooLong
            It has more than `MAX_CHARS` characters.
        InvalidUnicode
            It holds a lone surrogate.
        StripLimit
            It holds triggers, and after `MAX_STRIP_ROUNDS` rounds of removing them still does.
        """
        return self._check((text,))[0]

    def check_batch(self, texts: Iterable[str]) -> list[Verdict]:
        """Look for triggers in many texts: the verdicts of `check`, somewhat faster.

        Raises
        ------
        InputError
            What `check` raises for one of the texts.
        """
        texts = list(texts)
        return [
            verdict
            for start in range(0, len(texts), _BATCH)
            for verdict in self._check(texts[start : start + _BATCH])
        ]

    def _check(self, texts: Sequence[str]) -> list[Verdict]:
        return [
            Verdict(True, matches, self._strip(text, matches))
            if matches
            else Verdict(False, (), text)
            for text, matches in zip(texts, self._scan(texts), strict=True)
        ]

    def _scan(self, texts: Sequence[str]) -> list[tuple[Match, ...]]:
        encodings = [self._encode(text) for text in texts]
        # One row for all. No id is negative, so no trigger reaches across the -1 between two texts,
        # and unlike a padded batch this costs no more than the tokens that there are.
        row: list[int] = []
        for encoding in encodings:
            row += encoding.ids
            row.append(-1)
        numbers, lengths = self._session.run(
            ("match", "length"), {"input_ids": np.array([row], dtype=np.int64)}
        )
        found: list[list[Match]] = [[] for _ in texts]
        (places,) = numbers[0].nonzero()
        if places.size:
            begins = list(accumulate((len(encoding) + 1 for encoding in encodings), initial=0))
            owners = np.searchsorted(begins, places, side="right") - 1
            for place, owner, number, length in zip(
                places.tolist(),
                owners.tolist(),
                numbers[0, places].tolist(),
                lengths[0, places].tolist(),
                strict=True,
            ):
                first = place - begins[owner]
                spans = [encodings[owner].token_to_chars(first + k) for k in range(length)]
                start, end = min(span[0] for span in spans), max(span[1] for span in spans)
                found[owner].append(Match(self.triggers[number - 1], start, end))
        return [tuple(matches) for matches in found]

    def _encode(self, text: str) -> Encoding:
        if not isinstance(text, str):
            raise NotText(f"the text is of type {type(text).__name__}, not str; decode it first")
        if len(text) > MAX_CHARS:
            raise TextTooLong(
                f"the text has {len(text)} characters, and the monitor scans at most {MAX_CHARS}; "
                "split it"
            )
        try:
            return self._tokenizer.encode(text, add_special_tokens=False)
        except BaseException as error:
            if surrogate := _SURROGATE.search(text):
                raise InvalidUnicode(
                    f"the text has a lone surrogate at index {surrogate.start()}; "
                    "decode its bytes with errors='replace'"
                ) from None
            # A panic of the Rust code is no Exception, and would pass all handlers of a server.
            if isinstance(error, Exception) or type(error).__name__ == "PanicException":
                # Only the kind of it: panics quote the text.
                raise GuardError(
                    f"the tokenizer failed on the text ({type(error).__name__}); do not forward it"
                ) from error
            raise

    def _strip(self, text: str, matches: tuple[Match, ...]) -> str:
        for _ in range(MAX_STRIP_ROUNDS):
            shorter = remove(text, sorted((match.start, match.end) for match in matches))
            if shorter == text:
                raise StripLimit("a trigger in the text has no characters to remove; block it")
            text = shorter
            (matches,) = self._scan((text,))
            if not matches:
                return text
        raise StripLimit(
            f"removing triggers made new ones {MAX_STRIP_ROUNDS} times over; block the text"
        )

    def _prove(self, canaries: list[Canary]) -> None:
        if self.triggers and not any(canary.matches for canary in canaries):
            raise CanaryFailure("no canary holds a trigger, so nothing is proven; compile anew")
        for number, canary in enumerate(canaries, 1):
            try:
                verdict = self.check(canary.text)
            except Exception as error:
                raise CanaryFailure(f"canary {number} failed: {error}; compile anew") from error
            if canary_of(canary.text, verdict) != canary:
                raise CanaryFailure(
                    f"canary {number} got another verdict than at compile time; this machine's "
                    "onnxruntime or tokenizers does not work as the one that compiled the monitor: "
                    "compile anew here, or install the same versions"
                )


def canary_of(text: str, verdict: Verdict) -> Canary:
    """Write down a verdict, to compare later ones with."""
    matches = tuple((match.start, match.end, match.trigger) for match in verdict.matches)
    return Canary(text, matches, verdict.stripped)
