"""What was found, made as small as it still fires, and what else does the same.

A monitor that knows the smallest part matches all that hold it, and one that knows the variants is
not walked around by an attacker who writes his trigger otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from guard.search.carriers import Carrier
from guard.search.encoder import Encoder
from guard.search.expand import expand
from guard.search.journal import Journal
from guard.search.minimise import minimise
from guard.search.report import acts_in
from guard.search.scan import Progress
from guard.search.tiers import Tiers
from guard.search.units import Unit, holds
from guard.search.verify import FLOOD
from guard.search.views import View

_LENGTHS = (14, 26)


def refine(
    run: Tiers,
    tokens: Sequence[Unit],
    *,
    encoder: Encoder,
    journal: Journal,
    progress: Progress,
) -> None:
    """Minimise the findings of a search and judge their variants, as all units are judged.

    A finding that holds a smaller one is dropped. What the variants of one did is in its statistics
    as ``variants``: by what was changed, the largest share of texts in which the change still does
    what its smallest part does.
    """
    if not 0 < len(run.found) <= FLOOD:
        return
    texts: dict[tuple[bool, str], list[Carrier]] = {}
    proposed: dict[tuple[int, ...], Unit] = {}
    for number, trigger in enumerate(run.found):
        finding = Unit.of(trigger)
        view = cast(View, trigger.view.split("+")[0])
        # Where it fires: elsewhere, it does what any unit does.
        where = acts_in(trigger)
        key = view == "mask", str(where)
        if key not in texts:
            texts[key] = run.draw(_LENGTHS, masked=view == "mask", acts_in=where)
        carriers = texts[key]
        rng = journal.rng(f"refine {number}")
        smallest = minimise(finding, carriers, view, encoder=encoder, rng=rng)
        if len(smallest.ids) < len(finding.ids):
            proposed[tuple(smallest.ids.tolist())] = smallest
        shares: dict[str, float] = {}
        for variant in expand(smallest, carriers, view, encoder=encoder, rng=rng):
            share = round(variant.shares["all"], 2)
            shares[variant.how] = max(share, shares.get(variant.how, 0.0))
            if variant.banked:
                proposed[tuple(variant.unit.ids.tolist())] = variant.unit
        run.found[number] = replace(trigger, statistics={**trigger.statistics, "variants": shares})
        progress("varying", number + 1, len(run.found))
    known = {trigger.token_ids for trigger in run.found}
    fresh = [unit for ids, unit in proposed.items() if ids not in known]
    if fresh:
        run.judge("variants", fresh, tokens, tiers=1)
    known = {trigger.token_ids for trigger in run.found}
    run.found[:] = [t for t in run.found if not holds(t.token_ids, known - {t.token_ids})]
