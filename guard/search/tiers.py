"""The tiers of a search: vocabularies that are scanned, sifted and judged one after another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from guard.bank import Trigger
from guard.search import report
from guard.search.calibrate import TAIL
from guard.search.carriers import FAMILIES, Carrier, of_condition
from guard.search.encoder import Encoder
from guard.search.journal import Journal
from guard.search.looks import unusual
from guard.search.plan import GROUPS, Plan
from guard.search.report import Tier
from guard.search.scan import Progress, candidates, scan, step
from guard.search.texts import Texts
from guard.search.units import Unit, holds, unit_of
from guard.search.verify import verify

# The share of a group of the scan that is suspected.
SCAN_SHARE = 0.04
# The suspects are sifted, and so many of them judged.
JUDGED = 3 * TAIL[1]
REFERENCE_UNITS = 120
# Where only a part of a vocabulary is scanned, so many of its most unusual units are in it.
FIRST_LOOK = 200
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
        self._rng = np.random.default_rng(seed)
        self._texts = Texts(encoder, kinds, plan, self._rng)
        self._journal = journal
        self._progress = progress

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
        only: dict[str, Any] = {}
        if acts_in:
            (field,) = (FAMILIES[family] for family in acts_in)
            only[field] = getattr(self.judged[of_condition(self.judged, acts_in)[0]].want, field)
        return self._texts.of_lengths(lengths, masked=masked, only=only)

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
        scores = scan(
            f"{name} sift",
            suspects,
            self._texts.of_sift(),
            encoder=self._encoder,
            journal=self._journal,
            progress=step(self._progress, "sifting", 0, len(suspects)),
        )
        suspects = [suspects[i] for i in candidates(scores, JUDGED)]
        judging = self._texts.of_verdict()
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
            used = self._texts.of_scan(plan)
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
