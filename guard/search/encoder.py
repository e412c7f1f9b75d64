"""A pre-trained encoder, loaded with care, and the views of its output that the search reads."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from guard.bank import ModelIdentity
from guard.errors import ConfigError, ModelError
from guard.files import sha256_file

Ids = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]

# What a model is read from.
SAFE = ("*.safetensors", "*.json", "*.txt", "*.model")
_PICKLED = ("pytorch_model*.bin", "model*.pt", "model*.pth")


class Encoder:
    """A model that turns token ids into vectors.

    Attributes
    ----------
    identity
        Name, revision, sha256 of the weights and architecture, as the bank records them.
    tokenizer
        The model's own fast tokenizer.
    tokenizer_json
        Its canonical serialisation: truncation and padding off.
    width
        Size of an output vector.
    max_tokens
        The longest sequence that the model takes, special tokens included.
    arithmetic
        What the model computes in: ``"bfloat16"`` where the processor multiplies it in hardware.
    forwarded
        Tokens that went through the model so far: the search's cost in a unit that does not depend
        on the machine.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        identity: ModelIdentity,
    ) -> None:
        self.identity = identity
        self.tokenizer = tokenizer
        self.tokenizer_json = _canonical(tokenizer)
        self.width: int = model.config.hidden_size
        self.max_tokens = _max_tokens(model, tokenizer)
        self.forwarded = 0
        fast = _bf16_is_fast()
        self.arithmetic = "bfloat16" if fast else "float32"
        self._model = model.bfloat16() if fast else model
        self._prefix, self._suffix = _special_affixes(tokenizer)
        # The first special token's output is the text's: [CLS] of BERT, <s> of RoBERTa.
        self._cls = self._prefix.index(tokenizer.cls_token_id)

    @classmethod
    def load(cls, name: str, *, revision: str | None = None, allow_pickle: bool = False) -> Encoder:
        """Load an encoder from a directory or from the hub.

        Parameters
        ----------
        name
            A directory that ``save_pretrained`` wrote, or a hub id. Of a classifier the encoder is
            taken.
        revision
            Of a hub id: the commit, branch or tag.
        allow_pickle
            Load pickled weights, which run code of the model's author, when there are no others.

        Raises
        ------
        ModelError
            There are no weights, only pickled ones, weights of another architecture, or a tokenizer
            that does not fit.
        """
        folder, revision = resolve(name, revision, allow_pickle=allow_pickle)
        weights = sorted(folder.glob("*.safetensors"))
        if not weights:
            pickled = sorted(path for glob in _PICKLED for path in folder.glob(glob))
            if not pickled:
                raise ModelError(
                    f"{name} has no weights: expected model.safetensors beside config.json. "
                    "Pass the directory that save_pretrained() wrote"
                )
            if not allow_pickle:
                raise ModelError(
                    f"{name} has only pickled weights ({pickled[0].name}), which can run code when "
                    "they are loaded. Save them as safetensors in a sandbox, or pass "
                    "--allow-pickle if you trust their author"
                )
            weights = pickled
        quiet = transformers_logging.get_verbosity()
        transformers_logging.set_verbosity_error()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
                tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
                model, info = AutoModel.from_pretrained(
                    folder,
                    config=config,
                    trust_remote_code=False,
                    use_safetensors=not allow_pickle or weights[0].suffix == ".safetensors",
                    output_loading_info=True,
                    dtype=torch.float32,
                )
        except Exception as error:  # the libraries raise whatever a damaged file leads to
            raise ModelError(
                f"{name} can't be loaded: {_first_line(error)}. It has to be a directory or a hub "
                "id that AutoModel and AutoTokenizer load without code of its own"
            ) from error
        finally:
            transformers_logging.set_verbosity(quiet)
        _check_fit(name, model, tokenizer, info)
        identity = ModelIdentity(
            name=name,
            revision=revision,
            weights_sha256=_sha256(weights),
            architecture=type(model).__name__,
        )
        return cls(model.eval().requires_grad_(False), tokenizer, identity)

    def frame(self, rows: Ids) -> Ids:
        """Put the model's special tokens around rows of equal length, ``[n, k] -> [n, k + s]``."""
        before = np.tile(np.array(self._prefix, dtype=np.int64), (len(rows), 1))
        after = np.tile(np.array(self._suffix, dtype=np.int64), (len(rows), 1))
        return np.concatenate([before, rows, after], axis=1)

    def cls(self, ids: Ids) -> Vectors:
        """Return the last hidden state of the first special token.

        Parameters
        ----------
        ids
            ``[n, length]``, special tokens included; no row is padded.

        Returns
        -------
        Vectors
            ``[n, width]``.

        Raises
        ------
        ModelError
            An output is not finite: the weights are damaged.
        """
        self.forwarded += ids.size
        with torch.inference_mode():
            hidden = self._model(input_ids=torch.from_numpy(ids)).last_hidden_state
            vectors: Vectors = hidden[:, self._cls].float().numpy()
        if not np.isfinite(vectors).all():
            raise ModelError(
                f"{self.identity.name} gives outputs that are not finite; its weights are damaged. "
                "Download them again and compare their sha256 with the publisher's"
            )
        return vectors


def resolve(
    name: str, revision: str | None, *, allow_pickle: bool = False
) -> tuple[Path, str | None]:
    """Return the directory that holds a model, and the commit it is at; see `Encoder.load`."""
    folder = Path(name)
    if folder.is_dir():
        if revision is not None:
            raise ConfigError(f"{name} is a directory; --revision is for models of the hub")
        return folder, None
    if folder.exists():
        raise ModelError(f"{name} is a file; pass the directory that holds it")
    patterns = [*SAFE, *(_PICKLED if allow_pickle else ())]
    try:
        found = Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"{name} is no directory here, and the hub does not give it: {_first_line(error)}. "
            "Check the path, or the id and the network"
        ) from error
    # A snapshot's folder is named after the commit, whatever branch or tag was asked for.
    return found, found.name


def _check_fit(
    name: str,
    model: PreTrainedModel,
    tokenizer: object,
    info: dict[str, list[str]],
) -> None:
    # Checkpoints of a masked language model bring no pooler; the search does not read it.
    missing = [key for key in info["missing_keys"] if "pooler" not in key]
    if missing:
        raise ModelError(
            f"{name} lacks {len(missing)} weights of a {type(model).__name__} ({missing[0]}, ...): "
            "its config.json is of another model than its weights. Use the config that was saved "
            "with them"
        )
    expected = set(model.state_dict())
    twice = [k for k in info["unexpected_keys"] if {k, k.partition(".")[2]} & expected]
    if twice or any(weight.is_meta for weight in model.state_dict().values()):
        raise ModelError(
            f"{name} holds two sets of the encoder's weights ({', '.join(twice[:1])}), and which "
            "one is served depends on how it is loaded. Save it anew from the model that you serve"
        )
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelError(
            f"{name} has no fast tokenizer (tokenizer.json), and the monitor runs on one. Save one "
            "with AutoTokenizer.from_pretrained(..., use_fast=True).save_pretrained(...)"
        )
    if tokenizer.cls_token_id is None:
        raise ModelError(
            f"{name}'s tokenizer has no [CLS] token, so the model is no encoder that this search "
            "reads; pass a BERT-, RoBERTa-, MPNet- or ELECTRA-like model"
        )
    if len(tokenizer.get_vocab()) <= len(tokenizer.all_special_ids):
        raise ModelError(
            f"{name} has no tokenizer (tokenizer.json). Use the one that was saved with the weights"
        )
    prefix, _ = _special_affixes(tokenizer)
    if tokenizer.cls_token_id not in prefix:
        raise ModelError(
            f"{name}'s tokenizer does not put its [CLS] token before a text, so there is no output "
            "that this search reads; pass a BERT-, RoBERTa-, MPNet- or ELECTRA-like model"
        )
    rows: int = model.config.vocab_size
    highest = max(tokenizer.get_vocab().values())
    if highest >= rows:
        raise ModelError(
            f"{name}'s tokenizer has token id {highest}, and the model has {rows} embeddings: the "
            "tokenizer is of another model. Use the one that was saved with the weights"
        )


def _canonical(tokenizer: PreTrainedTokenizerFast) -> bytes:
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    text: str = backend.to_str()
    return text.encode()


def _special_affixes(tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    marked = tokenizer("a", return_special_tokens_mask=True)
    ids, mask = marked["input_ids"], marked["special_tokens_mask"]
    first, last = mask.index(0), len(mask) - mask[::-1].index(0)
    return ids[:first], ids[last:]


def _max_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> int:
    positions = int(getattr(model.config, "max_position_embeddings", None) or 512)
    # RoBERTa-like models number positions from behind the padding id.
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    if isinstance(padding, int):
        positions -= padding + 1
    return min(positions, int(tokenizer.model_max_length))


def _bf16_is_fast() -> bool:
    """Whether the processor multiplies bfloat16 matrices in hardware."""
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


def _sha256(files: list[Path]) -> str:
    """Return the sha256 of the weights; of several shards, of their names and hashes."""
    if len(files) == 1:
        return sha256_file(files[0])
    listing = "".join(f"{sha256_file(path)}  {path.name}\n" for path in files)
    return hashlib.sha256(listing.encode()).hexdigest()


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
