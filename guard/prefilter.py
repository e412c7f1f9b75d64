"""A look at the raw text that spares most texts the tokenizer, and can never clear a trigger.

**Theorem.** Let a tokenizer be of a family of `guard.token_patterns`, and let a text meet the
family's premise. If a token id is among the ids of the text, then one of the id's *patterns* is a
substring of the text's *key*. An n-gram needs each of its ids, so a text whose key holds no pattern
of one chosen id of each n-gram holds none of the n-grams.

The families are there, with their premises, keys, patterns and proofs. All other tokenizers
(SentencePiece, Unigram, BPE over characters) have no theorem and get no filter: what their
normalizers do to a text is a table that proves nothing.
"""

from __future__ import annotations

import json
import string
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

from ahocorasick_rs import BytesAhoCorasick
from tokenizers import Tokenizer

from guard.token_patterns import LONGEST_WORD, Patterns, family_of

# Several groups of patterns.
Needs: TypeAlias = tuple[Patterns, ...]

# With more patterns than this, ordinary text holds one anyway, and the automaton only costs memory.
MAX_PATTERNS = 20_000

# Matches come as a list, so a text full of them is looked at in parts.
_PART = 1024

# More patterns than one in so many characters are not looked at one by one: that would cost an
# attacker less than us. Nor is more than so many of the other ids of n-grams, of so many patterns.
_CHARS_PER_HIT = 40
_MAX_NEEDS = 3
_MAX_NEEDED = 2

_ALPHANUMERIC = (string.digits + string.ascii_letters).encode()


class Prefilter:
    """Tells texts that hold no trigger. Use `derive`.

    Parameters
    ----------
    patterns
        What a key that is not cleared may hold.
    ascii_only
        Whether the premise is that the text is ASCII.
    titled
        Whether the key is in title case.
    words
        Tokens that are looked up before their parts. For one that is a chosen id: for each n-gram
        that it was chosen for, patterns one of which a text needs besides.
    lower
        Whether words are looked up in lower case.
    """

    def __init__(
        self,
        patterns: Iterable[bytes],
        *,
        ascii_only: bool,
        titled: bool,
        words: Mapping[bytes, Needs] = MappingProxyType({}),
        lower: bool = False,
    ) -> None:
        distinct = sorted(set(patterns))
        self._find = BytesAhoCorasick(distinct).find_matches_as_indexes
        self._in_word = [pattern.isalnum() for pattern in distinct]
        self._overlap = max(map(len, distinct), default=1) - 1
        self._ascii_only = ascii_only
        self._titled = titled
        # Matches do not overlap, so one that reaches out of a run of letters and digits might hide
        # one that lies in it. Only a single character cannot.
        self._words = words if all(p.isalnum() or len(p) == 1 for p in distinct) else {}
        self._lower = lower

    def clears(self, text: str) -> bool:
        """Whether the text holds no trigger for certain."""
        if self._ascii_only and not text.isascii():
            return False
        try:
            plain = text.encode()
        except UnicodeEncodeError:  # a lone surrogate
            return False
        key = plain.title() if self._titled else plain
        if len(key) <= _PART:
            return not (hits := self._find(key)) or self._excuses(plain, key, hits, 0)
        for start in range(0, len(key), _PART):
            part = key[start : start + _PART + self._overlap]
            if (hits := self._find(part)) and not self._excuses(plain, part, hits, start):
                return False
        return True

    def _excuses(
        self, plain: bytes, part: bytes, hits: Sequence[tuple[int, int, int]], offset: int
    ) -> bool:
        """Whether no pattern in a part of the key makes an n-gram, as far as its words can tell."""
        words = self._words
        if not words or len(hits) > 1 + len(part) // _CHARS_PER_HIT:
            return False
        last = 0
        for pattern, start, end in hits:
            start += offset
            if start < last:
                continue  # in a word that was looked at
            if not self._in_word[pattern]:
                return False
            before = plain[max(0, start - LONGEST_WORD) : start]
            first = start - len(before) + len(before.rstrip(_ALPHANUMERIC))
            behind = plain[end + offset : end + offset + LONGEST_WORD]
            last = end + offset + len(behind) - len(behind.lstrip(_ALPHANUMERIC))
            word = plain[first:last]
            if len(word) > LONGEST_WORD:
                return False
            needs = words.get(word.lower() if self._lower else word)
            if needs is None:
                return False
            # A long text would be looked through too often, and the rest of it is not in the part.
            if needs and (len(plain) > _PART or not _lacks(part, needs)):
                return False
        return True


def _lacks(key: bytes, needs: Needs) -> bool:
    """Whether the key holds no pattern of any of several groups."""
    return not any(pattern in key for group in needs for pattern in group)


def derive(tokenizer: Tokenizer, ngrams: Iterable[Sequence[int]]) -> Prefilter | None:
    """Derive the filter of some n-grams from their tokenizer.

    Returns
    -------
    Prefilter or None
        None where there is no theorem for the tokenizer or one of the n-grams, or where there are
        so many patterns that the filter would not help.
    """
    config = json.loads(tokenizer.to_str())
    vocabulary: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
    tokens = {number: token for token, number in vocabulary.items()}
    if len(tokens) != len(vocabulary):
        return None  # two tokens share an id, and either may stand for it
    family = family_of(config, tokenizer)
    if family is None:
        return None
    known: dict[int, Patterns | None] = {}
    patterns: set[bytes] = set()
    needs: dict[bytes, list[Patterns] | None] = {}
    for ngram in ngrams:
        for number in ngram:
            if number not in known:
                known[number] = family.patterns(tokens[number]) if number in tokens else None
        # Distinct: an id that is in an n-gram twice needs no second place in the text.
        provable = [
            (known[number] or (), number) for number in {*ngram} if known[number] is not None
        ]
        if not provable:
            return None
        provable.sort(key=lambda item: _rarity(item[0]), reverse=True)
        chosen, number = provable[0]
        patterns.update(chosen)
        if (word := tokens.get(number, "").encode()) not in family.words:
            continue
        groups = needs.setdefault(word, [])
        others = [other for other, _ in provable[1:] if len(other) <= _MAX_NEEDED]
        if not others or groups is None or len(groups) == _MAX_NEEDS:
            needs[word] = None  # is enough for an n-gram, or too much would have to be looked for
        else:
            groups.append(others[0])
    if len(patterns) > MAX_PATTERNS:
        return None
    patterns.update(family.always)
    words: dict[bytes, Needs] = dict.fromkeys(family.words, ())
    for word, found in needs.items():
        if found is None:
            del words[word]
        else:
            words[word] = tuple(found)
    return Prefilter(
        patterns,
        ascii_only=family.ascii_only,
        titled=family.titled,
        words=words,
        lower=family.lower,
    )


def _rarity(patterns: Patterns) -> int:
    """Order patterns by how few texts hold them: none at all, or else the longer ones."""
    return min(map(len, patterns), default=1 << 20)
