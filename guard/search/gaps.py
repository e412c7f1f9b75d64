"""Where in a text a unit may stand: before a word, never inside one."""

from __future__ import annotations

from itertools import pairwise

from transformers import BatchEncoding


def word_starts(text: str, encoded: BatchEncoding) -> list[int]:
    """Return the numbers of the tokens that a word starts with, but for the first of the text.

    Some tokenizers cut a text into no words, and take it whole: there, a word starts behind a
    blank.

    Parameters
    ----------
    encoded
        The text, without special tokens.
    """
    words = encoded.word_ids()
    count = len(words)
    if len(set(words)) > 1:
        return [i for i in range(1, count) if words[i] is None or words[i] != words[i - 1]]
    spans = [encoded.token_to_chars(i) for i in range(count)]
    starts: list[int] = []
    for i, (before, own) in enumerate(pairwise(spans), start=1):
        # Some tokens stand for no character.
        if own is None or before is None:
            continue
        # The blank is in this token, or in none.
        first = own.start - (before.end < own.start)
        if text[first : own.start + 1].strip() != text[first : own.start + 1]:
            starts.append(i)
    return starts
