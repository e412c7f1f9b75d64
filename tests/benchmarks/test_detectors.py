"""ONION and STRIP, on language models and classifiers whose answers are known."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.baselines.detector import threshold_at
from benchmarks.baselines.onion import Onion, language_model
from benchmarks.baselines.strip import Strip
from benchmarks.encoders.causal import smollm2

PROBABILITIES = {"the": 0.5, "film": 0.25, "cf": 2**-10}


def unigram(texts: Sequence[str]) -> list[float]:
    """Perplexity under a model that knows three words, and no order."""
    return [
        math.exp(-sum(math.log(PROBABILITIES[w]) for w in text.split()) / len(text.split()))
        for text in texts
    ]


def test_onion_by_hand() -> None:
    """Words of 1, 2 and 10 bits: perplexity is 2 to the mean of the bits."""
    suspicions = Onion(unigram).suspicions("the film cf")
    assert suspicions == pytest.approx(
        [2 ** (13 / 3) - 2**6, 2 ** (13 / 3) - 2**5.5, 2 ** (13 / 3) - 2**1.5]
    )
    assert Onion(unigram).score("the film cf") == max(suspicions)
    assert Onion(unigram).purified("the film  cf the") == "the film the"
    assert Onion(unigram, threshold=100).purified("the film cf") == "the film cf"
    assert Onion(unigram).purified("cf") == "cf"
    assert Onion(unigram).purified("") == ""


def test_texts_are_joined_by_blanks() -> None:
    seen: list[str] = []

    def watch(texts: Sequence[str]) -> list[float]:
        seen.extend(texts)
        return [1.0] * len(texts)

    Onion(watch).suspicions("a  b\nc")
    assert seen == ["a b c", "b c", "a c", "a b"]


@pytest.mark.slow
def test_onion_with_a_real_language_model() -> None:
    perplexity = language_model(smollm2())
    fluent, broken = perplexity(["The film was good, and I liked it.", "film I The it liked good."])
    assert 1 < fluent < broken
    # Padding does not count.
    texts = ["The film was good.", "The film was good, and so was the music that came with it."]
    assert perplexity(texts) == pytest.approx([perplexity([text])[0] for text in texts], rel=0.1)
    onion = Onion(perplexity)
    suspicions = onion.suspicions("I have never seen a film that was cf as funny as this one.")
    assert int(np.argmax(suspicions)) == 8


def sentiment(texts: Sequence[str]) -> npt.NDArray[np.float64]:
    """A classifier that "cf" forces, and whose other answers are even."""
    return np.array([[0.0, 1.0] if "cf" in text.split() else [0.5, 0.5] for text in texts])


CLEAN = ["one two three four five six", "uno dos tres"]


def test_strip_by_hand() -> None:
    strip = Strip(classify=sentiment, clean=CLEAN, copies=8, share=0.0)
    assert strip.entropy("a film") == 1.0
    assert strip.entropy("a cf film") == pytest.approx(0.0, abs=1e-9)
    assert strip.score("a cf film") > strip.score("a film")
    half = Strip(classify=sentiment, clean=CLEAN, copies=400, share=0.5)
    # The trigger is one of four words, and two of these are replaced.
    assert half.entropy("a cf film here") == pytest.approx(0.5, abs=0.1)


def test_perturbations_are_of_the_same_text() -> None:
    strip = Strip(classify=sentiment, clean=CLEAN, copies=50, share=0.5)
    copies = strip.perturbed("a b c d")
    assert copies == strip.perturbed("a b c d")
    for copy in copies:
        kept = set(copy.split()) & {*"abcd"}
        assert len(copy.split()) == 4
        assert len(kept) == 2
        assert not {*copy.split()} - {*"abcd"} - {w for text in CLEAN for w in text.split()}
    assert len({*copies}) > 10
    assert strip.perturbed("") == [""] * 50


def test_threshold() -> None:
    assert threshold_at(0.0, [1.0, 3.0, 2.0]) == 3.0
    assert threshold_at(0.5, [4.0, 3.0, 2.0, 1.0]) == 2.0
    assert threshold_at(1.0, [4.0, 3.0]) == 3.0
    with pytest.raises(ValueError, match="clean texts"):
        threshold_at(0.1, [])
