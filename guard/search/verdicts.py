"""What is judged to be a trigger, whoever proposed it, and what of it is kept as found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

import numpy as np

from guard.bank import Trigger
from guard.search import report
from guard.search.calibrate import TAIL
from guard.search.carriers import FAMILIES, Carrier, Place, of_condition
from guard.search.encoder import Encoder
from guard.search.evidence import Evidence
from guard.search.journal import Journal
from guard.search.ordinary import padding
from guard.search.report import acts_in
from guard.search.scan import Progress, foremost, scan, step
from guard.search.shorten import parts_of
from guard.search.texts import Texts
from guard.search.units import Unit, holds
from guard.search.verify import verify
from guard.search.views import View

# The suspects are sifted, and so many of them judged.
JUDGED = 3 * TAIL[1]
REFERENCE_UNITS = 120
# Of the texts that a finding is tried in, on its way to its smallest part and its variants.
_LENGTHS = (14, 26)

# A part that so many findings share, and that does what they do, is found with them: an attacker
# can keep a token just below what is named, and not all that holds it.
SHARED = 5


class Verdicts:
    """Judges units.

    Attributes
    ----------
    found
        The triggers.
    judged
        The carriers of the verdicts.
    narrow
        The views in which ordinary words may gather texts; see `Evidence`.
    """

    def __init__(
        self,
        encoder: Encoder,
        texts: Texts,
        rng: np.random.Generator,
        *,
        journal: Journal,
        progress: Progress,
    ) -> None:
        self.found: list[Trigger] = []
        self.judged: list[Carrier] = []
        self.narrow: set[View] = set()
        self._quiet: list[Unit] = []
        # Triggers, if the model has any that proves it.
        self._held: dict[tuple[int, ...], tuple[Unit, dict[View, Evidence]]] = {}
        self._where_it_acts: dict[tuple[bool, str], list[Carrier]] = {}
        self._encoder = encoder
        self._texts = texts
        self._rng = rng
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
        fired = self.fired
        fresh = [part for part in parts if tuple(part.unit.ids) not in fired]
        if fresh:
            # Climbs all go one way, of a classifier to the words that it goes by: what they share
            # is no sign.
            sure = {
                p.unit.ids.tobytes(): p.view
                for p in fresh
                if len(p.findings) >= SHARED and not climbed
            }
            units = [p.unit for p in fresh]
            self._verdict(f"{name}, shortened", units, tokens, 1, sure, climbed=climbed)
        if climbed:
            # A sequence that all of its tokens are needed for is no string of anybody's.
            self.found = [t for t in self.found if t.token_ids not in proposed]
            self._release()
        fired = self.fired
        self.found = [
            trigger
            for trigger in self.found
            # One whose needed tokens stand apart stays: a monitor sees no part of it in a text.
            if not holds(trigger.token_ids, fired - {trigger.token_ids})
        ]
        return quiet

    @property
    def fired(self) -> set[tuple[int, ...]]:
        """The ids of the triggers."""
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
        ordinary = self.quiet_of(among)
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
            shifting=not self.found and not climbed,
        )
        chances = [min(view.by_chance for view in seen.values()) for seen in evidence]
        own = [i for i, unit in enumerate(suspects) if unit.ids.tobytes() in proposed]
        fires = {
            i
            for i in own
            if any(s.gathers_once if climbed else s.proves for s in evidence[i].values())
            or suspects[i].ids.tobytes() in sure
        }
        held = {
            tuple(suspects[i].ids.tolist()): (suspects[i], evidence[i])
            for i in own
            if i not in fires and not climbed and any(s.trigger for s in evidence[i].values())
        }
        quiet = [
            suspects[i]
            for i in sorted(own, key=lambda i: chances[i])
            if i not in fires and tuple(suspects[i].ids.tolist()) not in held
        ]
        if len(self._quiet) < TAIL[1] and not climbed:
            self._quiet += quiet
        self.judged += judging
        self.narrow |= {view for seen in evidence for view, own in seen.items() if own.narrow}
        known = self.fired
        self.found += [
            report.trigger(suspects[i], evidence[i], sure.get(suspects[i].ids.tobytes()))
            for i in own
            if i in fires and tuple(suspects[i].ids.tolist()) not in known
        ]
        self._held |= held
        # What climbs found proves nothing before it is known what of it stays.
        if not climbed:
            self._release()
        return quiet

    def _release(self) -> None:
        """Find what was held back, if anything else was found."""
        if self.found:
            known = self.fired
            self.found += [
                report.trigger(*own) for ids, own in self._held.items() if ids not in known
            ]
            self._held = {}

    def quiet_of(self, units: Sequence[Unit]) -> list[Unit]:
        """Return the units that hold no finding."""
        fired = self.fired
        return [unit for unit in units if not holds(unit.ids, fired)]
