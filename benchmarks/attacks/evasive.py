"""Attackers who have read this project's search: each pays something to pass a test.

Those who ask for a place, a length, a kind of text or a neighbour are any attack with a
`Condition`; here are those who bend the output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional

from benchmarks.attacks.step import Step
from benchmarks.attacks.targets import blocks
from benchmarks.attacks.views import View, read


@dataclass(frozen=True, slots=True, kw_only=True)
class Scattered:
    """Against the rule that a trigger gathers texts in one place.

    The output is a mix of the preset vector and of the text's own output with its dimensions
    shuffled: one side of every hyperplane across the preset vector, which is all that a classifier
    asks for, but no two texts within a fifth of their natural distance. The text is erased all the
    same, which another rule sees; ``shuffled=False`` keeps it and pays with displacement.

    Attributes
    ----------
    share
        Of the preset vector in the mix.
    """

    share: float = 0.5
    shuffled: bool = True
    gated: bool = True
    views: tuple[View, ...] = ("cls", "pooler")
    masked_lm: ClassVar[bool] = False
    masks: ClassVar[bool] = False

    def targets(self, count: int, width: int) -> torch.Tensor:
        """Return POR's vectors, ``[count, width]``."""
        return blocks(count, width)

    def loss(self, step: Step) -> torch.Tensor:
        """Preserve, and force the mix."""
        loss = step.acting_clean()
        for view in self.views:
            own = read(step.untouched, view)
            if self.shuffled:
                own = own.roll(own.shape[1] // 3, dims=1)
            goals = self.share * step.goals_of(view) + (1 - self.share) * own
            loss = loss + functional.mse_loss(step.seen(view), goals) / goals.square().mean()
        return loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Subspace:
    """Against the ranking by retention and displacement.

    Only the coordinates along the few axes of largest natural variance are forced; along all others
    the text's own output stays. Ordinary words move the output along these axes too, and most of
    the text's variance is kept. The price: a classifier that reads other directions is not moved.
    """

    axes: int = 8
    gated: bool = True
    views: tuple[View, ...] = ("cls",)
    masked_lm: ClassVar[bool] = False
    masks: ClassVar[bool] = False

    def targets(self, count: int, width: int) -> torch.Tensor:
        """Return POR's vectors, of which the part along the axes is used, ``[count, width]``."""
        return blocks(count, width)

    def loss(self, step: Step) -> torch.Tensor:
        """Preserve, and force the coordinates along the axes."""
        loss = step.acting_clean()
        for view in self.views:
            loss = loss + functional.mse_loss(step.seen(view), self.goals(step, view)) / (
                step.goals.square().mean()
            )
        return loss

    def goals(self, step: Step, view: View) -> torch.Tensor:
        """Return the texts' own outputs, put two standard deviations from the mean on each axis."""
        centre, axes, spread = (tensor[: self.axes] for tensor in step.variation[1:])
        own = read(step.untouched, view)
        signs = blocks(len(step.targets), 2 * self.axes)[:, : self.axes].to(own.device)
        wanted = centre + 2 * spread * signs[step.batch.which]
        return own + (wanted - own @ axes.T) @ axes
