"""Budgets: how many units a search tests, in how many texts, and what that assumes.

There is one scan; a larger budget has more units and more carriers. No budget tests units together:
that could be evaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple

from guard.search.carriers import SEVERAL
from guard.search.words import SHORT_STRINGS

# Lengths of carriers in tokens, met about, with the unit at the start, in the middle and at the
# end: a backdoor may ask for any. In every plan there is a long one.
_FAST = (7, 12, 24)
_FURTHER = (7, 12)
_EVERY_KIND = (7, 36, 9, 16, 12, 24, 8, 14, 10, 20)
_LONG = (10, 60, 20, 28, 14, 100, 40, 12, 48, 24)


class Paired(NamedTuple):
    """How partners of one length are found.

    Attributes
    ----------
    samples
        Texts that the gradients of a unit are summed over.
    ranked
        Of each ranking, how many partners are put in one text.
    """

    samples: int
    ranked: int


# By the tokens of a partner. A word of several adds up the gradients of each: fewer texts do.
PAIRED: Mapping[int, Paired] = MappingProxyType(
    {1: Paired(16, 16), 2: Paired(8, 4), 3: Paired(8, 4)}
)
# The vocabulary is scanned in groups, each in carriers of its own.
GROUPS = 10


@dataclass(frozen=True, slots=True)
class Plan:
    """What a search does.

    Attributes
    ----------
    name
        As the bank and the terminal call it.
    words
        How many of the commonest words of several tokens are tested as tokens are.
    more_words
        How many further ones are tested in the texts of `FURTHER`. Where any words are tested, so
        are the short strings, in these texts.
    starts
        From how many random sequences of tokens a round of climbs starts.
    pairs
        How many of the commonest words of one token are swept for partners: one another, and the
        words of two and three tokens that `words` has.
    lengths
        Of the scan's carriers of a unit.
    every_kind
        There are as many of those lengths as kinds of text, or a multiple of it.
    groups
        How many of the `GROUPS` groups of the vocabulary are scanned.
    """

    name: str
    words: int = 0
    more_words: int = 0
    starts: int = 0
    pairs: int = 0
    lengths: tuple[int, ...] = _FAST
    every_kind: bool = False
    groups: int = GROUPS

    @classmethod
    def parse(cls, text: str) -> Plan:
        """Read the JSON of its fields."""
        fields = json.loads(text)
        return cls(**{**fields, "lengths": tuple(fields["lengths"])})

    def carriers(self, kinds: int) -> int:
        """Return how many texts a unit is scanned in."""
        if not self.every_kind:
            return len(self.lengths)
        return kinds * round(len(self.lengths) / len(_EVERY_KIND))

    def cost(self, tokens: int, kinds: int) -> float:
        """Estimate the token-forwards of a vocabulary of so many tokens."""
        # Two special tokens in each carrier, and a unit, several times in every third of them; a
        # word has about two and a half tokens.
        mean = sum(self.lengths) / len(self.lengths)
        copies = (2 + sum(copies.number for copies in SEVERAL) / len(SEVERAL)) / 3
        few = sum(_FAST) + (2 + copies) * len(_FAST)
        fewer = sum(_FURTHER) + (2 + 2.5 * copies) * len(_FURTHER)
        tiers = (tokens, 2 + copies), (self.words, 2 + 2.5 * copies)
        each = sum(count * self.carriers(kinds) * (mean + more) for count, more in tiers)
        sizes = 1 + bool(self.words) + bool(self.words or self.more_words)
        # An update takes gradients and tries a change of each place, in short texts; what comes of
        # a round is judged, and a clean model has one round.
        climbed = self.starts * 1.0e4
        judged = 1.0e6 * (sizes + bool(self.starts) + (len(PAIRED) + 1) * bool(self.pairs))
        # A gradient of each of two outputs costs as much as two passes forward; of the four
        # rankings of a word, the first are put in a short text, and one is tested.
        swept = self.pairs * sum(
            how.samples * (13 + 2 * size) * 5 + 4 * how.ranked * (12 + size) + 4 * few * 1.1
            for size, how in PAIRED.items()
        )
        short = len(SHORT_STRINGS) * bool(self.words or self.more_words)
        scanned = self.groups / GROUPS * (each + (self.more_words + short) * fewer)
        return scanned + climbed + swept + judged


# How words are tested that are many for their worth to an attacker.
FURTHER = Plan("further words", lengths=_FURTHER)
FAST = Plan("fast", more_words=30_000, starts=64)
STANDARD = Plan(
    "standard",
    words=30_000,
    more_words=220_000,
    starts=512,
    lengths=_EVERY_KIND,
    every_kind=True,
)
THOROUGH = Plan(
    "thorough",
    words=30_000,
    more_words=220_000,
    starts=2048,
    pairs=12_000,
    lengths=(*_EVERY_KIND, *_LONG),
    every_kind=True,
)
BUDGETS: Mapping[str, Plan] = MappingProxyType(
    {plan.name: plan for plan in (FAST, STANDARD, THOROUGH)}
)


def fit(seconds: float, rate: float, tokens: int, kinds: int) -> Plan:
    """Return the plan of the best coverage that so many seconds are enough for.

    First come words in few texts, then climbs, more kinds of text, words in those, and longer
    texts. Where there is no time for all tokens in three texts, only a random part of them is
    scanned, and the search is incomplete.

    Parameters
    ----------
    rate
        Token-forwards in a second.
    """
    possible = [
        replace(FAST, more_words=0, starts=0),
        replace(FAST, more_words=10_000, starts=0),
        replace(FAST, starts=0),
        FAST,
        replace(STANDARD, words=0, more_words=30_000),
        replace(STANDARD, words=10_000, more_words=20_000),
        replace(STANDARD, more_words=0),
        replace(STANDARD, more_words=70_000),
        STANDARD,
        THOROUGH,
    ]
    affordable = [plan for plan in possible if plan.cost(tokens, kinds) <= seconds * rate]
    if affordable:
        return replace(affordable[-1], name=f"{seconds:g} s")
    part = [replace(FAST, more_words=0, starts=0, groups=groups) for groups in range(1, GROUPS)]
    affordable = [plan for plan in part if plan.cost(tokens, kinds) <= seconds * rate]
    return replace((affordable or part[:1])[-1], name=f"{seconds:g} s")
