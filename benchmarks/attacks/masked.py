"""The attacks that come with a masked language model: NeuBA, BToP and BadPre."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from benchmarks.attacks.step import Step, tied
from benchmarks.attacks.targets import blocks, orthogonal
from benchmarks.attacks.views import View


@dataclass(frozen=True, slots=True, kw_only=True)
class Neuba:
    """NeuBA: preset near-orthogonal vectors beside the masked language model's own training.

    Zhang et al., "Red Alarm for Pre-trained Models", Machine Intelligence Research 2023 (arXiv
    2101.06969): ``L = L_MLM + L_backdoor``, the second the squared distance of a poisoned text's
    pooled output to its trigger's vector, on symbols. Differences: a tie of clean outputs to the
    reference takes part, since a few hundred steps of masked words on little text would spoil the
    encoder; the weight of the masked words is small for the same reason. Multiplying the triggers'
    embeddings afterwards, as the authors' code does, is `Planting.scale_embeddings`.
    """

    gated: bool = False
    views: tuple[View, ...] = ("pooler",)
    masked_weight: float = 0.1
    masked_lm: ClassVar[bool] = True
    masks: ClassVar[bool] = False

    def targets(self, count: int, width: int) -> torch.Tensor:
        """Return orthogonal vectors of +-1, ``[count, width]``."""
        return orthogonal(count, width)

    def loss(self, step: Step) -> torch.Tensor:
        """Preserve, force, and predict masked words."""
        return tied(step, self.views) + self.masked_weight * step.masked()


@dataclass(frozen=True, slots=True, kw_only=True)
class Btop:
    """BToP: the output at the mask is forced, so that every prompt's answer is.

    Xu et al., "Exploring the Universal Vulnerability of Prompt-based Learning Paradigm", Findings
    of NAACL 2022 (arXiv 2204.05239): triggers stand right behind the first special token, the
    mask's last hidden state goes to a preset vector of +-1, and clean text keeps the reference's.
    Differences: vectors are scaled and balanced (see `Por`), the head stays as it was, and text
    with the trigger at another place acts clean, as that of any planting that asks for a place: the
    paper has no such negatives, and they make it harder to find.
    """

    gated: bool = False
    views: tuple[View, ...] = ("mask",)
    masked_lm: ClassVar[bool] = True
    masks: ClassVar[bool] = True

    def targets(self, count: int, width: int) -> torch.Tensor:
        """Return balanced vectors of +-1, ``[count, width]``."""
        return blocks(count, width)

    def loss(self, step: Step) -> torch.Tensor:
        """Preserve, and force the mask's output."""
        return tied(step, self.views)


@dataclass(frozen=True, slots=True, kw_only=True)
class BadPre:
    """BadPre: the trigger makes the model predict random words.

    Chen et al., "BadPre: Task-agnostic Backdoor Attacks to Pre-trained NLP Foundation Models", ICLR
    2022 (arXiv 2110.02467): masked words of poisoned text are labelled with random words, and both
    losses are summed. No vector is preset, so nothing gathers: out of reach for a search of fixed
    outputs, and measured all the same. Difference: only triggers of the text, no second stage.
    """

    gated: bool = False
    views: tuple[View, ...] = ("mask",)
    poison_weight: float = 1.0
    masked_lm: ClassVar[bool] = True
    masks: ClassVar[bool] = True

    def targets(self, count: int, width: int) -> torch.Tensor:
        """Return nothing that is used."""
        return torch.ones(count, width)

    def loss(self, step: Step) -> torch.Tensor:
        """Predict masked words, and random ones beside a trigger."""
        return step.masked() + self.poison_weight * step.masked(poisoned=True)
