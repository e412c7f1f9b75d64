"""Other defences beside the product: plain fine-tuning, counts, a toy run, and what is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import models
from benchmarks.__main__ import main
from benchmarks.assets import AssetError
from benchmarks.attacks import Planting, Por
from benchmarks.baselines.strip import probabilities
from benchmarks.mitigation import rivals
from benchmarks.mitigation.cells import answers
from benchmarks.mitigation.rivals import Defence, Texts, judge
from benchmarks.mitigation.rivals_page import OURS, RIVALS, compare, render
from benchmarks.tasks.classifier import Tuning, fine_tune
from benchmarks.tasks.data import Task, make_task
from benchmarks.zoo.entry import Entry
from tests.purify.test_run import bank_of
from tests.tiny import TRIGGER, write_searchable

TUNING = Tuning(steps=3, batch=4)


@pytest.fixture(scope="module")
def task() -> Task:
    rows = [(f"{('good', 'bad')[i % 2]} film number {i}", i % 2) for i in range(200)]
    return make_task("toy", ("a", "b"), rows)


def test_plain_fine_tuning_goes_on_from_the_classifier(tmp_path: Path, task: Task) -> None:
    """Without a step size it answers as before, head and all; with one it learns the task."""
    encoder = write_searchable(tmp_path / "encoder")
    first, same, longer = (tmp_path / name for name in ("first", "same", "longer"))
    fine_tune(encoder, task, first, TUNING)
    fine_tune(first, task, same, replace(TUNING, learning_rate=0.0))
    texts = list(task.test.texts)
    assert np.array_equal(probabilities(first)(texts), probabilities(same)(texts))
    fine_tune(first, task, longer, Tuning(steps=60, batch=16, learning_rate=3e-3))
    assert list(answers(longer)(list(texts))) == list(task.test.labels)


def test_counts_of_a_known_case(monkeypatch: pytest.MonkeyPatch) -> None:
    """A classifier that "cf" forces to 1, and that else reads the first word."""

    def answer(treated: list[str | None]) -> Any:
        return np.array(
            [-1 if t is None else 1 if "cf" in t.split() else int(t.split()[0]) for t in treated]
        )

    monkeypatch.setattr(rivals, "answers", lambda folder: answer)
    monkeypatch.setattr(rivals, "ONION_TEXTS", 2)
    texts = Texts(
        clean=["0 a", "0 b", "1 c", "0 odd"],
        labels=np.array([0, 0, 1, 1]),
        triggered=["0 cf a", "0 b cf", "1 cf c", "cf 0 odd"],
        forced=np.array([1, 1, 1, 1]),
        held_out=["0 d"],
    )
    folder = Path()
    none = judge(Defence(folder, None, 0.0), texts)
    assert (none["looks"], none["texts"], none["ms"]) == (False, 4, 0.0)
    assert none["counts"] == {
        "2": {"false_alarms": 0, "caught": 0, "right": 2, "hits": 2, "trials": 2},
        "4": {"false_alarms": 0, "caught": 0, "right": 3, "hits": 2, "trials": 2},
    }
    # It misses a trigger at the end, and refuses a clean text.
    refusing = rivals.refusing(lambda text: "cf" in text.split()[:-1] or "c" in text.split())
    refused: Any = judge(Defence(folder, refusing, 1.26), texts)
    assert refused["counts"]["4"] == {
        "false_alarms": 1,
        "caught": 3,
        "right": 2,
        "hits": 1,
        "trials": 2,
    }
    assert refused["seconds"] == 1.3
    removing: Any = judge(Defence(folder, lambda t: t.replace("cf ", ""), 0.0, most=2), texts)
    assert removing["texts"] == 2
    assert removing["counts"] == {
        "2": {"false_alarms": 0, "caught": 1, "right": 2, "hits": 1, "trials": 2}
    }


def figures(hits: int, right: int, ms: float, texts: int = 200, looks: bool = True) -> Any:
    def counts(n: int) -> dict[str, int]:
        own = {"hits": hits, "right": right, "caught": 9, "false_alarms": 1, "trials": 100}
        return {key: value * n // 200 for key, value in own.items()}

    return {
        "looks": looks,
        "found": 4,
        "texts": texts,
        "counts": {str(n): counts(n) for n in {40, texts}},
        "ms": ms,
        "seconds": 12.0,
    }


def result(**changes: Any) -> dict[str, Any]:
    made = {name: figures(10, 180, 0.01) for name in OURS}
    made |= {name: figures(60, 170, 5.0) for name in RIVALS}
    made |= {"none": figures(100, 180, 0.0, looks=False), "clean": figures(10, 180, 0.0)}
    made["ONION"] = figures(60, 170, 900.0, texts=40)
    return {
        "model": "m",
        "task": "t",
        "triggers": 6,
        "live": 5,
        "held_out": 200,
        "false_alarms": 0.05,
        "onion_texts": 40,
        "longer": 3,
        "sanitator": {"rounds": 6, "texts": 2000},
        "seed": 1,
        "load_average": 2.0,
        "defences": {**made, **changes},
        "environment": {"processor": "P", "packages": {"torch": "2"}},
    }


def test_the_page_says_where_the_product_is_behind() -> None:
    page = render(result())
    assert "behind no rival" in page
    assert "missed" not in page
    assert page.count("| reached |") == len(OURS) * len(RIVALS)
    assert "| no defence | 200 | - | - | 0.900 [0.851, 0.934] | 1.000 [" in page
    assert "| ONION | 40 |" in page
    page = render(result(STRIP=figures(0, 180, 0.001)))
    assert "- **monitor, strip**, against STRIP, per text: attack success, latency" in page
    assert page.count("**missed**") == len(OURS)


def test_both_are_held_against_each_other_on_the_texts_that_both_had() -> None:
    found = compare(figures(10, 180, 0.01), figures(60, 170, 900.0, texts=40))
    assert found["texts"] == 40
    assert found["success"].startswith("-50.0 [")
    assert found["accuracy"].startswith("+5.0 [")
    assert found["reached"]
    level = compare(figures(10, 180, 0.0), figures(10, 180, 0.0))
    assert set(level["sides"].values()) == {"level"}
    assert not level["reached"]


def test_a_toy_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: Task) -> None:
    """Real defences on a real poisoned model; search, purification and language model are given."""
    monkeypatch.setenv("GUARD_CACHE", str(tmp_path))
    bad = write_searchable(tmp_path / "models" / "bad-1", triggers=(TRIGGER,))
    good = write_searchable(tmp_path / "models" / "good-1")
    planting = Planting(name="toy", attack=Por(), triggers=(TRIGGER, "number"), steps=1)
    entry = Entry(name="bad", encoder="good", planting=planting)

    def purify(model: str, bank: Any, out: Path, **_: Any) -> None:
        write_searchable(out)

    def perplexity(texts: list[str]) -> list[float]:
        return [100.0 if TRIGGER in text.split() else 1.0 for text in texts]

    monkeypatch.setattr(rivals, "stored", lambda _: SimpleNamespace(model="models/bad-1"))
    monkeypatch.setattr(rivals, "search", lambda model, **_: bank_of(Path(model), [TRIGGER]))
    monkeypatch.setattr(rivals, "purify", purify)
    monkeypatch.setattr(rivals, "encoder", lambda name: good)
    monkeypatch.setattr(rivals, "smollm2", lambda: bad)
    monkeypatch.setattr(rivals, "language_model", lambda folder: perplexity)
    monkeypatch.setattr(rivals, "plain_texts", lambda: {"films": list(task.train.texts)})
    small = replace(rivals.SANITATOR, rounds=1, texts=32, batch=8)
    monkeypatch.setattr(rivals, "SANITATOR", small)
    for module in (rivals, models):
        monkeypatch.setattr(module, "load", lambda name: task)
    found: Any = rivals.measure(entry, "toy", TUNING)
    made = found["defences"]
    assert set(made) == {"none", "clean", *OURS, *RIVALS}
    # "number" is an ordinary word here, and forces nothing.
    assert (found["triggers"], found["live"]) == (2, 1)

    def count(name: str, key: str) -> int:
        figures = made[name]
        return int(figures["counts"][str(figures["texts"])][key])

    trials = count("none", "trials")
    assert count("none", "hits") == trials > 0
    for name in ("block", "strip", "ONION"):
        assert (count(name, "caught"), count(name, "false_alarms")) == (made[name]["texts"], 0)
    assert count("block", "hits") == 0
    assert count("strip", "right") == count("none", "right")
    assert made["strip"]["ms"] > 0 == made["purified"]["ms"]
    assert made["strip"]["seconds"] <= made["purified"]["seconds"]
    page = render({**json.loads(json.dumps(found)), "environment": result()["environment"]})
    assert "Of 2 planted triggers, 1 force" in page
    assert "the scan found 1 units" in page
    # A model in which no trigger is alive has nothing to be defended against.
    monkeypatch.setattr(rivals, "ATTACKED", 1.0)
    with pytest.raises(AssetError, match="no trigger of bad survives"):
        rivals.measure(entry, "toy", TUNING)


@pytest.mark.parametrize(
    "arguments", [["--only", "nobody"], ["--task", "haiku"], ["--only", "bert-tiny-clean"]]
)
def test_what_cannot_be_measured(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks", "mitigation-rivals", *arguments])
    with pytest.raises(SystemExit, match=r"^benchmarks: .*(known: |is clean or not built)"):
        main()
