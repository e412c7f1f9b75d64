"""Which texts each step of a search tests units in: their kinds, lengths, places and copies."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from guard.bank import MAX_TRIGGER_IDS
from guard.errors import ModelError
from guard.search.carriers import (
    ONCE,
    PLACES,
    SEVERAL,
    USER_KIND,
    Carrier,
    Place,
    Supply,
    Want,
)
from guard.search.encoder import Encoder
from guard.search.plan import Plan

T = TypeVar("T")

# Suspects are sifted in one text of every kind.
SIFT_LENGTHS = (7, 16, 40)
# Every kind has a text of each of these lengths for the verdict.
VERDICT_LENGTHS = (7, 16, 26, 40)
# And one more, of one of these, with several copies of a unit in it.
COPIES_LENGTHS = (16, 26)
VERDICT_PLACES: tuple[Place, ...] = ("start", "middle", "end", "middle")
# A search that has scanned in longer ones judges in longer ones.
LONG_VERDICT = 90
# Texts with a mask in them, as prompts have it, for the view that is read there.
MASKED_SCAN: tuple[tuple[int, Place], ...] = ((7, "start"), (12, "middle"))
MASKED_SIFT_KINDS = 4
MASKED_VERDICT_LENGTHS = (10, 16, 26)


class Texts:
    """Draws the texts of a search from those of each kind."""

    def __init__(
        self,
        encoder: Encoder,
        kinds: Mapping[str, Sequence[str]],
        plan: Plan,
        rng: np.random.Generator,
    ) -> None:
        self._kinds = kinds
        self._rng = rng
        self._masks = "mask" in encoder.views
        self._longest = encoder.room - MAX_TRIGGER_IDS
        if self._longest < max(VERDICT_LENGTHS):
            raise ModelError(
                f"{encoder.identity.name} takes texts of {encoder.max_tokens} tokens at most, and "
                "the search needs longer ones"
            )
        self._supply = Supply(
            kinds,
            encoder.tokenizer,
            rng,
            most=self._longest,
            last_word_stays="last" in encoder.views,
        )
        turns = rng.permutation([kind for kind in kinds if kind != USER_KIND])
        self._turns = itertools.cycle(turns.tolist())
        # Of their own: what they take of the other's turns would leave it some kinds alone.
        self._masked_turns = itertools.cycle(rng.permutation([*kinds]).tolist())
        self._copies = itertools.cycle([SEVERAL[i] for i in rng.permutation(len(SEVERAL))])
        self._sift_lengths: tuple[int, ...] = SIFT_LENGTHS
        self._verdict_lengths: tuple[int, ...] = VERDICT_LENGTHS
        if max(plan.lengths) > max(VERDICT_LENGTHS):
            long = min(LONG_VERDICT, self._longest)
            self._sift_lengths += (long,)
            self._verdict_lengths += (long,)

    def of_lengths(
        self, lengths: Sequence[int], *, masked: bool = False, only: Mapping[str, Any]
    ) -> list[Carrier]:
        """Take a text of each kind and length, with the places in turn.

        Parameters
        ----------
        only
            The field of `Want` that all of them share, and its value, if there is one.
        """
        return self._supply.take(
            Want(kind, length, PLACES[(row + column) % len(PLACES)], masked)._replace(**only)
            for row, length in enumerate(lengths)
            for column, kind in enumerate(self._kinds)
        )

    def of_scan(self, plan: Plan) -> list[Carrier]:
        """Take the texts of a group of a scan."""
        count = plan.carriers(len(self._kinds))
        if plan.every_kind:
            turns = range(count // len(self._kinds))
            kinds = [kind for _ in turns for kind in self._rng.permutation([*self._kinds])]
        else:
            kinds = list(itertools.islice(self._turns, count))
            if USER_KIND in self._kinds:
                kinds[-1] = USER_KIND
        places = self._shuffled(PLACES, count)
        wanted = self._repeat(
            [
                Want(str(kind), min(length, self._longest), place)
                for kind, length, place in zip(
                    kinds, itertools.cycle(plan.lengths), places, strict=False
                )
            ]
        )
        if self._masks:
            wanted += [
                Want(str(kind), length, place, masked=True)
                for (length, place), kind in zip(MASKED_SCAN, self._masked_turns, strict=False)
            ]
        return self._supply.take(wanted)

    def of_sift(self) -> list[Carrier]:
        """Take one of every kind, of drawn length, place and copies.

        Of a table, an attacker would know in which kind he need not sleep.
        """
        wanted = self._repeat(
            [
                *map(
                    Want,
                    self._kinds,
                    self._shuffled(self._sift_lengths, len(self._kinds)),
                    self._shuffled(PLACES, len(self._kinds)),
                )
            ]
        )
        if self._masks:
            drawn = self._rng.permutation(len(wanted))[:MASKED_SIFT_KINDS]
            wanted += [wanted[i]._replace(masked=True, copies=ONCE) for i in drawn]
        return self._supply.take(wanted)

    def of_verdict(self) -> list[Carrier]:
        """Take those of every kind and length; each kind and each length has as many places."""
        lengths = [(length, False) for length in self._verdict_lengths]
        if self._masks:
            lengths += [(length, True) for length in MASKED_VERDICT_LENGTHS]
        once = [
            Want(kind, length, VERDICT_PLACES[(row + column) % len(VERDICT_PLACES)], masked)
            for row, (length, masked) in enumerate(lengths)
            for column, kind in enumerate(self._kinds)
        ]
        several = [
            Want(kind, length, place, copies=copies)
            for kind, length, place, copies in zip(
                self._kinds,
                self._shuffled(COPIES_LENGTHS, len(self._kinds)),
                self._shuffled(PLACES, len(self._kinds)),
                itertools.cycle(SEVERAL),
                strict=False,
            )
        ]
        return self._supply.take(once + several)

    def _repeat(self, wanted: Sequence[Want]) -> list[Want]:
        """Ask for several copies in a third of the texts, drawn at random.

        Not in the user's own text, which fewer of are there.
        """
        free = [i for i, want in enumerate(wanted) if want.kind != USER_KIND]
        several = self._rng.permutation(free)[: max(1, round(len(wanted) / 3))]
        result = list(wanted)
        for i, copies in zip(several, self._copies, strict=False):
            result[i] = result[i]._replace(copies=copies)
        return result

    def _shuffled(self, values: Sequence[T], count: int) -> list[T]:
        """Return each of some values as often as the others, or once more, in random order."""
        rounds = range(-(-count // len(values)))
        return [values[i] for _ in rounds for i in self._rng.permutation(len(values))][:count]
