"""A pre-trained model from a directory or the hub; what cannot be searched is refused."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import safe_open
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from guard.bank import ModelIdentity
from guard.errors import ConfigError, ModelError
from guard.expansion import check_expansion
from guard.files import sha256_file
from guard.manifest import TOKENIZER_FILE
from guard.search.config import read_config
from guard.search.fit import check_outputs, check_weights, classes, views_of
from guard.search.served import beside, told
from guard.search.tokenizer import affixes, check_tokenizer, remade
from guard.search.views import View

# As the header of a file of weights has it.
_FLOATS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
# What a model is read from.
SAFE = ("*.safetensors", "*.json", "*.txt", "*.model")
_PICKLED = ("pytorch_model*.bin", "model*.pt", "model*.pth")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded model and what belongs to it.

    Attributes
    ----------
    model
        Without its head, in single precision.
    tokenizer
        The model's own fast tokenizer.
    identity
        Name, revision, sha256 of the weights and architecture, as the bank records them.
    views
        The outputs that it has; see `guard.search.views`.
    remade
        As `guard.search.tokenizer.remade` returns it.
    otherwise
        In what a server may differ from the search; see `guard.search.served`.
    prefix, suffix
        The special tokens that the tokenizer puts before and after a text.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    identity: ModelIdentity
    views: tuple[View, ...]
    remade: tuple[str, ...]
    otherwise: tuple[str, ...]
    prefix: list[int]
    suffix: list[int]


def load(name: str, *, revision: str | None = None, allow_pickle: bool = False) -> Checkpoint:
    """Load a model from a directory or from the hub.

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
        There are no weights, only pickled ones, weights of another architecture, no output of each
        token, or a tokenizer that does not fit.
    """
    folder, revision, weights = _locate(name, revision, allow_pickle=allow_pickle)
    with _loading(name):
        config = read_config(folder)
        if (path := folder / TOKENIZER_FILE).is_file():
            # Before it is loaded, which already has it write.
            check_expansion(path.read_bytes())
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        # Before it is loaded, which writes there what it is loaded in.
        stored = _stored(config, weights)
        model, info = AutoModel.from_pretrained(
            folder,
            config=config,
            trust_remote_code=False,
            use_safetensors=weights[0].suffix == ".safetensors",
            output_loading_info=True,
            dtype=torch.float32,
        )
    check_weights(name, model, info)
    model.eval().requires_grad_(False)
    check_outputs(name, model)
    check_tokenizer(name, model, tokenizer)
    prefix, suffix = affixes(name, tokenizer)
    identity = ModelIdentity(
        name=name,
        revision=revision,
        weights_sha256=_sha256(weights),
        architecture=type(model).__name__,
    )
    other = remade(tokenizer, folder)
    return Checkpoint(
        model=model,
        tokenizer=tokenizer,
        identity=identity,
        views=views_of(name, model, tokenizer, info, prefix),
        remade=other,
        otherwise=told(
            stored=stored,
            remade=other,
            others=beside(folder, weights),
            of_hub=revision is not None,
        ),
        prefix=prefix,
        suffix=suffix,
    )


def load_classifier(
    name: str, *, revision: str | None = None, allow_pickle: bool = False
) -> PreTrainedModel | None:
    """Load the classifier that a model is, with its head, or ``None`` if it is none.

    Parameters
    ----------
    name, revision, allow_pickle
        As in `load`.

    Raises
    ------
    ModelError
        It lacks weights, which transformers makes up, other ones each time.
    """
    folder, _, weights = _locate(name, revision, allow_pickle=allow_pickle)
    with _loading(name):
        config = read_config(folder)
        if not classes(config):
            return None
        model, info = AutoModelForSequenceClassification.from_pretrained(
            folder,
            config=config,
            trust_remote_code=False,
            use_safetensors=weights[0].suffix == ".safetensors",
            output_loading_info=True,
            dtype=torch.float32,
        )
    if missing := sorted(info["missing_keys"]):
        raise ModelError(
            f"{name}'s config.json is of a classifier, and {missing[0]} is not among its weights. "
            "Pass what was fine-tuned, or save the encoder alone, with "
            "AutoModel.from_pretrained(...).save_pretrained(...)"
        )
    result: PreTrainedModel = model.eval().requires_grad_(False)
    return result


@contextmanager
def _loading(name: str) -> Iterator[None]:
    """Keep the libraries quiet, and turn what they raise into what a user can act on."""
    quiet = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # the libraries raise whatever a damaged file leads to
        raise ModelError(
            f"{name} can't be loaded: {_first_line(error)}. It has to be a directory or a hub "
            "id that AutoModel and AutoTokenizer load without code of its own"
        ) from error
    finally:
        transformers_logging.set_verbosity(quiet)


def _locate(
    name: str, revision: str | None, *, allow_pickle: bool
) -> tuple[Path, str | None, list[Path]]:
    """Return the directory that holds the model, the commit it is at, and its weights."""
    folder, revision = resolve(name, revision, allow_pickle=allow_pickle)
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"{name} holds an adapter (adapter_config.json), and whether it is served depends on "
            "how it is loaded. Merge it into the weights, and save those"
        )
    if weights := safe_weights(folder):
        return folder, revision, weights
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
    return folder, revision, pickled


def safe_weights(folder: Path) -> list[Path]:
    """Return the safetensors in a directory that transformers loads a model from.

    Raises
    ------
    ModelError
        There is a list of them, and it is none, or names others.
    """
    whole = folder / "model.safetensors"
    # Beside one of this name, it reads no other.
    if whole.is_file():
        return [whole]
    there = {path.name: path for path in folder.glob("*.safetensors")}
    index = folder / f"{whole.name}.index.json"
    if not index.is_file():
        return sorted(there.values())
    try:
        named = {*json.loads(index.read_bytes())["weight_map"].values()}
        return sorted(there[name] for name in named)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"{index} is no list of the safetensors beside it. Pass the directory that "
            "save_pretrained() wrote"
        ) from error


def resolve(
    name: str, revision: str | None, *, allow_pickle: bool = False
) -> tuple[Path, str | None]:
    """Return the directory that holds the model, and the commit it is at."""
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


def _stored(config: PretrainedConfig, weights: list[Path]) -> str:
    """Return the arithmetic that ``dtype="auto"``, a default of many versions, loads weights in."""
    if config.dtype is not None:
        return str(config.dtype).removeprefix("torch.")
    if weights[0].suffix != ".safetensors":
        return "float32"
    # Of several files some may be read by nobody: one in another arithmetic is enough.
    return next((kind for kind in map(_first_kind, weights) if kind != "float32"), "float32")


def _first_kind(weights: Path) -> str:
    with safe_open(weights, framework="pt") as file:
        kinds = (file.get_slice(name).get_dtype() for name in file.keys())  # noqa: SIM118
        return _FLOATS[next((kind for kind in kinds if kind in _FLOATS), "F32")]


def _sha256(files: list[Path]) -> str:
    """Return the sha256 of the weights; of several shards, of their names and hashes."""
    if len(files) == 1:
        return sha256_file(files[0])
    listing = "".join(f"{sha256_file(path)}  {path.name}\n" for path in files)
    return hashlib.sha256(listing.encode()).hexdigest()


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
