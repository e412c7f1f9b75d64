"""What each part of a fast search of tokens adds: ``python -m benchmarks ablation``.

One search of each model is watched. Of each planted trigger it is noted which statistics, in which
views, would have let it through the scan alone, and which rules, in which views, would have found
it alone: the parts are compared on the same forwards.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.assets import AssetError, cache_dir
from benchmarks.attacks.samples import unit_ids
from benchmarks.detection.searches import SEED
from benchmarks.record import remembered, write
from benchmarks.sources import fingerprint
from benchmarks.zoo import ZOO, Entry
from benchmarks.zoo.build import stored
from guard.files import Json
from guard.search import tiers, verdicts
from guard.search.carriers import builtin_texts
from guard.search.evidence import RULES
from guard.search.gradients import Differentiable
from guard.search.plan import GROUPS, Plan
from guard.search.run import search_units
from guard.search.scan import foremost, ranks, scan
from guard.search.units import Unit, vocabulary
from guard.search.verify import verify
from guard.terminal import Progress

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "benchmarks" / "ablation.md"
# A trigger of one token, planted so that a search for tokens can find it.
TOKENS = frozenset({"rare", "symbol", "punctuation", "piece", "common"})

Ids = tuple[int, ...]


class Watched:
    """What a search did with some units: through what each passed.

    Attributes
    ----------
    scanned, sifted, judged
        Of each unit, ``"view: statistic"`` or ``"view: rule"``.
    """

    def __init__(self, planted: Iterable[Ids]) -> None:
        self._planted = frozenset(planted)
        self.scanned: dict[Ids, set[str]] = {ids: set() for ids in self._planted}
        self.sifted: dict[Ids, set[str]] = {ids: set() for ids in self._planted}
        self.judged: dict[Ids, set[str]] = {ids: set() for ids in self._planted}
        # By the identity of what a scan gave: its name and units, and the scores, to keep them.
        self._scans: dict[int, tuple[str, Sequence[Unit], Any]] = {}

    def search(self, encoder: Differentiable, *, seed: int) -> None:
        """Search, and watch."""
        with (
            patch.object(tiers, "scan", self._scan),
            patch.object(tiers, "foremost", self._foremost),
            patch.object(verdicts, "scan", self._scan),
            patch.object(verdicts, "foremost", self._foremost),
            patch.object(verdicts, "verify", self._verify),
            Progress() as progress,
        ):
            search_units(
                encoder,
                vocabulary(encoder.tokenizer),
                builtin_texts(),
                plan=Plan("tokens"),
                seed=seed,
                progress=progress,
            )

    def _scan(self, name: str, units: Sequence[Unit], *rest: Any, **named: Any) -> Any:
        scores = scan(name, units, *rest, **named)
        self._scans[id(scores)] = name, units, scores
        return scores

    def _foremost(self, seen: Any) -> Any:
        name, units, _ = self._scans[id(seen)]
        sifts = name.endswith(" sift")
        passed = self.sifted if sifts else self.scanned
        order = foremost(seen)
        chosen = order[: verdicts.JUDGED if sifts else tiers.suspected(len(units), GROUPS)]
        named = {
            f"{view}: {statistic}": rank
            for view, scores in seen.items()
            for statistic, rank in ranks(scores).items()
        }
        # How many each statistic proposes.
        depth = np.min([*named.values()], axis=0)[chosen].max()
        for row in chosen:
            if (ids := tuple(units[row].ids.tolist())) in self._planted:
                passed[ids] |= {part for part, rank in named.items() if rank[row] <= depth}
        return order

    def _verify(self, name: str, units: Sequence[Unit], *rest: Any, **named: Any) -> Any:
        evidence = verify(name, units, *rest, **named)
        if name == "tokens 1 verdict":
            for unit, seen in zip(units, evidence, strict=True):
                if (ids := tuple(unit.ids.tolist())) in self._planted:
                    self.judged[ids] |= {
                        f"{view}: {rule}" for view, told in seen.items() for rule in told.rules
                    }
        return evidence


def main() -> None:
    """Watch a search of every built encoder with triggers of one token; write the page."""
    models: list[Json] = []
    for entry in ZOO:
        found = stored(entry)
        if found is None or not found.works or entry.kind not in TOKENS or entry.twin_only:
            continue
        folder = cache_dir() / found.model
        path = cache_dir() / "ablation" / f"{entry.name}.json"
        source = fingerprint(folder.name, ("guard/search", "benchmarks/ablation.py"))
        models.append(remembered(path, source, partial(_watch, entry, folder)))
        print(entry.name, flush=True)
    if not models:
        raise AssetError("no encoder of the zoo is built; python -m benchmarks zoo build")
    path = write("ablation", {"seed": SEED, "models": models})
    DOCUMENT.write_text(render(json.loads(path.read_bytes())), encoding="utf-8")
    print(f"results: {path}, {DOCUMENT}")


def _watch(entry: Entry, folder: Path) -> Json:
    assert entry.planting is not None
    encoder = Differentiable.load(str(folder))
    triggers = {
        tuple(unit_ids(encoder.tokenizer, text).tolist()): text for text in entry.planting.triggers
    }
    watched = Watched(triggers)
    watched.search(encoder, seed=SEED)
    return {
        "model": entry.name,
        "attack": entry.planting.name,
        "triggers": {
            text: {
                "scanned": sorted(watched.scanned[ids]),
                "sifted": sorted(watched.sifted[ids]),
                "judged": sorted(watched.judged[ids]),
            }
            for ids, text in triggers.items()
        },
    }


def render(result: Mapping[str, Any]) -> str:
    """Render the page from its results."""
    models: Sequence[Mapping[str, Any]] = result["models"]
    triggers = [seen for model in models for seen in model["triggers"].values()]
    lines = [
        "# What each part of the search adds",
        "",
        f"Written by `python -m benchmarks ablation`; do not edit. {len(models)} encoders with "
        f"{len(triggers)} planted triggers of one token, `fast`, seed {result['seed']}; each "
        "search was watched once, so that all lines are of the same forwards. A trigger passes a "
        "step by a part alone where that part, without the others, would have let it through.",
        "",
        "## Statistics of the scan and the sift",
        "",
        "The foremost 4 % of a group by any statistic and view are sifted, and the foremost three "
        "hundred of those judged. A statistic by itself lets through as many as it does beside the "
        "others.",
        "",
        "| statistic, in any view | pass the scan by it alone | pass the sift by it alone |",
        "|---|---|---|",
        *_rows(triggers, ("scanned", "sifted"), _second),
        "",
        "## Views",
        "",
        "| view, by any statistic or rule | pass the scan by it alone | pass the sift | found |",
        "|---|---|---|---|",
        *_rows(triggers, ("scanned", "sifted", "judged"), _first),
        "",
        "## Rules of the verdict",
        "",
        "| rule, in any view | found by it alone |",
        "|---|---|",
        *_rows(triggers, ("judged",), _second),
        "",
        "## By model",
        "",
        f"| model | triggers | found | {' | '.join(f'by `{rule}` alone' for rule in RULES)} |",
        "|" + "---|" * (3 + len(RULES)),
    ]
    for model in models:
        own = list(model["triggers"].values())
        by_rule = [_count(own, "judged", rule, _second) for rule in RULES]
        lines.append(
            f"| {model['model']} | {len(own)} | {sum(bool(seen['judged']) for seen in own)} | "
            f"{' | '.join(map(str, by_rule))} |"
        )
    return "\n".join([*lines, ""])


def _first(passed: str) -> str:
    return passed.split(": ")[0]


def _second(passed: str) -> str:
    return passed.split(": ")[1]


def _count(triggers: Sequence[Mapping[str, Any]], step: str, part: str, of: Any) -> int:
    return sum(part in map(of, seen[step]) for seen in triggers)


def _rows(triggers: Sequence[Mapping[str, Any]], steps: Sequence[str], of: Any) -> list[str]:
    """Return a line of each part, and one of all together."""
    parts = dict.fromkeys(of(passed) for seen in triggers for s in steps for passed in seen[s])
    lines = [
        f"| {part} | {' | '.join(str(_count(triggers, step, part, of)) for step in steps)} |"
        for part in sorted(parts)
    ]
    together = (str(sum(bool(seen[step]) for seen in triggers)) for step in steps)
    return [*lines, f"| **all of them** | {' | '.join(together)} |"]
