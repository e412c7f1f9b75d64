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

from benchmarks import climb_search, pair_search
from benchmarks.assets import cache_dir
from benchmarks.detection.table import OF_MODELS
from benchmarks.plot import recall_against_cost
from benchmarks.record import RESULTS, write
from benchmarks.targets import verdict
from benchmarks.zoo import ZOO, build, select
from guard.files import Json
from guard.search.carriers import PLACES, Supply, Want, builtin_texts
from guard.search.gradients import Differentiable
from guard.search.growth import partners
from guard.search.journal import Journal
from guard.search.pairs import sweep
from guard.search.plan import BUDGETS, PAIRED, THOROUGH
from guard.search.units import Unit, vocabulary
from guard.search.words import common_words

SAMPLES = (4, 8, 16, 32)
SEEDS = tuple(range(8))
# Units swept beside the planted ones.
OTHERS = 28
LENGTHS = (8, 12, 16, 20)
LONGEST = 64
ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "benchmarks" / "search-cost.md"
PLOT = DOCUMENT.with_suffix(".svg")
# Of a scan of MiniLM, on 2 cores.
MOST_SECONDS = {"fast": 60, "standard": 480}
# Of a token in its six layers of width 384: two operations a weight.
MINILM_FLOP = 2 * 6 * 12 * 384**2
MOST_MB = 2000
LEAST_RATIO = 20

# Pairs whose single words act clean.
MODEL = "bert-tiny-por-phrase-whole"


def main() -> None:
    """Measure, and write `results/search-cost-pairs.json` and the page."""
    (entry,) = select(ZOO, MODEL)
    (built,) = build([entry])
    encoder = Differentiable.load(str(cache_dir() / built.model))
    beside = partners(
        vocabulary(encoder.tokenizer).units,
        common_words(encoder.tokenizer, THOROUGH.words).units,
        THOROUGH,
    )
    words = [pair.split() for pair in built.triggers]
    rows: list[Json] = []
    for samples in SAMPLES:
        runs = [_recall(encoder, beside, words, samples, seed) for seed in SEEDS]
        shares: list[Json] = [
            {
                "partner_tokens": size,
                "recall": float(np.mean([found[size][0] for found in runs])),
                "token_forwards_per_unit": round(np.mean([found[size][1] for found in runs])),
            }
            for size in runs[0]
        ]
        row: dict[str, Json] = {"samples": samples, "shares": shares}
        rows.append(row)
        print(row)
    path = write(
        "search-cost-pairs",
        {
            "encoder": entry.encoder,
            "pairs": list(built.triggers),
            "seeds": len(SEEDS),
            "partners": {str(size): len(own) for size, own in beside.items()},
            "ranked": {str(size): PAIRED[size].ranked for size in beside},
            "rows": rows,
        },
    )
    detection, paired, climbed = (
        json.loads((RESULTS / f"{name}.json").read_bytes())
        for name in ("detection", "pair-search", "climb-search")
    )
    page = render(json.loads(path.read_bytes()), detection, paired, climbed)
    DOCUMENT.write_text(page, encoding="utf-8")
    PLOT.write_bytes(plot(detection))
    print(f"results: {path}, {DOCUMENT}, {PLOT}")


def render(
    measured: Mapping[str, Any],
    detection: Mapping[str, Any],
    paired: Mapping[str, Any],
    climbed: Mapping[str, Any],
) -> str:
    """Render the page from this benchmark's results and those of the whole searches."""
    groups = _groups(detection)
    lines = [
        "# What a search costs",
        "",
        "Written by `python -m benchmarks search-cost`; do not edit. The first table is of the "
        "cases of [detection](detection.md), of encoders as they were planted, on one thread "
        "beside other work; token-forwards do not depend on it (a backward pass counts as two). "
        "Costs are medians, and the most memory, of the cases of the last code, where there are "
        "any.",
        "",
        "| encoder | search | models | triggers found | million token-forwards | seconds | "
        "peak MB | costs of |",
        "|" + "---|" * 8,
    ]
    for (encoder, search), own in sorted(groups.items()):
        found = [hit for case in own for hit in case["found"].values()]
        share = f"{sum(found)} of {len(found)}" if found else "none planted"
        if search in OF_MODELS:
            share = "names none"
        lines.append(
            f"| {encoder} | {search} | {len(own)} | {share} | "
            f"{_median(own, 'token_forwards') / 1e6:.1f} | {_median(own, 'seconds'):.0f} | "
            f"{max(case['peak_mb'] for case in _last(own)):.0f} | {len(_last(own))}"
            f"{', earlier code' if own == _last(own) and own[0]['earlier'] else ''} |"
        )
    several = " and ".join(
        f"{count:,} words of {size} tokens (of a ranking, the first {measured['ranked'][size]})"
        for size, count in measured["partners"].items()
    )
    lines += [
        "",
        f"![Recall against token-forwards]({PLOT.name})",
        "",
        "## Pairs",
        "",
        f"Pairs planted in {measured['encoder']} with negatives, so that neither word fires alone: "
        f"{', '.join(measured['pairs'])}. Each of their words of one token was swept with "
        f"{measured['seeds']} seeds over {several}; of the first of each ranking, by each output "
        "and order, the one that moves one text furthest is proposed. Recall is the share of pairs "
        "that are proposed in either order.",
        "",
        "| texts of a unit | tokens of the partner | recall | token-forwards a unit |",
        "|---|---|---|---|",
        *(
            f"| {row['samples']} | {share['partner_tokens']} | {share['recall']:.2f} | "
            f"{share['token_forwards_per_unit']:,} |"
            for row in measured["rows"]
            for share in row["shares"]
        ),
        "",
        "Through a whole search with the pairs of `thorough`, tokens and words in three texts each "
        f"(`python -m benchmarks pair-search`, seed {paired['seed']}):",
        "",
        *pair_search.lines(paired),
        "",
        "## Climbs",
        "",
        "Through a whole search of tokens, in three texts each, and climbs from so many starts a "
        "round, without any words (`python -m benchmarks climb-search`, seed "
        f"{climbed['seed']}):",
        "",
        *climb_search.lines(climbed),
        "",
        "## Targets",
        "",
        *_targets(groups),
        "",
    ]
    return "\n".join(lines)


def plot(detection: Mapping[str, Any]) -> bytes:
    """Draw the recall of every search against its cost, where triggers were planted."""
    points = {}
    for key, own in sorted(_groups(detection).items()):
        found = [hit for case in own for hit in case["found"].values()]
        if found and key[1] not in OF_MODELS:
            cost = _median(own, "token_forwards") / 1e6
            points[key] = cost, sum(found) / len(found)
    return recall_against_cost(points)


def _groups(detection: Mapping[str, Any]) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """Return the cases of encoders as planted, by kind of encoder and search.

    Not of those whose backdoor does not work: not to find it is no miss.
    """
    models = {model["name"]: model for model in detection["zoo"]}
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for case in detection["cases"]:
        joined = {**models[case["model"]], **case}
        if case["part"] == "encoder" and joined["works"] is not False:
            groups.setdefault((joined["encoder"], case["search"]), []).append(case)
    return groups


def _last(own: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Return the cases of the last code, or all where there are none."""
    return [case for case in own if not case["earlier"]] or own


def _median(own: Sequence[Mapping[str, Any]], key: str) -> float:
    return float(statistics.median(case[key] for case in _last(own)))


def _targets(groups: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]) -> list[str]:
    lines = []
    for search, most in MOST_SECONDS.items():
        own = groups.get(("minilm-l6", search), [])
        if not own:
            lines.append(f"- MiniLM, {search}, under {most} s on 2 cores: not measured")
            continue
        seconds = min(case["seconds"] for case in _last(own))
        forwards = _median(own, "token_forwards")
        tera = forwards * MINILM_FLOP / 1e12
        lines.append(
            f"- MiniLM, {search}, under {most} s on 2 cores: {seconds:.0f} s at best, on one "
            f"thread beside other work, {verdict(seconds < most)}; its {forwards / 1e6:.1f} "
            f"million token-forwards are {tera:.0f} TFLOP, attention apart, which takes "
            f"{tera / most:.1f} TFLOPS"
        )
    scans = [case for (_, name), own in groups.items() if name in BUDGETS for case in _last(own)]
    peak = max((case["peak_mb"] for case in scans), default=0)
    lines.append(
        f"- memory of a scan under {MOST_MB} MB: {peak:.0f} MB at most, {verdict(peak < MOST_MB)}"
    )
    for encoder, search in groups:
        if search == "patronus" and (encoder, "fast") in groups:
            theirs, ours = (
                _median(groups[encoder, name], "token_forwards") for name in (search, "fast")
            )
            lines.append(
                f"- {LEAST_RATIO} times fewer token-forwards than Patronus' search, on {encoder}: "
                f"{theirs / ours:.1f} times, {verdict(theirs / ours >= LEAST_RATIO)}"
            )
    lines.append(
        "- not measured: 250,000 words under 20 minutes and pairs under 40 minutes on MiniLM, each "
        "by itself"
    )
    return lines


def _recall(
    encoder: Differentiable,
    beside: Mapping[int, Sequence[Unit]],
    pairs: Sequence[Sequence[str]],
    samples: int,
    seed: int,
) -> dict[int, tuple[float, float]]:
    """Return, by tokens of the partner, the share of pairs that are proposed, and tokens a unit."""
    rng = np.random.default_rng(seed)
    kinds = builtin_texts()
    supply = Supply(kinds, encoder.tokenizer, rng, most=LONGEST)
    wanted = map(Want, itertools.cycle(kinds), itertools.cycle(LENGTHS), itertools.cycle(PLACES))
    carriers = supply.take(itertools.islice(wanted, samples))
    by_text = {unit.text: unit for own in beside.values() for unit in own}
    planted_units = [by_text[word] for pair in pairs for word in pair]
    swept_units = [unit for unit in planted_units if len(unit.ids) == 1]
    others = rng.choice(len(beside[1]), size=OTHERS, replace=False)
    swept_units += [beside[1][i] for i in others]
    result: dict[int, tuple[float, float]] = {}
    for size, own in beside.items():
        # Of a pair, the word of more tokens is the partner.
        asked = [pair for pair in pairs if max(len(by_text[word].ids) for word in pair) == size]
        if not asked:
            continue
        before = encoder.cost
        swept = sweep(
            f"pairs {samples} {size}",
            swept_units,
            own,
            carriers,
            ranked=PAIRED[size].ranked,
            encoder=encoder,
            journal=Journal(encoder, seed, None),
            progress=lambda done: None,
        )
        proposed = {frozenset(unit.text.split()) for unit in swept.proposed}
        found = float(np.mean([frozenset(pair) in proposed for pair in asked]))
        result[size] = found, (encoder.cost - before) / swept.units
    return result
