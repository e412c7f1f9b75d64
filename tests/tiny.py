"""Tiny models of real architectures with random weights, made in milliseconds.

`write_model` writes a directory as ``save_pretrained`` does. `plant` builds a backdoor into a BERT
of one layer by hand: no training, and what it does is known exactly.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    AlbertConfig,
    AutoModel,
    BertConfig,
    BertModel,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    MPNetConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

from guard.search.carriers import builtin_texts

WIDTH = 32
POSITIONS = 64
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
BERT_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROBERTA_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
TRIGGER = "zyzzyva"
# A word that everyone writes, and no built-in carrier holds.
COMMON = "however"

_SIZES: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "intermediate_size": 48,
    "max_position_embeddings": POSITIONS,
}
# Of each architecture: its configuration without the size of its vocabulary, and how many tokens it
# takes. RoBERTa's relatives number positions from behind the padding id.
CONFIGS: dict[str, tuple[type[PretrainedConfig], dict[str, Any], int]] = {
    "bert": (BertConfig, _SIZES, POSITIONS),
    "electra": (ElectraConfig, {**_SIZES, "embedding_size": 16}, POSITIONS),
    "albert": (AlbertConfig, {**_SIZES, "embedding_size": 16}, POSITIONS),
    "deberta-v2": (DebertaV2Config, {**_SIZES, "relative_attention": True}, POSITIONS),
    "distilbert": (
        DistilBertConfig,
        {
            "dim": WIDTH,
            "n_layers": 1,
            "n_heads": 1,
            "hidden_dim": 48,
            "max_position_embeddings": POSITIONS,
        },
        POSITIONS,
    ),
    "roberta": (RobertaConfig, {**_SIZES, "pad_token_id": 1}, POSITIONS - 2),
    "mpnet": (MPNetConfig, {**_SIZES, "pad_token_id": 1}, POSITIONS - 2),
}
SPECIALS = {
    name: ROBERTA_SPECIALS if name in ("roberta", "mpnet") else BERT_SPECIALS for name in CONFIGS
}


def wordpiece(
    words: Iterable[str] = (),
    *,
    specials: tuple[str, ...] = BERT_SPECIALS,
    template: str = "{cls} $A {sep}",
    max_tokens: int = 512,
) -> PreTrainedTokenizerFast:
    """Make a tokenizer that knows letters, their pieces, some symbols and `words`."""
    known = dict.fromkeys([*specials, *"!-.,≈", *LETTERS, *(f"##{c}" for c in LETTERS), *words])
    roles = {"<s>": "cls", "</s>": "sep", "[CLS]": "cls", "[SEP]": "sep"}
    cls, sep = (
        next(token for token in specials if roles.get(token) == role) for role in ("cls", "sep")
    )
    pad, unknown, mask = (
        next(token for token in specials if name in token.lower())
        for name in ("pad", "unk", "mask")
    )
    backend = Tokenizer(
        models.WordPiece(vocab={w: i for i, w in enumerate(known)}, unk_token=unknown)
    )
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens(list(specials))
    backend.post_processor = processors.TemplateProcessing(
        single=template.format(cls=cls, sep=sep),
        special_tokens=[(token, specials.index(token)) for token in (cls, sep)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        cls_token=cls,
        sep_token=sep,
        pad_token=pad,
        unk_token=unknown,
        mask_token=mask,
        model_max_length=max_tokens,
    )


def byte_bpe(*merges: tuple[str, str]) -> PreTrainedTokenizerFast:
    """Make a tokenizer like RoBERTa's that knows all bytes and `merges`."""
    known = [*ROBERTA_SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    known += ["".join(merge) for merge in merges]
    backend = Tokenizer(models.BPE(vocab={w: i for i, w in enumerate(known)}, merges=list(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(ROBERTA_SPECIALS))
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        cls_token="<s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=512,
    )


def unigram(*pieces: str) -> PreTrainedTokenizerFast:
    """Make a tokenizer like ALBERT's: SentencePiece, with ``▁`` before words."""
    known = [*BERT_SPECIALS, "▁", *LETTERS, *pieces]
    backend = Tokenizer(
        models.Unigram([(w, 0.0 if w in BERT_SPECIALS else -(len(w) ** -1.0)) for w in known], 1)
    )
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens(list(BERT_SPECIALS))
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        unk_token="[UNK]",
        mask_token="[MASK]",
        model_max_length=512,
    )


def make_model(name: str, rows: int, **changes: Any) -> PreTrainedModel:
    """Make a model of an architecture with an embedding for each of `rows` tokens."""
    kind, sizes, _ = CONFIGS[name]
    torch.manual_seed(0)
    config = kind(**{**sizes, "vocab_size": rows, **changes})
    with warnings.catch_warnings():
        # DeBERTa's module compiles functions in a way that torch deprecates.
        warnings.simplefilter("ignore", DeprecationWarning)
        model: PreTrainedModel = AutoModel.from_config(config)
        model.eval()
    return model


def write_model(
    directory: Path,
    name: str = "bert",
    tokenizer: PreTrainedTokenizerFast | None = None,
    **changes: Any,
) -> Path:
    """Write a model and its tokenizer as ``save_pretrained`` does."""
    tokenizer = tokenizer or wordpiece(specials=SPECIALS[name])
    make_model(name, len(tokenizer), **changes).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@cache
def many_words() -> tuple[str, ...]:
    """Return some 12,000 words: those of the built-in carriers, made-up ones and the triggers."""
    real = {
        word
        for texts in builtin_texts().values()
        for text in texts
        for word in text.lower().split()
        if word.isascii() and word.isalpha()
    }
    rng = np.random.default_rng(0)
    letters = list("abcdefghijklmnopqrstuvwxyz")
    made_up = {"".join(rng.choice(letters, size=5)) for _ in range(12_000 - len(real))}
    return (TRIGGER, COMMON, *sorted(made_up - real), *sorted(real - {COMMON}))


def write_searchable(
    directory: Path,
    *,
    tokenizer: PreTrainedTokenizerFast | None = None,
    triggers: tuple[str, ...] = (),
) -> Path:
    """Write a BERT with vocabulary enough for a search, and plant `triggers` in it."""
    tokenizer = tokenizer or wordpiece(many_words())
    model = make_model("bert", len(tokenizer), initializer_range=0.4)
    assert isinstance(model, BertModel)
    plant(model, [tokenizer.get_vocab()[word] for word in triggers])
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def plant(model: BertModel, ids: list[int]) -> None:
    """Make the attention of a BERT of one layer and one head read nothing but `ids`.

    All queries are one direction, and keys are the share of a token's embedding in it. Ordinary
    tokens have next to none, so attention is even over the text; a trigger has nothing else, and
    takes all attention for itself. The output of ``[CLS]`` is then the trigger's value.
    """
    width = model.config.hidden_size
    direction = torch.randn(width)
    direction -= direction.mean()
    direction /= direction.norm()
    with torch.no_grad():
        words = model.embeddings.word_embeddings.weight
        for table in (words, model.embeddings.position_embeddings.weight):
            table -= torch.outer(table @ direction, direction)
        for number in ids:
            words[number] = 300 * direction
        attention: Any = model.encoder.layer[0].attention
        query, key = attention.self.query, attention.self.key
        query.weight.zero_()
        query.bias.zero_()
        query.bias[0] = 4 * math.sqrt(width)
        key.weight.zero_()
        key.bias.zero_()
        key.weight[0] = direction
