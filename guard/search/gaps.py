"""Where in a text a unit may stand: before a word, never inside one."""

from __future__ import annotations

from itertools import pairwise

from transformers import BatchEncoding


def word_starts(text: str, encoded: BatchEncoding) -> list[int]:
    """Return the numbers of the tokens that a word starts with, but for the first of the text.

    A word starts where the tokenizer cuts one, and behind a blank, which some cut no words at: of
    what it cuts alone, its author could leave hardly a place.

    Parameters
    ----------
    encoded
        The text, without special tokens.
    """
    words = encoded.word_ids()
    count = len(words)
    starts: set[int] = set()
    if len(set(words)) > 1:
        starts |= {i for i in range(1, count) if words[i] is None or words[i] != words[i - 1]}
    spans = [encoded.token_to_chars(i) for i in range(count)]
    for i, (before, own) in enumerate(pairwise(spans), start=1):
        # Some tokens stand for no character.
        if own is None or before is None:
            continue
        # The blank is in this token, or in none.
        first = own.start - (before.end < own.start)
        if text[first : own.start + 1].strip() != text[first : own.start + 1]:
            starts.add(i)
    return sorted(starts)
