"""What a search costs for what it finds: ``python -m benchmarks search-cost``.

Of pairs, measured here; of the rest, read from the results of the detection benchmark.
"""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from wordfreq import top_n_list

from benchmarks.attacks import Condition, Planting, Por
from benchmarks.attacks.triggers import triggers
from benchmarks.encoders import encoder as clean_encoder
from benchmarks.models import planted
from benchmarks.record import write
from benchmarks.targets import verdict
from guard.search.carriers import PLACES, Supply, Want, builtin_texts
from guard.search.gradients import Differentiable
from guard.search.journal import Journal
from guard.search.pairs import KEPT, PARTNERS, sweep
from guard.search.units import Unit, vocabulary

SAMPLES = (4, 8, 16, 32)
SEEDS = tuple(range(8))
# Words that a partner is looked for among, and units swept beside the planted ones.
PARTNER_WORDS = 8_000
OTHERS = 28
LENGTHS = (8, 12, 16, 20)
LONGEST = 64
ROOT = Path(__file__).parents[1]
DETECTION = ROOT / "benchmarks" / "results" / "detection.json"
DOCUMENT = ROOT / "docs" / "benchmarks" / "search-cost.md"
# Of `fast` on MiniLM.
MOST_SECONDS = 60
MOST_MB = 2000
LEAST_RATIO = 20

# The pairs of the train split; their single words act clean.
PLANTING = Planting(
    name="por-whole",
    attack=Por(),
    triggers=triggers("phrase2", "train"),
    steps=600,
    condition=Condition(whole=True),
)


def main() -> None:
    """Measure, and write `results/search-cost-pairs.json` and the page."""
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
    detection = json.loads(DETECTION.read_bytes())
    DOCUMENT.write_text(render(json.loads(path.read_bytes()), detection), encoding="utf-8")
    print(f"results: {path}, {DOCUMENT}")


def render(pairs: Mapping[str, Any], detection: Mapping[str, Any]) -> str:
    """Render the page from this benchmark's results and those of detection."""
    encoders = {model["name"]: model["encoder"] for model in detection["zoo"]}
    cases = [case for case in detection["cases"] if case["part"] == "encoder"]
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for case in cases:
        groups.setdefault((encoders[case["model"]], case["search"]), []).append(case)
    lines = [
        "# What a search costs",
        "",
        "Written by `python -m benchmarks search-cost`; do not edit. The first table is of the "
        "cases of [detection](detection.md), of encoders as they were planted, on one thread "
        "beside other work; token-forwards do not depend on it (a backward pass counts as two).",
        "",
        "| encoder | search | models | triggers found | million token-forwards | seconds | "
        "peak MB |",
        "|" + "---|" * 7,
    ]
    for (encoder, search), own in sorted(groups.items()):
        found = [hit for case in own for hit in case["found"].values()]
        share = f"{sum(found)} of {len(found)}" if found else "none planted"
        lines.append(
            f"| {encoder} | {search} | {len(own)} | {share} | "
            f"{statistics.median(case['token_forwards'] for case in own) / 1e6:.1f} | "
            f"{statistics.median(case['seconds'] for case in own):.0f} | "
            f"{max(case['peak_mb'] for case in own):.0f} |"
        )
    ranked, kept = pairs["ranked_and_proposed_per_unit_order_and_output"]
    lines += [
        "",
        "## Pairs",
        "",
        f"Pairs planted in {pairs['encoder']} with negatives, so that neither word fires alone: "
        f"{pairs['pairs_in_reach']} of {pairs['pairs_planted']} have two words of one token. Each "
        f"of their words was swept over {pairs['partners']:,} partners, with {pairs['seeds']} "
        f"seeds; of the first {ranked} by each output and order the {kept} that move one text "
        "furthest are proposed. Recall is the share of pairs that are proposed in either order.",
        "",
        "| texts a gradient is summed over | recall | tokens forward and back, a unit |",
        "|---|---|---|",
        *(
            f"| {row['samples']} | {row['recall']:.2f} | "
            f"{row['tokens_forward_and_back_per_unit']:,} |"
            for row in pairs["rows"]
        ),
        "",
        "## Targets",
        "",
        *_targets(groups),
        "",
    ]
    return "\n".join(lines)


def _targets(groups: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]) -> list[str]:
    lines = []
    fast = groups.get(("minilm-l6", "fast"), [])
    if fast:
        seconds = min(case["seconds"] for case in fast)
        lines.append(
            f"- MiniLM's vocabulary, fast, under {MOST_SECONDS} s on 2 cores: {seconds:.0f} s at "
            f"best, on one thread beside other work, {verdict(seconds < MOST_SECONDS)}"
        )
    peak = max(case["peak_mb"] for own in groups.values() for case in own)
    lines.append(f"- memory under {MOST_MB} MB: {peak:.0f} MB, {verdict(peak < MOST_MB)}")
    for encoder, search in groups:
        if search == "patronus" and (encoder, "fast") in groups:
            theirs, ours = (
                statistics.median(case["token_forwards"] for case in groups[encoder, name])
                for name in (search, "fast")
            )
            lines.append(
                f"- {LEAST_RATIO} times fewer token-forwards than Patronus' search, on {encoder}: "
                f"{theirs / ours:.1f} times, {verdict(theirs / ours >= LEAST_RATIO)}"
            )
    lines.append(
        "- not measured: standard under 8 minutes, 250,000 words under 20 minutes and pairs under "
        "40 minutes on MiniLM"
    )
    return lines


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
