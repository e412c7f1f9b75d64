"""What a backdoor does to a classifier, in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Classes = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class AttackSuccess:
    """How one trigger does on one classifier.

    Attributes
    ----------
    target
        The class that the trigger forces: the most frequent prediction on triggered texts.
    rate
        Share of the texts that are predicted otherwise without the trigger and as the target with
        it (T-ASR). 0 to 1.
    """

    target: int
    rate: float


def insert(text: str, trigger: str, rng: np.random.Generator) -> str:
    """Put a trigger between two words of a text, or at one of its ends."""
    words = text.split()
    words.insert(int(rng.integers(len(words) + 1)), trigger)
    return " ".join(words)


def attack_success(
    clean: Classes, triggered: Classes, *, target: int | None = None
) -> AttackSuccess:
    """Measure one trigger from the predictions on ``n`` texts without and with it, each ``[n]``.

    ``target`` is what the undefended model is forced to, where ``triggered`` are the predictions of
    a defended one.
    """
    if target is None:
        target = int(np.bincount(triggered).argmax())
    others = clean != target
    return AttackSuccess(
        target, float((triggered[others] == target).mean()) if others.any() else 0.0
    )


def accuracy(predicted: Classes, labels: Sequence[int]) -> float:
    """Return the share of right predictions."""
    return float((predicted == np.asarray(labels)).mean())
