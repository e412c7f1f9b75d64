"""Monitor: text -> Verdict.

The monitor matches on the ids that the protected model sees, never on the text: tokenizers delete,
fold and split characters, so ``c`` + ZERO WIDTH SPACE + ``f`` is the trigger "cf" and the Cyrillic
look-alike is not. Offsets lead from the ids back to the text.

There are three ways to a verdict, and they agree on every text: `guard.prefilter` clears most texts
that hold nothing without tokenising them; an automaton (`guard.automaton`) matches the ids of a
single text; the graph in ``monitor.onnx`` matches those of a batch, and of everything with
``engine="onnx"``.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

from guard.artifact import read_artifact
from guard.automaton import Automaton
from guard.errors import (
    CanaryFailure,
    ConfigError,
    HashMismatch,
    InvalidIds,
    MalformedArtifact,
    NotText,
    StripLimit,
    TargetReached,
    TokenizerMismatch,
)
from guard.manifest import (
    CANARY_FILE,
    LIMITS,
    MANIFEST_FILE,
    ONNX_FILE,
    TOKENIZER_FILE,
    Canary,
    Manifest,
    parse_canaries,
)
from guard.prefilter import Prefilter, derive
from guard.reading import encode, scannable
from guard.runtime import Graph, load_tokenizer
from guard.strip import remove
from guard.tables import ngrams_of
from guard.verdict import Match, Verdict

if TYPE_CHECKING:
    from guard.deep import DeepCheck

Engine: TypeAlias = Literal["auto", "onnx"]

MAX_STRIP_ROUNDS = 16
# Characters that those may read anew, beside twice the text's: all rounds of a text of 20,000, and
# three of the longest, of which sixteen would hold a thread for many seconds.
_STRIP_CHARS = 262_144

# Texts that are in memory at once with their tokens and offsets.
_BATCH = 32


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
    strip_only
        Those of them that a policy of blocking strips, because they are common in ordinary text.
    deep
        The deep check that sees every text that holds no trigger, or None.

    Raises
    ------
    MalformedArtifact
        The contents are no matcher or no tokenizer, or contradict the manifest.
    """

    def __init__(
        self, *, onnx: bytes, tokenizer_json: bytes, manifest: Manifest, engine: Engine = "auto"
    ) -> None:
        if engine not in get_args(Engine):
            raise ConfigError(
                f"engine={engine!r} is unknown; choose one of {', '.join(get_args(Engine))}"
            )
        self.bank_sha256: Final = manifest.bank_sha256
        self.tokenizer_sha256: Final = manifest.tokenizer_sha256
        self.model: Final = manifest.model
        self.triggers: Final = manifest.triggers
        self.strip_only: Final = frozenset(manifest.strip_only)
        self._tokenizer = load_tokenizer(tokenizer_json)
        self._graph = Graph(onnx)
        expected = {
            "guard.schema": str(manifest.schema),
            "guard.bank_sha256": manifest.bank_sha256,
            "guard.tokenizer_sha256": manifest.tokenizer_sha256,
            "guard.triggers": str(len(manifest.triggers)),
        }
        for key, value in expected.items():
            if self._graph.metadata.get(key) != value:
                raise MalformedArtifact(
                    f"{ONNX_FILE} has {key} = {self._graph.metadata.get(key)}, and {MANIFEST_FILE} "
                    f"says {value}; they are not from the same bank: compile anew"
                )
        self.deep: DeepCheck | None = None
        self._automaton: Automaton | None = None
        self._prefilter: Prefilter | None = None
        if engine == "auto":
            ngrams = ngrams_of(onnx, len(self.triggers))
            # What the tables say has to be what the graph finds.
            if not self._graph.knows(ngrams):
                raise MalformedArtifact(
                    f"{ONNX_FILE} does not find all triggers of its own tables; compile anew"
                )
            self._automaton = Automaton(ngrams)
            self._prefilter = derive(self._tokenizer, ngrams)

    @classmethod
    def load(
        cls,
        directory: str | PathLike[str],
        *,
        engine: Engine = "auto",
        require_signature: str | PathLike[str] | None = None,
        deep: str | PathLike[str] | None = None,
    ) -> Monitor:
        """Read a monitor directory, check it against its manifest, and try it on its canaries.

        Parameters
        ----------
        directory
            What ``guard compile`` wrote.
        engine
            ``"auto"`` is the fastest way to each verdict. ``"onnx"`` tokenises every text and puts
            it through ``monitor.onnx``, as any other host of ONNX Runtime would. Both give the same
            verdicts.
        require_signature
            A public key in PEM; only what ``guard sign`` signed with its private key is loaded.
        deep
            The directory of a deep check (`guard.deep`), which then sees every text that holds no
            trigger. It costs a pass of the encoder each.

        Raises
        ------
        ArtifactError
            `BadSignature`: it is not signed by that key. `MalformedArtifact`, `SchemaTooNew` or
            `HashMismatch`: the directory is not a monitor, or is not intact. `CanaryFailure`: it
            is, and does not work here as it should.
        """
        directory = Path(directory)
        data = read_artifact(directory, LIMITS, public_key=require_signature)
        monitor = cls.parse(data, directory, engine=engine)
        if deep is not None:
            monitor.deep = _deep_check(Path(deep), monitor, require_signature)
        return monitor

    @classmethod
    def parse(
        cls, data: Mapping[str, bytes], directory: Path, *, engine: Engine = "auto"
    ) -> Monitor:
        """Make a monitor of the files of a directory, as `load` does, which see."""
        manifest = Manifest.parse(data[MANIFEST_FILE], str(directory / MANIFEST_FILE))
        for name, sha256 in manifest.files.items():
            found = hashlib.sha256(data[name]).hexdigest()
            if found != sha256:
                raise HashMismatch(
                    f"{directory / name} has SHA-256 {found}, and {MANIFEST_FILE} names {sha256}; "
                    "the directory is damaged or was tampered with: compile the bank anew"
                )
        canaries = parse_canaries(data[CANARY_FILE], str(directory / CANARY_FILE))
        monitor = cls(
            onnx=data[ONNX_FILE],
            tokenizer_json=data[TOKENIZER_FILE],
            manifest=manifest,
            engine=engine,
        )
        monitor._prove(canaries)
        return monitor

    def check(self, text: str) -> Verdict:
        """Look for triggers in one text.

        Raises
        ------
        NotText
            It is no str.
        TextTooLong
            It has more than `guard.reading.MAX_CHARS` characters.
        InvalidUnicode
            It holds a lone surrogate.
        StripLimit
            It holds triggers, and after `MAX_STRIP_ROUNDS` rounds of removing them still does; of a
            text of over 20,000 characters, after fewer, down to three.
        TargetReached
            It holds none, and the deep check alarms.
        """
        text = scannable(text)
        if self._prefilter is not None and self._prefilter.clears(text):
            verdict = Verdict(False, (), text)
        else:
            verdict = self._check((text,))[0]
        if self.deep is not None:
            self._look_deep(verdict)
        return verdict

    def check_batch(self, texts: Iterable[str]) -> list[Verdict]:
        """Look for triggers in many texts: the verdicts of `check`, somewhat faster.

        Raises
        ------
        InputError
            What `check` raises for one of the texts.
        """
        if isinstance(texts, (str, bytes)):
            # Its characters are texts, and each of them is harmless.
            raise NotText("check_batch takes a list of texts; use check for one")
        texts = [scannable(text) for text in texts]
        clears = self._prefilter.clears if self._prefilter is not None else lambda text: False
        rest = [place for place, text in enumerate(texts) if not clears(text)]
        verdicts = [Verdict(False, (), text) for text in texts]
        for start in range(0, len(rest), _BATCH):
            places = rest[start : start + _BATCH]
            for place, verdict in zip(
                places, self._check([texts[place] for place in places]), strict=True
            ):
                verdicts[place] = verdict
        if self.deep is not None:
            for verdict in verdicts:
                self._look_deep(verdict)
        return verdicts

    def check_ids(self, ids: Iterable[int]) -> tuple[Match, ...]:
        """Look for triggers in the ids of a text, for servers that tokenise anyway.

        Special tokens may be among them. Ids that were cut off are not seen, so a server that
        truncates sees less than `check` does; texts cannot be stripped by this.

        Returns
        -------
        tuple of Match
            Their `start` and `end` are places in `ids`.

        Raises
        ------
        InvalidIds
            Something else than the ids that a tokenizer gives.
        """
        try:
            row = array("I", iter(ids))
        except (TypeError, OverflowError) as error:
            raise InvalidIds(
                "the ids are not all integers from 0 to 2^32-1; pass those of one text"
            ) from error
        return tuple(
            Match(self.triggers[number - 1], place, place + length)
            for place, number, length in self._find((row,))[0]
        )

    def _check(self, texts: Sequence[str]) -> list[Verdict]:
        return [
            Verdict(True, matches, self._strip(text, matches))
            if matches
            else Verdict(False, (), text)
            for text, matches in zip(texts, self._scan(texts), strict=True)
        ]

    def _look_deep(self, verdict: Verdict) -> None:
        """Refuse what is about to be forwarded where it leads to a target."""
        if self.deep is not None and self.deep.alarms(verdict.stripped):
            raise TargetReached(
                "the text leads the suspect encoder to a target vector, and no string in it can be "
                "named; block it"
            )

    def _scan(self, texts: Sequence[str]) -> list[tuple[Match, ...]]:
        encodings = [encode(self._tokenizer, text) for text in texts]
        found = []
        for encoding, hits in zip(
            encodings, self._find([encoding.ids for encoding in encodings]), strict=True
        ):
            matches = []
            for place, number, length in hits:
                spans = [encoding.token_to_chars(place + k) for k in range(length)]
                start, end = min(span[0] for span in spans), max(span[1] for span in spans)
                matches.append(Match(self.triggers[number - 1], start, end))
            found.append(tuple(matches))
        return found

    def _find(self, rows: Sequence[Sequence[int]]) -> list[list[tuple[int, int, int]]]:
        if self._automaton is not None and len(rows) == 1:
            return [self._automaton.find(rows[0])]
        return self._graph.find(rows)

    def _strip(self, text: str, matches: tuple[Match, ...]) -> str:
        left = 2 * len(text) + _STRIP_CHARS
        rounds = 0
        while rounds < MAX_STRIP_ROUNDS and left >= 0:
            rounds += 1
            shorter = remove(text, sorted((match.start, match.end) for match in matches))
            if shorter == text:
                raise StripLimit("a trigger in the text has no characters to remove; block it")
            text = shorter
            if self._prefilter is not None and self._prefilter.clears(text):
                return text
            (matches,) = self._scan((text,))
            if not matches:
                return text
            left -= len(text)
        raise StripLimit(f"removing triggers made new ones {rounds} times over; block the text")

    def _prove(self, canaries: list[Canary]) -> None:
        if self.triggers and not any(canary.matches for canary in canaries):
            raise CanaryFailure("no canary holds a trigger, so nothing is proven; compile anew")
        for number, canary in enumerate(canaries, 1):
            try:
                verdict = self.check(canary.text)
            except Exception as error:
                raise CanaryFailure(f"canary {number} failed: {error}; compile anew") from error
            if Canary.of(canary.text, verdict) != canary:
                raise CanaryFailure(
                    f"canary {number} got another verdict than at compile time; this machine's "
                    "onnxruntime or tokenizers does not work as the one that compiled the monitor: "
                    "compile anew here, or install the same versions"
                )


def _deep_check(
    directory: Path, monitor: Monitor, require_signature: str | PathLike[str] | None
) -> DeepCheck:
    from guard.deep import DeepCheck  # costs a session, and most do without

    check = DeepCheck.load(directory, require_signature=require_signature)
    # One tokenizer serves many encoders, and to another one the targets mean nothing.
    ours = (monitor.tokenizer_sha256, monitor.model.weights_sha256)
    if (check.tokenizer_sha256, check.weights_sha256) != ours:
        raise TokenizerMismatch(
            f"{directory} is of another model than the monitor; export it from the same bank"
        )
    return check
