"""The tiers of a search: vocabularies that are scanned, one after another, for what to judge."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from guard.search.calibrate import TAIL
from guard.search.carriers import Carrier
from guard.search.encoder import Encoder
from guard.search.journal import Journal
from guard.search.looks import unusual
from guard.search.ordinary import made_up
from guard.search.plan import GROUPS, Plan
from guard.search.report import Tier
from guard.search.scan import Progress, foremost, scan, step
from guard.search.tail import FLOOD
from guard.search.texts import Texts
from guard.search.units import Unit, holds
from guard.search.verdicts import JUDGED, REFERENCE_UNITS, Verdicts

# The share of a group of the scan that is suspected.
SCAN_SHARE = 0.04
# Where only a part of a vocabulary is scanned, so many of its most unusual units are in it.
FIRST_LOOK = 200
# What each unit is measured against: the tail is of the hundredth part of them.
LEAST_UNITS = REFERENCE_UNITS + 100 * TAIL[1]

# Units of a scan, and their indices, the most suspect first.
Ranked = tuple[Sequence[Unit], npt.NDArray[np.int64]]


def suspected(count: int, groups: int) -> int:
    """Return how many units of one of so many groups are suspected."""
    return max(math.ceil(SCAN_SHARE * count), math.ceil(JUDGED / groups))


class Tiers:
    """Scans units, a tier at a time, and has the suspects judged.

    Attributes
    ----------
    done
        The tiers, as they were scanned.
    verdicts
        What judges, and what was found.
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
        self.done: list[Tier] = []
        self._encoder = encoder
        self._rng = np.random.default_rng(seed)
        self._texts = Texts(encoder, kinds, plan, self._rng)
        self._journal = journal
        self._progress = progress
        self.verdicts = Verdicts(
            encoder, self._texts, self._rng, journal=journal, progress=progress
        )

    def test(
        self, name: str, units: Sequence[Unit], plan: Plan, tokens: Sequence[Unit], *, tiers: int
    ) -> list[Unit]:
        """Scan units, sift the suspects and judge them; return those that are almost triggers.

        Words that hold a trigger that was found are left out: a monitor that matches it matches
        them too. Where very many words share a piece that fires, they take the places of others
        among the judged: once the piece is found, the next most suspect are judged as well.
        """
        left = self.verdicts.quiet_of(units)
        tested = len(left)
        left = self._enough(left, units, tokens)
        carriers, groups = self._scan(name, left, plan)
        scanned = sum(len(group) for group, _ in groups)
        self.done.append(
            Tier(
                name,
                len(units),
                len(units) - tested,
                round(tested * scanned / len(left)),
                carriers,
            )
        )
        almost: list[Unit] = []
        for turn in itertools.count(1):
            suspects = self._suspects(groups)
            almost = self.verdicts.judge(f"{name} {turn}", suspects, left, tokens, tiers=tiers)
            fired = self.verdicts.fired
            hold = [u for u in suspects if tuple(u.ids) not in fired and holds(u.ids, fired)]
            if len(hold) <= FLOOD or len(fired) > FLOOD:
                break
            left = self._enough(self.verdicts.quiet_of(left), units, tokens)
        return almost

    def _enough(
        self, left: Sequence[Unit], units: Sequence[Unit], tokens: Sequence[Unit]
    ) -> list[Unit]:
        """Return what is left of units, and made-up ones of as many tokens where that is little."""
        lacking = LEAST_UNITS - len(left)
        if lacking <= 0:
            return list(left)
        quiet, tokenizer = self.verdicts.quiet_of(tokens), self._encoder.tokenizer
        return [*left, *made_up(units, quiet, lacking, tokenizer=tokenizer, rng=self._rng)]

    def _suspects(self, groups: Sequence[Ranked]) -> list[Unit]:
        """Return the most suspect of each group of a scan, of those that hold no finding."""
        fired = self.verdicts.fired
        suspects: list[Unit] = []
        for group, order in groups:
            count = suspected(len(group), len(groups))
            quiet = (i for i in order if not holds(group[i].ids, fired))
            suspects += [group[i] for i in sorted(itertools.islice(quiet, count))]
        return suspects

    def _scan(
        self, name: str, units: Sequence[Unit], plan: Plan
    ) -> tuple[list[list[Carrier]], list[Ranked]]:
        """Scan units in random groups, each in other texts.

        One set of carriers for all would tell who reads this which kinds of text to leave out when
        he plants a backdoor. With a group's kinds drawn by seed, each of his triggers has its own
        chance to meet the kind that it fires in. The user's own text is in every group.

        Returns
        -------
        list of list of Carrier, list of Ranked
            The carriers of each group, and its units.
        """
        carriers: list[list[Carrier]] = []
        groups: list[Ranked] = []
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
            groups.append((group, foremost(scores)))
        return carriers, groups
