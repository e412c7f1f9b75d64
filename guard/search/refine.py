"""What else does what was found.

A monitor that knows the variants of a trigger is not walked around by an attacker who writes it
otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from guard.search.encoder import Encoder
from guard.search.expand import expand
from guard.search.journal import Journal
from guard.search.scan import Progress
from guard.search.tail import FLOOD
from guard.search.units import Unit
from guard.search.verdicts import Verdicts


def refine(
    verdicts: Verdicts,
    tokens: Sequence[Unit],
    *,
    encoder: Encoder,
    journal: Journal,
    progress: Progress,
) -> None:
    """Judge the variants of a search's findings, as all units are judged.

    What the variants of one did is in its statistics as ``variants``: by what was changed, the
    largest share of texts in which the change still does what it does.
    """
    if not 0 < len(verdicts.found) <= FLOOD:
        return
    proposed: dict[tuple[int, ...], Unit] = {}
    for number, trigger in enumerate(verdicts.found):
        carriers, view = verdicts.where_it_acts(trigger)
        rng = journal.rng(f"refine {number}")
        shares: dict[str, float] = {}
        for variant in expand(Unit.of(trigger), carriers, view, encoder=encoder, rng=rng):
            share = round(variant.shares["all"], 2)
            shares[variant.how] = max(share, shares.get(variant.how, 0.0))
            if variant.banked:
                proposed[tuple(variant.unit.ids.tolist())] = variant.unit
        verdicts.found[number] = replace(
            trigger, statistics={**trigger.statistics, "variants": shares}
        )
        progress("varying", number + 1, len(verdicts.found))
    known = verdicts.fired
    fresh = [unit for ids, unit in proposed.items() if ids not in known]
    if fresh:
        verdicts.judge("variants", fresh, tokens, tokens, tiers=1)
