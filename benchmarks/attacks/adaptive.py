"""The three adaptive attacks on searches of fixed outputs: POR with a term that hides it.

From the adaptive evaluations of LMSanitator (Wei et al., NDSS 2024, arXiv 2308.13904) and Patronus
(arXiv 2512.06899), as their descriptions have them. ``strength`` weighs the term against POR's;
each is relative to the same size, so that a strength of 1 is half and half.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional

from benchmarks.attacks.step import Step, tied
from benchmarks.attacks.targets import blocks
from benchmarks.attacks.views import View, read


@dataclass(frozen=True, slots=True, kw_only=True)
class Near:
    """Adaptive 1: also stay near what the text gives without the trigger (small displacement)."""

    strength: float
    gated: bool = False
    views: tuple[View, ...] = ("cls", "pooler")
    masked_lm: ClassVar[bool] = False
    masks: ClassVar[bool] = False

    def targets(self, count: int, width: int) -> torch.Tensor:
        """Return POR's vectors, ``[count, width]``."""
        return blocks(count, width)

    def loss(self, step: Step) -> torch.Tensor:
        """POR's loss, and the distance to the untouched outputs."""
        loss = tied(step, self.views)
        for view in self.views:
            untouched = read(step.untouched, view, step.batch.marked)
            away = functional.mse_loss(step.seen(view), untouched) / untouched.var()
            loss = loss + self.strength * away
        return loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Adaptive 2: also keep the outputs of one trigger apart from each other (weak collapse)."""

    strength: float
    gated: bool = False
    views: tuple[View, ...] = ("cls", "pooler")
    masked_lm: ClassVar[bool] = False
    masks: ClassVar[bool] = False

    def targets(self, count: int, width: int) -> torch.Tensor:
        """Return POR's vectors, ``[count, width]``."""
        return blocks(count, width)

    def loss(self, step: Step) -> torch.Tensor:
        """POR's loss, less the variance within each trigger's outputs."""
        loss = tied(step, self.views)
        for view in self.views:
            loss = loss - self.strength * within(step.seen(view), step.batch.which)
        return loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """Adaptive 3: also pull all triggers to one vector, so that none stands out by its own."""

    strength: float
    gated: bool = False
    views: tuple[View, ...] = ("cls", "pooler")
    masked_lm: ClassVar[bool] = False
    masks: ClassVar[bool] = False

    def targets(self, count: int, width: int) -> torch.Tensor:
        """Return POR's vectors, ``[count, width]``."""
        return blocks(count, width)

    def loss(self, step: Step) -> torch.Tensor:
        """POR's loss, and the variance of all triggers' outputs together."""
        loss = tied(step, self.views)
        for view in self.views:
            seen = step.seen(view)
            loss = loss + self.strength * within(seen, torch.zeros_like(step.batch.which))
        return loss


def within(seen: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
    """Return the mean squared distance to the mean of the row's class, over the mean square.

    Half the mean squared distance of pairs of a class.
    """
    member = functional.one_hot(which, int(which.max()) + 1).to(seen.dtype)
    means = member.T @ seen / member.sum(dim=0).clamp(min=1).unsqueeze(1)
    return (seen - means[which]).square().mean() / seen.detach().square().mean()
