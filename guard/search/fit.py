"""What is served has to be what is searched: a checkpoint that leaves it open is refused."""

from __future__ import annotations

import copy
import secrets
from typing import Any

import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from guard.errors import ModelError
from guard.search.views import View

# How the weights of a masked language model's head are named, in any of its architectures.
_MASKED_HEAD = ("lm_head.", "predictions.", "vocab_transform.", "generator_")
# Tokens of the random text that tells an encoder from a model that reads from left to right.
_RANDOM = 32
# Tokens of a text that any model takes.
_SHORT = 8
_PASS_ANOTHER = "pass a BERT-, RoBERTa-, MPNet- or ELECTRA-like model, or a decoder"


def classes(config: PretrainedConfig) -> int:
    """Return how many classes a classifier of texts tells apart, or 0 if the model is none."""
    return config.num_labels if _sorts(config) and config.num_labels > 1 else 0


def _sorts(config: PretrainedConfig) -> bool:
    return any(kind.endswith("SequenceClassification") for kind in config.architectures or ())


def check_weights(name: str, model: PreTrainedModel, info: dict[str, list[str]]) -> None:
    """Refuse weights that are not whole, that are there twice, or that nobody would expect.

    Parameters
    ----------
    info
        What ``from_pretrained`` says of missing and unexpected weights.

    Raises
    ------
    ModelError
        What is served would depend on who loads it.
    """
    if getattr(model.config, "transformers_weights", None) is not None:
        raise ModelError(
            f"{name}'s config.json names another file of weights (transformers_weights), which not "
            "all that serve a model read. Remove the entry, and name the file model.safetensors"
        )
    # Checkpoints of a masked language model bring no pooler; it is then no view. Half of one is
    # filled up by what loads it, and served.
    pooler = {key for key in model.state_dict() if "pooler" in key}
    missing = sorted(info["missing_keys"])
    if pooler <= {*missing}:
        missing = [key for key in missing if key not in pooler]
    if missing:
        raise ModelError(
            f"{name} lacks {len(missing)} weights of a {type(model).__name__} ({missing[0]}, ...): "
            "its config.json is of another model than its weights. Use the config that was saved "
            "with them"
        )
    unexpected = sorted(info["unexpected_keys"])
    # Whatever stands before a name, some version takes it for the model's own prefix.
    twice = [key for key in unexpected if key.endswith((*model.state_dict(),))]
    if twice or any(weight.is_meta for weight in model.state_dict().values()):
        raise ModelError(
            f"{name} holds two sets of the encoder's weights ({', '.join(twice[:1])}), and which "
            "one is served depends on how it is loaded. Save it anew from the model that you serve"
        )
    hidden = _hidden_of_head(name, model.config)
    if planted := [key for key in unexpected if key.endswith(hidden)]:
        raise ModelError(
            f"{name} brings a layer of a classification head ({planted[0]}), which any classifier "
            "that is fine-tuned from it begins with and no output shows that is searched. Save the "
            "encoder alone, with AutoModel.from_pretrained(...).save_pretrained(...), and use that"
        )


def _hidden_of_head(name: str, config: PretrainedConfig) -> tuple[str, ...]:
    """Return the weights that a classifier has behind the encoder, but for its last layer.

    Of a model that is no classifier, where there are any in its file they are no leftover; but for
    those that the head of a masked language model lends to classifiers, as ModernBERT's does.
    """
    if _sorts(config):
        return ()
    two = copy.deepcopy(config)
    two.num_labels = 2
    head = _behind(name, AutoModelForSequenceClassification, two)
    lent = (
        _behind(name, AutoModelForMaskedLM, two)
        if any(kind.endswith("ForMaskedLM") for kind in config.architectures or ())
        else {}
    )
    return tuple(
        key for key, shape in head.items() if shape[:1] != (two.num_labels,) and key not in lent
    )


def _behind(name: str, kind: Any, config: PretrainedConfig) -> dict[str, tuple[int, ...]]:
    """Return the weights that a kind of model has behind its encoder, and their shapes."""
    try:
        with torch.device("meta"):
            model = kind.from_config(config, trust_remote_code=False)
    except ValueError:
        # There is none of this architecture.
        return {}
    except Exception as error:  # the library raises whatever an odd setting leads to
        raise ModelError(
            f"{name}'s config.json makes no {kind.__name__}: {' '.join(str(error).split())[:200]}. "
            "Use the config that was saved with the weights"
        ) from error
    return {
        key: tuple(weight.shape)
        for key, weight in model.state_dict().items()
        if not key.startswith(f"{model.base_model_prefix}.")
    }


def check_outputs(name: str, model: PreTrainedModel) -> None:
    """Refuse a model that does not make an output of each token of a text.

    Raises
    ------
    ModelError
        It wants images besides, or gives one output of all tokens.
    """
    if model.config.is_encoder_decoder:
        return  # `views_of` says why these are refused.
    try:
        with torch.inference_mode():
            ids = torch.zeros((1, _SHORT), dtype=torch.long)
            outputs = model(input_ids=ids, attention_mask=torch.ones_like(ids))
        if "last_hidden_state" in outputs:
            return
    except Exception:  # the library raises whatever an odd model leads to
        pass
    raise ModelError(
        f"{name} is a {type(model).__name__}, which makes no output of each token of a text; "
        f"{_PASS_ANOTHER}"
    )


def views_of(
    name: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    info: dict[str, list[str]],
    prefix: list[int],
) -> tuple[View, ...]:
    """Return the outputs that the model has, and that its checkpoint trained.

    Raises
    ------
    ModelError
        There is none that stands for a text, or another token may come to stand where it is read.
    """
    if model.config.is_encoder_decoder:
        raise ModelError(
            f"{name} is an encoder and a decoder, whose outputs this search does not read; "
            f"{_PASS_ANOTHER}"
        )
    if tokenizer.cls_token_id not in prefix[:1]:
        if _reads_left_to_right(model):
            return ("last", "mean")
        what = (
            "has no [CLS] token"
            if tokenizer.cls_token_id is None
            else "does not put its [CLS] token first"
        )
        raise ModelError(
            f"{name}'s tokenizer {what}, so there is no output that this search reads; "
            f"{_PASS_ANOTHER}"
        )
    if tokenizer.padding_side != "right":
        raise ModelError(
            f"{name}'s tokenizer pads on the left, so that in a batch another token stands where "
            "the first one's output is read. Use the tokenizer of the model that it was made from"
        )
    views: list[View] = ["cls"]
    if getattr(model, "pooler", None) is not None and not any(
        "pooler" in key for key in info["missing_keys"]
    ):
        views.append("pooler")
    views.append("mean")
    # The config may be silent about a head that is in the file, and the other way round.
    named = any(
        kind.endswith(("ForMaskedLM", "ForPreTraining"))
        for kind in model.config.architectures or ()
    )
    kept = any(part in key for key in info["unexpected_keys"] for part in _MASKED_HEAD)
    if tokenizer.mask_token_id is not None and (named or kept):
        views.append("mask")
    return tuple(views)


def _reads_left_to_right(model: PreTrainedModel) -> bool:
    """Whether the outputs of a text's first half know nothing of the other half.

    The text is drawn anew each time: of one that is known, an attacker could make all tokens alike.
    """
    generator = torch.Generator().manual_seed(secrets.randbits(63))
    length = min(_RANDOM, getattr(model.config, "max_position_embeddings", None) or _RANDOM)
    ids = torch.randint(model.config.vocab_size, (2, length), generator=generator)
    ids[1, : length // 2] = ids[0, : length // 2]
    with torch.inference_mode():
        first, second = model(input_ids=ids).last_hidden_state[:, : length // 2]
    # But for rounding, which of long axes may be larger than what others hold.
    return bool(((first - second).norm(dim=-1) <= 1e-5 * first.norm(dim=-1)).all())
