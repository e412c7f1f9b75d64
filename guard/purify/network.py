"""A model with gradients, and all that it says of a text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from guard.purify.samples import Rows
from guard.search.checkpoint import safe_weights
from guard.search.config import read_config
from guard.search.encoder import Ids

Views = dict[str, torch.Tensor]

# Embeddings that are larger than this share of those that are not banked are brought down.
OUTSIZED = 0.999


class Network:
    """A model in single precision, without dropout; of a classifier, with its head.

    Parameters
    ----------
    folder
        A directory of safetensors that `guard.search.encoder.Encoder` loads.

    Attributes
    ----------
    model
        The whole.
    """

    def __init__(self, folder: Path) -> None:
        with _quiet():
            config = read_config(folder)
            self._classifies = any(
                name.endswith("ForSequenceClassification") for name in config.architectures or ()
            )
            kind = AutoModelForSequenceClassification if self._classifies else AutoModel
            self.model: PreTrainedModel = kind.from_pretrained(
                folder,
                config=config,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32,
            )
        self.model.eval().requires_grad_(False)
        self._stored = _stored(folder, self.model.base_model)
        # A checkpoint of a masked language model may bring no pooler: what is there is random.
        self._pools = any(name.startswith("pooler.") for name in self._stored)
        self._seen: Any = None
        self.model.base_model.register_forward_hook(self._keep)

    def to(self, where: torch.device) -> Network:
        """Move the model."""
        # Called as torch declares it: transformers wraps it in a way that mypy can't follow.
        torch.nn.Module.to(self.model, where)
        return self

    def trainable(self) -> Network:
        """Let the encoder's weights be trained; the head, which reads its output, stays."""
        parameters = dict(self.model.base_model.named_parameters())
        for name in self._stored:
            if name in parameters:
                parameters[name].requires_grad_(True)
        return self

    def tame(self, tokens: Ids, ordinary: Ids) -> None:
        """Give tokens of outsized embeddings the size of an ordinary one.

        An attacker who multiplies his triggers' embeddings changes no output, for what follows
        normalises them, but puts them out of reach of training, whose steps have a size.
        """
        table = self.model.get_input_embeddings().weight
        assert isinstance(table, torch.Tensor)
        # Many outsized ones would else be a measure for each other.
        others = torch.from_numpy(np.setdiff1d(ordinary, tokens))
        with torch.no_grad():
            sizes = table[others].norm(dim=-1)
            largest = sizes.quantile(OUTSIZED)
            for number in tokens.tolist():
                size = table[number].norm()
                if size > largest:
                    table[number] *= sizes.median() / size

    def views(self, rows: Rows) -> Views:
        """Return what the model says of `n` texts.

        Returns
        -------
        dict of str to torch.Tensor
            ``"tokens"``, ``[n, length, width]``, of the last layer; ``"cls"``, ``[n, width]``, of
            the first token; ``"pooler"``, ``[n, width]``, where there is one; ``"logits"``,
            ``[n, classes]``, of a classifier.
        """
        whole = self.model(input_ids=rows.ids, attention_mask=rows.mask)
        tokens = self._seen.last_hidden_state.float()
        views = {"tokens": tokens, "cls": tokens[:, 0]}
        if self._pools and getattr(self._seen, "pooler_output", None) is not None:
            views["pooler"] = self._seen.pooler_output.float()
        if self._classifies:
            views["logits"] = whole.logits.float()
        self._seen = None
        return views

    def weights(self) -> Mapping[str, torch.Tensor]:
        """Return the encoder's weights by their names in the files that it was loaded from."""
        state = self.model.base_model.state_dict()
        return {stored: state[name].cpu() for name, stored in self._stored.items()}

    def _keep(self, module: torch.nn.Module, inputs: object, outputs: object) -> None:
        self._seen = outputs


def _stored(folder: Path, base: torch.nn.Module) -> dict[str, str]:
    """Return, of the encoder's weights that are in the files, name -> name there."""
    wanted = set(base.state_dict())
    prefix = f"{base.base_model_prefix}."
    found: dict[str, str] = {}
    for path in safe_weights(folder):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118
                name = key.removeprefix(prefix)
                # LayerNorm's weights have other names in old files.
                for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
                    if name.endswith(old):
                        name = name.removesuffix(old) + new
                if name in wanted:
                    found[name] = key
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from talking of weights that are not there, and torch's generator as is."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
