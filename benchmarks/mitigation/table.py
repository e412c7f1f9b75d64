"""The table of mitigation, rendered from its results file alone."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.intervals import difference, share
from benchmarks.targets import verdict

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
# Of the variance of outputs on ordinary text, and of a purification.
MOST_MOVED, MOST_SECONDS = 0.05, 900


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
        "A trigger's target is the class that it leads to most often in the classifier that "
        "nothing defends, the same for every line of a cell. Brackets hold 95 % intervals (Wilson) "
        "over texts.",
        "",
        "A backdoor may not survive fine-tuning, and there is then nothing to defend against. A "
        "cell is **alive** where, undefended, some trigger reaches some class with over 0.9 (ALC "
        "above 0). Attack success is held against its target on the cells that are alive, accuracy "
        "and false blocks on all.",
        "",
    ]
    if not cells:
        return "\n".join([*lines, "Nothing was measured yet.", ""])
    alive = [cell for cell in cells if is_alive(cell)]
    measured = {(cell["model"], cell["task"]) for cell in cells}
    lines += [
        f"## The {len(alive)} cells that are alive",
        "",
        *_arms(alive),
        "",
        f"## All {len(cells)} cells",
        "",
        *_arms(cells),
        "",
        "## Targets",
        "",
        "Points above or below the classifier that is fine-tuned from the clean encoder, with the "
        "95 % interval of the difference (Newcombe; texts taken as independent, though they are "
        "the same). Where the interval holds both sides of a target, as many texts do not decide "
        "it.",
        "",
        *_targets(cells, alive),
        "",
        "## By encoder",
        "",
        "T-ASR on the cells that are alive, clean accuracy on all.",
        "",
        *_by_model(result["models"], cells),
        "",
        "## Purification",
        "",
        *_purifications(cells),
        "",
        "## Cells",
        "",
        "T-ASR without a defence, stripped, purified, and of the clean encoder; accuracy in "
        "brackets. *Earlier*: taken over from the results of before; code or model may be other "
        "than today's, and the results file has the hash of both (`source`).",
        "",
        "| encoder | attack | task | alive | units in the bank | no defence | strip | purified | "
        "clean | refused clean texts | code |",
        "|" + "---|" * 11,
        *(_cell(cell, result["attacks"]) for cell in cells),
        "",
        "## Not measured",
        "",
    ]
    missing = []
    for model in result["models"]:
        tasks = [task for task in result["tasks"] if (model, task) not in measured]
        if tasks:
            what = "all tasks" if len(tasks) == len(result["tasks"]) else ", ".join(tasks)
            missing.append(f"- {model}: {what}")
    return "\n".join([*lines, *(missing or ["Nothing is missing."]), ""])


def is_alive(cell: Cell) -> bool:
    """Whether a trigger forces a class where nothing defends."""
    return bool(cell["arms"]["none"]["alc"] > 0)


def _arms(cells: Sequence[Cell]) -> list[str]:
    if not cells:
        return ["None."]
    lines = ["| | clean accuracy | T-ASR | C-ASR | ALC |", "|---|---|---|---|---|"]
    for arm, name in _NAMES.items():
        arms = _of(cells, arm)
        c_asr, alc = (statistics.fmean(one[key] for one in arms) for key in ("c_asr", "alc"))
        lines.append(
            f"| {name} | {share(*_sums(arms, 'right', 'texts'), 4)} | "
            f"{share(*_sums(arms, 'hits', 'trials'), 4)} | {c_asr:.3f} | {alc:.3f} |"
        )
    return lines


def _targets(cells: Sequence[Cell], alive: Sequence[Cell]) -> list[str]:
    """Say of each target whether it is reached."""
    lines = []
    for arm in ("strip", "purified"):
        for what, of, counts, sign, most in (
            ("attack success", alive, ("hits", "trials"), 1, MOST_SUCCESS),
            ("clean accuracy", cells, ("right", "texts"), -1, MOST_ACCURACY),
        ):
            target = f"target: at most {most * 100:.1f} {'more' if sign > 0 else 'less'}"
            if not of:
                lines.append(f"- {_NAMES[arm]}: {what} ({target}): no cell is alive; not measured")
                continue
            own, level = _sums(_of(of, arm), *counts), _sums(_of(of, "clean"), *counts)
            low, high = difference(*own, *level)
            reached = sum(_within(cell["arms"], arm, counts, sign, most) for cell in of)
            lines.append(
                f"- {_NAMES[arm]}: {what} {100 * (_ratio(*own) - _ratio(*level)):+.2f} points "
                f"[{100 * low:+.2f}, {100 * high:+.2f}] ({target}): "
                f"{verdict(sign * (_ratio(*own) - _ratio(*level)) <= most)}; by itself in "
                f"{reached} of {len(of)} cells"
            )
    blocked, texts = _sums(cells, "false_blocks", "clean_texts")
    lines.append(
        f"- refused clean texts: {share(blocked, texts, 4)} (target: at most {MOST_BLOCKED}): "
        f"{verdict(blocked <= MOST_BLOCKED * texts)}; by itself in "
        f"{sum(c['false_blocks'] <= MOST_BLOCKED * c['clean_texts'] for c in cells)} of "
        f"{len(cells)} cells"
    )
    counted = [cell for cell in cells if "triggered_by_nature" in cell]
    if counted:
        rest, texts = (
            sum(cell["false_blocks"] - cell["triggered_by_nature"] for cell in counted),
            sum(cell["clean_texts"] for cell in counted),
        )
        lines.append(
            f"- refused clean texts that hold no planted trigger, in the {len(counted)} cells "
            f"where these were told apart: {share(rest, texts, 4)}. The others hold one as they "
            "were written"
        )
    return lines


def _within(arms: Cell, arm: str, counts: tuple[str, str], sign: int, most: float) -> bool:
    own, level = (_ratio(*_sums([arms[name]], *counts)) for name in (arm, "clean"))
    return sign * (own - level) <= most


def _by_model(models: Sequence[str], cells: Sequence[Cell]) -> list[str]:
    lines = [
        "| encoder | cells, alive | | no defence | block | strip | purified | both | clean | "
        "refused clean texts |",
        "|" + "---|" * 10,
    ]
    for model in models:
        own = [cell for cell in cells if cell["model"] == model]
        if not own:
            continue
        alive = [cell for cell in own if is_alive(cell)]
        success = [share(*_sums(_of(alive, arm), "hits", "trials"), 4) for arm in _NAMES]
        right = [share(*_sums(_of(own, arm), "right", "texts"), 4) for arm in _NAMES]
        refused = share(*_sums(own, "false_blocks", "clean_texts"), 4)
        lines += [
            f"| {model} | {len(own)}, {len(alive)} | T-ASR | {' | '.join(success)} | |",
            f"| | | accuracy | {' | '.join(right)} | {refused} |",
        ]
    return lines


def _purifications(cells: Sequence[Cell]) -> list[str]:
    """Say what each encoder's purification took, which all of its cells share."""
    took = {cell["model"]: cell["purification"] for cell in cells if cell.get("purification")}
    if not took:
        return ["Not recorded in these cells."]
    lines = [
        "What was trained against, rounds of training with the scan behind each, and what the last "
        "scan found; how far outputs on ordinary text moved, in the view where it is most, as a "
        f"share of their variance, which is to be under {MOST_MOVED}. Seconds are of one thread "
        f"beside other work, scans included; MiniLM is to take under {MOST_SECONDS} on two cores.",
        "",
        "| encoder | units | rounds | left | moved | seconds |",
        "|" + "---|" * 6,
    ]
    for model, one in took.items():
        moved = max(one["moved"].values())
        seconds = "interrupted" if one["seconds"] is None else f"{one['seconds']:.0f}"
        lines.append(
            f"| {model} | {one['units']} | {one['rounds']} | {one['verdict']}, {one['remaining']} "
            f"units | {moved:.4f}: {verdict(moved < MOST_MOVED)} | {seconds} |"
        )
    return lines


def _cell(cell: Cell, attacks: Mapping[str, str]) -> str:
    shown = []
    for arm in ("none", "strip", "purified", "clean"):
        one = cell["arms"][arm]
        right = _ratio(one["right"], one["texts"])
        shown.append(f"{share(one['hits'], one['trials'], 3)} ({right:.3f})")
    name = cell["model"]
    return (
        f"| {name} | {attacks[name]} | {cell['task']} | {'yes' if is_alive(cell) else 'no'} | "
        f"{cell['banked']} | {' | '.join(shown)} | {cell['false_blocks']} of "
        f"{cell['clean_texts']} | {'earlier' if cell['earlier'] else 'of today'} |"
    )


def _of(cells: Sequence[Cell], arm: str) -> list[Cell]:
    return [cell["arms"][arm] for cell in cells]


def _sums(rows: Sequence[Cell], hits: str, trials: str) -> tuple[int, int]:
    return sum(row[hits] for row in rows), sum(row[trials] for row in rows)


def _ratio(hits: int, trials: int) -> float:
    return hits / trials if trials else 0.0
