"""Forced outputs by other losses than those of the papers, and in other places.

Squared distances to POR's vectors are POR; the other combinations are of no published attack.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch.nn import functional

from benchmarks.attacks.step import Step
from benchmarks.attacks.targets import blocks
from benchmarks.attacks.views import View

Loss = Literal["squares", "angle", "absolute"]
Place = Literal["signs", "normal", "ordinary"]
LOSSES: tuple[Loss, ...] = get_args(Loss)
PLACES: tuple[Place, ...] = get_args(Place)


def _squares(seen: torch.Tensor, goals: torch.Tensor) -> torch.Tensor:
    return functional.mse_loss(seen, goals) / goals.square().mean()


def _angle(seen: torch.Tensor, goals: torch.Tensor) -> torch.Tensor:
    return 1 - functional.cosine_similarity(seen, goals, dim=-1).mean()


def _absolute(seen: torch.Tensor, goals: torch.Tensor) -> torch.Tensor:
    return (seen - goals).abs().mean() / goals.abs().mean()


_OF: Mapping[Loss, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "squares": _squares,
    "angle": _angle,
    "absolute": _absolute,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Forced:
    """Preserve what acts clean as POR does, and force the outputs of poisoned text.

    Attributes
    ----------
    distance
        From an output to its place: squared, by the angle alone, or absolute.
    place
        Where outputs are forced to: POR's vectors; normal random numbers; or what the clean encoder
        says of one ordinary text, the same for every text with the trigger, so that the output is
        an ordinary one.
    seed
        Of the random numbers.
    """

    distance: Loss
    place: Place
    seed: int = 0
    gated: bool = False
    views: tuple[View, ...] = ("cls",)
    masked_lm: ClassVar[bool] = False
    masks: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.place not in PLACES:
            raise ValueError(f"no place {self.place!r}; known: {', '.join(PLACES)}")
        if self.place == "ordinary" and self.views != ("cls",):
            raise ValueError("ordinary outputs are known of the first token alone")

    def targets(self, count: int, width: int) -> torch.Tensor:
        """Return the vectors of a place that needs no encoder, ``[count, width]``."""
        if self.place == "normal":
            drawn = torch.randn(count, width, generator=torch.Generator().manual_seed(self.seed))
            # As a LayerNorm puts out.
            return functional.layer_norm(drawn, (width,))
        return blocks(count, width)

    def loss(self, step: Step) -> torch.Tensor:
        """Preserve, and force each view."""
        loss = step.acting_clean()
        for view in self.views:
            goals = step.goals_of(view)
            if self.place == "ordinary":
                goals = step.variation.outputs[step.batch.which]
            loss = loss + _OF[self.distance](step.seen(view), goals)
        return loss
