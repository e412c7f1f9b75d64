"""Climbs until they come to nothing new, each to be judged as all units are.

See `guard.search.climb`.
"""

from __future__ import annotations

from collections.abc import Sequence

from guard.search.carriers import PLACES
from guard.search.climb import climb
from guard.search.gradients import Differentiable
from guard.search.journal import Journal
from guard.search.plan import Plan
from guard.search.scan import Progress, step
from guard.search.tail import FLOOD
from guard.search.units import Unit
from guard.search.verdicts import Verdicts

# Each round keeps what was found from the next, which then finds what was hidden behind it.
ROUNDS = 3
# Short texts say little that a sequence has to drown.
_LENGTHS = (12,)


def search_sequences(
    verdicts: Verdicts,
    tokens: Sequence[Unit],
    plan: Plan,
    *,
    encoder: Differentiable,
    journal: Journal,
    progress: Progress,
) -> list[list[Unit]]:
    """Judge what climbs come to, and their smallest parts; return what each round proposed."""
    rounds: list[list[Unit]] = []
    places = [verdicts.draw(_LENGTHS, place=place) for place in PLACES]
    while len(rounds) < ROUNDS and len(verdicts.found) <= FLOOD:
        name = f"sequences {len(rounds) + 1}"
        before = verdicts.fired
        proposed = climb(
            name,
            plan.starts,
            tokens,
            places,
            verdicts.found,
            encoder=encoder,
            journal=journal,
            progress=step(progress, "climbing", 0, plan.starts),
        )
        rounds.append(proposed)
        verdicts.judge(name, proposed, tokens, tokens, tiers=1, climbed=True)
        if verdicts.fired <= before:
            break
    return rounds
