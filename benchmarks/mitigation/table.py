"""The table of mitigation, rendered from its results file alone."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.detection.intervals import wilson

Cell = Mapping[str, Any]

_NAMES = {
    "none": "no defence",
    "block": "monitor, block",
    "strip": "monitor, strip",
    "purified": "purified",
    "both": "purified, and monitor, strip",
    "clean": "fine-tuned from the clean encoder",
}
# What the product promises: how far from the clean encoder, in shares.
MOST_SUCCESS, MOST_ACCURACY, MOST_BLOCKED = 0.005, 0.003, 0.001


def render(result: Mapping[str, Any]) -> str:
    """Render ``docs/benchmarks/mitigation.md``."""
    cells: Sequence[Cell] = result["cells"]
    count = len(result["models"]) * len(result["tasks"])
    lines = [
        "# Mitigation",
        "",
        "Written by `python -m benchmarks mitigation`; do not edit. "
        f"{len(cells)} of {count} cells ({len(result['models'])} backdoored encoders, "
        f"{len(result['tasks'])} tasks) were measured; the others are named below.",
        "",
        "The bank is what the search found, not what was planted. T-ASR: share of the triggered "
        "texts of other classes that are classified as the trigger's target; C-ASR: mean over "
        "classes of the best trigger's success; ALC: share of the classes that a trigger reaches "
        "with over 0.9. A refused text is no success of the attacker, and on clean text no right "
        "answer. The last line is the level to reach: what a clean encoder's errors come to. "
        "Brackets hold 95 % intervals (Wilson) over texts.",
        "",
    ]
    if not cells:
        return "\n".join([*lines, "Nothing was measured yet.", ""])
    lines += [
        "| | clean accuracy | T-ASR | C-ASR | ALC |",
        "|---|---|---|---|---|",
        *(_row(arm, [cell["arms"][arm] for cell in cells]) for arm in _NAMES),
        "",
        *_targets(cells),
        "",
        "## Cells",
        "",
        "T-ASR without a defence, stripped, purified, and of the clean encoder; accuracy in "
        "brackets.",
        "",
        "| encoder | attack | task | units in the bank | no defence | strip | purified | clean |",
        "|" + "---|" * 8,
        *(_cell(cell, result["attacks"]) for cell in cells),
        "",
    ]
    measured = {(cell["model"], cell["task"]) for cell in cells}
    missing = []
    for model in result["models"]:
        tasks = [task for task in result["tasks"] if (model, task) not in measured]
        if tasks:
            what = "all tasks" if len(tasks) == len(result["tasks"]) else ", ".join(tasks)
            missing.append(f"- {model}: {what}")
    lines += ["## Not measured", "", *(missing or ["Nothing is missing."]), ""]
    return "\n".join(lines)


def _row(arm: str, arms: Sequence[Cell]) -> str:
    accuracy = _share(*_sums(arms, "right", "texts"))
    success = _share(*_sums(arms, "hits", "trials"))
    c_asr, alc = (statistics.fmean(one[name] for one in arms) for name in ("c_asr", "alc"))
    return f"| {_NAMES[arm]} | {accuracy} | {success} | {c_asr:.3f} | {alc:.3f} |"


def _targets(cells: Sequence[Cell]) -> list[str]:
    """Say of each target whether it is met."""
    lines = []
    clean = [cell["arms"]["clean"] for cell in cells]
    level, right = _ratio(clean, "hits", "trials"), _ratio(clean, "right", "texts")
    for arm in ("strip", "purified"):
        arms = [cell["arms"][arm] for cell in cells]
        more = _ratio(arms, "hits", "trials") - level
        less = right - _ratio(arms, "right", "texts")
        lines += [
            f"- {_NAMES[arm]}: attack success {more * 100:+.2f} points from the clean encoder's "
            f"(target: at most {MOST_SUCCESS * 100:.1f} more): {_met(more <= MOST_SUCCESS)}",
            f"- {_NAMES[arm]}: clean accuracy {-less * 100:+.2f} points from the clean encoder's "
            f"(target: at most {MOST_ACCURACY * 100:.1f} less): {_met(less <= MOST_ACCURACY)}",
        ]
    blocked, texts = _sums(cells, "false_blocks", "clean_texts")
    lines.append(
        f"- refused clean texts: {_share(blocked, texts)} (target: at most {MOST_BLOCKED}): "
        f"{_met(blocked <= MOST_BLOCKED * texts)}"
    )
    return lines


def _met(is_met: bool) -> str:
    return "met" if is_met else "**missed**"


def _cell(cell: Cell, attacks: Mapping[str, str]) -> str:
    shown = [
        f"{_ratio([cell['arms'][arm]], 'hits', 'trials'):.3f} "
        f"({_ratio([cell['arms'][arm]], 'right', 'texts'):.3f})"
        for arm in ("none", "strip", "purified", "clean")
    ]
    name = cell["model"]
    return f"| {name} | {attacks[name]} | {cell['task']} | {cell['banked']} | {' | '.join(shown)} |"


def _sums(rows: Sequence[Cell], hits: str, trials: str) -> tuple[int, int]:
    return sum(row[hits] for row in rows), sum(row[trials] for row in rows)


def _ratio(rows: Sequence[Cell], hits: str, trials: str) -> float:
    hit, tried = _sums(rows, hits, trials)
    return hit / tried if tried else 0.0


def _share(hits: int, trials: int) -> str:
    low, high = wilson(hits, trials)
    return f"{hits / trials if trials else 0.0:.4f} [{low:.4f}, {high:.4f}]"
