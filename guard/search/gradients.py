"""The encoder with gradients of its outputs: what a small change of a token's embedding would do.

A gradient proposes and never clears: what it names is tested as every other unit is.
"""

from __future__ import annotations

import torch

from guard.errors import ModelError
from guard.search.checkpoint import Checkpoint
from guard.search.encoder import Encoder, Ids
from guard.search.exact import in_float32
from guard.search.views import View


class Differentiable(Encoder):
    """An encoder with gradients."""

    def __init__(self, loaded: Checkpoint) -> None:
        super().__init__(loaded)
        # Of the embeddings that are fed alone: gradients of weights cost half as much again.
        self._model.requires_grad_(False)

    def embed(self, ids: Ids) -> torch.Tensor:
        """Return ``[n, length, e]``, the embeddings of rows of ids; a leaf, ready for gradients."""
        vectors: torch.Tensor = self.embeddings[torch.from_numpy(ids).to(self.embeddings.device)]
        return vectors.detach()

    def differentiable(self, embedded: torch.Tensor) -> dict[View, torch.Tensor]:
        """Return the views ``[n, width]`` of embedded rows, special tokens included.

        That of a mask is left out, and the pooler's, which is a function of the first token's. The
        caller takes a gradient of each row, so each is counted forwards and backwards.
        """
        tokens = embedded.shape[0] * embedded.shape[1]
        self.forwarded += tokens
        self.backwarded += tokens
        with in_float32(self._model.device):
            hidden = self._model(inputs_embeds=embedded).last_hidden_state
        seen = {
            view: hidden.mean(dim=1, dtype=torch.float32)
            if view == "mean"
            else hidden[:, self._cls].float()
            for view in self.views
            if view in ("cls", "mean", "last")
        }
        return {
            view: outputs * torch.from_numpy(self.axes[view]) if view in self.axes else outputs
            for view, outputs in seen.items()
        }

    def gradient(self, moved: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        """Return ``[n, length, e]``: of how far each row moved, ``[n]``, at its embeddings.

        Raises
        ------
        ModelError
            It is not finite: the weights are damaged.
        """
        with in_float32(embedded.device):
            (gradient,) = torch.autograd.grad(moved.sum(), embedded, retain_graph=True)
        if not bool(torch.isfinite(gradient).all()):
            raise ModelError(
                f"{self.identity.name} gives gradients that are not finite; its weights are "
                "damaged. Download them again and compare their sha256 with the publisher's"
            )
        return gradient
