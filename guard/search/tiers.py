"""The tiers of a search: vocabularies that are scanned, sifted and judged one after another."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from guard.bank import Trigger
from guard.search import report
from guard.search.calibrate import TAIL
from guard.search.carriers import FAMILIES, Carrier, Place, of_condition
from guard.search.encoder import Encoder
from guard.search.journal import Journal
from guard.search.looks import unusual
from guard.search.ordinary import made_up, padding
from guard.search.plan import GROUPS, Plan
from guard.search.report import Tier, acts_in
from guard.search.scan import Progress, foremost, scan, step
from guard.search.shorten import parts_of
from guard.search.texts import Texts
from guard.search.units import Unit, holds
from guard.search.verify import FLOOD, verify
from guard.search.views import View

# The share of a group of the scan that is suspected.
SCAN_SHARE = 0.04
# The suspects are sifted, and so many of them judged.
JUDGED = 3 * TAIL[1]
REFERENCE_UNITS = 120
# Where only a part of a vocabulary is scanned, so many of its most unusual units are in it.
FIRST_LOOK = 200
# What each unit is measured against: the tail is of the hundredth part of them.
LEAST_UNITS = REFERENCE_UNITS + 100 * TAIL[1]
# Of the texts that a finding is tried in, on its way to its smallest part and its variants.
_LENGTHS = (14, 26)

# A part that so many findings share, and that does what they do, is found with them: an attacker
# can keep a token just below what is named, and not all that holds it.
SHARED = 5

# Units of a scan, and their indices, the most suspect first.
Ranked = tuple[Sequence[Unit], npt.NDArray[np.int64]]


def suspected(count: int, groups: int) -> int:
    """Return how many units of one of so many groups are suspected."""
    return max(math.ceil(SCAN_SHARE * count), math.ceil(JUDGED / groups))


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
        self._where_it_acts: dict[tuple[bool, str], list[Carrier]] = {}
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
        place: Place | None = None,
        acts_in: Mapping[str, str] | None = None,
    ) -> list[Carrier]:
        """Take a text of each kind and length, with the places in turn.

        Parameters
        ----------
        place
            That of all of them.
        acts_in
            The condition that all of them are of, as a verdict found it.
        """
        only: dict[str, Any] = {} if place is None else {"place": place}
        if acts_in:
            (field,) = (FAMILIES[family] for family in acts_in)
            only[field] = getattr(self.judged[of_condition(self.judged, acts_in)[0]].want, field)
        return self._texts.of_lengths(lengths, masked=masked, only=only)

    def where_it_acts(self, trigger: Trigger) -> tuple[list[Carrier], View]:
        """Return texts, and the first output, in which a finding does what it does.

        Elsewhere it does what any unit does.
        """
        view = cast(View, trigger.view.split("+")[0])
        where = acts_in(trigger)
        key = view == "mask", str(where)
        if key not in self._where_it_acts:
            self._where_it_acts[key] = self.draw(_LENGTHS, masked=view == "mask", acts_in=where)
        return self._where_it_acts[key], view

    def test(
        self, name: str, units: Sequence[Unit], plan: Plan, tokens: Sequence[Unit], *, tiers: int
    ) -> list[Unit]:
        """Scan units, sift the suspects and judge them; return those that are almost triggers.

        Words that hold a trigger that was found are left out: a monitor that matches it matches
        them too. Where very many words share a piece that fires, they take the places of others
        among the judged: once the piece is found, the next most suspect are judged as well.
        """
        left = self._quiet_of(units)
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
            almost = self.judge(f"{name} {turn}", suspects, left, tokens, tiers=tiers)
            fired = self._fired
            hold = [u for u in suspects if tuple(u.ids) not in fired and holds(u.ids, fired)]
            if len(hold) <= FLOOD or len(fired) > FLOOD:
                break
            left = self._enough(self._quiet_of(left), units, tokens)
        return almost

    def judge(
        self,
        name: str,
        suspects: Sequence[Unit],
        among: Sequence[Unit],
        tokens: Sequence[Unit],
        *,
        tiers: int,
        climbed: bool = False,
    ) -> list[Unit]:
        """Sift suspects, whoever proposed them, judge the most suspect, and shorten what is found.

        Few suspects are measured among those of before, which were no triggers.

        Returns
        -------
        list of Unit
            Those that were judged and are no triggers, the most suspect first.

        Parameters
        ----------
        among
            The units that ordinary ones are drawn from.
        tokens
            The same, of the smallest parts of findings.
        climbed
            Whether the suspects are what one finds who looks for what moves texts most: no random
            units are their like, so that they are held to the one rule that asks for none, and in
            texts that hold them once.
        """
        before = len(self.found)
        proposed = {tuple(unit.ids.tolist()) for unit in suspects}
        quiet = self._verdict(name, suspects, among, tiers, climbed=climbed)
        several = [trigger for trigger in self.found[before:] if len(trigger.token_ids) > 1]
        parts = parts_of(
            f"{name} shortening",
            several,
            self.where_it_acts,
            encoder=self._encoder,
            journal=self._journal,
            progress=step(self._progress, "shortening", 0, len(several)),
        )
        fresh = [p for p in parts if tuple(p.unit.ids) not in self._fired]
        if fresh:
            sure = {p.unit.ids.tobytes(): p.view for p in fresh if len(p.findings) >= SHARED}
            units = [p.unit for p in fresh]
            self._verdict(f"{name}, shortened", units, tokens, 1, sure, climbed=climbed)
        fired = self._fired
        explained = {f for p in parts if tuple(p.unit.ids.tolist()) in fired for f in p.findings}
        self.found = [
            trigger
            for trigger in self.found
            # A climbed sequence that all of its tokens are needed for is no string of anybody's.
            if trigger.token_ids not in explained | (proposed if climbed else set())
            and not holds(trigger.token_ids, fired - {trigger.token_ids})
        ]
        return quiet

    @property
    def _fired(self) -> set[tuple[int, ...]]:
        return {trigger.token_ids for trigger in self.found}

    def _verdict(
        self,
        name: str,
        suspects: Sequence[Unit],
        among: Sequence[Unit],
        tiers: int,
        sure: Mapping[bytes, View] = MappingProxyType({}),
        *,
        climbed: bool = False,
    ) -> list[Unit]:
        """Sift and judge; what is ``sure``, by its ids as bytes, is found in any case.

        Its view is said, for where it passes in none.
        """
        proposed = {unit.ids.tobytes() for unit in suspects}
        ordinary = self._quiet_of(among)
        lacking = TAIL[1] - len(suspects)
        suspects = [
            *suspects,
            *padding(proposed, self._quiet, ordinary, lacking, rng=self._rng),
        ]
        scores = scan(
            f"{name} sift",
            suspects,
            self._texts.of_sift(),
            encoder=self._encoder,
            journal=self._journal,
            progress=step(self._progress, "sifting", 0, len(suspects)),
        )
        chosen = set(foremost(scores)[:JUDGED].tolist())
        suspects = [u for i, u in enumerate(suspects) if i in chosen or u.ids.tobytes() in sure]
        judging = self._texts.of_verdict()
        judged = {unit.ids.tobytes() for unit in suspects}
        rest = [unit for unit in ordinary if unit.ids.tobytes() not in judged]
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
        chances = [min(view.by_chance for view in seen.values()) for seen in evidence]
        fires = [
            any(view.gathers_once if climbed else view.trigger for view in seen.values())
            or unit.ids.tobytes() in sure
            for unit, seen in zip(suspects, evidence, strict=True)
        ]
        own = [i for i, unit in enumerate(suspects) if unit.ids.tobytes() in proposed]
        quiet = [suspects[i] for i in sorted(own, key=lambda i: chances[i]) if not fires[i]]
        if len(self._quiet) < TAIL[1] and not climbed:
            self._quiet += quiet
        self.judged += judging
        known = self._fired
        self.found += [
            report.trigger(suspects[i], evidence[i], sure.get(suspects[i].ids.tobytes()))
            for i in own
            if fires[i] and tuple(suspects[i].ids) not in known
        ]
        return quiet

    def _quiet_of(self, units: Sequence[Unit]) -> list[Unit]:
        """Return the units that hold no finding."""
        fired = self._fired
        return [unit for unit in units if not holds(unit.ids, fired)]

    def _enough(
        self, left: Sequence[Unit], units: Sequence[Unit], tokens: Sequence[Unit]
    ) -> list[Unit]:
        """Return what is left of units, and made-up ones of as many tokens where that is little."""
        lacking = LEAST_UNITS - len(left)
        if lacking <= 0:
            return list(left)
        quiet, tokenizer = self._quiet_of(tokens), self._encoder.tokenizer
        return [*left, *made_up(units, quiet, lacking, tokenizer=tokenizer, rng=self._rng)]

    def _suspects(self, groups: Sequence[Ranked]) -> list[Unit]:
        """Return the most suspect of each group of a scan, of those that hold no finding."""
        fired = self._fired
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
