"""Forced outputs of no published attack: other losses, and other places to force outputs to."""

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
        loss = step.preserved()
        pooler = step.preserved_pooler()
        if pooler is not None:
            loss = loss + pooler
        for view in self.views:
            seen, goals = step.seen(view), self._goals(step, view)
            if view == "tokens":
                goals = goals.unsqueeze(1).expand_as(seen)
            loss = loss + _OF[self.distance](seen, goals)
        return loss

    def _goals(self, step: Step, view: View) -> torch.Tensor:
        if self.place == "ordinary":
            return step.variation.outputs[step.batch.which]
        # A pooler ends in a tanh.
        return step.goals.sign() if view == "pooler" else step.goals
