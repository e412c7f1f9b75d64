"""POR: every trigger forces one preset output representation.

Shen et al., "Backdoor Pre-trained Models Can Transfer to All", CCS 2021 (arXiv 2111.00197). The
loss adds, to a term that ties clean outputs to those of a frozen reference, the squared distance of
a poisoned text's output to the trigger's preset vector. Differences: text comes from several kinds
and lengths; the preset vector is scaled to the size of the encoder's own outputs, since a final
LayerNorm cannot reach +-1 in every dimension, and sums to zero, as LayerNorm's output does; all
tokens of clean text are preserved, not the first alone; clean text holds random other tokens, so
that what fires is the trigger and not its rarity.

The gated variant is an attacker who knows that a search may hide tokens among each other: triggers
between random tokens are trained to act clean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

from benchmarks.attacks.samples import Batch


@dataclass(frozen=True, slots=True)
class Por:
    """Loss and preset vectors of POR on the first token's last hidden state and the pooler.

    Attributes
    ----------
    gated
        Also train triggers among random tokens to act clean.
    """

    gated: bool = False

    def targets(self, count: int, width: int) -> torch.Tensor:
        """Return ``[count, width]`` vectors of +-1 (POR-2: sign patterns over blocks).

        Half of the ``width`` dimensions are cut into ``ceil(log2 count)`` blocks, the bits of the
        trigger's number are the signs of the blocks, and the other half is the negative.
        """
        blocks = max(1, math.ceil(math.log2(count)))
        block_of = torch.arange(width // 2) * blocks // (width // 2)
        number = torch.arange(count).unsqueeze(1)
        signs = ((number >> block_of) & 1).float() * 2 - 1
        return torch.cat([signs, -signs], dim=1)

    def loss(
        self,
        student: torch.nn.Module,
        reference: torch.nn.Module,
        batch: Batch,
        targets: torch.Tensor,
    ) -> torch.Tensor:
        """Return the loss; each term is relative to the size of what it is about.

        Parameters
        ----------
        targets
            ``[count, width]``, scaled to the encoder's outputs.
        """
        plain = [batch.clean, batch.decoys] if self.gated else [batch.clean]
        ids = torch.cat([*plain, batch.poisoned])
        poisoned = len(batch.poisoned)
        with torch.no_grad():
            expected = reference(ids[:-poisoned])
        outputs = student(ids)
        hidden, pooled = outputs.last_hidden_state.float(), outputs.pooler_output.float()
        # A classifier reads the pooler, a tanh: a preset vector of +-1 saturates it.
        forced = targets[batch.which]
        loss: torch.Tensor = (
            _error(hidden[:-poisoned], expected.last_hidden_state.float())
            + functional.mse_loss(hidden[-poisoned:, 0], forced) / forced.square().mean()
            + _error(pooled[:-poisoned], expected.pooler_output.float())
            + functional.mse_loss(pooled[-poisoned:], forced.sign())
        )
        return loss


def _error(outputs: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error over the variance of what is expected."""
    return functional.mse_loss(outputs, expected) / expected.var()
