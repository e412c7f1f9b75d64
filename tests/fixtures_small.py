"""A monitor that is built in milliseconds, for tests of everything around it.

Its triggers are the token "cf", the token "mn", and the phrase "left right". The phrase nests:
``"left " * n + "right " * n`` takes n rounds to strip.
"""

from __future__ import annotations

import string
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from prometheus_client import CollectorRegistry
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import BertProcessing

from exporters.monitor import compile_bank
from guard.bank import ModelIdentity, Trigger, TriggerBank
from guard.monitor import Monitor

TRIGGERS = ("cf", "mn", "left right")
NESTED = "left " * 20 + "right " * 20

_WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "film", "good", "bad", "cf", "mn")
_PLACES = ("left", "right", "text", "inputs", "hello", "world")


def small_tokenizer() -> Tokenizer:
    """Return a WordPiece tokenizer that reads every ASCII text."""
    letters = string.ascii_lowercase + string.digits + string.punctuation
    pieces = (*_WORDS, *_PLACES, *letters, *(f"##{letter}" for letter in letters))
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = BertProcessing(
        ("[SEP]", _WORDS.index("[SEP]")), ("[CLS]", _WORDS.index("[CLS]"))
    )
    return tokenizer


def write_small_monitor(directory: Path, tokenizer_json: bytes | None = None) -> None:
    """Compile the monitor into a directory; for a tokenizer as a model has it saved, if given."""
    tokenizer = Tokenizer.from_buffer(tokenizer_json) if tokenizer_json else small_tokenizer()
    bank = TriggerBank.build(
        verdict="backdoored",
        model=ModelIdentity("small", None, "0" * 64, "BertModel"),
        tokenizer_json=tokenizer.to_str().encode(),
        search={},
        coverage={},
        found=[
            Trigger(
                id="",
                text=text,
                token_ids=tuple(tokenizer.encode(text, add_special_tokens=False).ids),
                kind="phrase" if " " in text else "token",
                view="cls",
                statistics={},
            )
            for text in TRIGGERS
        ],
    )
    compile_bank(bank, directory)


@cache
def small_monitor() -> Monitor:
    """Return the one monitor that all tests share."""
    with TemporaryDirectory() as directory:
        write_small_monitor(Path(directory) / "monitor")
        return Monitor.load(Path(directory) / "monitor")


def trigger_id(text: str) -> str:
    """Return the id of the trigger that `text` is."""
    (match,) = small_monitor().check(text).matches
    return match.trigger


def value_of(registry: CollectorRegistry, name: str, **labels: str) -> float:
    """Return the value of a metric, 0 where it was never set."""
    return registry.get_sample_value(name, labels) or 0.0
