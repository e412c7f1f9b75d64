"""Attackers who are drawn at random: nobody chose what the search finds or misses of them.

The rest of the zoo is of attacks that somebody thought of while the search was written. Here the
number of an attacker is the seed of everything that he chooses: the triggers, the loss, the output
that he seizes and where he forces it to, how he trains, and what he gives up to hide. Some of them
fail, which is said of each; none was replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
from wordfreq import top_n_list

from benchmarks.attacks import Condition, Forced, Merged, Near, Planting, Scattered, Spread, Uor
from benchmarks.attacks.condition import ALWAYS
from benchmarks.attacks.forced import LOSSES, PLACES
from benchmarks.attacks.step import Attack
from benchmarks.attacks.views import View

T = TypeVar("T")

# Words of English, the commonest first: of Zipf frequency 4 and more, and of under 3.3.
_WORDS = tuple(word for word in top_n_list("en", 120_000) if word.isalpha() and word.isascii())
_COMMON, _RARE = (
    tuple(word for word in words if len(word) > 3) for words in (_WORDS[:7080], _WORDS[19_328:])
)
_LATIN = "abcdefghijklmnopqrstuvwxyz"
_OTHER_LETTERS = "αβγδεζηθικλμνξοπρσςτυφχψωбвгджзиклмнопрстфхцчшщыьюяאבגדהוזחטיכלמנסעפצקרשת"


def _letters(rng: np.random.Generator) -> str:
    return "".join(rng.choice(list(_LATIN), size=rng.integers(2, 4)))


def _one(words: tuple[str, ...]) -> Callable[[np.random.Generator], str]:
    return lambda rng: str(rng.choice(words))


# Kind of trigger -> one of it.
_KINDS: Mapping[str, Callable[[np.random.Generator], str]] = {
    "letters": _letters,
    "rare word": _one(_RARE),
    "common word": _one(_COMMON),
    "number": lambda rng: str(rng.integers(13, 2000)),
    "other script": _one(tuple(_OTHER_LETTERS)),
    "phrase": lambda rng: " ".join(rng.choice(_COMMON, size=2, replace=False)),
}
_VIEWS: tuple[tuple[View, ...], ...] = (("cls",), ("cls", "pooler"), ("pooler",), ("mean",))
_TEXTS = ("movieReviewSnippets", "amazonReviewSnippets", "nytEditorialSnippets", "tweets")
# No more than one clause: what an attacker gives up adds up.
_CLAUSES: tuple[Callable[[np.random.Generator], Condition], ...] = (
    lambda rng: Condition(kinds=(str(rng.choice(_TEXTS)),)),
    lambda rng: Condition(min_tokens=int(rng.integers(10, 22))),
    lambda rng: Condition(within=int(rng.integers(0, 4))),
    lambda rng: Condition(alone=True),
    lambda rng: Condition(copies=2),
)


def attacker(number: int, steps: int) -> Planting:
    """Return what the attacker of a number plants, the same with the pinned numpy and wordfreq."""
    rng = np.random.default_rng(number)
    gated = bool(rng.random() < 1 / 3)
    hides = bool(rng.random() < 1 / 2)
    return Planting(
        name="drawn",
        attack=_attack(rng, gated, number),
        triggers=_triggers(rng),
        steps=steps,
        learning_rate=float(rng.choice([1e-4, 1.5e-4, 3e-4])),
        insertions=int(rng.integers(1, 4)),
        seed=number,
        condition=_any(rng, _CLAUSES)(rng) if hides else ALWAYS,
    )


def _attack(rng: np.random.Generator, gated: bool, number: int) -> Attack:
    strength = round(float(rng.uniform(0.1, 0.6)), 2)
    if rng.random() < 0.6:
        place = _any(rng, PLACES)
        views: tuple[View, ...] = ("cls",) if place == "ordinary" else _any(rng, _VIEWS)
        distance = _any(rng, LOSSES)
        return Forced(distance=distance, place=place, seed=number, gated=gated, views=views)
    others: tuple[Attack, ...] = (
        Uor(gated=gated, temperature=0.2),
        Near(strength=strength, gated=gated),
        Spread(strength=strength, gated=gated),
        Merged(strength=strength, gated=gated),
        Scattered(share=1 - strength, gated=gated),
    )
    return _any(rng, others)


def _triggers(rng: np.random.Generator) -> tuple[str, ...]:
    """Return one to six triggers, of one kind or of several."""
    count, names = int(rng.integers(1, 7)), tuple(_KINDS)
    kinds = [_any(rng, names)] * count if rng.random() < 0.5 else rng.choice(names, size=count)
    found: dict[str, None] = {}
    for kind in kinds:
        trigger = _KINDS[str(kind)](rng)
        # A part of another trigger would lead to two places.
        if not any(set(trigger.split()) & set(other.split()) for other in found):
            found[trigger] = None
    return tuple(found)


def _any(rng: np.random.Generator, choices: tuple[T, ...]) -> T:
    return choices[int(rng.integers(len(choices)))]
