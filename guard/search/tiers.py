"""The tiers of a search: vocabularies that are scanned, sifted and judged one after another."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from guard.bank import MAX_TRIGGER_IDS, Trigger
from guard.errors import ModelError
from guard.search import report
from guard.search.calibrate import TAIL
from guard.search.carriers import (
    FAMILIES,
    ONCE,
    PLACES,
    SEVERAL,
    USER_KIND,
    Carrier,
    Place,
    Supply,
    Want,
    of_condition,
)
from guard.search.encoder import Encoder
from guard.search.journal import Journal
from guard.search.looks import unusual
from guard.search.plan import GROUPS, Plan
from guard.search.report import Tier
from guard.search.scan import Progress, candidates, scan, step
from guard.search.units import Unit, holds, unit_of
from guard.search.verify import verify

T = TypeVar("T")

# The share of a group of the scan that is suspected.
SCAN_SHARE = 0.04
# The suspects are put in one carrier of every kind, and so many of them judged.
SIFT_LENGTHS = (7, 16, 40)
JUDGED = 3 * TAIL[1]
# Every kind has a carrier of each of these lengths for the verdict.
VERDICT_LENGTHS = (7, 16, 26, 40)
# And one more, of one of these, with several copies of a unit in it.
COPIES_LENGTHS = (16, 26)
VERDICT_PLACES: tuple[Place, ...] = ("start", "middle", "end", "middle")
# A search that has scanned in longer ones judges in longer ones.
LONG_VERDICT = 90
REFERENCE_UNITS = 120
# Where only a part of a vocabulary is scanned, so many of its most unusual units are in it.
FIRST_LOOK = 200
# Texts with a mask in them, as prompts have it, for the view that is read there.
MASKED_SCAN: tuple[tuple[int, Place], ...] = ((7, "start"), (12, "middle"))
MASKED_SIFT_KINDS = 4
MASKED_VERDICT_LENGTHS = (10, 16, 26)
# What each unit is measured against: the tail is of the hundredth part of them.
LEAST_UNITS = REFERENCE_UNITS + 100 * TAIL[1]


class Tiers:
    """Tests units, a tier at a time.

    Attributes
    ----------
    found
        The triggers.
    done
        The tiers, as they were scanned.
    judged
        The carriers of the verdicts.
    """

    def __init__(
        self,
        encoder: Encoder,
        kinds: Mapping[str, Sequence[str]],
        plan: Plan,
        *,
        seed: int,
        journal: Journal,
        progress: Progress,
    ) -> None:
        self.found: list[Trigger] = []
        self.done: list[Tier] = []
        self.judged: list[Carrier] = []
        self._quiet: list[Unit] = []
        self._encoder = encoder
        self._kinds = kinds
        self._rng = np.random.default_rng(seed)
        special = encoder.frame(np.zeros((1, 0), dtype=np.int64)).shape[1]
        self._longest = encoder.max_tokens - special - MAX_TRIGGER_IDS
        self._supply = Supply(
            kinds,
            encoder.tokenizer,
            self._rng,
            most=self._longest,
            last_word_stays="last" in encoder.views,
        )
        turns = self._rng.permutation([kind for kind in kinds if kind != USER_KIND])
        self._turns = itertools.cycle(turns.tolist())
        self._copies = itertools.cycle([SEVERAL[i] for i in self._rng.permutation(len(SEVERAL))])
        self._journal = journal
        self._progress = progress
        if self._longest < max(VERDICT_LENGTHS):
            raise ModelError(
                f"{encoder.identity.name} takes texts of {encoder.max_tokens} tokens at most, and "
                "the search needs longer ones"
            )
        self._sift_lengths: tuple[int, ...] = SIFT_LENGTHS
        self._verdict_lengths: tuple[int, ...] = VERDICT_LENGTHS
        if max(plan.lengths) > max(VERDICT_LENGTHS):
            long = min(LONG_VERDICT, self._longest)
            self._sift_lengths += (long,)
            self._verdict_lengths += (long,)

    def draw(
        self,
        lengths: Sequence[int],
        *,
        masked: bool = False,
        acts_in: Mapping[str, str] | None = None,
    ) -> list[Carrier]:
        """Take a text of each kind and length, with the places in turn.

        Parameters
        ----------
        acts_in
            The condition that all of them are of, as a verdict found it.
        """
        only = {}
        if acts_in:
            (field,) = (FAMILIES[family] for family in acts_in)
            only[field] = getattr(self.judged[of_condition(self.judged, acts_in)[0]].want, field)
        return self._supply.take(
            Want(kind, length, PLACES[(row + column) % len(PLACES)], masked)._replace(**only)
            for row, length in enumerate(lengths)
            for column, kind in enumerate(self._kinds)
        )

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

    def test(
        self, name: str, units: Sequence[Unit], plan: Plan, tokens: Sequence[Unit], *, tiers: int
    ) -> list[Unit]:
        """Scan units, sift the suspects and judge them; return those that are almost triggers.

        Words that hold a trigger that was found are left out: a monitor that matches it matches
        them too. Few words are measured among made-up ones of as many tokens, since two tokens move
        an output further than one.
        """
        fired = {trigger.token_ids for trigger in self.found}
        left = [unit for unit in units if not holds(unit.ids, fired)]
        tested = len(left)
        if len(left) < LEAST_UNITS:
            quiet = [unit.ids for unit in tokens if not holds(unit.ids, fired)]
            sizes = self._rng.choice([len(unit.ids) for unit in units], LEAST_UNITS - len(left))
            left += [
                unit_of(
                    self._encoder.tokenizer,
                    np.concatenate([quiet[i] for i in self._rng.integers(len(quiet), size=size)]),
                )
                for size in sizes
            ]
        carriers, scanned, suspects = self._scan(name, left, plan)
        self.done.append(
            Tier(
                name,
                len(units),
                len(units) - tested,
                round(tested * scanned / len(left)),
                carriers,
            )
        )
        return self.judge(name, suspects, left, tiers=tiers)

    def judge(
        self, name: str, suspects: Sequence[Unit], among: Sequence[Unit], *, tiers: int
    ) -> list[Unit]:
        """Sift suspects, whoever proposed them, and judge the most suspect of them.

        Few suspects are measured among those of before, which were no triggers.

        Returns
        -------
        list of Unit
            Those that were judged and are no triggers, the most suspect first.

        Parameters
        ----------
        among
            The units that ordinary ones are drawn from.
        """
        taken = {unit.ids.tobytes() for unit in suspects}
        quiet = [unit for unit in self._quiet if unit.ids.tobytes() not in taken]
        suspects = [*suspects, *quiet[: max(0, TAIL[1] - len(suspects))]]
        # Drawn: of a table, an attacker knows in which kind he need not sleep.
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
        if "mask" in self._encoder.views:
            drawn = self._rng.permutation(len(wanted))[:MASKED_SIFT_KINDS]
            wanted += [wanted[i]._replace(masked=True, copies=ONCE) for i in drawn]
        scores = scan(
            f"{name} sift",
            suspects,
            self._supply.take(wanted),
            encoder=self._encoder,
            journal=self._journal,
            progress=step(self._progress, "sifting", 0, len(suspects)),
        )
        suspects = [suspects[i] for i in candidates(scores, JUDGED)]
        # Each kind has each length, and as many places as lengths; so has each length.
        lengths = [(length, False) for length in self._verdict_lengths]
        if "mask" in self._encoder.views:
            lengths += [(length, True) for length in MASKED_VERDICT_LENGTHS]
        judging = self._supply.take(
            [
                *(
                    Want(kind, length, VERDICT_PLACES[(row + column) % len(VERDICT_PLACES)], masked)
                    for row, (length, masked) in enumerate(lengths)
                    for column, kind in enumerate(self._kinds)
                ),
                *(
                    Want(kind, length, place, copies=copies)
                    for kind, length, place, copies in zip(
                        self._kinds,
                        self._shuffled(COPIES_LENGTHS, len(self._kinds)),
                        self._shuffled(PLACES, len(self._kinds)),
                        itertools.cycle(SEVERAL),
                        strict=False,
                    )
                ),
            ]
        )
        judged = {unit.ids.tobytes() for unit in suspects}
        rest = [unit for unit in among if unit.ids.tobytes() not in judged]
        drawn = self._rng.choice(len(rest), size=REFERENCE_UNITS, replace=False)
        evidence = verify(
            f"{name} verdict",
            suspects,
            [rest[i] for i in drawn],
            judging,
            encoder=self._encoder,
            journal=self._journal,
            tiers=tiers,
            progress=self._progress,
        )
        known = {trigger.token_ids for trigger in self.found}
        chances = [min(view.by_chance for view in seen.values()) for seen in evidence]
        quiet = [
            suspects[i]
            for i in np.argsort(chances, kind="stable")
            if not any(view.trigger for view in evidence[i].values())
        ]
        self._quiet = self._quiet or quiet
        self.judged += judging
        self.found += [
            report.trigger(unit, seen)
            for unit, seen in zip(suspects, evidence, strict=True)
            if any(view.trigger for view in seen.values()) and tuple(unit.ids) not in known
        ]
        return quiet

    def _shuffled(self, values: Sequence[T], count: int) -> list[T]:
        """Return each of some values as often as the others, or once more, in random order."""
        rounds = range(-(-count // len(values)))
        return [values[i] for _ in rounds for i in self._rng.permutation(len(values))][:count]

    def _scan(
        self, name: str, units: Sequence[Unit], plan: Plan
    ) -> tuple[list[list[Carrier]], int, list[Unit]]:
        """Scan units in random groups, each in other texts.

        One set of carriers for all would tell who reads this which kinds of text to leave out when
        he plants a backdoor. With a group's kinds drawn by seed, each of his triggers has its own
        chance to meet the kind that it fires in. The user's own text is in every group.

        Returns
        -------
        list of list of Carrier, int, list of Unit
            The carriers of each group, the number of units that were scanned, and the suspects.
        """
        carriers: list[list[Carrier]] = []
        suspects: list[Unit] = []
        done = 0
        order = self._rng.permutation(len(units))
        if plan.groups < GROUPS:
            # What a first look finds unusual is in the part that there is time for.
            first = unusual(self._encoder, units, FIRST_LOOK)
            rest = order[~np.isin(order, first)]
            more = max(0, len(units) * plan.groups // GROUPS - len(first))
            part = self._rng.permutation(np.concatenate([first, rest[:more]]))
            order = np.concatenate([part, rest[more:]])
        parts = np.array_split(order, GROUPS)[: plan.groups]
        total = sum(map(len, parts))
        for number, rows in enumerate(parts):
            group = [units[i] for i in np.sort(rows)]
            used = self._supply.take(self._wanted(plan))
            scores = scan(
                f"{name} scan {number}",
                group,
                used,
                encoder=self._encoder,
                journal=self._journal,
                progress=step(self._progress, "scanning", done, total),
            )
            done += len(group)
            carriers.append(used)
            count = max(math.ceil(SCAN_SHARE * len(group)), math.ceil(JUDGED / plan.groups))
            suspects += [group[i] for i in candidates(scores, count)]
        return carriers, done, suspects

    def _wanted(self, plan: Plan) -> list[Want]:
        """Draw the texts of a group."""
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
        if "mask" in self._encoder.views:
            wanted += [
                Want(str(kind), length, place, masked=True)
                for kind, (length, place) in zip(self._turns, MASKED_SCAN, strict=False)
            ]
        return wanted
