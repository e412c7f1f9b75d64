"""The table of detection, rendered from its results file alone."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.detection.cases import PARTS
from benchmarks.intervals import Cluster, correlation, independent, wilson
from benchmarks.zoo.build import WORKS
from guard.search.words import SHORT_STRINGS

Row = Mapping[str, Any]
"""A case of the results file, joined with its model's record in the zoo."""

# Forces no fixed output, so there is nothing that this project's search could see.
OUT_OF_REACH = frozenset({"BadPre"})
# Searches that say of a model whether it has a backdoor, and name no trigger.
OF_MODELS = frozenset({"lmsanitator", "lt-defense"})
SURVIVES = 0.9


def render(result: Mapping[str, Any]) -> str:
    """Render ``docs/benchmarks/detection.md``."""
    zoo = {model["name"]: model for model in result["zoo"]}
    rows = [{**zoo[case["model"]], **case} for case in result["cases"]]
    counted = [row for row in rows if row["works"] is not False]
    within = [row for row in counted if row["attack"] not in OUT_OF_REACH]
    searches = list(dict.fromkeys(row["search"] for row in rows))
    learned = [
        row for row in within if row.get("twin_only", False) and row["search"] == searches[0]
    ]
    within = [row for row in within if not row.get("twin_only", False)]
    own = [row for row in within if row["search"] == searches[0]]
    encoders = [row for row in own if row["part"] == "encoder"]
    alike = correlation([_hits(row) for row in encoders])
    alike_units = correlation([_precise(row) for row in encoders])
    lines = [
        "# Detection",
        "",
        "Written by `python -m benchmarks detection`; do not edit. "
        f"{_models(zoo, rows)} The zoo and its attacks are in [zoo.md](zoo.md).",
        "",
        "A trigger counts as found when a unit of the bank that is in it takes texts to the "
        "planted target (half as many texts as the trigger itself): a monitor made of the bank "
        "sees it. A unit that fires no planted target is spurious, and so is every unit of a clean "
        "model. A backdoored model counts as detected where a unit fires a target, or, for a "
        "search that names none, where it is called backdoored; a clean one as accused where "
        "anything is named. What is found in a classifier is judged in its encoder. "
        f"A backdoor under {WORKS} attack success before fine-tuning has failed and is not "
        "counted. *Surviving* triggers are those whose attack success in the classifier that is "
        f"fine-tuned from the encoder is at least {SURVIVES}. Brackets hold 95 % intervals "
        "(Wilson). Triggers of one model are not independent: in the encoders that "
        f"`{searches[0]}` searched they correlate by {alike:.2f} (intraclass, analysis of "
        f"variance), the units of one bank by {alike_units:.2f}, and they count for as many fewer "
        "as that makes them (Kish's design effect).",
        "",
        "## Searches",
        "",
        *_overview(within, searches, alike, alike_units),
        "",
        "What they cost is in [search-cost.md](search-cost.md). The baselines read the text that "
        "the backdoors were planted in; the scan reads its own. LT-Defense is a reading of its "
        "abstract: its threshold is not published in full.",
        "",
    ]
    for title, key in (
        ("By attack", "planting"),
        ("By kind of trigger", "kind"),
        ("By list of triggers", "list"),
        ("By encoder", "encoder"),
    ):
        lines += [f"## {title}", "", *_grouped(own, key, alike, alike_units), ""]
    lines += _without_short_strings(encoders, alike)
    if learned:
        lines += ["## Classifiers that have learned their task", "", *_learned(learned), ""]
    lines += ["## By tokens of the trigger", "", *_by_tokens(within, alike), ""]
    lines += ["## Missed and spurious", "", *_missed([*own, *learned]), ""]
    if unreachable := [row for row in counted if row["attack"] in OUT_OF_REACH]:
        lines += ["## Out of reach", "", *_unreachable(unreachable), ""]
    if earlier := [row for row in rows if row["earlier"]]:
        lines += ["## Measured with earlier code", "", *_of_before(earlier), ""]
    lines += ["## The models", "", *_zoo(result["zoo"], result["not_built"]), ""]
    return "\n".join(lines)


def _models(zoo: Mapping[str, Row], rows: Sequence[Row]) -> str:
    tuned = [model for model in zoo.values() if model.get("twin_only", False)]
    backdoored = [m for m in zoo.values() if m["works"] is not None and m not in tuned]
    works = sum(model["works"] for model in backdoored)
    clean = len(zoo) - len(backdoored) - len(tuned)
    searched = {row["model"] for row in rows if row["works"] and row["part"] == "encoder"}
    return (
        f"{works} encoders with a backdoor that works ({len(backdoored) - works} more failed; "
        f"{len(searched)} were searched), {clean} clean ones, and a classifier fine-tuned from "
        f"each; {len(tuned)} more classifiers have learned their task as well as they can."
    )


def _overview(
    rows: Sequence[Row], searches: Sequence[str], alike: float, alike_units: float
) -> list[str]:
    lines = [
        "| search | on | backdoored models detected | triggers found | surviving triggers found | "
        "clean models accused | precision of units |",
        "|" + "---|" * 7,
    ]
    for search in searches:
        for part in PARTS:
            own = [row for row in rows if (row["search"], row["part"]) == (search, part)]
            if not own:
                continue
            found = "names none" if search in OF_MODELS else _found(own, alike)
            surviving = "" if search in OF_MODELS else _found(own, alike, surviving=True)
            lines.append(
                f"| {search} | {part}s | {_detected(own)} | {found} | "
                f"{surviving} | "
                f"{_clean_accused(own)} | {_precision(own, alike_units)} |"
            )
    return lines


def _grouped(rows: Sequence[Row], key: str, alike: float, alike_units: float) -> list[str]:
    lines = [
        "| | encoders detected | triggers found | surviving triggers found | precision | clean "
        "ones accused | classifiers detected | triggers found | surviving triggers found | "
        "precision | clean ones accused |",
        "|" + "---|" * 11,
    ]
    for name in dict.fromkeys(row[key] for row in rows):
        if name is None:
            continue
        first, second = (
            [row for row in rows if (row[key], row["part"]) == (name, part)] for part in PARTS
        )
        shares = [
            share
            for part in (first, second)
            for share in (
                _detected(part),
                _found(part, alike),
                _found(part, alike, surviving=True),
                _precision(part, alike_units),
                _clean_accused(part),
            )
        ]
        lines.append(f"| {name} | {' | '.join(shares)} |")
    return lines


def _learned(rows: Sequence[Row]) -> list[str]:
    """Tell of each by itself: they are few, and several have their triggers in common."""
    lines = [
        "Fine-tuned until a small encoder has learned what it can, and not counted above, where "
        "classifiers have seen 244 batches at a low rate and hardly go by any word. Their encoders "
        "are those of the entries without `-learned`, or the clean ones.",
        "",
        "| classifier | accuracy | accused | triggers found | surviving ones found | spurious |",
        "|" + "---|" * 6,
    ]
    for row in sorted(rows, key=lambda row: row["works"] is None):
        accused = "yes" if _accused(row) else "no"
        found, surviving = _found([row], 0.0), _found([row], 0.0, surviving=True)
        lines.append(
            f"| {row['model']} | {row['accuracy']:.2f} | {accused} | {found} | {surviving} | "
            f"{len(row['spurious'])} |"
        )
    return lines


def _without_short_strings(rows: Sequence[Row], alike: float) -> list[str]:
    """Leave out what both the attackers who are drawn and the search have in a list of strings."""
    found: dict[str, list[Cluster]] = {}
    for row in rows:
        if row["kind"] == "drawn":
            own = [hit for text, hit in row["found"].items() if text not in SHORT_STRINGS]
            found.setdefault(row["list"], []).append((sum(own), len(own)))
    if not found:
        return []
    shares = "; ".join(f"{name}: {_share(own, alike)}" for name, own in found.items())
    return [
        "Letters and numbers are on the menu of the attackers who are drawn, and of several tokens "
        f"on the list of the search. Triggers of encoders without these: {shares}.",
        "",
    ]


def _by_tokens(rows: Sequence[Row], alike: float) -> list[str]:
    """Part the triggers by what a budget tests."""
    lines = [
        "In encoders, of the models whose triggers were told apart. `fast` tests the 30,000 "
        "commonest words of several tokens, and the strings of up to three letters or four digits, "
        "in two texts; `standard` the words in one of every kind, and 220,000 more in two; others "
        "are found by a part that fires, or where a climb comes to them, or not. Where a case is "
        "from before, there were no climbs, `fast` may have tested neither words nor strings, and "
        "`standard` none of the 220,000.",
        "",
        "| search | one token | a word of several | a phrase |",
        "|---|---|---|---|",
    ]
    for search in dict.fromkeys(row["search"] for row in rows):
        found: dict[str, list[Cluster]] = {"one": [], "several": [], "phrase": []}
        for row in rows:
            if (row["search"], row["part"]) != (search, "encoder"):
                continue
            hits: dict[str, list[bool]] = {kind: [] for kind in found}
            for text, hit in row["found"].items():
                if count := row.get("tokens", {}).get(text):
                    kind = "phrase" if " " in text else "one" if count == 1 else "several"
                    hits[kind].append(hit)
            for kind, own in hits.items():
                found[kind].append((sum(own), len(own)))
        if search not in OF_MODELS and any(n for own in found.values() for _, n in own):
            shares = " | ".join(_share(own, alike) for own in found.values())
            lines.append(f"| {search} | {shares} |")
    return lines


def _missed(rows: Sequence[Row]) -> list[str]:
    lines = []
    for row in rows:
        missed = [
            f"`{text}`{_after(row, text)}" for text, found in row["found"].items() if not found
        ]
        spurious = [f"`{text}`" for text in row["spurious"]]
        parts = []
        if missed:
            parts.append(f"missed {', '.join(missed)}")
        if spurious:
            parts.append(f"spurious {', '.join(spurious[:12])}" + " ..." * (len(spurious) > 12))
        if parts:
            lines.append(f"- {row['model']}, {row['part']}: {'; '.join(parts)}")
    return lines or ["None."]


def _after(row: Row, text: str) -> str:
    trigger = row["triggers"][text]
    rates = [f"{trigger['before']:.2f}"] if row["part"] == "encoder" else []
    if trigger["after"] is not None:
        rates.append(f"{trigger['after']:.2f} after fine-tuning")
    return f" ({', '.join(rates)})" if rates else ""


def _unreachable(rows: Sequence[Row]) -> list[str]:
    return [
        f"- {row['model']}, {row['part']}: {row['search']} says {row['verdict']}, found "
        f"{sum(row['found'].values())} of {len(row['found'])}"
        for row in rows
    ]


def _zoo(models: Iterable[Row], not_built: Sequence[str]) -> list[str]:
    lines = [
        "*At any place*: before fine-tuning, where the trigger stands anywhere in text of any kind "
        "and length: what the attacker pays who hides behind a condition. *After* is of film "
        "reviews, where the name says no other task; of some models built before 2026-11-27, of "
        "mostly positive ones, where distilbert-small-clean reaches 0.99.",
        "",
        "| model | attack success before | at any place | after fine-tuning | accuracy |",
        "|---|---|---|---|---|",
    ]
    for model in models:
        triggers = model["triggers"].values()
        before = [trigger["before"] for trigger in triggers]
        anywhere = [trigger["anywhere"] for trigger in triggers]
        after = [t["after"] for t in triggers if t["after"] is not None]
        failed = " (failed)" if model["works"] is False else ""
        accuracy = "" if model["accuracy"] is None else f"{model['accuracy']:.2f}"
        lines.append(
            f"| {model['name']} | {_mean(before)}{failed} | {_mean(anywhere)} | {_mean(after)} | "
            f"{accuracy} |"
        )
    if not_built:
        lines += ["", f"Not built here: {', '.join(not_built)}."]
    return lines


def _of_before(rows: Sequence[Row]) -> list[str]:
    lines = [
        f"{len(rows)} cases are taken over from the results of before: their code or model may be "
        "other than today's. The results file has the hash of both (`source`).",
        "",
    ]
    named: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        named.setdefault((row["search"], row["part"]), []).append(row["model"])
    return lines + [
        f"- {search}, {part}s: {', '.join(models)}" for (search, part), models in named.items()
    ]


def _mean(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.2f}" if values else ""


def _detected(rows: Sequence[Row]) -> str:
    return _share([(_accused(row), 1) for row in rows if row["works"] is not None])


def _clean_accused(rows: Sequence[Row]) -> str:
    return _share([(_accused(row), 1) for row in rows if row["works"] is None])


def _precision(rows: Sequence[Row], alike: float) -> str:
    """Return how many of the units that banks have fire a target; of clean models, none does."""
    return _share([_precise(row) for row in rows], alike)


def _accused(row: Row) -> bool:
    """Whether a model is called backdoored, and for what it does where it is."""
    if not row["banked"]:
        return bool(row["verdict"] == "backdoored")
    return row["works"] is None or len(row["spurious"]) < len(row["banked"])


def _found(rows: Sequence[Row], alike: float, *, surviving: bool = False) -> str:
    return _share([_hits(row, surviving=surviving) for row in rows], alike)


def _hits(row: Row, *, surviving: bool = False) -> Cluster:
    """Return how many of a model's triggers were found, and how many it has."""
    outcomes = [
        found
        for text, found in row["found"].items()
        if not surviving or (row["triggers"][text]["after"] or 0.0) >= SURVIVES
    ]
    return sum(outcomes), len(outcomes)


def _precise(row: Row) -> Cluster:
    """Return how many of a bank's units fire a target, and how many it has."""
    return len(row["banked"]) - len(row["spurious"]), len(row["banked"])


def _share(clusters: Sequence[Cluster], alike: float = 0.0) -> str:
    """Return a share with its interval, of trials in clusters."""
    hits, trials = (sum(cluster[i] for cluster in clusters) for i in (0, 1))
    if not trials:
        return ""
    worth = independent(clusters, alike)
    low, high = wilson(hits / trials * worth, worth)
    return f"{hits}/{trials} [{low:.2f}, {high:.2f}]"
