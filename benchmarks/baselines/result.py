"""What every baseline answers with, so that one harness can treat them alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["backdoored", "none found"]


@dataclass(frozen=True, slots=True)
class Found:
    """A unit that a baseline calls a trigger.

    Attributes
    ----------
    token_ids
        As the model sees it.
    text
        For people.
    statistics
        What the baseline measured of it.
    """

    token_ids: tuple[int, ...]
    text: str
    statistics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Result:
    """What a baseline says of one encoder, and what it cost to say it.

    Attributes
    ----------
    verdict
        By the baseline's own rule.
    found
        Triggers; empty for a method that looks for none.
    targets
        Output vectors that it believes are forced, each of the encoder's width; empty for a method
        that looks for none.
    statistics
        Of the model as a whole.
    token_forwards
        Tokens that went through the model, as ``guard.search.encoder.Encoder.forwarded`` counts.
    token_backwards
        Tokens of those whose gradient was taken. A backward pass costs about two forward ones.
    seconds
        From the loaded encoder to the verdict.
    """

    verdict: Verdict
    found: tuple[Found, ...]
    targets: tuple[tuple[float, ...], ...]
    statistics: Mapping[str, float]
    token_forwards: int
    token_backwards: int
    seconds: float
