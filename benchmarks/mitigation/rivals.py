"""The product beside other defences, in one run: ``python -m benchmarks mitigation-rivals``.

All get the same texts, the same poisoned model and one thread; what each has to do before it can
serve is done, and timed, in the run.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer

from benchmarks import record
from benchmarks.assets import AssetError, cache_dir
from benchmarks.baselines import lmsanitator
from benchmarks.baselines.detector import threshold_at
from benchmarks.baselines.onion import Onion, language_model
from benchmarks.baselines.output_monitor import OutputMonitor
from benchmarks.baselines.strip import Strip, probabilities
from benchmarks.baselines.subject import load as load_subject
from benchmarks.encoders import encoder
from benchmarks.encoders.causal import smollm2
from benchmarks.measure import Classes
from benchmarks.mitigation.cells import MAX_TEXTS, READ_WORDS, SEED, answers
from benchmarks.mitigation.defences import monitor_of, treat
from benchmarks.mitigation.measures import ATTACKED, targets
from benchmarks.mitigation.rivals_page import render
from benchmarks.models import classifier
from benchmarks.recipes import TASK
from benchmarks.rivals import FALSE_ALARMS
from benchmarks.tasks import TASKS, load, plain_texts
from benchmarks.tasks.classifier import Tuning, fine_tune
from benchmarks.zoo import ZOO, select
from benchmarks.zoo.build import stored
from benchmarks.zoo.entry import Entry
from benchmarks.zoo.success import place
from guard.files import Json
from guard.purify import purify
from guard.search import search
from guard.terminal import Progress

DOCUMENT = Path(__file__).parents[2] / "docs" / "benchmarks" / "rivals.md"

# A language model reads a text once for each of its words: seconds a text.
ONION_TEXTS = 40
# Of plain fine-tuning, in those of the recipe.
LONGER = 3
# As published but for the rounds, 30: each takes minutes on one core.
SANITATOR = lmsanitator.Settings(rounds=4, vectors=4)

Treat = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class Defence:
    """A way to serve.

    Attributes
    ----------
    classifier
        The folder of the model that answers.
    treat
        Makes of a text what the classifier is given, or ``None`` where it is refused; itself
        ``None`` where nothing looks at texts. A text that comes out changed is an alarm.
    seconds
        Of preparation, without the fine-tuning that every user does.
    most
        Texts of each kind, at most.
    found
        Units or vectors that its search found, or ``None`` where it has no search.
    """

    classifier: Path
    treat: Treat | None
    seconds: float
    most: int = MAX_TEXTS
    found: int | None = None


@dataclass(frozen=True, slots=True)
class Texts:
    """What all defences are measured on: ``[n]`` each, but for what is held out.

    Attributes
    ----------
    forced
        The class that the trigger in ``triggered[i]`` forces where nothing defends.
    held_out
        Clean texts that thresholds are fitted to.
    """

    clean: list[str]
    labels: Classes
    triggered: list[str]
    forced: Classes
    held_out: list[str]


def main(model: str, task: str) -> None:
    """Measure, and write results and page.

    Raises
    ------
    AssetError
        The model or the task is unknown, the model is clean or not built, or none of its triggers
        survives fine-tuning on the task.
    """
    (entry,) = select(ZOO, model)
    if task not in TASKS:
        raise AssetError(f"{task!r} is no task; known: {', '.join(TASKS)}")
    torch.set_num_threads(1)
    path = record.write("mitigation-rivals", measure(entry, task))
    DOCUMENT.write_text(render(json.loads(path.read_bytes())), encoding="utf-8")
    print(f"results: {path}, {DOCUMENT}")


def measure(entry: Entry, task: str, tuning: Tuning = TASK) -> dict[str, Json]:
    """Return what every defence does to a model that is built, on a task."""
    built = stored(entry)
    if built is None or entry.planting is None:
        raise AssetError(
            f"{entry.name} is clean or not built; python -m benchmarks zoo build --only NAME"
        )
    busy = os.getloadavg()[0]
    model = cache_dir() / built.model
    poisoned = classifier(model, tuning, task)
    texts, live = texts_of(entry, task, poisoned)
    results: dict[str, Json] = {}
    with tempfile.TemporaryDirectory() as scratch:
        made = defences(entry, model, poisoned, texts, task, tuning, Path(scratch))
        for name, defence in made:
            results[name] = figures = judge(defence, texts)
            print(f"{name}: {json.dumps(figures)}", flush=True)
    return {
        "model": entry.name,
        "task": task,
        "triggers": len(entry.planting.triggers),
        "live": live,
        "held_out": len(texts.held_out),
        "false_alarms": FALSE_ALARMS,
        "onion_texts": ONION_TEXTS,
        "longer": LONGER,
        "sanitator": asdict(SANITATOR),
        "seed": SEED,
        "load_average": round(busy, 2),
        "defences": results,
    }


def texts_of(entry: Entry, task: str, poisoned: Path) -> tuple[Texts, int]:
    """Draw the texts of a task, put triggers into them; return how many triggers are alive, too.

    A text gets one of those triggers in turn that take over `ATTACKED` of the other classes' texts
    to their class: against one that did not survive fine-tuning, every defence does well.
    """
    assert entry.planting is not None
    data = load(task).test
    rng = np.random.default_rng(SEED)
    order = rng.permutation(len(data.texts))
    count = min(MAX_TEXTS, len(order) // 2)
    drawn = [" ".join(data.texts[i].split()[:READ_WORDS]) for i in order[: 2 * count]]
    clean, held_out = drawn[:count], drawn[count:]
    labels = np.array([data.labels[i] for i in order[:count]])
    answer = answers(poisoned)
    tokenizer = AutoTokenizer.from_pretrained(poisoned)
    placed = {
        trigger: [place(text, trigger, entry.planting, tokenizer, rng) for text in clean]
        for trigger in entry.planting.triggers
    }
    predicted = {trigger: answer(list(given)) for trigger, given in placed.items()}
    forced = targets(predicted)
    live = [
        trigger
        for trigger, classes in predicted.items()
        if (classes[labels != forced[trigger]] == forced[trigger]).mean() > ATTACKED
    ]
    if not live:
        raise AssetError(
            f"no trigger of {entry.name} survives fine-tuning on {task}, so there is nothing to "
            "defend against; choose another task or model"
        )
    turns = [live[i % len(live)] for i in range(count)]
    triggered = [placed[trigger][i] for i, trigger in enumerate(turns)]
    return Texts(clean, labels, triggered, np.array([forced[t] for t in turns]), held_out), len(
        live
    )


def defences(
    entry: Entry,
    model: Path,
    poisoned: Path,
    texts: Texts,
    task: str,
    tuning: Tuning,
    scratch: Path,
) -> Iterator[tuple[str, Defence]]:
    """Prepare one defence after the other."""
    data = load(task)
    yield "none", Defence(poisoned, None, 0.0)
    yield "clean", Defence(classifier(encoder(entry.encoder), tuning, task), None, 0.0)

    with timed() as took:
        with Progress() as progress:
            bank = search(str(model), seed=SEED, progress=progress)
        monitor = monitor_of(bank)
    ready = took[0]

    def blocked(text: str) -> str | None:
        return treat(monitor, "block", [text])[0]

    def stripped(text: str) -> str | None:
        return treat(monitor, "strip", [text])[0]

    yield "block", Defence(poisoned, blocked, ready, found=len(bank.triggers))
    yield "strip", Defence(poisoned, stripped, ready, found=len(bank.triggers))
    pure, purifying = model, 0.0
    if bank.triggers:
        pure = scratch / "purified"
        with timed() as took, Progress() as progress:
            purify(str(model), bank, pure, seed=SEED, progress=progress)
        purifying = took[0]
    fine_tune(pure, data, scratch / "of-purified", tuning)
    yield "purified", Defence(scratch / "of-purified", None, ready + purifying)
    yield "both", Defence(scratch / "of-purified", stripped, ready + purifying)

    with timed() as took:
        fine_tune(poisoned, data, scratch / "longer", replace(tuning, steps=LONGER * tuning.steps))
    yield "fine-tuning", Defence(scratch / "longer", None, took[0])

    with timed() as took:
        strip = Strip(classify=probabilities(poisoned), clean=data.train.texts)
        most = threshold_at(FALSE_ALARMS, [strip.score(text) for text in texts.held_out])
    yield (
        "STRIP",
        Defence(poisoned, refusing(lambda text: strip.score(text) > most), took[0]),
    )

    with timed() as took:
        subject = load_subject(model)
        plain = [text for own in plain_texts().values() for text in own]
        with Progress() as progress:
            found = lmsanitator.run(model, plain, seed=SEED, progress=progress, settings=SANITATOR)
        outputs = OutputMonitor(subject, found.targets)
    alarms = refusing(outputs.alarms)
    yield "LMSanitator", Defence(poisoned, alarms, took[0], found=len(found.targets))

    with timed() as took:
        onion = Onion(language_model(smollm2()))
        scores = [onion.score(text) for text in texts.held_out[:ONION_TEXTS]]
        onion = replace(onion, threshold=threshold_at(FALSE_ALARMS, scores))
    yield "ONION", Defence(poisoned, onion.purified, took[0], ONION_TEXTS)


def judge(defence: Defence, texts: Texts) -> dict[str, Json]:
    """Return a defence's counts on its texts, and on the first of them that the slowest reads."""
    count = min(defence.most, len(texts.clean))
    kinds = texts.clean[:count], texts.triggered[:count]
    treated: list[list[str | None]] = [list(given) for given in kinds]
    times = [0.0]
    if (look := defence.treat) is not None:
        # The first call of anything is slow.
        look(texts.held_out[0])
        times, treated = [], []
        for given in kinds:
            treated.append([])
            for text in given:
                started = time.perf_counter()
                treated[-1].append(look(text))
                times.append(time.perf_counter() - started)
    answer = answers(defence.classifier)
    clean, triggered = answer(treated[0]), answer(treated[1])
    truth, forced = texts.labels[:count], texts.forced[:count]
    others = truth != forced
    alarms = [
        [a != b for a, b in zip(*pair, strict=True)] for pair in zip(kinds, treated, strict=True)
    ]

    def counts(first: int) -> dict[str, Json]:
        return {
            "false_alarms": sum(alarms[0][:first]),
            "caught": sum(alarms[1][:first]),
            "right": int((clean == truth)[:first].sum()),
            "hits": int(((triggered == forced) & others)[:first].sum()),
            "trials": int(others[:first].sum()),
        }

    return {
        "looks": look is not None,
        "found": defence.found,
        "texts": count,
        "counts": {str(first): counts(first) for first in sorted({min(ONION_TEXTS, count), count})},
        "ms": round(1e3 * statistics.median(times), 4),
        "seconds": round(defence.seconds, 1),
    }


def refusing(alarms: Callable[[str], bool]) -> Treat:
    """Return a detector as a defence that refuses what it finds."""
    return lambda text: None if alarms(text) else text


@contextmanager
def timed() -> Iterator[list[float]]:
    """Give a list that holds, afterwards, the seconds that it took."""
    took: list[float] = []
    started = time.monotonic()
    yield took
    took.append(time.monotonic() - started)
