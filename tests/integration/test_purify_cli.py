"""guard purify on the command line: exit codes, what is said, and what is left behind."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

import guard.purify
from guard.bank import Outcome, TriggerBank
from guard.cli import CLEAN, FAILED, FOUND, USAGE, main
from guard.cli.kernels import KERNELS
from guard.purify import Purified, Settings, rounds
from tests.purify.test_run import bank_of
from tests.tiny import COMMON, TRIGGER, write_searchable

pytestmark = pytest.mark.search

ORIGINAL = guard.purify.purify


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_searchable(tmp_path_factory.mktemp("model"), triggers=(TRIGGER,))


@pytest.fixture
def bank(model: Path, tmp_path: Path) -> Path:
    bank_of(model, [TRIGGER]).save(tmp_path / "bank")
    return tmp_path / "bank"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Few steps, and a scan that finds what it is told to."""

    def finds(*words: str) -> None:
        def purify(*arguments: Any, **options: Any) -> Purified:
            settings = Settings(rounds=1, steps=2, every=2)
            return ORIGINAL(*arguments, settings=settings, **options)

        def search(folder: str, **_: Any) -> TriggerBank:
            return bank_of(Path(folder), words)

        monkeypatch.setattr(guard.purify, "purify", purify)
        monkeypatch.setattr(rounds, "search", search)

    return finds


def purify(*arguments: object) -> int:
    return main(["purify", *map(str, arguments)])


def test_nothing_remains(
    model: Path, bank: Path, quick: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick()
    assert purify(model, "--bank", bank, "--out", tmp_path / "out") == CLEAN
    said = capsys.readouterr()
    assert "round 1: trained against 1 units" in said.out
    assert "then none found, 0 triggers" in said.out
    assert "round 1, training: 2/2" in said.err
    assert TRIGGER not in said.out + said.err
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_an_output_inside_the_model_is_refused(
    model: Path, bank: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert purify(model, "--bank", bank, "--out", model / "out") == USAGE
    assert f"is inside {model}, whose author" in capsys.readouterr().err


def test_purifying_keeps_few_kernels(
    model: Path, bank: Path, quick: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its scans have as many shapes as `guard scan` has."""
    name, value = KERNELS
    monkeypatch.setenv(name, "")
    monkeypatch.delenv(name)
    quick()
    assert purify(model, "--bank", bank, "--out", tmp_path / "out") == CLEAN
    assert os.environ[name] == value


def test_triggers_remain(
    model: Path, bank: Path, quick: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick(COMMON)
    out = tmp_path / "out"
    assert purify(model, "--bank", bank, "--out", out, "--seed", 1, "--json") == FOUND
    record = json.loads(capsys.readouterr().out)
    assert record == json.loads((out / "purification.json").read_bytes())
    assert (record["verdict"], record["seed"]) == ("backdoored", 1)


@pytest.mark.parametrize(("verdict", "code"), [("none found", CLEAN), ("incomplete", FAILED)])
@pytest.mark.parametrize("as_json", [False, True])
def test_a_bank_that_found_nothing(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    verdict: Outcome,
    code: int,
    as_json: bool,
) -> None:
    dataclasses.replace(bank_of(model, []), verdict=verdict).save(tmp_path / "bank")
    arguments = ("--bank", tmp_path / "bank", "--out", tmp_path / "out")
    assert purify(model, *arguments, *["--json"] * as_json) == code
    said = capsys.readouterr()
    assert "nothing to purify" in said.err
    assert ("scan again" in said.err) == (verdict == "incomplete")
    if as_json:
        assert json.loads(said.out) == {"verdict": verdict, "rounds": []}
    assert not (tmp_path / "out").exists()
    # Not of a model that is not the bank's: that one may need it.
    other = write_searchable(tmp_path / "other")
    assert purify(other, *arguments) == FAILED


def test_a_bank_of_another_model(
    bank: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_searchable(tmp_path / "other")
    assert purify(other, "--bank", bank, "--out", tmp_path / "out") == FAILED
    assert "the bank is of another model" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_bank_of_tokens_that_the_model_has_not(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = bank_of(model, [TRIGGER])
    beyond = dataclasses.replace(good.triggers[0], token_ids=(2**31 - 1,))
    dataclasses.replace(good, triggers=(beyond,)).save(tmp_path / "bank")
    assert purify(model, "--bank", tmp_path / "bank", "--out", tmp_path / "out") == FAILED
    said = capsys.readouterr().err
    assert "scan this model, and pass that bank" in said
    assert TRIGGER not in said
    assert not (tmp_path / "out").exists()


def test_no_bank(model: Path, tmp_path: Path) -> None:
    assert purify(model, "--bank", tmp_path, "--out", tmp_path / "out") == FAILED


def test_texts_that_cannot_be_read(model: Path, bank: Path, tmp_path: Path) -> None:
    missing = ("--texts", tmp_path / "missing")
    assert purify(model, "--bank", bank, "--out", tmp_path / "out", *missing) == USAGE


@pytest.mark.parametrize("arguments", [["model"], ["model", "--bank", "bank"], ["--out", "out"]])
def test_usage(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        purify(*arguments)
    assert caught.value.code == USAGE


def test_a_disk_that_is_full(
    model: Path,
    bank: Path,
    quick: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Full from the start, and while a file is written."""
    quick()
    arguments = (model, "--bank", bank, "--out", tmp_path / "out", "--seed", 1)
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage(1 << 30, 1 << 30, 0))
        assert purify(*arguments) == FAILED
    assert "make room, or choose another output" in capsys.readouterr().err

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", full)
        assert purify(*arguments) == FAILED
    assert "No space left on device" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert purify(*arguments) == CLEAN


def test_an_interrupted_run_goes_on(
    model: Path,
    bank: Path,
    quick: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The same command, and what was trained is not trained again."""
    quick()
    arguments = (model, "--bank", bank, "--out", tmp_path / "out")

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(rounds, "search", interrupted)
        assert purify(*arguments) == FAILED
    assert "training: 2/2" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert purify(*arguments) == CLEAN
    assert "training" not in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"bank", "out"}


def test_interrupted(
    model: Path, bank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(guard.purify, "purify", interrupted)
    assert purify(model, "--bank", bank, "--out", tmp_path / "out") == FAILED
