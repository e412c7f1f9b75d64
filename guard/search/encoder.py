"""A pre-trained encoder and the views of its output that the search reads."""

from __future__ import annotations

import hashlib
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from guard.errors import ModelError
from guard.search import checkpoint
from guard.search.checkpoint import Checkpoint
from guard.search.exact import in_float32
from guard.search.fit import classes
from guard.search.views import View

Ids = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]


class Encoder:
    """A model that turns token ids into vectors, computed in float32.

    In bfloat16, which some processors multiply twice as fast, an attacker hides a backdoor for
    nothing: an axis that varies by less than bfloat16 keeps of it, and a large weight behind it,
    fire where the model is served in float32, and not here (``python -m benchmarks rounded``).

    Attributes
    ----------
    identity
        Name, revision, sha256 of the weights and architecture, as the bank records them.
    tokenizer
        The model's own fast tokenizer.
    tokenizer_json
        Its canonical serialisation: truncation and padding off.
    config_sha256
        Hash of the model's settings, which say what its weights compute.
    views
        The outputs that the model has.
    width
        Size of an output vector.
    max_tokens
        The longest sequence that the model takes, special tokens included.
    classes
        Of a classifier, how many it tells apart; 0 of what is none.
    axes
        What the axes of a view are multiplied by where it is read, ``[width]``; not those of a view
        that is not there. See `guard.search.axes`.
    offset
        Special tokens before a text.
    remade, otherwise
        As in `Checkpoint`.
    forwarded
        Tokens that went through the model so far.
    backwarded
        Tokens whose gradient was taken, for which a `Differentiable` has the means.
    """

    def __init__(self, loaded: Checkpoint) -> None:
        model, tokenizer = loaded.model, loaded.tokenizer
        self.identity = loaded.identity
        self.tokenizer = tokenizer
        self.tokenizer_json = _canonical(tokenizer)
        self.config_sha256 = hashlib.sha256(model.config.to_json_string().encode()).hexdigest()
        self.views = loaded.views
        self.remade = loaded.remade
        self.otherwise = loaded.otherwise
        self.width: int = model.config.hidden_size
        self.classes = classes(model.config)
        self.max_tokens = _max_tokens(model, tokenizer)
        self.axes: dict[View, Vectors] = {}
        self.forwarded = 0
        self.backwarded = 0
        self._model = model
        self._prefix, self._suffix = loaded.prefix, loaded.suffix
        self.offset = len(self._prefix)
        # Where the output is that stands for the text: [CLS] of BERT, <s> of RoBERTa, else the end.
        self._cls = -1 if "last" in self.views else 0

    @classmethod
    def load(cls, name: str, *, revision: str | None = None, allow_pickle: bool = False) -> Self:
        """Load an encoder; see `guard.search.checkpoint.load`."""
        return cls(checkpoint.load(name, revision=revision, allow_pickle=allow_pickle))

    @property
    def embeddings(self) -> torch.Tensor:
        """``[vocabulary, e]``: the token embeddings."""
        table = self._model.get_input_embeddings().weight
        assert isinstance(table, torch.Tensor)
        return table

    @property
    def cost(self) -> int:
        """In token-forwards, a unit that does not depend on the machine: backwards counts twice."""
        return self.forwarded + 2 * self.backwarded

    @property
    def room(self) -> int:
        """The tokens of the longest text that the model takes, special ones apart."""
        return self.max_tokens - int(self.frame(np.zeros((1, 0), dtype=np.int64)).shape[1])

    def frame(self, rows: Ids) -> Ids:
        """Put the model's special tokens around rows of equal length, ``[n, k] -> [n, k + s]``."""
        before = np.tile(np.array(self._prefix, dtype=np.int64), (len(rows), 1))
        after = np.tile(np.array(self._suffix, dtype=np.int64), (len(rows), 1))
        return np.concatenate([before, rows, after], axis=1)

    def read(self, ids: Ids, *, mask_at: Ids | None = None) -> dict[View, Vectors]:
        """Return every view of rows, from one forward pass.

        Parameters
        ----------
        ids
            ``[n, length]``, special tokens included; no row is padded.
        mask_at
            ``[n]``: where in each row the mask is that is read. Without, there is no view ``mask``.

        Returns
        -------
        dict[View, Vectors]
            ``[n, width]`` each.

        Raises
        ------
        ModelError
            An output is not finite: the weights are damaged.
        """
        self.forwarded += ids.size
        result: dict[View, Vectors] = {}
        with torch.inference_mode(), in_float32(self._model.device):
            outputs = self._model(input_ids=torch.from_numpy(ids))
            hidden = outputs.last_hidden_state
            for view in self.views:
                if view == "pooler":
                    seen = outputs.pooler_output
                elif view == "mean":
                    seen = hidden.mean(dim=1, dtype=torch.float32)
                elif view == "mask":
                    if mask_at is None:
                        continue
                    seen = hidden[torch.arange(len(ids)), torch.from_numpy(mask_at)]
                else:
                    seen = hidden[:, self._cls]
                result[view] = seen.float().numpy()
                if view in self.axes:
                    result[view] = result[view] * self.axes[view]
        if not all(np.isfinite(vectors).all() for vectors in result.values()):
            raise ModelError(
                f"{self.identity.name} gives outputs that are not finite; its weights are damaged. "
                "Download them again and compare their sha256 with the publisher's"
            )
        return result


def _canonical(tokenizer: PreTrainedTokenizerFast) -> bytes:
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    text: str = backend.to_str()
    return text.encode()


def _max_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> int:
    positions = int(getattr(model.config, "max_position_embeddings", None) or 512)
    # RoBERTa-like models number positions from behind the padding id.
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    if isinstance(padding, int):
        positions -= padding + 1
    return min(positions, int(tokenizer.model_max_length))
