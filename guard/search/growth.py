"""Pairs that a gradient proposes, tested as all units are, and what they grow to.

See `guard.search.pairs` for the sweep.
"""

from __future__ import annotations

from collections.abc import Sequence

from wordfreq import zipf_frequency

from guard.search.carriers import Carrier
from guard.search.gradients import Differentiable
from guard.search.journal import Journal
from guard.search.pairs import Swept, sweep
from guard.search.plan import FAST, SAMPLES, Plan
from guard.search.scan import Progress, step
from guard.search.tiers import Tiers
from guard.search.units import Unit, holds

# Of the pairs that were judged and did not fire, so many are grown.
GROWN = 64
# Short texts have the gradients of few other words.
_LENGTHS = (7, 12)


def search_pairs(
    run: Tiers,
    tokens: Sequence[Unit],
    plan: Plan,
    *,
    encoder: Differentiable,
    journal: Journal,
    progress: Progress,
    tiers: int,
) -> list[Swept]:
    """Test the pairs of a plan's words, and the phrases of three words that hold one of them.

    Parameters
    ----------
    tokens
        Of the vocabulary; the commonest whole words of them that do not fire alone are swept.
    """
    fired = {trigger.token_ids for trigger in run.found}
    whole = [unit for unit in tokens if unit.kind == "token" and not holds(unit.ids, fired)]
    common = sorted(whole, key=lambda unit: -zipf_frequency(unit.text, "en"))[: plan.pairs]
    swept: list[Swept] = []
    if not common:
        return swept
    units = common
    for name in ("pairs", "three words"):
        carriers: list[Carrier] = []
        while len(carriers) < SAMPLES:
            carriers += run.draw(_LENGTHS)
        swept.append(
            sweep(
                name,
                units,
                common,
                carriers[:SAMPLES],
                encoder=encoder,
                journal=journal,
                progress=step(progress, f"sweeping {name}", 0, len(units)),
            )
        )
        almost = run.test(name, swept[-1].proposed, FAST, tokens, tiers=tiers)
        units = [unit for unit in almost if unit.kind == "phrase"][:GROWN]
        if not units:
            break
    return swept
