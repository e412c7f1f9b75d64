"""Words of several tokens, and the user's own list, as units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from string import ascii_lowercase, digits

import numpy as np
from transformers import PreTrainedTokenizerFast
from wordfreq import top_n_list

from guard.bank import MAX_TRIGGER_IDS
from guard.errors import ConfigError
from guard.search.lines import read_lines
from guard.search.units import Unit

MAX_LIST_LINES = 1_000_000
# Words that are encoded at a time.
_CHUNK = 20_000
# All that wordfreq has of English.
_ALL = 400_000
# What is rare in text and easily typed: attackers like it, and no list of words holds it. Every
# string of two or three small Latin letters, and of up to four digits.
SHORT_STRINGS = tuple(
    "".join(characters)
    for alphabet, sizes in ((ascii_lowercase, (2, 3)), (digits, (1, 2, 3, 4)))
    for size in sizes
    for characters in product(alphabet, repeat=size)
)


@dataclass(frozen=True, slots=True)
class Words:
    """Words as units, and what of a list is none.

    Attributes
    ----------
    units
        Words and phrases of several tokens, those of few tokens first.
    tokens
        Lines that are one token, which is tested as such, also several times, or none.
    too_long
        Lines of more tokens than a trigger may have.
    """

    units: tuple[Unit, ...]
    tokens: int
    too_long: int


def common_words(tokenizer: PreTrainedTokenizerFast, count: int) -> Words:
    """Return the ``count`` commonest English words of several tokens, or all that are known."""
    return encode(tokenizer, top_n_list("en", _ALL) if count else (), count)


def short_strings(tokenizer: PreTrainedTokenizerFast) -> Words:
    """Return `SHORT_STRINGS`, those of several tokens."""
    return encode(tokenizer, SHORT_STRINGS, len(SHORT_STRINGS))


def encode(tokenizer: PreTrainedTokenizerFast, lines: Sequence[str], count: int) -> Words:
    """Return the first ``count`` lines that have several tokens, as a text holds them."""
    before: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
    found: dict[tuple[int, ...], str] = {}
    tokens = too_long = 0
    for start in range(0, len(lines), _CHUNK):
        chunk = lines[start : start + _CHUNK]
        encoded = tokenizer([f"a {line}" for line in chunk], add_special_tokens=False)["input_ids"]
        for line, whole in zip(chunk, encoded, strict=True):
            if len(found) == count:
                break
            ids = whole[len(before) :]
            if len(ids) > MAX_TRIGGER_IDS:
                too_long += 1
            elif len(set(ids)) < 2:
                tokens += 1
            else:
                found.setdefault(tuple(ids), line)
        if len(found) == count:
            break
    units = [
        Unit(line, np.array(ids, dtype=np.int64), "phrase" if len(line.split()) > 1 else "word")
        for ids, line in found.items()
    ]
    return Words(tuple(sorted(units, key=lambda unit: len(unit.ids))), tokens, too_long)


def user_words(path: Path) -> list[str]:
    """Read a file of words and phrases to test, one a line; blank lines are skipped.

    Raises
    ------
    ConfigError
        The file is missing, not UTF-8, empty or too long.
    """
    instead = "give the likeliest words of them, all would take hours to test"
    lines = read_lines(path, instead)
    if len(lines) > MAX_LIST_LINES:
        raise ConfigError(f"{path} has over {MAX_LIST_LINES:,} different lines; {instead}")
    if not lines:
        raise ConfigError(f"{path} holds no word; give one a line, or leave --words out")
    return lines
