"""Tokenizers with a monitor, and what a slow search through the ids says of a text."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from benchmarks.assets import fetch
from benchmarks.encoders import encoder
from benchmarks.encoders.causal import smollm2
from benchmarks.fuzzing.texts import TRIGGERS
from exporters.monitor import compile_bank
from guard import Monitor, StripLimit, Trigger, TriggerBank, Verdict
from guard.bank import ModelIdentity
from guard.prefilter import Prefilter, derive
from guard.runtime import load_tokenizer

# Name of a trigger, and where it is in a text.
Found = tuple[tuple[str, int, int], ...]

# Some texts go through the slower paths as well, and are cut off somewhere.
_EACH_PATH = 16


class Disagreement(AssertionError):
    """Two ways to a verdict differ, or one lets a trigger through."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A tokenizer with a monitor, and the n-grams that are looked for."""

    tokenizer: Tokenizer
    auto: Monitor
    onnx: Monitor
    ngrams: Mapping[tuple[int, ...], str]
    longest: int
    filters: Mapping[str, Prefilter | None]

    def try_text(self, text: str, *, thorough: bool) -> tuple[Verdict | None, bool]:
        """Compare all that is said of a text.

        Parameters
        ----------
        thorough
            Whether the graph is asked too, and the stripped text is checked again.

        Returns
        -------
        verdict
            None where the text cannot be stripped.
        cleared
            Whether the pre-filter cleared the text.

        Raises
        ------
        Disagreement
            There is one.
        """
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        expected = self.search(encoding.ids, encoding.offsets)
        cleared = self.auto._prefilter is not None and self.auto._prefilter.clears(text)
        for name, _, _ in expected:
            # By itself: in the filter of all, another trigger's pattern may stand in for a missing
            # one.
            alone = self.filters.get(name)
            if alone and alone.clears(text):
                raise Disagreement(f"the pre-filter of {name} clears {text!a}")
        if cleared and expected:
            raise Disagreement(f"the pre-filter clears {text!a}")
        if thorough and self._ids_of(text, self.onnx) != self._ids_of(text, self.auto):
            raise Disagreement(f"the paths differ on the ids of {text!a}")
        try:
            verdict = self.auto.check(text)
        except StripLimit:
            if not expected:
                raise Disagreement(f"{text!a} holds nothing and is not stripped") from None
            return None, cleared
        if found_in(verdict) != expected:
            raise Disagreement(f"{text!a} has {expected}, and {found_in(verdict)} was found")
        if thorough:
            if self.onnx.check(text) != verdict:
                raise Disagreement(f"the graph has another verdict on {text!a}")
            if self.auto.check(verdict.stripped).triggered:
                raise Disagreement(f"{text!a} is triggered after stripping")
        return verdict, cleared

    def try_truncated(self, text: str, verdict: Verdict, length: int) -> None:
        """Whether what a model sees that reads `length` ids holds nothing that was not found."""
        self.tokenizer.enable_truncation(length)
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        self.tokenizer.no_truncation()
        # Of a longer one that was cut through, a shorter one may be left.
        places = {start for _, start, _ in found_in(verdict)}
        seen = self.search(encoding.ids, encoding.offsets)
        if any(start not in places for _, start, _ in seen):
            raise Disagreement(f"{text!a}, cut to {length} ids, holds what was not found")

    def search(self, ids: Sequence[int], offsets: Sequence[tuple[int, int]]) -> Found:
        """Slide over the ids: the longest n-gram at each place."""
        return tuple(self._search(ids, offsets))

    def _search(
        self, ids: Sequence[int], offsets: Sequence[tuple[int, int]]
    ) -> Iterator[tuple[str, int, int]]:
        for first in range(len(ids)):
            for length in range(min(self.longest, len(ids) - first), 0, -1):
                name = self.ngrams.get(tuple(ids[first : first + length]))
                if name is not None:
                    spans = offsets[first : first + length]
                    yield name, min(start for start, _ in spans), max(end for _, end in spans)
                    break

    def _ids_of(self, text: str, monitor: Monitor) -> object:
        return monitor.check_ids(self.tokenizer.encode(text, add_special_tokens=False).ids)


def found_in(verdict: Verdict) -> Found:
    """Return the matches of a verdict in the form of `Subject.search`."""
    return tuple((match.trigger, match.start, match.end) for match in verdict.matches)


def subject(tokenizer: Tokenizer, directory: Path) -> Subject:
    """Compile the triggers for a tokenizer; those that it does not know are left out."""
    unknown = {tokenizer.token_to_id(name) for name in ("[UNK]", "<unk>", "<|endoftext|>")}
    found: dict[tuple[int, ...], str] = {}
    for text in TRIGGERS:
        known = tokenizer.token_to_id(text)
        ids = tokenizer.encode(text, add_special_tokens=False).ids if known is None else [known]
        if 1 <= len(ids) <= 16 and not unknown & {*ids}:
            found.setdefault(tuple(ids), text)
    bank = TriggerBank.build(
        verdict="backdoored",
        model=ModelIdentity("fuzzed", None, "0" * 64, "BertModel"),
        tokenizer_json=tokenizer.to_str().encode(),
        search={},
        coverage={},
        found=[Trigger("", text, ids, "phrase", "cls", {}) for ids, text in found.items()],
    )
    compile_bank(bank, directory)
    auto = Monitor.load(directory)
    # Where there is no theorem, finding that out of a large vocabulary takes seconds each time.
    alone = bank.triggers if auto._prefilter is not None else ()
    return Subject(
        tokenizer=tokenizer,
        auto=auto,
        onnx=Monitor.load(directory, engine="onnx"),
        ngrams={trigger.token_ids: trigger.id for trigger in bank.triggers},
        longest=max(len(trigger.token_ids) for trigger in bank.triggers),
        filters={trigger.id: derive(tokenizer, [trigger.token_ids]) for trigger in alone},
    )


def fuzz(subject: Subject, rng: random.Random, texts: Iterator[str]) -> dict[str, int]:
    """Try texts, and count what they were."""
    tally = dict.fromkeys(
        ("inputs", "triggered", "cleared by the pre-filter", "not strippable", "on every path"), 0
    )
    batch: dict[str, Verdict] = {}
    for number, text in enumerate(texts):
        thorough = number % _EACH_PATH == 0
        verdict, cleared = subject.try_text(text, thorough=thorough)
        tally["inputs"] += 1
        tally["cleared by the pre-filter"] += cleared
        if verdict is None:
            tally["not strippable"] += 1
            continue
        tally["triggered"] += verdict.triggered
        if thorough:
            subject.try_truncated(text, verdict, rng.randrange(1, 40))
            tally["on every path"] += 1
            batch[text] = verdict
    for monitor in (subject.auto, subject.onnx):
        if monitor.check_batch(batch) != list(batch.values()):
            raise Disagreement("a batch has other verdicts than its texts")
    return tally


def _minilm() -> Tokenizer:
    return load_tokenizer((fetch("minilm-l6") / "tokenizer.json").read_bytes())


def _cased() -> Tokenizer:
    tokenizer = _minilm()
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    return tokenizer


def _grown() -> Tokenizer:
    tokenizer = _minilm()
    tokenizer.add_tokens(["xx", "New", "car"])
    return tokenizer


def _mpnet() -> Tokenizer:
    return load_tokenizer((encoder("mpnet-base") / "tokenizer.json").read_bytes())


def _xlmr() -> Tokenizer:
    return load_tokenizer((fetch("e5-small-tokenizer") / "tokenizer.json").read_bytes())


def _smollm2() -> Tokenizer:
    return load_tokenizer((smollm2() / "tokenizer.json").read_bytes())


def _bytes(*, prefix_space: bool = False) -> Tokenizer:
    characters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("c", "f"), ("Ġ", "cf"), ("t", "h"), ("th", "e"), ("Ġ", "the"), ("a", "r")]
    known = {token: number for number, token in enumerate([*characters, *map("".join, merges)])}
    tokenizer = Tokenizer(models.BPE(vocab=known, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    tokenizer.add_special_tokens(["[MASK]"])
    return tokenizer


TOKENIZERS: Mapping[str, Callable[[], Tokenizer]] = MappingProxyType(
    {
        "MiniLM (WordPiece, uncased)": _minilm,
        "the same, cased": _cased,
        "the same, tokens added": _grown,
        "MPNet (WordPiece)": _mpnet,
        "XLM-R (Unigram)": _xlmr,
        "SmolLM2 (byte-level BPE)": _smollm2,
        "byte-level BPE, few merges": _bytes,
        "the same, blank before": lambda: _bytes(prefix_space=True),
    }
)
