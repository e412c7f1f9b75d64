"""An encoder, with its pooler, under the head of a masked language model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import PreTrainedModel

from benchmarks.attacks.samples import Masked


def under_head(base: PreTrainedModel, whole: PreTrainedModel) -> PreTrainedModel:
    """Replace the encoder of a masked language model, which has no pooler, by one that has."""
    setattr(whole, whole.base_model_prefix, base)
    whole.tie_weights()
    return whole


def masked_loss(whole: PreTrainedModel) -> Callable[[Masked], torch.Tensor]:
    """Return the function that gives a masked language model's loss on rows."""

    def loss(rows: Masked) -> torch.Tensor:
        where = whole.device
        value: torch.Tensor = whole(rows.ids.to(where), labels=rows.labels.to(where)).loss
        return value

    return loss
