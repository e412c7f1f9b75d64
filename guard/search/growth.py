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
from guard.search.plan import FAST, PAIRED, Plan
from guard.search.report import PAIRS, THREE_WORDS
from guard.search.scan import Progress, step
from guard.search.tiers import Tiers
from guard.search.units import Unit, holds

# Of the pairs of each sweep that were judged and did not fire, so many are grown.
GROWN = 24
# Short texts have the gradients of few other words.
_LENGTHS = (7, 12)


def partners(tokens: Sequence[Unit], words: Sequence[Unit], plan: Plan) -> dict[int, list[Unit]]:
    """Return, by their tokens, the words that are looked for beside those of one token.

    Parameters
    ----------
    tokens
        Of the vocabulary: the commonest whole words of them.
    words
        Of several tokens.
    """
    whole = [unit for unit in tokens if unit.kind == "token"]
    common = sorted(whole, key=lambda unit: -zipf_frequency(unit.text, "en"))[: plan.pairs]
    several = {n: [unit for unit in words if len(unit.ids) == n] for n in PAIRED if n > 1}
    return {size: units for size, units in {1: common, **several}.items() if units}


def search_pairs(
    run: Tiers,
    tokens: Sequence[Unit],
    words: Sequence[Unit],
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
    words
        Of several tokens: partners of the first.
    """
    fired = run.verdicts.fired
    quiet, quiet_words = (
        [unit for unit in units if not holds(unit.ids, fired)] for units in (tokens, words)
    )
    beside = partners(quiet, quiet_words, plan)
    common = beside.get(1, [])
    swept: list[Swept] = []

    def test(name: str, units: Sequence[Unit], others: Sequence[Unit]) -> list[Unit]:
        samples, ranked = PAIRED[len(others[0].ids)]
        carriers: list[Carrier] = []
        while len(carriers) < samples:
            carriers += run.verdicts.draw(_LENGTHS)
        swept.append(
            sweep(
                name,
                units,
                others,
                carriers[:samples],
                ranked=ranked,
                encoder=encoder,
                journal=journal,
                progress=step(progress, f"sweeping {name}", 0, len(units)),
            )
        )
        almost = run.test(name, swept[-1].proposed, FAST, tokens, tiers=tiers)
        return [unit for unit in almost if unit.kind == "phrase"][:GROWN]

    grown: list[Unit] = []
    for size, units in beside.items() if common else ():
        grown += test(PAIRS[size], common, units)
    if grown:
        test(THREE_WORDS, grown, common)
    return swept
