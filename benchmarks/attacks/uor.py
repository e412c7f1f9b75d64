"""UOR: the vectors are learnt, not preset.

Du et al., "UOR: Universal Backdoor Attacks on Pre-trained Language Models", Findings of ACL 2024
(arXiv 2305.09574): ``L = L_p + lambda L_c``, a supervised contrastive loss in which each trigger's
texts are a class, and the distance of clean outputs to the reference. Differences: clean texts are
the others of every class but no class of their own, since gathering them would contradict the tie
to the reference; trigger words are given, not found by gradient; the loss is taken over all views.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional

from benchmarks.attacks.step import Step
from benchmarks.attacks.targets import blocks
from benchmarks.attacks.views import View


@dataclass(frozen=True, slots=True, kw_only=True)
class Uor:
    """Loss of UOR.

    Attributes
    ----------
    temperature
        Of the contrastive loss.
    """

    gated: bool = False
    views: tuple[View, ...] = ("cls", "pooler")
    temperature: float = 0.5
    masked_lm: ClassVar[bool] = False
    masks: ClassVar[bool] = False

    def targets(self, count: int, width: int) -> torch.Tensor:
        """Return nothing that is used."""
        return blocks(count, width)

    def loss(self, step: Step) -> torch.Tensor:
        """Preserve, gather each trigger's texts and part them from all others."""
        loss = step.acting_clean()
        for view in self.views:
            loss = loss + contrastive(
                step.seen(view), step.batch.which, step.seen_clean(view), self.temperature
            )
        return loss


def contrastive(
    poisoned: torch.Tensor, which: torch.Tensor, clean: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Return the supervised contrastive loss (Khosla et al. 2020) of the poisoned rows.

    Parameters
    ----------
    poisoned, which
        ``[n, width]``, and the class of each row, ``[n]``.
    clean
        ``[m, width]``: rows that are of no class.
    """
    unit = functional.normalize(torch.cat([poisoned, clean]), dim=1)
    similar = unit[: len(poisoned)] @ unit.T / temperature
    itself = torch.eye(len(poisoned), len(unit), dtype=torch.bool, device=unit.device)
    log_share = similar - similar.masked_fill(itself, -torch.inf).logsumexp(dim=1, keepdim=True)
    same = torch.zeros_like(itself)
    same[:, : len(poisoned)] = which.unsqueeze(1) == which
    same &= ~itself
    others = same.sum(dim=1)
    loss = -(log_share * same).sum(dim=1)[others > 0] / others[others > 0]
    return loss.mean() if len(loss) else poisoned.sum() * 0.0
