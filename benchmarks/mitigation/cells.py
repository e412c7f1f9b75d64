"""One encoder and one task: attacked, defended in every way, measured once, and kept."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from benchmarks import record
from benchmarks.assets import cache_dir
from benchmarks.attacks import Planting
from benchmarks.attacks.samples import holds, unit_ids
from benchmarks.encoders import encoder
from benchmarks.measure import Classes
from benchmarks.mitigation.defences import (
    Purification,
    Treated,
    bank_of,
    monitor_of,
    purification,
    purified,
    treat,
)
from benchmarks.mitigation.measures import REFUSED, Measured, measured, targets
from benchmarks.models import classifier
from benchmarks.recipes import TASK
from benchmarks.sources import fingerprint
from benchmarks.tasks import load
from benchmarks.tasks.classifier import Tuning, predict
from benchmarks.zoo.build import stored
from benchmarks.zoo.entry import Entry
from benchmarks.zoo.success import place
from guard.files import Json

Arm = Literal["none", "block", "strip", "purified", "both", "clean"]
ARMS: tuple[Arm, ...] = get_args(Arm)

MAX_TEXTS = 200
# Of a text, what is measured on: a classifier of 64 tokens reads no more, and an attacker puts his
# trigger where it is read.
READ_WORDS = 40
SEED = 1

_SOURCES = (
    "guard/search",
    "guard/purify",
    "guard/automaton.py",
    "guard/monitor.py",
    "guard/policy.py",
    "guard/prefilter.py",
    "guard/reading.py",
    "guard/scanning.py",
    "guard/settings.py",
    "guard/strip.py",
    "guard/tables.py",
    "guard/verdict.py",
    "exporters/matcher.py",
    "exporters/monitor.py",
    "exporters/trie.py",
    "benchmarks/measure.py",
    "benchmarks/mitigation/cells.py",
    "benchmarks/mitigation/defences.py",
    "benchmarks/mitigation/measures.py",
    "benchmarks/tasks",
    "benchmarks/zoo/success.py",
)


@dataclass(frozen=True, slots=True)
class Cell:
    """What was measured of a model and a task.

    Attributes
    ----------
    model
        Of the zoo.
    banked
        Units in its bank.
    arms
        Way to serve it -> what it does; see `measure`.
    false_blocks, clean_texts
        Of all of the task's test texts, how many the monitor refuses, and how many there are.
    triggered_by_nature
        Of those that it refuses, how many hold a planted trigger as they were written.
    purification
        What the purified encoder took, if there was anything to purify.
    source
        Hash of the code that made it.
    """

    model: str
    task: str
    banked: int
    arms: dict[Arm, Measured]
    false_blocks: int
    clean_texts: int
    triggered_by_nature: int
    purification: Purification | None
    seconds: float
    seed: int
    source: str
    environment: dict[str, Json]


Ready = Callable[[Sequence[str]], Treated]


def measure(entry: Entry, task: str, tuning: Tuning = TASK) -> Cell:
    """Return the cell of a model that is built and a task, making what is not in the cache.

    Arms are the classifier fine-tuned from the poisoned encoder as it is (``none``), behind the
    monitor (``block``, ``strip``), the one fine-tuned from the purified encoder without and with
    the stripping monitor (``purified``, ``both``), and the one fine-tuned from the clean encoder
    (``clean``), which is the level to reach: what of its errors goes to the target by chance.
    """
    known = kept(entry, task)
    if known is not None:
        return known
    built = stored(entry)
    assert built is not None
    assert entry.planting is not None
    print(f"{entry.name}, {task}", file=sys.stderr, flush=True)
    started = time.monotonic()
    model = cache_dir() / built.model
    bank = bank_of(model)
    monitor = monitor_of(bank)
    data = load(task)
    # Test sets may be sorted by class.
    chosen = np.random.default_rng(SEED).permutation(len(data.test.texts))[:MAX_TEXTS]
    texts = [" ".join(data.test.texts[i].split()[:READ_WORDS]) for i in chosen]
    labels = [data.test.labels[i] for i in chosen]
    poisoned = _poisoned(texts, entry.planting, AutoTokenizer.from_pretrained(model))

    def as_is(given: Sequence[str]) -> Treated:
        return list(given)

    def stripped(given: Sequence[str]) -> Treated:
        return treat(monitor, "strip", given)

    def blocked(given: Sequence[str]) -> Treated:
        return treat(monitor, "block", given)

    arms: dict[Arm, Measured] = {}
    pure = purified(model)
    served: tuple[tuple[Path, dict[Arm, Ready]], ...] = (
        (model, {"none": as_is, "block": blocked, "strip": stripped}),
        (pure, {"purified": as_is, "both": stripped}),
        (encoder(entry.encoder), {"clean": as_is}),
    )
    forced: dict[str, int] = {}
    for source, ways in served:
        answer = answers(classifier(source, tuning, task))
        # The classes that the attacker reaches where nothing defends, in every arm: a clean
        # classifier's error to these is the level to reach, not that to the class it prefers.
        forced = forced or targets({trigger: answer(list(t)) for trigger, t in poisoned.items()})
        for arm, ready in ways.items():
            arms[arm] = measured(
                answer(ready(texts)),
                {trigger: answer(ready(given)) for trigger, given in poisoned.items()},
                labels,
                classes=len(data.classes),
                forced=forced,
            )
    refused = [
        text
        for text, passed in zip(data.test.texts, blocked(data.test.texts), strict=True)
        if passed is None
    ]
    cell = Cell(
        model=entry.name,
        task=task,
        banked=len(bank.triggers),
        arms=arms,
        false_blocks=len(refused),
        clean_texts=len(data.test.texts),
        triggered_by_nature=_holding(refused, entry.planting.triggers, model),
        purification=purification(pure),
        seconds=round(time.monotonic() - started, 1),
        seed=SEED,
        source=_source(entry),
        environment=record.environment(),
    )
    record.keep(_path(entry.name, task), asdict(cell))
    return cell


def answers(folder: Path) -> Callable[[Treated], Classes]:
    """Return a classifier as a function of texts, some of which were refused."""
    tuned = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def answer(treated: Treated) -> Classes:
        predicted: Classes = np.full(len(treated), REFUSED, dtype=np.int64)
        passed = [i for i, text in enumerate(treated) if text is not None]
        predicted[passed] = predict(tuned, tokenizer, [str(treated[i]) for i in passed])
        return predicted

    return answer


def kept(entry: Entry, task: str) -> Cell | None:
    """Return a cell that was measured with today's code and model, or ``None``."""
    path = _path(entry.name, task)
    if not path.is_file() or stored(entry) is None:
        return None
    fields = json.loads(path.read_text(encoding="utf-8"))
    try:
        arms = {arm: Measured(**counts) for arm, counts in fields["arms"].items()}
        took = fields["purification"] and Purification(**fields["purification"])
        cell = Cell(**{**fields, "arms": arms, "purification": took})
    except (KeyError, TypeError):
        # Of an older form.
        return None
    return cell if cell.source == _source(entry) else None


def _poisoned(
    texts: Sequence[str], planting: Planting, tokenizer: PreTrainedTokenizerFast
) -> dict[str, list[str]]:
    rng = np.random.default_rng(SEED)
    return {
        trigger: [place(text, trigger, planting, tokenizer, rng) for text in texts]
        for trigger in planting.triggers
    }


def _holding(texts: Sequence[str], triggers: Sequence[str], model: Path) -> int:
    """Count the texts whose tokens hold a trigger's, as in ``&gt;`` the word ``gt`` is."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    planted = [unit_ids(tokenizer, trigger) for trigger in triggers]
    encoded = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts)
    return sum(
        any(holds(np.array(ids, dtype=np.int64), unit) for unit in planted) for ids in encoded
    )


def _path(model: str, task: str) -> Path:
    return cache_dir() / "mitigation" / f"{model}-{task.replace(' ', '-')}.json"


def _source(entry: Entry) -> str:
    built = stored(entry)
    return fingerprint([built and built.model, asdict(TASK)], _SOURCES)
