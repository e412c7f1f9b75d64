"""The table of mitigation, rendered from its results file alone."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.intervals import share
from benchmarks.mitigation.shares import (
    HITS,
    RIGHT,
    Cell,
    apart_of,
    arms_of,
    ratio,
    refused,
    share_of,
    sums,
    within,
)
from benchmarks.targets import verdict

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
        "over different texts: a text counts once, however many triggers and encoders it is tried "
        "with.",
        "",
        *_recipe(result),
        "A backdoor may not survive fine-tuning, and there is then nothing to defend against. A "
        "cell is **alive** where, undefended, some trigger reaches some class with over 0.9 (ALC "
        "above 0). Attack success is held against its target on the cells that are alive, accuracy "
        "and false blocks on all.",
        "",
    ]
    if not cells:
        return "\n".join([*lines, "Nothing was measured yet.", ""])
    alive = [cell for cell in cells if is_alive(cell)]
    triggers: Mapping[str, int] = result["triggers"]
    measured = {(cell["model"], cell["task"]) for cell in cells}
    lines += [
        f"## The {len(alive)} cells that are alive",
        "",
        *_arms(alive, triggers),
        "",
        f"## All {len(cells)} cells",
        "",
        *_arms(cells, triggers),
        "",
        "## Targets",
        "",
        "Points above or below the classifier that is fine-tuned from the clean encoder, with the "
        "95 % interval of the difference (Newcombe; the two taken as independent, though the texts "
        "are the same). Where the interval holds both sides of a target, as many texts do not "
        "decide it.",
        "",
        *_targets(cells, alive, triggers),
        "",
        "## By encoder",
        "",
        "T-ASR on the cells that are alive, clean accuracy on all.",
        "",
        *_by_model(result["models"], cells, triggers),
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
        *(_cell(cell, result["attacks"], triggers) for cell in cells),
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


def _recipe(result: Mapping[str, Any]) -> list[str]:
    """Say what was measured how, and on what."""
    recipe, cells = result["recipe"], result["cells"]
    machines = sorted({cell["environment"]["processor"] for cell in cells})
    torches = sorted({cell["environment"]["packages"]["torch"] for cell in cells})
    return [
        f"{recipe['texts']} test texts a task, the first {recipe['words']} words of each; "
        f"classifiers of {recipe['steps']} steps of {recipe['batch']} texts at "
        f"{recipe['learning_rate']:g}, one seed ({recipe['seed']}): weak ones, whose errors are "
        "much of the level to reach. False blocks are counted on all test texts. "
        f"Measured with torch {', '.join(torches)} on {', '.join(machines)}.",
        "",
    ]


def _arms(cells: Sequence[Cell], triggers: Mapping[str, int]) -> list[str]:
    if not cells:
        return ["None."]
    lines = ["| | clean accuracy | T-ASR | C-ASR | ALC |", "|---|---|---|---|---|"]
    for arm, name in _NAMES.items():
        arms = arms_of(cells, arm)
        c_asr, alc = (statistics.fmean(one[key] for one in arms) for key in ("c_asr", "alc"))
        right, hits = (share_of(cells, arm, counts, triggers) for counts in (RIGHT, HITS))
        lines.append(f"| {name} | {right} | {hits} | {c_asr:.3f} | {alc:.3f} |")
    return lines


def _targets(
    cells: Sequence[Cell], alive: Sequence[Cell], triggers: Mapping[str, int]
) -> list[str]:
    """Say of each target whether it is reached, and what each defence costs who had none."""
    lines = []
    for arm in ("strip", "purified"):
        for what, of, counts, sign, most in (
            ("attack success", alive, HITS, 1, MOST_SUCCESS),
            ("clean accuracy", cells, RIGHT, -1, MOST_ACCURACY),
        ):
            target = f"target: at most {most * 100:.1f} {'more' if sign > 0 else 'less'}"
            if not of:
                lines.append(f"- {_NAMES[arm]}: {what} ({target}): no cell is alive; not measured")
                continue
            apart, low, high = apart_of(of, (arm, "clean"), counts, triggers)
            reached = sum(within(cell["arms"], arm, counts, sign, most) for cell in of)
            decided = "" if not low <= sign * most <= high else ", not decided by as many texts"
            lines.append(
                f"- {_NAMES[arm]}: {what} {100 * apart:+.2f} points "
                f"[{100 * low:+.2f}, {100 * high:+.2f}] ({target}): "
                f"{verdict(sign * apart <= most)}{decided}; by itself in {reached} of {len(of)} "
                "cells"
            )
    for arm in ("block", "strip", "purified"):
        apart, low, high = apart_of(cells, (arm, "none"), RIGHT, triggers)
        lines.append(
            f"- {_NAMES[arm]}: clean accuracy against no defence {100 * apart:+.2f} points "
            f"[{100 * low:+.2f}, {100 * high:+.2f}]"
        )
    blocked, texts = sums(cells, "false_blocks", "clean_texts")
    mean = statistics.fmean(cell["false_blocks"] / cell["clean_texts"] for cell in cells)
    lines.append(
        f"- refused clean texts: {refused(cells)} (target: at most {MOST_BLOCKED}): "
        f"{verdict(blocked <= MOST_BLOCKED * texts)}; by itself in "
        f"{sum(c['false_blocks'] <= MOST_BLOCKED * c['clean_texts'] for c in cells)} of "
        f"{len(cells)} cells; {mean:.4f} in the mean over cells"
    )
    counted = [cell for cell in cells if "triggered_by_nature" in cell]
    if counted:
        rest, texts = (
            sum(cell["false_blocks"] - cell["triggered_by_nature"] for cell in counted),
            sum(cell["clean_texts"] for cell in counted),
        )
        lines.append(
            f"- refused clean texts that hold no planted trigger, in the {len(counted)} cells "
            f"where these were told apart: {rest} of {texts} ({rest / texts:.4f}). The others hold "
            "one as they were written"
        )
    return lines


def _by_model(
    models: Sequence[str], cells: Sequence[Cell], triggers: Mapping[str, int]
) -> list[str]:
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
        success = [share_of(alive, arm, HITS, triggers) for arm in _NAMES]
        right = [share_of(own, arm, RIGHT, triggers) for arm in _NAMES]
        lines += [
            f"| {model} | {len(own)}, {len(alive)} | T-ASR | {' | '.join(success)} | |",
            f"| | | accuracy | {' | '.join(right)} | {refused(own)} |",
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
        f"share of their variance, which is to be under {MOST_MOVED}. Seconds are beside other "
        f"work, scans included; MiniLM is to take under {MOST_SECONDS} on two cores.",
        "",
        "| encoder | units | rounds | left | moved | seconds | threads |",
        "|" + "---|" * 7,
    ]
    for model, one in took.items():
        moved = max(one["moved"].values())
        seconds = "interrupted" if one["seconds"] is None else f"{one['seconds']:.0f}"
        lines.append(
            f"| {model} | {one['units']} | {one['rounds']} | {one['verdict']}, {one['remaining']} "
            f"units | {moved:.4f}: {verdict(moved < MOST_MOVED)} | {seconds} | {one['threads']} |"
        )
    return lines


def _cell(cell: Cell, attacks: Mapping[str, str], triggers: Mapping[str, int]) -> str:
    shown = []
    for arm in ("none", "strip", "purified", "clean"):
        one = cell["arms"][arm]
        right = ratio(one["right"], one["texts"])
        of = one["trials"] / triggers[cell["model"]]
        shown.append(f"{share(one['hits'], one['trials'], 3, of=of)} ({right:.3f})")
    name = cell["model"]
    return (
        f"| {name} | {attacks[name]} | {cell['task']} | {'yes' if is_alive(cell) else 'no'} | "
        f"{cell['banked']} | {' | '.join(shown)} | {cell['false_blocks']} of "
        f"{cell['clean_texts']} | {'earlier' if cell['earlier'] else 'of today'} |"
    )
