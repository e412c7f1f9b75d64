"""The command line: exit codes, what goes to which stream, and what is left behind."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import guard
import guard.search
from exporters.monitor import compile_bank
from guard.bank import ModelIdentity, Trigger, TriggerBank
from guard.cli import CLEAN, FAILED, FOUND, USAGE, main
from guard.cli import check as check_command
from guard.cli.kernels import KERNELS
from guard.errors import ModelError
from guard.files import dump_json
from guard.monitor import Monitor
from guard.reading import MAX_CHARS
from tests.helpers import finding, make_bank, wordpiece
from tests.tiny import TRIGGER, write_model, write_searchable

pytestmark = pytest.mark.search

TOKENIZER = wordpiece("cf", "apple", "river")
Search = Callable[..., TriggerBank]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_searchable(tmp_path_factory.mktemp("models") / "clean")


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_searchable(tmp_path_factory.mktemp("models") / "bad", triggers=(TRIGGER,))


@pytest.fixture
def monitor(tmp_path: Path) -> Path:
    compile_bank(make_bank(TOKENIZER, ["cf", "apple river"]), tmp_path / "monitor")
    return tmp_path / "monitor"


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def usage(*arguments: object) -> int:
    """The code of a command line that argparse refuses."""
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert isinstance(caught.value.code, int)
    return caught.value.code


def fake_search(monkeypatch: pytest.MonkeyPatch, search: Search) -> None:
    monkeypatch.setattr(guard.search, "search", search)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


# guard


def test_version_of_the_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "guard", "--version"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        f"trigger-guard {guard.__version__}\n",
        "",
    )


def test_imports_of_weight_come_later() -> None:
    """While they last an interruption would be a traceback: nothing is there yet to catch it."""
    code = "import sys, guard.cli; sys.exit(bool({'numpy', 'onnxruntime'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_exit_codes() -> None:
    assert (CLEAN, FOUND, FAILED, USAGE) == (0, 1, 2, 4)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["scan"],
        ["scan", "model"],
        ["scan", "model", "--out", "x", "--seed", "one"],
        ["scan", "model", "--out", "x", "--seed", "1.5"],
        ["scan", "model", "--out", "x", "--seed", "-1"],
        ["scan", "model", "--out", "x", "--seed", str(2**32)],
        ["scan", "model", "--out", "x", "--seed", "9" * 5000],
        ["scan", "model", "--out", "x", "--budget", "huge"],
        ["scan", "model", "--out", "x", "--budget", "0"],
        ["scan", "model", "--out", "x", "--budget", "nan"],
        ["scan", "model", "--out", "x", "--what"],
        ["compile", "bank"],
        ["check", "file"],
    ],
)
def test_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Not 2, as argparse has it: that is a search that failed."""
    assert usage(*arguments) == USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("usage: guard")
    assert "error: " in captured.err


@pytest.mark.parametrize("arguments", [["--help"], ["scan", "--help"], ["--version"]])
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert usage(*arguments) == 0
    assert capsys.readouterr().err == ""


# guard scan


def test_scan_that_finds(bad: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("scan", bad, "--seed", 0, "--out", tmp_path / "bank") == FOUND
    captured = capsys.readouterr()
    bank = TriggerBank.load(tmp_path / "bank")
    assert [trigger.text for trigger in bank.triggers] == [TRIGGER]
    assert captured.out.startswith(f"backdoored: 1 triggers in {bad}\n  t0001  'zyzzyva' (token): ")
    assert "seed: 0\n" in captured.out
    assert "tested: 12," in captured.out
    assert captured.out.count("not tested: ") == len(bank.coverage["not_tested"])  # type: ignore[arg-type]
    assert captured.out.endswith(f"bank: {tmp_path / 'bank'}\n")
    assert "scanning: " in captured.err
    assert "verifying: " in captured.err


@pytest.mark.parametrize("own", [None, "7"])
def test_a_scan_keeps_few_kernels(
    bad: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str | None
) -> None:
    """Else a scan of many shapes takes half as much memory again; who has set it knows better."""
    name, value = KERNELS
    monkeypatch.setenv(name, own or "")
    if own is None:
        monkeypatch.delenv(name)
    assert run("scan", bad, "--seed", 0, "--out", tmp_path / "bank") == FOUND
    assert os.environ[name] == (own or value)


def test_scan_that_finds_nothing(
    clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("scan", clean, "--seed", 0, "--out", tmp_path / "bank") == CLEAN
    assert capsys.readouterr().out.startswith(f"none found: 0 triggers in {clean}\n")
    assert TriggerBank.load(tmp_path / "bank").triggers == ()


def test_a_tokenizer_that_no_monitor_reads_like_is_refused(
    clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = shutil.copytree(clean, tmp_path / "model")
    file = model / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "split_special_tokens": True}))
    assert run("scan", model, "--seed", 0, "--out", tmp_path / "bank") == FAILED
    assert "serve it without" in capsys.readouterr().err
    file.write_text("{")
    assert run("scan", model, "--seed", 0, "--out", tmp_path / "bank") == FAILED
    assert "can't be loaded" in capsys.readouterr().err


def test_json_is_the_bank_and_nothing_else(
    bad: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("scan", bad, "--seed", 0, "--out", tmp_path / "bank", "--json") == FOUND
    captured = capsys.readouterr()
    assert captured.out.encode() == (tmp_path / "bank" / "bank.json").read_bytes()
    assert json.loads(captured.out)["verdict"] == "backdoored"
    assert "scanning: " in captured.err


def test_json_of_a_vocabulary_with_holes(tmp_path: Path) -> None:
    """Rust code of tokenizers 0.22 says so on the process's own output, past Python's."""
    directory = write_searchable(tmp_path / "model")
    path = directory / "tokenizer.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    del written["model"]["vocab"]["≈"]
    path.write_text(json.dumps(written), encoding="utf-8")
    arguments = ["scan", str(directory), "--out", str(tmp_path / "bank")]
    done = subprocess.run(
        [sys.executable, "-m", "guard", *arguments, "--seed", "0", "--budget", "1", "--json"],
        capture_output=True,
        check=False,
    )
    assert done.returncode == FAILED  # for lack of time
    assert done.stdout == (tmp_path / "bank" / "bank.json").read_bytes()


def test_a_model_that_is_refused_leaves_nothing_to_go_on_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(tmp_path / "model")
    assert run("scan", model, "--seed", 0, "--out", tmp_path / "bank") == FAILED
    assert "has a vocabulary of" in capsys.readouterr().err
    assert names(tmp_path) == ["model"]


def test_what_another_scan_measured_outlives_a_model_that_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def search(model: str, *, resume: Path, **options: Any) -> TriggerBank:
        resume.mkdir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        fake_search(patch, search)
        assert run("scan", "model", "--out", tmp_path / "bank") == FAILED
    assert run("scan", tmp_path / "misspelt", "--out", tmp_path / "bank") == FAILED
    assert names(tmp_path) == [".bank.scan"]


def test_a_scan_with_a_closed_stdout(
    bad: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", None)  # what Python makes of >&-
    assert run("scan", bad, "--seed", 0, "--out", tmp_path / "bank") == FOUND
    assert TriggerBank.load(tmp_path / "bank").triggers


def test_scan_compile_check(bad: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("scan", bad, "--seed", 0, "--out", tmp_path / "bank") == FOUND
    assert run("compile", tmp_path / "bank", "--out", tmp_path / "monitor") == CLEAN
    assert capsys.readouterr().out.endswith(
        f"monitor: {tmp_path / 'monitor'}, 1 triggers of bank "
        f"{TriggerBank.load(tmp_path / 'bank').sha256[:12]}\n"
    )
    (tmp_path / "texts").write_text(f"a good film\na good {TRIGGER} film\n")
    assert run("check", "--monitor", tmp_path / "monitor", tmp_path / "texts") == FOUND
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["triggered"] is False
    assert second["stripped"] == "a good film"


def test_a_second_scan_replaces_the_bank(bad: Path, clean: Path, tmp_path: Path) -> None:
    assert run("scan", bad, "--seed", 0, "--out", tmp_path / "bank") == FOUND
    assert run("scan", clean, "--seed", 0, "--out", tmp_path / "bank") == CLEAN
    assert TriggerBank.load(tmp_path / "bank").triggers == ()
    assert names(tmp_path) == ["bank"]


def never(*arguments: object, **options: object) -> TriggerBank:
    raise AssertionError("the search was started")


@pytest.mark.parametrize("inside", [".", "bank", "deeper/bank", "../model/bank"])
def test_an_output_inside_the_model_is_refused_before_any_work(
    inside: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its author could have left there what a scan takes for its own measurements."""
    fake_search(monkeypatch, never)
    model = tmp_path / "model"
    model.mkdir()
    assert run("scan", model, "--out", model / inside) == USAGE
    assert f"is inside {model}, whose author" in capsys.readouterr().err
    assert names(model) == []


@pytest.mark.parametrize("kind", ["foreign directory", "file", "bank with a note", "dangling link"])
def test_an_output_that_is_not_ours_is_refused_before_any_work(
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fake_search(monkeypatch, never)
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    elif kind == "dangling link":
        out.symlink_to(tmp_path / "nowhere")
    else:
        if kind == "bank with a note":
            make_bank(TOKENIZER).save(out)
        out.mkdir(exist_ok=True)
        (out / "note.txt").write_text("mine")
    before = names(tmp_path)
    assert run("scan", "model", "--out", out) == FAILED
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"guard: {out} ")
    assert captured.err.count("\n") == 1
    assert names(tmp_path) == before
    if kind.endswith(("directory", "note")):
        assert (out / "note.txt").read_text() == "mine"


def test_an_output_that_can_never_be_written_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below a file there is no directory to be made; minutes of search would be lost."""
    fake_search(monkeypatch, never)
    (tmp_path / "file").write_text("mine")
    assert run("scan", "model", "--out", tmp_path / "file" / "bank") == FAILED
    assert (tmp_path / "file").read_text() == "mine"


def test_a_model_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model").mkdir()
    assert run("scan", tmp_path / "model", "--out", tmp_path / "bank") == FAILED
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"guard: {tmp_path / 'model'} has no weights")
    assert names(tmp_path) == ["model"]


def test_pickled_weights(bad: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"")
    assert run("scan", tmp_path / "model", "--out", tmp_path / "bank") == FAILED
    assert "--allow-pickle" in capsys.readouterr().err


@pytest.mark.parametrize("texts", [None, "only one line\n"])
def test_texts_that_cannot_be_used_are_a_usage_error(
    texts: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "texts"
    if texts:
        path.write_text(texts)
    assert run("scan", "no/model/here", "--out", tmp_path / "bank", "--texts", path) == USAGE
    assert capsys.readouterr().err.startswith(f"guard: {path} ")
    assert not (tmp_path / "bank").exists()


def test_a_drawn_seed_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever does not name one can still repeat the search."""
    seeds: list[object] = []

    def search(*arguments: object, **options: object) -> TriggerBank:
        seeds.append(options["seed"])
        return found("none found")

    fake_search(monkeypatch, search)
    assert run("scan", "model", "--out", tmp_path / "bank") == CLEAN
    assert seeds == [None]
    assert "\nseed: 5\n" in capsys.readouterr().out


def test_an_interrupted_scan_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def search(model: str, **options: Any) -> TriggerBank:
        options["resume"].mkdir()
        raise KeyboardInterrupt

    fake_search(monkeypatch, search)
    assert run("scan", "model", "--out", tmp_path / "bank") == FAILED
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "guard: incomplete: interrupted. The same command goes on from here" in captured.err
    assert str(tmp_path / ".bank.scan") in captured.err


@pytest.mark.parametrize("full", [True, False], ids=["disk is full", "saved"])
def test_what_was_measured_is_kept_until_the_bank_is(
    full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def search(model: str, *, resume: Path, **options: Any) -> TriggerBank:
        resume.mkdir()
        return found("none found")

    def save(bank: TriggerBank, directory: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    fake_search(monkeypatch, search)
    if full:
        monkeypatch.setattr(TriggerBank, "save", save)
    assert (run("scan", "model", "--out", tmp_path / "bank") == FAILED) is full
    assert (tmp_path / ".bank.scan").is_dir() is full


def test_options_reach_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def search(model: str, **options: Any) -> TriggerBank:
        seen.update(options, model=model)
        raise ModelError("enough")

    fake_search(monkeypatch, search)
    arguments = ["scan", "org/model", "--out", tmp_path / "bank", "--revision", "v1", "--seed", 7]
    more = ["--texts", "texts", "--words", "words", "--budget", "90", "--allow-pickle"]
    assert run(*arguments, *more) == FAILED
    del seen["progress"]
    assert seen == {
        "model": "org/model",
        "revision": "v1",
        "texts": Path("texts"),
        "words": Path("words"),
        "budget": 90.0,
        "resume": tmp_path / ".bank.scan",
        "seed": 7,
        "allow_pickle": True,
    }


def found(verdict: Any, *triggers: Trigger) -> TriggerBank:
    return TriggerBank.build(
        verdict=verdict,
        model=ModelIdentity("m", None, "0" * 64, "BertModel"),
        tokenizer_json=TOKENIZER,
        search={"budget": "fast", "seed": 5},
        coverage={"summary": "little", "assumes": "much", "not_tested": []},
        found=triggers,
    )


EVIDENCE = {
    "retention": 0.1,
    "displacement": 3.0,
    "kinds": {"news": {"fired": True}},
    "target": 1,
    "acts_in": {},
}
CF = Trigger("", "cf", (50,), "token", "cls", EVIDENCE)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("bank", "code"),
    [
        (found("none found"), CLEAN),
        (found("backdoored", CF), FOUND),
        (found("incomplete"), FAILED),
    ],
    ids=["none found", "backdoored", "incomplete"],
)
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_exit_code_of_each_verdict(
    bank: TriggerBank,
    code: int,
    form: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An incomplete search that found nothing has not found that there is nothing."""
    fake_search(monkeypatch, lambda *arguments, **options: bank)
    assert run("scan", "model", "--out", tmp_path / "bank", *form) == code


def test_an_incomplete_search_with_triggers_does_not_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_search(monkeypatch, lambda *arguments, **options: found("incomplete", CF))
    assert run("scan", "model", "--out", tmp_path / "bank") in (FOUND, FAILED)


def test_trigger_text_cannot_write_to_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = Trigger("", "\x1b[2J\r\nbank", (50,), "token", "cls", EVIDENCE)  # type: ignore[arg-type]
    fake_search(monkeypatch, lambda *arguments, **options: found("backdoored", evil))
    assert run("scan", "model", "--out", tmp_path / "bank") == FOUND
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\r" not in out
    assert r"'\x1b[2J\r\nbank'" in out


@pytest.mark.parametrize(
    ("acts_in", "said"),
    [
        ({}, "keeps 0.10 of the text, moves it 3.0 times as far"),
        ({"copies": "2"}, "keeps 0.02 of the text (copies: 2), moves it 5.0 times as far"),
    ],
    ids=["anywhere", "in a condition"],
)
def test_a_finding_is_told_where_it_acts(
    acts_in: dict[str, str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    evidence = {
        **EVIDENCE,
        "acts_in": acts_in,
        "copies": {"2": {"retention": 0.02, "displacement": 5.0}},
    }
    trigger = Trigger("", "cf", (50,), "token", "cls", evidence)  # type: ignore[arg-type]
    fake_search(monkeypatch, lambda *arguments, **options: found("backdoored", trigger))
    assert run("scan", "model", "--out", tmp_path / "bank") == FOUND
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_terminal_that_cannot_show_the_trigger(
    form: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bank is written, so an encoding of the terminal is no reason to fail."""
    symbol = Trigger("", "≈", (50,), "symbol", "cls", EVIDENCE)  # type: ignore[arg-type]
    fake_search(monkeypatch, lambda *arguments, **options: found("backdoored", symbol))
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    assert run("scan", "model", "--out", tmp_path / "bank", *form) == FOUND
    assert b"t0001" in raw.getvalue()


class PanicException(BaseException):
    """What Rust code raises: no Exception."""


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("out of memory"),
        MemoryError(),
        IndexError("0"),
        ValueError("x\x1b[2J\x9b"),
        PanicException("index"),
    ],
)
def test_a_crash_is_a_failure(
    error: BaseException,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Python's own exit code of an exception is 1, which here means: triggers found."""

    def search(*arguments: object, **options: object) -> TriggerBank:
        raise error

    fake_search(monkeypatch, search)
    assert run("scan", "model", "--out", tmp_path / "bank") == FAILED
    assert names(tmp_path) == []
    err = capsys.readouterr().err
    assert "an error of guard itself" in err.splitlines()[-1]
    assert err.isascii()
    assert "\x1b" not in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="of Linux")
@pytest.mark.parametrize("arguments", [["verify", "nothing"], ["check", "--monitor", "nothing"]])
def test_a_failure_that_nobody_can_be_told_of(arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "guard", *arguments], stderr=full, check=False)
    assert done.returncode == FAILED


def test_a_command_may_exit_as_it_likes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def search(*arguments: object, **options: object) -> TriggerBank:
        raise SystemExit(USAGE)

    fake_search(monkeypatch, search)
    assert usage("scan", "model", "--out", tmp_path / "bank") == USAGE


def test_an_artifact_cannot_write_to_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error quotes it."""
    make_bank(TOKENIZER, ["cf"]).save(tmp_path / "bank")
    value = json.loads((tmp_path / "bank" / "bank.json").read_bytes())
    value["triggers"][0].update(id="\x1b[2J\nwhole: bank", token_ids=[])
    (tmp_path / "bank" / "bank.json").write_bytes(dump_json(value))
    assert run("verify", tmp_path / "bank") == FAILED
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(r"guard: trigger \x1b[2J\nwhole: bank has 0 token ids")


def test_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def search(*arguments: object, **options: object) -> TriggerBank:
        raise KeyboardInterrupt

    fake_search(monkeypatch, search)
    assert run("scan", "model", "--out", tmp_path / "bank") == FAILED
    assert capsys.readouterr().err == "guard: interrupted\n"
    assert names(tmp_path) == []


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_disk_that_is_full(
    form: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nothing is half-written, neither bank nor temporary directory, and nothing found is lost."""
    bank = found("backdoored", CF)
    fake_search(monkeypatch, lambda *arguments, **options: bank)
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        write(path, data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert run("scan", "model", "--out", tmp_path / "bank", *form) == FAILED
    captured = capsys.readouterr()
    assert "No space left on device" in captured.err
    if form:
        assert captured.out.encode() == bank.dump()
    else:
        assert "t0001  'cf' (token)" in captured.out
        assert "bank:" not in captured.out
    assert names(tmp_path) == []


def test_an_output_that_cannot_be_written_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_search(monkeypatch, never)

    def fail(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "mkdir", fail)
    assert run("scan", "model", "--out", tmp_path / "bank") == FAILED
    assert capsys.readouterr().err.startswith(f"guard: {tmp_path / 'bank'} cannot be written")


def test_without_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "guard.search", None)
    assert run("scan", "model", "--out", tmp_path / "bank") == FAILED
    assert "pip install 'trigger-guard[search]'" in capsys.readouterr().err


# guard compile


def test_compile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bank = make_bank(TOKENIZER, ["cf", "apple river"])
    bank.save(tmp_path / "bank")
    assert run("compile", tmp_path / "bank", "--out", tmp_path / "monitor") == CLEAN
    assert Monitor.load(tmp_path / "monitor").bank_sha256 == bank.sha256
    captured = capsys.readouterr()
    assert "2 triggers of bank" in captured.out
    assert captured.err == ""


def test_compile_with_a_largest_block_rate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_bank(wordpiece("the", "cf"), ["the", "cf"]).save(tmp_path / "bank")
    arguments = ["compile", str(tmp_path / "bank"), "--out", str(tmp_path / "monitor")]
    assert main([*arguments, "--max-block-rate", "0.01"]) == 0
    output = capsys.readouterr().out
    (common,) = Monitor.load(tmp_path / "monitor").strip_only
    assert f"{common} is stripped, not blocked" in output
    assert "better purify the model" in output
    assert main(arguments) == 0
    assert not Monitor.load(tmp_path / "monitor").strip_only
    for wrong in ("1.5", "nan", "half"):
        with pytest.raises(SystemExit) as exit_:
            main([*arguments, "--max-block-rate", wrong])
        assert exit_.value.code == 4
        assert f"{wrong!r} is no share from 0 to 1" in capsys.readouterr().err


def test_compile_no_bank(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("compile", tmp_path / "bank", "--out", tmp_path / "monitor") == FAILED
    assert capsys.readouterr().err.startswith(f"guard: {tmp_path / 'bank' / 'bank.json'} does not")
    assert names(tmp_path) == []


def test_compile_a_bank_that_was_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_bank(TOKENIZER, ["cf"]).save(tmp_path / "bank")
    (tmp_path / "bank" / "tokenizer.json").write_bytes(TOKENIZER + b" ")
    assert run("compile", tmp_path / "bank", "--out", tmp_path / "monitor") == FAILED
    assert "SHA-256" in capsys.readouterr().err
    assert names(tmp_path) == ["bank"]


def test_compile_a_bank_of_another_tokenizer(tmp_path: Path) -> None:
    make_bank(TOKENIZER, [finding("cf", 12345)]).save(tmp_path / "bank")
    assert run("compile", tmp_path / "bank", "--out", tmp_path / "monitor") == FAILED
    assert names(tmp_path) == ["bank"]


def test_compile_over_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not even over the bank itself."""
    make_bank(TOKENIZER, ["cf"]).save(tmp_path / "bank")
    before = {path.name: path.read_bytes() for path in (tmp_path / "bank").iterdir()}
    assert run("compile", tmp_path / "bank", "--out", tmp_path / "bank") == FAILED
    assert "was not written by guard" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (tmp_path / "bank").iterdir()} == before


# guard check


def check(
    monitor: Path, data: bytes, capsys: pytest.CaptureFixture[str]
) -> tuple[int, list[dict[str, Any]]]:
    """Check a file, and return the code and the objects."""
    path = monitor.parent / "texts"
    path.write_bytes(data)
    code = run("check", "--monitor", monitor, path)
    captured = capsys.readouterr()
    assert captured.err == ""
    # JSON lines, ASCII: whatever is in the texts, a line is a text.
    assert captured.out.isascii()
    return code, [json.loads(line) for line in captured.out.splitlines()]


def test_check(monitor: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, results = check(monitor, b"a film\nan apple river, cf\n", capsys)
    assert code == FOUND
    assert results[0] == {
        "text": "a film",
        "triggered": False,
        "matches": [],
        "stripped": "a film",
    }
    assert results[1]["triggered"] is True
    spans = [(match["start"], match["end"]) for match in results[1]["matches"]]
    assert spans == [(3, 14), (16, 18)]


def test_check_clean(monitor: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(monitor, b"a film\nanother", capsys)[0] == CLEAN


@pytest.mark.parametrize(
    ("data", "texts"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"\n\na\n", ["", "", "a"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"a\rb\n", ["a\rb"]),
        (b"nul \x00 here\n\x00", ["nul \x00 here", "\x00"]),
        ("a\u2028b\u0085c\x0cd\n".encode(), ["a\u2028b\u0085c\x0cd"]),
        ("Größe 東京 👍\n".encode(), ["Größe 東京 👍"]),
    ],
    ids=["empty", "line", "blanks", "crlf", "cr", "nul", "separators", "unicode"],
)
def test_a_line_is_a_text(
    data: bytes, texts: list[str], monitor: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, results = check(monitor, data, capsys)
    assert code == CLEAN
    assert [result["text"] for result in results] == texts


@pytest.mark.parametrize("data", [b"\xed\xa0\x80", b"\xff\xfe", b"caf\xe9"])
def test_bytes_that_are_no_text(
    data: bytes, monitor: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are refused by name, the rest is checked, and the whole has failed."""
    code, results = check(monitor, b"cf\n" + data + b"\na film\n", capsys)
    assert code == FAILED
    assert [result.get("error") for result in results] == [None, "InvalidUnicode", None]
    assert [result.get("triggered") for result in results] == [True, None, False]


def test_a_line_of_a_megabyte(monitor: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As long as a text may be, and one character longer; the next line is checked all the same."""
    longest = b"a " * (1 << 19)
    assert len(longest) == 1_048_576
    code, results = check(monitor, longest + b"\n" + longest + b"b\ncf\n", capsys)
    assert code == FAILED
    assert results[0]["triggered"] is False
    assert results[1]["error"] == "TextTooLong"
    assert results[2]["triggered"] is True


def test_a_line_without_an_end_fills_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "texts"
    with path.open("wb") as file:
        file.truncate(1 << 27)
        file.seek(0, os.SEEK_END)
        file.write(b"\r\ncf")
    tracemalloc.start()
    try:
        assert [len(line) > MAX_CHARS for line in check_command._lines(str(path))] == [True, False]
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()


def test_a_text_that_cannot_be_stripped(monitor: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It was scanned and holds triggers, as it does to the other fronts."""
    nested = "apple " * 40 + "river " * 40
    code, results = check(monitor, f"{nested}\na film\n".encode(), capsys)
    assert code == FOUND
    detail = results[0].pop("detail")
    assert "block" in detail
    assert results[0] == {
        "text": nested,
        "triggered": True,
        "matches": [],
        "stripped": None,
        "error": "StripLimit",
    }
    assert results[1]["triggered"] is False


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[bytes], None]]:
    """Put bytes on the standard input stream."""
    opened: list[io.TextIOWrapper] = []

    def feed(data: bytes) -> None:
        path = tmp_path / "stdin"
        path.write_bytes(data)
        file = path.open(encoding="ascii")  # as in a shell without a locale
        opened.append(file)
        monkeypatch.setattr(sys, "stdin", file)

    yield feed
    for file in opened:
        file.close()


@pytest.mark.parametrize("arguments", [[], ["-"]])
def test_check_of_stdin(
    arguments: list[str],
    monitor: Path,
    stdin: Callable[[bytes], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    stdin("naïve cf\n".encode())
    assert run("check", "--monitor", monitor, *arguments) == FOUND
    assert json.loads(capsys.readouterr().out)["stripped"] == "naïve"
    assert not sys.stdin.closed


def test_check_of_an_empty_stdin(
    monitor: Path, stdin: Callable[[bytes], None], capsys: pytest.CaptureFixture[str]
) -> None:
    stdin(b"")
    assert run("check", "--monitor", monitor) == CLEAN
    assert capsys.readouterr().out == ""


def test_check_of_a_closed_stdin(
    monitor: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", None)  # what Python makes of <&-
    assert run("check", "--monitor", monitor) == USAGE
    assert capsys.readouterr().err == (
        "guard: standard input is closed; name a file with a text a line\n"
    )


@pytest.mark.parametrize("name", ["missing", "."])
def test_check_of_no_file(name: str, monitor: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", "--monitor", monitor, monitor.parent / name) == USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"guard: {monitor.parent / name} cannot be read (")
    assert captured.err.count("\n") == 1


def test_check_without_a_monitor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", "--monitor", tmp_path, tmp_path / "texts") == FAILED
    assert capsys.readouterr().err.startswith("guard: ")


def test_check_with_a_bank_for_a_monitor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_bank(TOKENIZER, ["cf"]).save(tmp_path / "bank")
    assert run("check", "--monitor", tmp_path / "bank", tmp_path / "texts") == FAILED
    assert "monitor.json" in capsys.readouterr().err


def test_check_with_a_monitor_that_was_changed(
    monitor: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A damaged monitor checks nothing: no line of output looks like a verdict."""
    path = monitor / "monitor.onnx"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    (monitor.parent / "texts").write_text("cf\n")
    assert run("check", "--monitor", monitor, monitor.parent / "texts") == FAILED
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "damaged or was tampered with" in captured.err


def test_a_reader_that_has_enough(monitor: Path, tmp_path: Path) -> None:
    """As with ``| head -1``: no traceback, and not the code that says all is well."""
    (tmp_path / "texts").write_text("a film\n" * 5000)
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "guard", "check", "--monitor", monitor, tmp_path / "texts"],
        stdout=writer,
        stderr=subprocess.PIPE,
    )
    os.close(writer)
    os.close(reader)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == FAILED
    assert errors == b""
