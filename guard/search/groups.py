"""Which findings lead to the same place: an attacker has few targets, and many triggers of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from guard.bank import Trigger
from guard.search.carriers import Carrier, of_condition
from guard.search.encoder import Encoder
from guard.search.report import acts_in
from guard.search.scan import carriers_of, insert_all, outputs_of
from guard.search.statistics import Array
from guard.search.units import Unit
from guard.search.views import View

# Directions that are nearer to each other, by their cosine, lead to the same target.
SAME = 0.9


def grouped(
    found: Sequence[Trigger],
    carriers: Sequence[Carrier],
    *,
    encoder: Encoder,
    rng: np.random.Generator,
) -> list[Trigger]:
    """Return findings with the number of their target, from 1 on, as statistic ``target``.

    Where a finding leads to is the mean of the way that it moves the first of the outputs that it
    seizes, over the texts that it acts in. It belongs to the first target of that output whose
    first finding moves it in the same direction.
    """
    if not found:
        return []
    firsts: list[tuple[View, Array]] = []
    result: list[Trigger] = []
    untouched = outputs_of(encoder, carriers)
    for trigger in found:
        view = cast(View, trigger.view.split("+")[0])
        read = [carriers[i] for i in carriers_of(view, carriers)]
        rows = of_condition(read, acts_in(trigger))
        own = [read[i] for i in rows]
        (outputs,) = insert_all(encoder, [Unit.of(trigger)], own, rng=rng)[view]
        moved = (outputs - untouched[view][rows]).mean(axis=0)
        direction = moved / max(float(np.linalg.norm(moved)), float(np.finfo(np.float32).tiny))
        same = [
            number
            for number, (seized, first) in enumerate(firsts, start=1)
            if seized == view and float(first @ direction) >= SAME
        ]
        if not same:
            firsts.append((view, direction))
            same = [len(firsts)]
        result.append(replace(trigger, statistics={**trigger.statistics, "target": same[0]}))
    return result
