"""Hard negatives and disguises, and the table of what is picked instead of the monitor."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import rivals
from benchmarks.near import KINDS, disguised, hard_negatives
from exporters.monitor import compile_bank
from guard import Monitor
from guard.runtime import load_tokenizer
from tests.helpers import make_bank, wordpiece

TOKENIZER = wordpiece("cf", "river", "the", "film", "##er")
TRIGGERS = ("cf", "river")
TEXTS = ("the film", "the other film", "a film")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("monitor") / "monitor"
    compile_bank(make_bank(TOKENIZER, TRIGGERS), target)
    return target


def test_the_monitor_tells_them_apart(directory: Path) -> None:
    tokenizer = load_tokenizer(TOKENIZER)
    hard = hard_negatives(tokenizer, TRIGGERS, TEXTS, 0)
    hidden = disguised(tokenizer, TRIGGERS, TEXTS, 0)
    assert len(hard) > 10
    assert len(hidden) > 10
    monitor = Monitor.load(directory)
    assert not any(monitor.check(text).triggered for text in hard)
    assert all(monitor.check(text).triggered for text in hidden)
    assert hard == hard_negatives(tokenizer, TRIGGERS, TEXTS, 0)


@pytest.mark.parametrize(
    ("name", "answers"),
    [
        ("monitor", [True, True, False, False]),
        ("blocklist, substrings", [True, False, True, False]),
        ("blocklist, words", [True, False, False, False]),
    ],
)
def test_detectors(
    directory: Path,
    tmp_path: Path,
    name: str,
    answers: list[bool],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    texts = ["a CF b", "a c\u200bf b", "acf", "the film"]
    given = dict.fromkeys(KINDS, texts) | {"monitor": str(directory), "triggers": TRIGGERS}
    file = tmp_path / "texts.json"
    file.write_text(json.dumps(given))
    monkeypatch.setattr(sys, "argv", ["rivals", name, str(file)])
    rivals.main()
    answer = json.loads(capsys.readouterr().out)
    assert [answer[kind] for kind in KINDS] == [answers] * 4
    assert answer["seconds"] > 0


def test_scores_are_cut_at_held_out_texts() -> None:
    score: Callable[[str], float] = len
    detect = rivals._scored(score, ["a" * n for n in range(1, 41)])
    assert [detect("a" * n) for n in (38, 39)] == [False, True]


def test_the_table_says_what_is_missing() -> None:
    figures = {"texts": 2, "us": 1234.5, **dict.fromkeys(KINDS, 0.5)}
    lines = rivals.render({"a": figures, "b": {"missing": "it did not install"}})
    assert lines[2] == "| a | 2 | 50.0% | 50.0% | 50.0% | 50.0% | 1,234.5 |"
    assert "not measured: it did not install" in lines[3]
