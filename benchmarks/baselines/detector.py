"""Defences that look at one input at a time: a score for each text, and a threshold."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

# The suspicion of a text: the larger, the more suspicious.
Score: TypeAlias = Callable[[str], float]


def threshold_at(rate: float, clean: Sequence[float]) -> float:
    """Return the score that no more than `rate` of held-out clean texts exceed."""
    if not clean:
        raise ValueError("a threshold needs the scores of some clean texts")
    allowed = math.floor(rate * len(clean))
    return sorted(clean, reverse=True)[min(allowed, len(clean) - 1)]
