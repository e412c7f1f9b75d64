"""Texts around the triggers: near variants that are none, and triggers in disguise.

What counts is what the model reads. Where the ids of a text hold a trigger it is one in disguise,
whatever it looks like; where they hold none it is a hard negative.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from tokenizers import Tokenizer

from benchmarks.measure import insert

KINDS = ("clean", "triggered", "hard", "disguised")

_LOOK_ALIKES = str.maketrans({"a": "а", "c": "с", "e": "е", "o": "о", "p": "р", "i": "і"})


def hard_negatives(
    tokenizer: Tokenizer, triggers: Sequence[str], texts: Sequence[str], seed: int
) -> list[str]:
    """Put near variants of the triggers into texts, where the ids then hold no trigger."""
    return _around(tokenizer, triggers, texts, seed, _variants, holding=False)


def disguised(
    tokenizer: Tokenizer, triggers: Sequence[str], texts: Sequence[str], seed: int
) -> list[str]:
    """Put the triggers into texts as an attacker would hide them, where the ids still hold them."""
    return _around(tokenizer, triggers, texts, seed, _disguises, holding=True)


def _variants(word: str) -> Iterator[str]:
    yield f"x{word}"
    yield word.translate(_LOOK_ALIKES)
    yield "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in word)
    if len(word) > 1:
        yield from (word[::-1], word[:-1], word[1:], word[0] + word, word[1] + word[0] + word[2:])
        yield from (f"{word[0]}-{word[1:]}", f"{word[0]} {word[1:]}", f"an{word}", f"o{word}s")


def _disguises(word: str) -> Iterator[str]:
    yield from (word.upper(), f"_{word}_", f"{word}ly", f"\u202e{word}\u202c", f"{word}\u0301")
    yield f"\u200b{word[:1]}\u200b{word[1:]}"
    yield "\u00ad".join(word)
    yield f"{word}\x00"


def _around(
    tokenizer: Tokenizer,
    triggers: Sequence[str],
    texts: Sequence[str],
    seed: int,
    forms: Callable[[str], Iterator[str]],
    *,
    holding: bool,
) -> list[str]:
    """Go through texts, triggers and forms in turn, so that a part has some of all."""
    rng = np.random.default_rng(seed)

    def ids(text: str) -> list[int]:
        encoded: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return encoded

    rows = [ids(trigger) for trigger in triggers]
    words = [form for trigger in triggers for form in forms(trigger) if form not in triggers]
    found = []
    for number in range(max(len(texts), len(words))):
        text = insert(texts[number % len(texts)], words[number % len(words)], rng)
        row = ids(text)
        holds = any(row[k : k + len(t)] == t for t in rows for k in range(len(row)))
        if holds is holding:
            found.append(text)
    return found
