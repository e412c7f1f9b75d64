"""The smallest parts of findings, each once, with the findings that it explains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from guard.bank import Trigger
from guard.search.acting import MOST, acts_like
from guard.search.carriers import Carrier
from guard.search.encoder import Encoder
from guard.search.journal import Journal
from guard.search.minimise import minimise
from guard.search.units import Unit
from guard.search.views import View


@dataclass(slots=True)
class Part:
    """A part that does what findings do which hold it.

    Attributes
    ----------
    unit
        The part.
    view
        The output in which it was compared with the first of them.
    findings
        The ids of those that it does so for.
    """

    unit: Unit
    view: View
    findings: list[tuple[int, ...]]


def parts_of(
    name: str,
    findings: Sequence[Trigger],
    where: Callable[[Trigger], tuple[Sequence[Carrier], View]],
    *,
    encoder: Encoder,
    journal: Journal,
    progress: Callable[[int], None],
) -> list[Part]:
    """Cut findings of several tokens down; one that a part of before explains is not cut again.

    Parameters
    ----------
    name
        Of this, in the journal.
    where
        Returns the texts, and the output, that a finding acts in.
    """
    parts: list[Part] = []
    for number, trigger in enumerate(findings):
        whole = Unit.of(trigger)
        carriers, view = where(trigger)
        rng = journal.rng(f"{name} {number}")
        # Its tokens may stand apart in the finding.
        held = [part for part in parts if {*part.unit.ids.tolist()} <= {*trigger.token_ids}]
        units = [part.unit for part in held]
        acts = acts_like(whole, units, carriers, view, encoder=encoder, rng=rng) if held else ()
        explain = [part for part, row in zip(held, acts, strict=True) if row.mean() >= MOST]
        if not explain:
            smallest = minimise(whole, carriers, view, encoder=encoder, rng=rng)
            # The same texts need not have told so above: a unit's place in them is drawn.
            explain = [p for p in held if np.array_equal(p.unit.ids, smallest.ids)]
            if not explain and len(smallest.ids) < len(whole.ids):
                explain = [Part(smallest, view, [])]
                parts += explain
        for part in explain:
            part.findings.append(trigger.token_ids)
        progress(number + 1)
    return parts
