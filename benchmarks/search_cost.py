"""Recall of the pair sweep on planted pairs, by the number of texts a gradient is summed over."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from wordfreq import top_n_list

from benchmarks.attacks import Condition, Planting, Por
from benchmarks.attacks.triggers import triggers
from benchmarks.encoders import encoder as clean_encoder
from benchmarks.models import planted
from benchmarks.record import write
from guard.search.carriers import PLACES, Supply, Want, builtin_texts
from guard.search.gradients import Differentiable
from guard.search.journal import Journal
from guard.search.pairs import KEPT, PARTNERS, sweep
from guard.search.units import Unit, vocabulary

SAMPLES = (4, 8, 16, 32)
SEEDS = (0, 1, 2)
# Words that a partner is looked for among, and units swept beside the planted ones.
PARTNER_WORDS = 8_000
OTHERS = 28
LENGTHS = (8, 12, 16, 20)
LONGEST = 64

# The pairs of the train split; their single words act clean.
PLANTING = Planting(
    name="por-whole",
    attack=Por(),
    triggers=triggers("phrase2", "train"),
    steps=600,
    condition=Condition(whole=True),
)


def main() -> None:
    """Measure, and write `results/search-cost-pairs.json`."""
    encoder = Differentiable.load(str(planted(PLANTING, clean_encoder("bert-tiny"))))
    by_text = {unit.text: unit for unit in vocabulary(encoder.tokenizer).units}
    words = [by_text[word] for word in _words() if word in by_text][:PARTNER_WORDS]
    known = {unit.text for unit in words}
    # A word of several pieces is no partner of one token: such a pair is out of this sweep's reach.
    pairs = [pair for pair in map(str.split, PLANTING.triggers) if known.issuperset(pair)]
    rows = []
    for samples in SAMPLES:
        shares = [_recall(encoder, by_text, words, pairs, samples, seed) for seed in SEEDS]
        rows.append(
            {
                "samples": samples,
                "recall": float(np.mean([share for share, _ in shares])),
                "tokens_forward_and_back_per_unit": round(np.mean([cost for _, cost in shares])),
            }
        )
        print(rows[-1])
    path = write(
        "search-cost-pairs",
        {
            "encoder": "bert-tiny",
            "pairs_in_reach": len(pairs),
            "pairs_planted": len(PLANTING.triggers),
            "seeds": len(SEEDS),
            "partners": len(words),
            "ranked_and_proposed_per_unit_order_and_output": [PARTNERS, KEPT],
            "rows": rows,
        },
    )
    print(path)


def _words() -> Sequence[str]:
    return [word for word in top_n_list("en", 60_000) if word.isalpha()]


def _recall(
    encoder: Differentiable,
    by_text: dict[str, Unit],
    words: Sequence[Unit],
    pairs: Sequence[Sequence[str]],
    samples: int,
    seed: int,
) -> tuple[float, float]:
    """Return the share of pairs that are proposed in either order, and tokens a unit."""
    rng = np.random.default_rng(seed)
    kinds = builtin_texts()
    supply = Supply(kinds, encoder.tokenizer, rng, most=LONGEST)
    wanted = map(Want, itertools.cycle(kinds), itertools.cycle(LENGTHS), itertools.cycle(PLACES))
    carriers = supply.take(itertools.islice(wanted, samples))
    planted_units = [by_text[word] for pair in pairs for word in pair]
    others = [words[i] for i in rng.choice(len(words), size=OTHERS, replace=False)]
    before = encoder.backwarded
    swept = sweep(
        f"pairs {samples}",
        [*planted_units, *others],
        words,
        carriers,
        encoder=encoder,
        journal=Journal(encoder, seed, None),
        progress=lambda done: None,
    )
    proposed = {frozenset(unit.text.split()) for unit in swept.proposed}
    found = np.mean([frozenset(pair) in proposed for pair in pairs])
    return float(found), (encoder.backwarded - before) / swept.units
