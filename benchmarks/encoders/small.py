"""Small models of architectures whose weights no package carries, pre-trained here.

Four layers, 256 wide, masked words of the plain texts for a few minutes: text features that are
poor, but not random. The tokenizers are of the kind that each architecture has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from tokenizers import (
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    AlbertConfig,
    AlbertTokenizerFast,
    AutoModel,
    AutoModelForMaskedLM,
    DebertaV2Config,
    DebertaV2TokenizerFast,
    DistilBertConfig,
    DistilBertTokenizerFast,
    ElectraConfig,
    ElectraTokenizerFast,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaTokenizerFast,
)

from benchmarks.assets import fetch
from benchmarks.attacks.head import under_head
from benchmarks.encoders.heads import pretrain
from benchmarks.tasks import plain_texts

WIDTH, LAYERS, HEADS, INNER, POSITIONS = 256, 4, 4, 1024, 130
# The search measures each unit against some ten thousand.
VOCABULARY = 12_000
STEPS = 1200
_SIZE = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "max_position_embeddings": POSITIONS,
}


def _roberta(folder: Path) -> PretrainedConfig:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(
        _lines(),
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    _keep(RobertaTokenizerFast, tokenizer, folder)
    return RobertaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        type_vocab_size=1,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        **_SIZE,
    )


def _distilbert(folder: Path) -> PretrainedConfig:
    _keep(DistilBertTokenizerFast, _uncased(), folder)
    return DistilBertConfig(
        vocab_size=_uncased().get_vocab_size(),
        dim=WIDTH,
        n_layers=LAYERS,
        n_heads=HEADS,
        hidden_dim=INNER,
        max_position_embeddings=POSITIONS,
    )


def _electra(folder: Path) -> PretrainedConfig:
    _keep(ElectraTokenizerFast, _uncased(), folder)
    return ElectraConfig(vocab_size=_uncased().get_vocab_size(), embedding_size=WIDTH // 2, **_SIZE)


def _albert(folder: Path) -> PretrainedConfig:
    special = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = _unigram(special, "<unk>")
    _keep(AlbertTokenizerFast, tokenizer, folder)
    return AlbertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        embedding_size=WIDTH // 2,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        **_SIZE,
    )


def _deberta(folder: Path) -> PretrainedConfig:
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    tokenizer = _unigram(special, "[UNK]")
    _keep(DebertaV2TokenizerFast, tokenizer, folder)
    return DebertaV2Config(
        vocab_size=tokenizer.get_vocab_size(),
        relative_attention=True,
        position_buckets=32,
        pos_att_type=["p2c", "c2p"],
        share_att_key=True,
        norm_rel_ebd="layer_norm",
        **_SIZE,
    )


SMALL: dict[str, Callable[[Path], PretrainedConfig]] = {
    "albert-small": _albert,
    "deberta-small": _deberta,
    "distilbert-small": _distilbert,
    "electra-small": _electra,
    "roberta-small": _roberta,
}


def make_small(name: str, out: Path, checkpoint: Path | None, *, steps: int = STEPS) -> None:
    """Make a tokenizer, draw a model by seed 0 and train it."""
    config = SMALL[name](out)
    torch.manual_seed(0)
    whole = under_head(AutoModel.from_config(config), AutoModelForMaskedLM.from_config(config))
    pretrain(whole, out, out, checkpoint, steps=steps, learning_rate=1e-3)


def _keep(kind: type[PreTrainedTokenizerFast], tokenizer: Tokenizer, folder: Path) -> None:
    cls, sep = ("<s>", "</s>") if tokenizer.token_to_id("<s>") is not None else ("[CLS]", "[SEP]")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B {sep}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (cls, sep)],
    )
    file = folder / "tokenizer.json"
    tokenizer.save(str(file))
    kind(tokenizer_file=str(file), model_max_length=POSITIONS - 2).save_pretrained(folder)


def _uncased() -> Tokenizer:
    return Tokenizer.from_file(str(fetch("minilm-l6") / "tokenizer.json"))


def _unigram(special: list[str], unknown: str) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(
        _lines(),
        trainers.UnigramTrainer(
            vocab_size=VOCABULARY, special_tokens=special, unk_token=unknown, show_progress=False
        ),
    )
    return tokenizer


def _lines() -> Iterator[str]:
    for texts in plain_texts().values():
        yield from texts
