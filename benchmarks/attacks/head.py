"""An encoder, with its pooler, under the head of a masked language model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from benchmarks.attacks.samples import IGNORED, Masked


def under_head(base: PreTrainedModel, whole: PreTrainedModel) -> PreTrainedModel:
    """Replace the encoder of a masked language model, which has no pooler, by one that has."""
    setattr(whole, whole.base_model_prefix, base)
    whole.tie_weights()
    return whole


def masked_loss(whole: PreTrainedModel) -> Callable[[Masked], torch.Tensor]:
    """Return the function that gives a masked language model's loss on rows.

    Words are predicted at the labelled places alone: in a small model, predicting all is most of
    the work.
    """

    def loss(rows: Masked) -> torch.Tensor:
        labels = rows.labels.to(whole.device)
        places = labels != IGNORED

        def at_places(_module: torch.nn.Module, _args: object, output: ModelOutput) -> ModelOutput:
            output["last_hidden_state"] = output["last_hidden_state"][places].unsqueeze(0)
            return output

        hook = whole.base_model.register_forward_hook(at_places)
        try:
            value: torch.Tensor = whole(
                rows.ids.to(whole.device), labels=labels[places].unsqueeze(0)
            ).loss
        finally:
            hook.remove()
        return value

    return loss
