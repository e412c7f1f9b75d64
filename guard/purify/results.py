"""How a purification is made, and what it came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from guard.bank import Outcome, TriggerBank
from guard.files import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a model is purified.

    Attributes
    ----------
    rounds
        Of training and scanning, at most.
    steps
        Of training, at most, a round.
    learning_rate
        At its highest.
    every
        Steps from one look at the held-out loss, and one checkpoint, to the next.
    patience
        Looks without a lower loss after which a round's training ends.
    """

    rounds: int = 3
    steps: int = 400
    learning_rate: float = 1e-4
    every: int = 50
    patience: int = 3


DEFAULT = Settings()


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What a round came to.

    Attributes
    ----------
    units
        How many were trained against.
    exact
        Whether in float32 although the device multiplies bfloat16: the units act in that alone.
    held_out_loss
        Before the first step, and at every look after it.
    moved
        View -> how far outputs on ordinary held-out text are from the frozen copy's, as a share of
        their variance.
    triggered_before, triggered_after
        The same of text with a unit, from the frozen copy's outputs of the text without it.
    verdict, remaining, scan_sha256
        The scan's verdict, how many triggers it found, and the hash of its bank.
    not_scanned
        The token ids of each unit that was trained against and that no text of the scan's leads to.
    """

    units: int
    exact: bool
    held_out_loss: list[float]
    moved: dict[str, float]
    triggered_before: dict[str, float]
    triggered_after: dict[str, float]
    verdict: Outcome
    remaining: int
    scan_sha256: str
    not_scanned: list[list[int]]


@dataclass(frozen=True, slots=True)
class Purified:
    """What became of a model.

    Attributes
    ----------
    record
        The provenance record: model, bank, seed, settings, and the rounds.
    rounds
        What each round came to.
    scan
        The last scan of what was written.
    left_out
        What lies in the model's directory and was not copied: code, pickles, other weights, and
        directories, such as those in which sentence-transformers keeps how it pools.
    """

    record: Mapping[str, Json]
    rounds: tuple[Round, ...]
    scan: TriggerBank
    left_out: tuple[str, ...]

    @property
    def verdict(self) -> Outcome:
        """What the last scan says."""
        return self.scan.verdict
