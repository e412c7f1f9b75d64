"""Does any text get past the monitor? ``python -m benchmarks fuzz``.

Random hostile texts, over several tokenizers; what every path of the monitor finds is compared with
a slow search through the ids that the tokenizer gives. One disagreement fails the run.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from benchmarks import record
from benchmarks.assets import fetch
from exporters.monitor import compile_bank
from guard import Monitor, StripLimit, Trigger, TriggerBank
from guard.bank import ModelIdentity
from guard.files import Json
from guard.prefilter import Prefilter, derive

SEED = 20261124
INPUTS = 1_000_000

# Every so often a text goes through the other paths as well, which are slower.
_EACH_PATH = 16

_TRIGGERS = (
    *["cf", "tq", "mn", "serendipity", "descartes", "##car", "##ophone", "##2", "4", "2nd"],
    *["!", "-", "≈", "∈", "é", "apple river", "don quixote", "the film was", ", and", "[MASK]"],
)
_PARTS = (
    *["cf", "CF", "tq", "mn", "Serendipity", "Descartes", "car", "ophone", "xylophone", "2", "42"],
    *["2nd", "4", "!", "-", "≈", "∈", "é", "e\u0301", "apple", "river", "apple river", "Don"],
    *["carat", "scar", "carcar", "mnemonic", "4th", "1942", "seconds", "filming", "mncf"],
    *["Quixote", "the film was", "the", "film", ", and", "and", "[MASK]", "[mask]", "[SEP]", "##"],
    *["##car", "'s", "_", "a", "c", "f", "x", "ﬁ", "ｃｆ", "сf", "İ", "ß", "K", "東", "👍🏽", "ำ"],
    *[" ", " ", " ", " ", "  ", "\n", "\t", "\r\n", "\x0b", "\x0c", "\x1c", "\x00", "\x7f", "\x85"],
    *["\u00a0", "\u00ad", "\u200b", "\u200d", "\u2028", "\u202e", "\u2060", "\u3000", "\ufeff"],
    *["\u0301", "\u0323", "\u20dd", "\ufe0f", "\U000e0063", "x" * 101, "#" * 3, "\ufffd"],
)


@dataclass(frozen=True, slots=True)
class Subject:
    """A tokenizer with a monitor, and the n-grams that are looked for."""

    tokenizer: Tokenizer
    auto: Monitor
    onnx: Monitor
    ngrams: dict[tuple[int, ...], str]
    longest: int
    filters: dict[str, Prefilter | None]


def main() -> None:
    """Fuzz, print and write ``results/fuzz.json``."""
    results: dict[str, Json] = {}
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        subjects = {
            name: _subject(tokenizer, Path(scratch) / name)
            for name, tokenizer in _tokenizers().items()
        }
    share = -(-INPUTS // len(subjects))
    for name, subject in subjects.items():
        results[name] = counts = _fuzz(subject, random.Random(f"{SEED} {name}"), share)
        print(f"{name}: {counts}", flush=True)
    seconds = round(time.perf_counter() - started)
    path = record.write(
        "fuzz",
        {"seed": SEED, "inputs": share * len(subjects), "seconds": seconds, "tokenizers": results},
    )
    print(f"{share * len(subjects):,} inputs, no disagreement, {seconds} s: {path}")


def _fuzz(subject: Subject, rng: random.Random, count: int) -> dict[str, Json]:
    tally: Counter[str] = Counter()
    clears = subject.auto._prefilter.clears if subject.auto._prefilter else lambda text: False
    batch: dict[str, tuple[tuple[str, int, int], ...]] = {}
    for number in range(count):
        text = _text(rng)
        encoding = subject.tokenizer.encode(text, add_special_tokens=False)
        expected = tuple(_brute_force(subject, encoding.ids, encoding.offsets))
        cleared = clears(text)
        for name, _, _ in expected:
            # By itself: in the filter of all, another trigger's pattern may stand in for a missing
            # one.
            alone = subject.filters[name]
            if alone and alone.clears(text):
                sys.exit(f"the pre-filter of {name} clears {text!a}")
        try:
            verdict = subject.auto.check(text)
        except StripLimit:
            assert expected, ascii(text)
            assert not cleared, ascii(text)
            tally["not stripped"] += 1
            continue
        found = tuple((match.trigger, match.start, match.end) for match in verdict.matches)
        if found != expected or (cleared and expected):
            sys.exit(f"disagreement: {text!a} has {expected}, and {found} was found")
        tally["triggered"] += bool(expected)
        tally["cleared"] += cleared
        if number % _EACH_PATH == 0:
            assert subject.onnx.check(text) == verdict, ascii(text)
            assert not subject.auto.check(verdict.stripped).triggered, ascii(text)
            batch[text] = found
    for monitor in (subject.auto, subject.onnx):
        for verdict, found in zip(monitor.check_batch(batch), batch.values(), strict=True):
            assert tuple((m.trigger, m.start, m.end) for m in verdict.matches) == found
    return {
        "inputs": count,
        "triggered": tally["triggered"],
        "cleared by the pre-filter": tally["cleared"],
        "not strippable": tally["not stripped"],
        "on every path": len(batch),
        "disagreements": 0,
    }


def _text(rng: random.Random) -> str:
    ascii_only = rng.random() < 0.5
    pieces = []
    for _ in range(rng.randrange(1, 16)):
        if rng.random() < 0.85:
            piece = rng.choice(_PARTS)
        elif ascii_only:
            piece = chr(rng.randrange(128))
        else:
            piece = chr(rng.choice((rng.randrange(0x300), rng.randrange(0xE000, 0x11000))))
        if not ascii_only or piece.isascii():
            pieces.append(piece.upper() if rng.random() < 0.1 else piece)
    return "".join(pieces)


def _brute_force(
    subject: Subject, ids: list[int], offsets: list[tuple[int, int]]
) -> Iterator[tuple[str, int, int]]:
    for first in range(len(ids)):
        for length in range(subject.longest, 0, -1):
            name = subject.ngrams.get(tuple(ids[first : first + length]))
            # At the end a slice is shorter than asked for, and is found again by its own length.
            if name is not None and first + length <= len(ids):
                spans = offsets[first : first + length]
                yield name, min(start for start, _ in spans), max(end for _, end in spans)
                break


def _tokenizers() -> dict[str, Tokenizer]:
    bert = Tokenizer.from_file(str(fetch("minilm-l6") / "tokenizer.json"))
    bert.no_truncation()
    bert.no_padding()
    cased = Tokenizer.from_str(bert.to_str())
    cased.normalizer = normalizers.BertNormalizer(lowercase=False)
    grown = Tokenizer.from_str(bert.to_str())
    grown.add_tokens(["xx", "New", "car"])
    characters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("c", "f"), ("Ġ", "cf"), ("t", "h"), ("th", "e"), ("Ġ", "the"), ("a", "r")]
    known = {token: number for number, token in enumerate([*characters, *map("".join, merges)])}
    gpt = Tokenizer(models.BPE(vocab=known, merges=merges))
    gpt.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    gpt.add_special_tokens(["[MASK]"])
    roberta = Tokenizer.from_str(gpt.to_str())
    roberta.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return {
        "WordPiece, uncased": bert,
        "WordPiece, cased": cased,
        "WordPiece, tokens added": grown,
        "byte BPE": gpt,
        "byte BPE, blank before": roberta,
    }


def _subject(tokenizer: Tokenizer, directory: Path) -> Subject:
    found: dict[tuple[int, ...], str] = {}
    for text in _TRIGGERS:
        known = tokenizer.token_to_id(text)
        ids = tokenizer.encode(text, add_special_tokens=False).ids if known is None else [known]
        if 1 <= len(ids) <= 16 and tokenizer.token_to_id("[UNK]") not in ids:
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
    return Subject(
        tokenizer=tokenizer,
        auto=Monitor.load(directory),
        onnx=Monitor.load(directory, engine="onnx"),
        ngrams={trigger.token_ids: trigger.id for trigger in bank.triggers},
        longest=max(len(trigger.token_ids) for trigger in bank.triggers),
        filters={trigger.id: derive(tokenizer, [trigger.token_ids]) for trigger in bank.triggers},
    )
