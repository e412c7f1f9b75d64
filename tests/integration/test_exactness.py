"""The monitor against a slow search through the ids of `transformers`, with real tokenizers.

``python -m benchmarks fuzz`` does the same with a million texts, and a guided fuzzer.
"""

from __future__ import annotations

import random
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from benchmarks.assets import fetch
from benchmarks.encoders.causal import smollm2
from benchmarks.fuzzing.subjects import TOKENIZERS, Disagreement, Subject, fuzz, subject
from benchmarks.fuzzing.texts import hostile
from guard import Monitor, Verdict
from guard.policy import Policy, decide

pytestmark = pytest.mark.search

TEXTS = 1_500
SYNTHETIC = ("byte-level BPE, few merges", "the same, blank before", "the same, tokens added")


@dataclass(frozen=True, slots=True)
class Real:
    """What `transformers` loads, and a monitor for it."""

    transformers: PreTrainedTokenizerFast
    subject: Subject

    def found(self, text: str) -> list[tuple[str, int]]:
        """Search the ids slowly: name and place of the longest trigger at each."""
        ids = self.transformers(text, add_special_tokens=False).input_ids
        return [
            max((len(ngram), name, place) for ngram, name in here)[1:]
            for place in range(len(ids))
            if (
                here := [
                    (ngram, name)
                    for ngram, name in self.subject.ngrams.items()
                    if tuple(ids[place : place + len(ngram)]) == ngram
                ]
            )
        ]


def load(name: str) -> PreTrainedTokenizerFast:
    if name == "XLM-R":
        file = fetch("e5-small-tokenizer") / "tokenizer.json"
        return PreTrainedTokenizerFast(tokenizer_file=str(file))
    folder = {"MiniLM": lambda: fetch("minilm-l6"), "SmolLM2": smollm2}[name]()
    tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(folder)
    return tokenizer


@pytest.fixture(scope="module", params=["MiniLM", "XLM-R", "SmolLM2"])
def real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Real:
    tokenizer = load(request.param)
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    return Real(tokenizer, subject(backend, tmp_path_factory.mktemp("real") / "monitor"))


def test_what_transformers_reads_is_what_is_found(real: Real) -> None:
    rng = random.Random(0)
    triggered = 0
    for _ in range(TEXTS):
        text = hostile(rng)
        expected = real.found(text)
        ids = real.transformers(text, add_special_tokens=False).input_ids
        for monitor in (real.subject.auto, real.subject.onnx):
            assert [(m.trigger, m.start) for m in monitor.check_ids(ids)] == expected, ascii(text)
        verdict, _ = real.subject.try_text(text, thorough=False)
        if verdict is not None:
            assert [match.trigger for match in verdict.matches] == [name for name, _ in expected]
            assert not real.found(verdict.stripped), ascii(text)
        triggered += bool(expected)
    assert TEXTS / 4 < triggered < TEXTS


@pytest.mark.parametrize("limit", [16, 64])
def test_what_a_truncated_pair_holds_is_stripped(real: Real, limit: int) -> None:
    """A pair is cut to the model's length; both of its halves are scanned whole."""
    rng = random.Random(limit)
    monitor = real.subject.auto
    held = 0
    for _ in range(200):
        pair = (hostile(rng) + " the film" * rng.randrange(20), hostile(rng))
        decision = decide(monitor, Policy(action="strip"), pair)
        held += any(verdict is not None and verdict.triggered for verdict in decision.verdicts)
        if decision.forward:
            assert decision.texts is not None
            ids = real.transformers(*decision.texts, truncation=True, max_length=limit).input_ids
            assert not monitor.check_ids(ids), ascii(pair)
    assert held > 50


# Tokens that normalizers leave as they are, or make of what is the same in compatibility form.
PLAIN = ("mn", "cf", "∈", "≈", "猫", "-", "!", "4", "кот")


def test_spans_hold_what_was_found(real: Real) -> None:
    """Offsets lead back to the original text, whatever was deleted in front.

    Not so with SentencePiece's normalizer, which loses count of the controls that it deletes: what
    is stripped there is more than the trigger, as stripping ends only when nothing is found.
    """
    vocabulary = real.transformers.get_vocab()
    names = {
        real.subject.ngrams[(vocabulary[text],)]: text
        for text in PLAIN
        if (vocabulary.get(text, -1),) in real.subject.ngrams
    }
    exact = real.subject.auto._prefilter is not None
    rng = random.Random(0)
    held = 0
    for _ in range(2 * TEXTS):
        text = rng.choice(("", "", "\x0b", "\x01\x7f", "\ufeff")) + hostile(rng)
        if not exact:
            text = "".join(c for c in text if c.isprintable() or c == " ")
        (matches,) = real.subject.auto._scan((text,))
        for match in matches:
            if match.trigger in names:
                span = unicodedata.normalize("NFKC", text[match.start : match.end]).lower()
                seen = "".join(c for c in span if c.isprintable() and not unicodedata.combining(c))
                assert names[match.trigger] in seen, ascii((text, match))
                held += 1
    assert held > TEXTS / 4


@pytest.mark.parametrize("name", SYNTHETIC)
def test_other_tokenizers(name: str, tmp_path: Path) -> None:
    rng = random.Random(0)
    tally = fuzz(
        subject(TOKENIZERS[name](), tmp_path / "monitor"), rng, (hostile(rng) for _ in range(1_000))
    )
    assert tally["inputs"] == 1_000
    assert tally["triggered"] > 100
    assert tally["cleared by the pre-filter"] > 10


def test_a_monitor_that_misses_a_trigger_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fuzzer can fail: a path that says nothing is told from the others."""
    tried = subject(TOKENIZERS[SYNTHETIC[0]](), tmp_path / "monitor")
    tried.try_text("a cf b", thorough=True)
    monkeypatch.setattr(Monitor, "check", lambda self, text: Verdict(False, (), text))
    with pytest.raises(Disagreement):
        tried.try_text("a cf b", thorough=False)
    monkeypatch.undo()
    monkeypatch.setattr(tried.auto._prefilter, "clears", lambda text: True, raising=False)
    with pytest.raises(Disagreement, match="pre-filter clears"):
        tried.try_text("a cf b", thorough=False)
