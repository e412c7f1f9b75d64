"""One search on one model of the zoo: run once, judged, and kept."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from benchmarks import record
from benchmarks.assets import cache_dir
from benchmarks.baselines import BASELINES
from benchmarks.detection.judge import Judgement, judge
from benchmarks.detection.searches import SEARCHES, SEED
from benchmarks.sources import fingerprint
from benchmarks.zoo.build import Record, held_out_texts, stored
from benchmarks.zoo.entry import Entry
from guard.files import Json

Part = Literal["encoder", "classifier"]
PARTS: tuple[Part, ...] = get_args(Part)

# What a search's answer depends on: after a change here, it is asked again.
_JUDGED = ("benchmarks/detection/judge.py", "benchmarks/zoo/success.py")
_SCAN = ("guard/search", *_JUDGED)
_READ = ("checkpoint", "encoder", "gradients", "statistics", "units")
_BASELINE = ("benchmarks/baselines", *(f"guard/search/{name}.py" for name in _READ), *_JUDGED)


@dataclass(frozen=True, slots=True)
class Case:
    """What a search found in a model, and what it cost.

    Attributes
    ----------
    search
        Its name; see `SEARCHES`.
    model
        Of the zoo.
    part
        ``"encoder"``, or ``"classifier"`` for what was fine-tuned from it.
    works, triggers
        Of the very model that was searched, as in `Record`: one that is built elsewhere by the same
        recipe has other weights.
    verdict, statistics, seconds, token_forwards, peak_mb
        As in `searches.Answer`.
    banked
        Texts of the units that it named.
    found
        Planted trigger -> whether it was found; see `judge`.
    spurious
        Texts of the units that fire no planted target.
    seed
        Of the search.
    source
        Hash of the code that searches and judges, and of the names of the models' folders.
    environment
        Versions and machine, as `record.environment` has them.
    """

    search: str
    model: str
    part: Part
    works: bool | None
    triggers: dict[str, dict[str, Json]]
    verdict: str
    banked: tuple[str, ...]
    found: dict[str, bool]
    spurious: tuple[str, ...]
    statistics: dict[str, Json]
    seconds: float
    token_forwards: int
    peak_mb: float
    seed: int
    source: str
    environment: dict[str, Json]


def measure(entries: Sequence[Entry], search: str, parts: Sequence[Part]) -> list[Case]:
    """Run a search on every entry that is built, one after another; what was run is not run again.

    An interrupted run goes on with the first model that it has not ended.
    """
    cases: list[Case] = []
    built = [(entry, found) for entry in entries if (found := stored(entry)) is not None]
    for number, (entry, found) in enumerate(built, start=1):
        for part in parts:
            if (part == "classifier" and found.twin is None) or (
                part == "encoder" and entry.twin_only
            ):
                continue
            case = kept(entry, search, part)
            if case is None:
                label = f"[{number}/{len(built)}] {search}: {entry.name}, {part}"
                print(label, file=sys.stderr, flush=True)
                case = _measure(entry, found, search, part)
            cases.append(case)
            print(_line(case), flush=True)
    return cases


def kept(entry: Entry, search: str, part: Part) -> Case | None:
    """Return a case that was run with today's code and model, or ``None``."""
    path = _path(entry.name, search, part)
    if not path.is_file():
        return None
    fields = json.loads(path.read_text(encoding="utf-8"))
    try:
        case = Case(
            **{**fields, "banked": tuple(fields["banked"]), "spurious": tuple(fields["spurious"])}
        )
    except TypeError:
        # Of an older form.
        return None
    return case if case.source == _source(entry, search) else None


def _measure(entry: Entry, built: Record, search: str, part: Part) -> Case:
    encoder = cache_dir() / built.model
    model = encoder
    if part == "classifier":
        assert built.twin is not None
        model = cache_dir() / built.twin
    answer = SEARCHES[search](model)
    judgement = Judgement({}, tuple(range(len(answer.units))))
    if entry.planting is not None:
        judgement = judge(encoder, entry.planting, held_out_texts(), answer.units)
    case = Case(
        search=search,
        model=entry.name,
        part=part,
        works=built.works,
        triggers={text: asdict(achieved) for text, achieved in built.triggers.items()},
        verdict=answer.verdict,
        banked=answer.texts,
        found=judgement.found,
        spurious=tuple(answer.texts[i] for i in judgement.spurious),
        statistics=answer.statistics,
        seconds=round(answer.seconds, 1),
        token_forwards=answer.token_forwards,
        peak_mb=round(answer.peak_mb, 1),
        seed=SEED,
        source=_source(entry, search),
        environment=record.environment(),
    )
    path = _path(entry.name, search, part)
    record.keep(path, asdict(case))
    return case


def _line(case: Case) -> str:
    line = f"{case.model}, {case.part}: {case.verdict}"
    if case.found:
        line += f", found {sum(case.found.values())} of {len(case.found)}"
    return f"{line}, {len(case.spurious)} spurious, {case.seconds:.0f} s"


def _path(model: str, search: str, part: Part) -> Path:
    return cache_dir() / "detection" / search / f"{model}-{part}.json"


def source(model: str | None, twin: str | None, search: str) -> str:
    """Hash the code of a search, and the folders of the models, whose names hold their keys."""
    return fingerprint([model, twin], _BASELINE if search in BASELINES else _SCAN)


def _source(entry: Entry, search: str) -> str:
    built = stored(entry)
    return source(built.model if built else None, built.twin if built else None, search)
