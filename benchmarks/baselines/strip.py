"""STRIP: the class of a triggered text does not change, whatever else is mixed into it.

Gao et al., "STRIP: A Defence Against Trojan Attacks on Deep Neural Networks", ACSAC 2019, and for
text "Design and Evaluation of a Multi-Domain Trojan Detection Method on Deep Neural Networks",
2019. A text is perturbed N times with words of clean texts; the entropy of the
classifier's probabilities, averaged over these perturbations of the SAME text, is low where a
trigger forces the class. (Public code averages over perturbations of several texts, which is
another quantity.)

The papers replace words by those of the highest tf-idf of a drawn text; here they are replaced at
random places by words of the drawn text in their order, which needs no corpus statistics.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from benchmarks.tasks.classifier import MAX_TOKENS

# Texts -> probabilities of the classes, [texts, classes].
Classify: TypeAlias = Callable[[Sequence[str]], npt.NDArray[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """The defence.

    Parameters
    ----------
    classify
        The protected classifier.
    clean
        Clean texts, to perturb with.
    copies
        Perturbations of each text, N.
    share
        Of the words that are replaced.
    seed
        A text is perturbed in the same way whenever it comes.
    """

    classify: Classify
    clean: Sequence[str]
    copies: int = 20
    share: float = 0.5
    seed: int = 0

    def perturbed(self, text: str) -> list[str]:
        """Return the copies."""
        rng = np.random.default_rng((self.seed, zlib.crc32(text.encode(errors="replace"))))
        words = text.split()
        count = round(self.share * len(words))
        copies = []
        for _ in range(self.copies):
            other = self.clean[int(rng.integers(len(self.clean)))].split()
            mixed = list(words)
            places = sorted(rng.permutation(len(words))[:count].tolist())
            for place, word in zip(places, other, strict=False):
                mixed[place] = word
            copies.append(" ".join(mixed))
        return copies

    def entropy(self, text: str) -> float:
        """Return the mean entropy in bits over the perturbations of this text."""
        probabilities = self.classify(self.perturbed(text))
        logarithms = np.log2(np.clip(probabilities, 1e-12, 1.0))
        return float(-(probabilities * logarithms).sum(axis=1).mean())

    def score(self, text: str) -> float:
        """Return how low the entropy is: the suspicion."""
        return -self.entropy(text)


def probabilities(folder: Path) -> Classify:
    """Return a fine-tuned classifier, a folder, as STRIP asks it."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def classify(texts: Sequence[str]) -> npt.NDArray[np.float64]:
        inputs = tokenizer(
            list(texts), truncation=True, max_length=MAX_TOKENS, padding=True, return_tensors="pt"
        )
        with torch.inference_mode():
            shares: npt.NDArray[np.float64] = model(**inputs).logits.double().softmax(-1).numpy()
        return shares

    return classify
