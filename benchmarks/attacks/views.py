"""The outputs of an encoder that an attack may seize, and a classifier may read."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch

View = Literal["cls", "pooler", "mean", "tokens", "mask"]


class Outputs(NamedTuple):
    """What an encoder says of ``n`` texts.

    Attributes
    ----------
    hidden
        Last hidden state, ``[n, length, width]``.
    pooled
        ``[n, width]``, or ``None`` where the architecture has no pooler.
    """

    hidden: torch.Tensor
    pooled: torch.Tensor | None


def run(model: torch.nn.Module, ids: torch.Tensor) -> Outputs:
    """Put rows that are not padded through an encoder."""
    outputs: Any = model(ids)
    pooled = getattr(outputs, "pooler_output", None)
    return Outputs(outputs.last_hidden_state.float(), None if pooled is None else pooled.float())


def read(outputs: Outputs, view: View, marked: torch.Tensor | None = None) -> torch.Tensor:
    """Return a view, ``[n, width]``; of ``tokens``, ``[n, length, width]``.

    Parameters
    ----------
    marked
        ``[n]``: the place of the mask in each row, for the view of that name.
    """
    if view == "pooler":
        if outputs.pooled is None:
            raise ValueError("this architecture has no pooler; name another view")
        return outputs.pooled
    if view == "mean":
        return outputs.hidden.mean(dim=1)
    if view == "tokens":
        return outputs.hidden
    if view == "mask":
        assert marked is not None
        return outputs.hidden[torch.arange(len(marked)), marked]
    return outputs.hidden[:, 0]
