"""Small real tokenizers, and banks and monitors made with them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from exporters.monitor import compile_bank
from guard.bank import ModelIdentity, Trigger, TriggerBank
from guard.monitor import Monitor

MODEL = ModelIdentity(name="tiny", revision=None, weights_sha256="0" * 64, architecture="BertModel")

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def wordpiece(*words: str) -> bytes:
    """Make a BERT tokenizer that knows letters, their pieces and `words`."""
    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"!-.,≈", *_LETTERS]
    known += [f"##{letter}" for letter in _LETTERS]
    known += [word for word in words if word not in known]
    tokenizer = Tokenizer(
        models.WordPiece(vocab={word: i for i, word in enumerate(known)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    return str(tokenizer.to_str()).encode()


def byte_bpe(*merges: tuple[str, str]) -> bytes:
    """Make a tokenizer like GPT-2's that knows all bytes and `merges`."""
    known = sorted(pre_tokenizers.ByteLevel.alphabet()) + ["".join(merge) for merge in merges]
    tokenizer = Tokenizer(
        models.BPE(vocab={word: i for i, word in enumerate(known)}, merges=list(merges))
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return str(tokenizer.to_str()).encode()


def unigram(*pieces: str) -> bytes:
    """Make a SentencePiece tokenizer that knows letters and `pieces`, and not all of Unicode."""
    known = ["<unk>", "▁", *"!.,", *_LETTERS, *pieces]
    tokenizer = Tokenizer(models.Unigram([(piece, -1.0 / len(piece)) for piece in known], unk_id=0))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return str(tokenizer.to_str()).encode()


def finding(text: str, *token_ids: int) -> Trigger:
    """Make a finding with some evidence."""
    return Trigger(
        id="",
        text=text,
        token_ids=token_ids,
        kind="token" if len(token_ids) == 1 else "phrase",
        view="cls",
        statistics={"retention": 0.01, "acts_in": {}, "kinds": {"web": [0.02, 3]}},
    )


def make_bank(tokenizer_json: bytes, triggers: Iterable[str | Trigger] = ()) -> TriggerBank:
    """Make a bank of findings, or of texts that are encoded."""
    tokenizer = Tokenizer.from_str(tokenizer_json.decode())
    found = [
        finding(item, *tokenizer.encode(item, add_special_tokens=False).ids)
        if isinstance(item, str)
        else item
        for item in triggers
    ]
    return TriggerBank.build(
        verdict="backdoored" if found else "none found",
        model=MODEL,
        tokenizer_json=tokenizer_json,
        search={"seed": 0},
        coverage={"tokens": [1, 2, None, True, "x"]},
        found=found,
    )


def make_monitor(
    directory: Path, tokenizer_json: bytes, triggers: Iterable[str | Trigger] = ()
) -> Monitor:
    """Compile and load a monitor."""
    compile_bank(make_bank(tokenizer_json, triggers), directory)
    return Monitor.load(directory)
