"""State of runs that were cut short: whose it is, and that one run at a time has it."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from guard.cli import main
from guard.cli.state import under_way
from guard.errors import GuardError
from tests.processes import ROOT


def states(out: Path) -> list[Path]:
    state = out.with_name(f".{out.name}.scan")
    return [state] if state.exists() else []


def test_an_output_of_any_name(tmp_path: Path) -> None:
    out = tmp_path / "a\nb\udcff"

    def interrupted() -> None:
        with under_way(out, lambda: states(out)):
            out.with_name(f".{out.name}.scan").mkdir(exist_ok=True)
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            interrupted()


def test_what_was_begun_here_is_gone_on_from(tmp_path: Path) -> None:
    out = tmp_path / "bank"

    def interrupted() -> None:
        with under_way(out, lambda: states(out)) as kept:
            assert kept
            (tmp_path / ".bank.scan").mkdir()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with under_way(out, lambda: states(out)):
        (tmp_path / ".bank.scan").rmdir()
    # Done: what comes to lie there later is not of that run.
    (tmp_path / ".bank.scan").mkdir()
    with (
        pytest.raises(GuardError, match="was not begun here by you"),
        under_way(out, lambda: states(out)),
    ):
        raise AssertionError


def test_what_comes_to_lie_in_the_place_of_what_a_run_left_is_refused(tmp_path: Path) -> None:
    """The user removes it by hand, and unpacks somebody's archive."""
    out, state = tmp_path / "bank", tmp_path / ".bank.scan"

    def interrupted() -> None:
        with under_way(out, lambda: states(out)):
            state.mkdir(exist_ok=True)
            (state / secrets.token_hex(4)).touch()
            raise KeyboardInterrupt

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            interrupted()
    shutil.rmtree(state)
    state.mkdir()
    with pytest.raises(GuardError, match="was not begun here by you"):
        interrupted()
    # Nor does a second attempt take it for its own.
    with pytest.raises(GuardError, match="was not begun here by you"):
        interrupted()
    shutil.rmtree(state)
    with pytest.raises(KeyboardInterrupt):
        interrupted()


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")
def test_what_a_run_left_that_was_killed_is_gone_on_from(tmp_path: Path) -> None:
    out, state = tmp_path / "bank", tmp_path / ".bank.scan"
    killed = (
        "import os, sys; from pathlib import Path; from guard.cli.state import under_way\n"
        "out, state = map(Path, sys.argv[1:])\n"
        "with under_way(out, lambda: [state] if state.exists() else []):\n"
        "    state.mkdir(exist_ok=True)\n"
        "    (state / str(os.getpid())).touch()\n"
        "    os.kill(os.getpid(), 9)"
    )
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", killed, str(out), str(state)], cwd=ROOT, check=False
        )
        assert done.returncode == -9
    with under_way(out, lambda: states(out)) as kept:
        assert kept
        assert len(list(state.iterdir())) == 2


@pytest.mark.parametrize(
    ("command", "planted"),
    [
        (["scan", "model", "--out", "bank"], ".bank.scan"),
        (["purify", "model", "--bank", "bank-1", "--out", "p"], ".p.purify-0123456789ab"),
    ],
)
def test_what_somebody_left_there_is_refused(
    command: list[str],
    planted: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It may hold made-up measurements, by which nothing would be found."""
    (tmp_path / "bank-1").symlink_to(ROOT / "tests" / "golden" / "bank-1")
    (tmp_path / planted).mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(command) == 2
    assert "remove it, and run this again" in capsys.readouterr().err
    assert (tmp_path / planted).is_dir()


@pytest.mark.skipif(sys.platform == "win32", reason="has no flock")
def test_one_run_at_a_time(tmp_path: Path) -> None:
    out = tmp_path / "bank"
    other = (
        "import sys; from pathlib import Path; from guard.cli.state import under_way\n"
        "with under_way(Path(sys.argv[1]), lambda: []): pass"
    )
    command = [sys.executable, "-c", other, str(out)]
    with under_way(out, lambda: states(out)):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "another run is under way" in done.stderr
    subprocess.run(command, cwd=ROOT, check=True)


def test_a_home_that_can_only_be_read_by_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an earlier run left is gone on from, and stays where this one ends early."""
    out = tmp_path / "bank"

    def interrupted() -> None:
        with under_way(out, lambda: states(out)) as kept:
            assert kept
            (tmp_path / ".bank.scan").mkdir(exist_ok=True)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    opened = Path.open

    def read_only(path: Path, mode: str) -> Any:
        if mode != "rb":
            raise PermissionError(path)
        return opened(path, mode)

    monkeypatch.setattr(Path, "open", read_only)
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert states(out)


def test_a_home_that_cannot_be_written_to_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what was cut short there leaves nothing, for nobody could go on from it."""

    def no_home(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    (tmp_path / "file").touch()
    out, home = tmp_path / "bank", str(tmp_path / "file")

    def interrupted() -> None:
        with under_way(out, lambda: states(out)) as kept:
            assert not kept
            (tmp_path / ".bank.scan").mkdir()
            (tmp_path / ".bank.scan" / "shard").touch()
            raise KeyboardInterrupt

    for state_home in home, "":
        monkeypatch.setenv("XDG_STATE_HOME", state_home)
        if not state_home:
            monkeypatch.setattr(Path, "expanduser", no_home)
        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert not states(out)
