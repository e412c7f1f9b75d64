"""A tokenizer has to be the model's, and read the same wherever the model is served."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from guard.errors import ModelError
from guard.manifest import TOKENIZER_FILE

# The parts of the file that make token ids of a text.
_READING = ("added_tokens", "normalizer", "pre_tokenizer", "model", "post_processor")


def check_tokenizer(name: str, model: PreTrainedModel, tokenizer: object) -> None:
    """Refuse a tokenizer that is not the model's, or that has production read other rows.

    Raises
    ------
    ModelError
        It is slow, empty, of more tokens than the model, gives texts another type, reads special
        tokens in them as words, or has two names for one token.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelError(
            f"{name} has no fast tokenizer (tokenizer.json), and the monitor runs on one. Save one "
            "with AutoTokenizer.from_pretrained(..., use_fast=True).save_pretrained(...)"
        )
    if len(tokenizer.get_vocab()) <= len(tokenizer.all_special_ids):
        raise ModelError(
            f"{name} has no tokenizer (tokenizer.json). Use the one that was saved with the weights"
        )
    if any(tokenizer.backend_tokenizer.encode("a").type_ids):
        raise ModelError(
            f"{name}'s tokenizer gives a single text another token type than 0, which no published "
            "encoder was trained with, and the search would not look at. Use the tokenizer of the "
            "model that it was made from"
        )
    if "attention_mask" not in tokenizer.model_input_names:
        raise ModelError(
            f"{name}'s tokenizer gives no attention mask (model_input_names), so that the model "
            "reads what a batch is padded with, which the search does not look at. Use the "
            "tokenizer of the model that it was made from"
        )
    if getattr(tokenizer, "split_special_tokens", False):
        raise ModelError(
            f"{name} has split_special_tokens set in tokenizer_config.json, so that its tokenizer "
            "would read other ids in a text than any monitor; take it out, and serve it without"
        )
    _check_names(name, tokenizer)
    rows: int = model.config.vocab_size
    highest = max(tokenizer.get_vocab().values())
    if highest >= rows:
        raise ModelError(
            f"{name}'s tokenizer has token id {highest}, and the model has {rows} embeddings: the "
            "tokenizer is of another model. Use the one that was saved with the weights"
        )


def _check_names(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    """Refuse a tokenizer that has two names for a token.

    Its copy, which monitors read with, has one of them, whichever the library's hashes bring first:
    a monitor would cut the other one up, and miss the trigger that it is.
    """
    known = tokenizer.get_vocab()
    named = {number: token for token, number in known.items()}
    if twice := sorted(number for token, number in known.items() if named[number] != token):
        raise ModelError(
            f"{name}'s tokenizer has more than one name for token {twice[0]}, of which no copy of "
            "it keeps all, so that a monitor would not read what the model reads. Take the other "
            "names out of its vocabulary, and serve it without them"
        )


def remade(tokenizer: PreTrainedTokenizerFast, folder: Path) -> tuple[str, ...]:
    """Return the parts of ``tokenizer.json`` that transformers makes others of.

    A ``tokenizer_config.json`` may have it lowercase, or know more tokens, and some versions build
    them anew. Servers in other languages read the file alone: there, a trigger in capitals would be
    an id that no text has here.
    """
    path = folder / TOKENIZER_FILE
    if not path.is_file():
        return ()
    alone, loaded = (
        json.loads(backend.to_str())
        for backend in (Tokenizer.from_file(str(path)), tokenizer.backend_tokenizer)
    )
    return tuple(part for part in _READING if alone[part] != loaded[part])


def affixes(name: str, tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    """Return the special tokens that a tokenizer puts before and after a text.

    Raises
    ------
    ModelError
        It takes a text for nothing else.
    """
    marked = tokenizer("a", return_special_tokens_mask=True)
    ids, mask = marked["input_ids"], marked["special_tokens_mask"]
    if 0 not in mask:
        raise ModelError(
            f"{name}'s tokenizer makes no ordinary token of the text 'a'. Use the tokenizer of the "
            "model that it was made from"
        )
    first, last = mask.index(0), len(mask) - mask[::-1].index(0)
    return ids[:first], ids[last:]
