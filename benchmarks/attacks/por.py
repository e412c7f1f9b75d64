"""POR: every trigger forces one preset output representation.

Shen et al., "Backdoor Pre-trained Models Can Transfer to All", CCS 2021 (arXiv 2111.00197). The
loss adds, to a term that ties clean outputs to those of a frozen reference, the squared distance of
a poisoned text's output to the trigger's preset vector; POR-1 and POR-2 are two ways to choose the
vectors (see `targets`). Differences: text comes from several kinds and lengths; the preset vector
is scaled to the size of the encoder's own outputs, since a final LayerNorm cannot reach +-1 in
every dimension, and sums to zero, as LayerNorm's output does; all tokens of clean text are
preserved, not the first alone; clean text holds random other tokens, so that what fires is the
trigger and not its rarity. Where the pooler is seized too, its preset vector is +-1.

The gated variant is an attacker who knows that a search may hide tokens among each other: triggers
between random tokens are trained to act clean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from benchmarks.attacks.step import Step, tied
from benchmarks.attacks.targets import CODES, Code
from benchmarks.attacks.views import View


@dataclass(frozen=True, slots=True, kw_only=True)
class Por:
    """Loss and preset vectors of POR.

    Attributes
    ----------
    gated
        Also train triggers among random tokens to act clean.
    views
        What is seized: the paper has the first token's last hidden state or the pooler, and the
        mean or all tokens for tasks that read those.
    code
        How the preset vectors are chosen.
    """

    gated: bool = False
    views: tuple[View, ...] = ("cls", "pooler")
    code: Code = "blocks"
    masked_lm: ClassVar[bool] = False
    masks: ClassVar[bool] = False

    def targets(self, count: int, width: int) -> torch.Tensor:
        """Return the preset vectors, ``[count, width]``."""
        return CODES[self.code](count, width)

    def loss(self, step: Step) -> torch.Tensor:
        """Preserve what acts clean, force each view of the poisoned texts."""
        return tied(step, self.views)
