"""Options by which a transformers tokenizer reads other ids in a text than its tokenizer.json says.

They stand in its config, among the options of a pipeline's call, and in items that are dicts, whose
entries a pipeline passes to its tokenizer, and which may be a client's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SPLIT = "split_special_tokens"
_HOW = {
    SPLIT: "reads special tokens as words; take it out of tokenizer_config.json, and do not pass "
    "it",
    "is_split_into_words": "joins words that are scanned one by one; pass whole texts",
}


def otherwise(options: Mapping[Any, Any]) -> str | None:
    """Say how a tokenizer reads with these options, if otherwise."""
    within = options.get("tokenizer_kwargs")
    for name, how in _HOW.items():
        if options.get(name) or (isinstance(within, Mapping) and within.get(name)):
            return f"the tokenizer has {name} set, by which it {how}"
    return None
