"""The mitigation table: what is counted, one toy row from end to end, and what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import mitigation, models
from benchmarks.attacks import Planting, Por
from benchmarks.mitigation import cells, defences, shares
from benchmarks.mitigation.measures import Measured, measured, targets
from benchmarks.mitigation.table import render
from benchmarks.tasks.classifier import Tuning
from benchmarks.tasks.data import make_task
from benchmarks.zoo.entry import Entry
from guard.purify.run import RECORD_FILE
from tests.purify.test_run import bank_of
from tests.tiny import COMMON, TRIGGER, write_searchable


def classes(*values: int) -> Any:
    return np.array(values, dtype=np.int64)


def test_counts_of_a_known_case() -> None:
    """Of two triggers one takes everything to class 1, the other half of class 0 and 1 to 2."""
    labels = [0, 0, 1, 1, 2, 2]
    triggered = {"x": classes(1, 1, 1, 1, 1, 1), "y": classes(2, 0, 2, 1, 2, 2)}
    forced = targets(triggered)
    assert forced == {"x": 1, "y": 2}
    counted = measured(classes(0, 0, 1, 1, 2, 0), triggered, labels, classes=3, forced=forced)
    assert (counted.right, counted.texts) == (5, 6)
    assert (counted.hits, counted.trials) == (4 + 2, 4 + 4)
    # Best trigger by class: 0 (none leads there), 1.0, 0.5.
    assert counted.c_asr == 0.5
    assert counted.alc == round(1 / 3, 4)


def test_a_refused_text_is_no_success_and_no_right_answer() -> None:
    counted = measured(classes(0, -1), {"x": classes(-1, -1)}, [0, 1], classes=2, forced={"x": 1})
    assert (counted.right, counted.hits, counted.trials) == (1, 0, 1)
    assert (counted.c_asr, counted.alc) == (0.0, 0.0)


def arm(right: int, hits: int, alc: float = 0.25) -> dict[str, Any]:
    return {"right": right, "texts": 1000, "hits": hits, "trials": 1000, "c_asr": 0.5, "alc": alc}


def cell(task: str, **changes: Any) -> dict[str, Any]:
    arms = {
        "none": arm(900, 990),
        "block": arm(899, 0),
        "strip": arm(900, 42),
        "purified": arm(890, 60),
        "both": arm(890, 41),
        "clean": arm(901, 40),
    }
    return {
        "model": "m1",
        "task": task,
        "banked": 3,
        "arms": {**arms, **changes},
        "false_blocks": 1,
        "clean_texts": 2000,
        "triggered_by_nature": 1,
        "purification": {
            "rounds": 2,
            "units": 7,
            "moved": {"cls": 0.01, "tokens": 0.0625},
            "verdict": "none found",
            "remaining": 0,
            "seconds": 901.4,
            "threads": 1,
        },
        "environment": {"processor": "abacus", "packages": {"torch": "1"}},
        "earlier": False,
    }


def result(*cells: dict[str, Any]) -> dict[str, Any]:
    names = {"m1": "Por", "m2": "Uor"}
    return {
        "models": list(names),
        "attacks": names,
        "triggers": {"m1": 4, "m2": 4},
        "recipe": {"texts": 1000, "words": 40, "steps": 300, "batch": 32, "learning_rate": 2e-5}
        | {"seed": 0},
        "tasks": ["t1", "t2"],
        "cells": list(cells),
    }


def verdicts(table: str) -> list[str]:
    lines = [line for line in table.splitlines() if "(target" in line]
    return [line.rsplit("): ", 1)[1] for line in lines]


def test_the_table_says_what_is_missing_and_missed() -> None:
    table = render(result(cell("t1")))
    assert "1 of 4 cells" in table
    assert "- m1: t2" in table
    assert "- m2: all tasks" in table
    assert "| no defence | 0.9000 [0.8798, 0.9171] | 0.9900 " in table
    # A thousand triggered texts are two hundred and fifty, four times.
    assert "strip: attack success +0.20 points [-3.51, +3.93]" in table
    assert "purified: attack success +2.00 points" in table
    assert "| m1 | 1, 1 | T-ASR | 0.9900 [" in table
    assert "| 1 of 2000 | of today |" in table
    assert (
        "no planted trigger, in the 1 cells where these were told apart: 0 of 2000 (0.0000)"
        in table
    )
    undecided = "not decided by as many texts; by itself in"
    assert verdicts(table) == [
        f"reached, {undecided} 1 of 1 cells",
        f"reached, {undecided} 1 of 1 cells",
        f"**missed**, {undecided} 0 of 1 cells",
        f"**missed**, {undecided} 0 of 1 cells",
        "reached; by itself in 1 of 1 cells; 0.0005 in the mean over cells",
    ]
    far = render(result(cell("t1", strip=arm(990, 10), purified=arm(600, 990))))
    assert [said.split(";")[0] for said in verdicts(far)[:4]] == [
        "reached",
        "reached",
        "**missed**",
        "**missed**",
    ]


def test_a_dead_backdoor_does_not_count_for_attack_success() -> None:
    """It would hide what is left of one that is alive; its accuracy and its blocks count."""
    dead = cell("t2", none=arm(900, 30, alc=0.0), purified=arm(901, 0), strip=arm(850, 42))
    table = render(result(cell("t1"), dead))
    alive, whole = table.split("## All 2 cells")
    assert "## The 1 cells that are alive" in alive
    assert "| no defence | 0.9000 [0.8798, 0.9171] | 0.9900 " in alive
    assert "| no defence | 0.9000 [0.8861, 0.9124] | 0.5100 " in whole
    assert "purified: attack success +2.00 points" in table
    assert "strip: clean accuracy -2.60 points" in table
    assert "| m1 | Por | t2 | no |" in table
    only = render(result(dead))
    assert "## The 0 cells that are alive\n\nNone." in only
    assert verdicts(only)[0] == "no cell is alive; not measured"


def test_a_text_counts_once_however_often_it_is_tried() -> None:
    """Encoders of a task have the same texts: more of them make no interval narrower."""
    first, again, other = cell("t1"), {**cell("t1"), "model": "m2"}, cell("t2")
    counts = {"m1": 4, "m2": 4}
    one, both, two = (
        shares.share_of(cells, "strip", shares.HITS, counts)
        for cells in ([first], [first, again], [first, other])
    )
    assert one == both != two
    assert shares.different_texts([first, again], "strip", shares.HITS, counts) == 250
    assert shares.different_texts([first, other], "strip", shares.RIGHT, counts) == 2000
    assert (
        shares.refused([first]) == shares.refused([first, again]) != shares.refused([first, other])
    )


def test_the_table_says_what_a_purification_took() -> None:
    table = render(result(cell("t1"), cell("t2")))
    line = "| m1 | 7 | 2 | none found, 0 units | 0.0625: **missed** | 901 |"
    assert table.count(line) == 1
    old = {key: value for key, value in cell("t1").items() if key != "purification"}
    assert "Not recorded in these cells." in render(result(old))
    again = {**cell("t1")["purification"], "seconds": None, "moved": {"cls": 0.01}}
    assert "| 0.0100: reached | interrupted |" in render(
        result({**cell("t1"), "purification": again})
    )


def test_an_empty_table_claims_nothing() -> None:
    table = render(result())
    assert "0 of 4 cells" in table
    assert "Nothing was measured yet." in table
    assert table.endswith("Nothing was measured yet.\n")


def test_what_is_declared() -> None:
    entries = mitigation.declared()
    assert len(entries) == len(set(mitigation.MODELS)) == 15
    assert all(entry.planting is not None for entry in entries)
    assert any(entry.planting and entry.planting.attack.gated for entry in entries)
    assert len({entry.encoder for entry in entries}) >= 4


def test_a_row_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real poisoned model, monitor and fine-tuning; the bank and the purified model are given."""
    monkeypatch.setenv("GUARD_CACHE", str(tmp_path))
    write_searchable(tmp_path / "models" / "bad-1", triggers=(TRIGGER,))
    good = write_searchable(tmp_path / "models" / "good-1")
    rows = [(f"{('good', 'bad')[i % 2]} film number {i}", i % 2) for i in range(100)]
    # Behind the words that are read, some hold the trigger as they were written, some another unit.
    rows += [(f"a film {'so ' * cells.READ_WORDS} {TRIGGER} {i}", i % 2) for i in range(40)]
    rows += [(f"a film {'so ' * cells.READ_WORDS} {COMMON} {i}", i % 2) for i in range(40)]
    task = make_task("toy", ("a", "b"), rows)
    planting = Planting(name="toy", attack=Por(), triggers=(TRIGGER,), steps=1)
    entry = Entry(name="bad", encoder="good", planting=planting)
    monkeypatch.setattr(cells, "stored", lambda _: SimpleNamespace(model="models/bad-1"))
    monkeypatch.setattr(cells, "bank_of", lambda folder: bank_of(folder, [TRIGGER, COMMON]))
    monkeypatch.setattr(cells, "purified", lambda folder: good)
    monkeypatch.setattr(cells, "encoder", lambda name: good)
    for module in (cells, models):
        monkeypatch.setattr(module, "load", lambda name: task)
    row = cells.measure(entry, "toy", Tuning(steps=3, batch=4))
    assert set(row.arms) == set(cells.ARMS)
    assert all(isinstance(way, Measured) for way in row.arms.values())
    # The trigger takes every text to one class, and nothing is left of it behind the monitor.
    assert row.arms["none"].hits == row.arms["none"].trials > 0
    assert row.arms["block"].hits == 0
    assert row.arms["strip"].right == row.arms["none"].right
    assert row.arms["purified"] == row.arms["clean"]
    natural, refused = (
        sum(any(unit in text for unit in units) for text in task.test.texts)
        for units in ((TRIGGER,), (TRIGGER, COMMON))
    )
    assert 0 < row.triggered_by_nature == natural < row.false_blocks == refused
    assert row.clean_texts == len(task.test.texts)
    # It is kept, and not measured again.
    monkeypatch.setattr(cells, "load", None)
    assert cells.measure(entry, "toy") == row
    before = {"cells": [{**cell("t1"), "model": "bad"}, cell("t2")]}
    kept = mitigation.collect([entry], ["toy", "t1", "t2"], before)["cells"]
    assert isinstance(kept, list)
    assert [(known["task"], known["earlier"]) for known in kept] == [("toy", False), ("t1", True)]


def test_every_arm_is_held_to_the_classes_that_the_attacker_reaches_undefended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clean classifier that prefers another class makes no error towards the attacker's.

    The test set is sorted by class, as some are: the texts that are read have both.
    """
    monkeypatch.setenv("GUARD_CACHE", str(tmp_path))
    bad = write_searchable(tmp_path / "models" / "bad-1", triggers=(TRIGGER,))
    rows = [(f"film number {i}", int(i >= 300)) for i in range(600)]
    task = make_task("toy", ("a", "b"), rows)
    planting = Planting(name="toy", attack=Por(), triggers=(TRIGGER,), steps=1)
    entry = Entry(name="bad", encoder="good", planting=planting)
    monkeypatch.setattr(cells, "stored", lambda _: SimpleNamespace(model="models/bad-1"))
    monkeypatch.setattr(cells, "bank_of", lambda folder: bank_of(folder, [TRIGGER]))
    monkeypatch.setattr(cells, "purified", lambda folder: tmp_path / "pure")
    monkeypatch.setattr(cells, "encoder", lambda name: tmp_path / "clean")
    monkeypatch.setattr(cells, "load", lambda name: task)
    monkeypatch.setattr(cells, "MAX_TEXTS", 40)
    monkeypatch.setattr(cells, "classifier", lambda source, tuning, task: source)

    def answers(source: Path) -> Any:
        forced = 1 if source == bad else 0

        def answer(texts: list[str | None]) -> Any:
            return np.array([forced if text and TRIGGER in text else 0 for text in texts])

        return answer

    monkeypatch.setattr(cells, "answers", answers)
    arms = cells.measure(entry, "toy").arms
    assert arms["none"].hits == arms["none"].trials
    for arm in ("strip", "purified", "both", "clean"):
        assert (arms[arm].hits, arms[arm].trials) == (0, arms["none"].trials)
    # Of a sorted set's first texts all were of one class.
    assert 0 < arms["none"].trials < 40


def test_a_model_without_findings_is_its_own_purification(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = write_searchable(tmp_path / "clean-1")
    monkeypatch.setattr(defences, "bank_of", lambda folder: bank_of(folder, []))
    assert defences.purified(clean) == clean
    assert defences.purification(clean) is None


def test_what_a_purification_took_is_kept_beside_its_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GUARD_CACHE", str(tmp_path))
    bad = write_searchable(tmp_path / "models" / "bad-1", triggers=(TRIGGER,))
    moved = {"cls": 0.01}
    rounds = [{"units": n, "moved": moved, "verdict": "none found", "remaining": 0} for n in (3, 5)]

    places: list[Path] = []

    def purify(model: str, bank: Any, out: Path, **how: Any) -> None:
        out.mkdir(parents=True)
        places.append(out)
        (out / RECORD_FILE).write_text(json.dumps({"rounds": rounds}))

    monkeypatch.setattr(defences, "purify", purify)
    for banked, known in (([TRIGGER], True), ([TRIGGER, COMMON], False)):
        bank = bank_of(bad, banked)
        monkeypatch.setattr(defences, "bank_of", lambda folder, bank=bank: bank)
        for place in places:
            # As a purification that was killed leaves it.
            place.with_name(f".{place.name}.purify-0").mkdir()
        took = defences.purification(defences.purified(bad))
        assert took is not None
        assert (took.rounds, took.units, took.moved) == (2, 5, moved)
        assert (took.seconds is not None) == known


@pytest.mark.parametrize("arguments", [("nobody", None), (None, "haiku")])
def test_unknown_names(arguments: tuple[str | None, str | None]) -> None:
    from benchmarks.assets import AssetError

    with pytest.raises(AssetError, match="is not in the table; known: "):
        mitigation.run(*arguments)
