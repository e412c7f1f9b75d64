"""What importing guard costs, and what it offers."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import guard
from guard import errors
from tests.helpers import make_monitor, wordpiece


def modules_after(code: str) -> set[str]:
    """Run code in a new interpreter and return the top-level modules that it loaded."""
    script = f"{code}\nimport sys\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(guard.__file__).parent.parent,
    )
    return set(result.stdout.split())


def test_import_loads_nothing_heavy() -> None:
    loaded = modules_after("import guard\nguard.GuardError\nguard.__version__")
    assert not loaded & {"numpy", "onnxruntime", "starlette", "tokenizers", "torch"}


def test_a_monitor_needs_no_torch(tmp_path: Path) -> None:
    make_monitor(tmp_path, wordpiece("cf"), ["cf"])
    loaded = modules_after(
        f"from guard import Monitor\nassert Monitor.load({str(tmp_path)!r}).check('a cf').triggered"
    )
    assert "onnxruntime" in loaded
    assert not loaded & {"exporters", "onnx", "torch", "transformers"}


@pytest.mark.parametrize("name", guard.__all__)
def test_every_public_name_is_importable(name: str) -> None:
    assert getattr(guard, name).__name__ == name
    assert name in dir(guard)


def test_all_is_sorted_and_holds_every_error() -> None:
    assert guard.__all__ == sorted(guard.__all__)
    tree = {name for name, item in vars(errors).items() if isinstance(item, type)}
    assert tree <= set(guard.__all__)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="module 'guard' has no attribute 'scan_everything'"):
        guard.scan_everything  # noqa: B018


def test_every_error_is_drawn_in_the_tree() -> None:
    drawn = errors.__doc__ or ""
    for name, item in vars(errors).items():
        if isinstance(item, type):
            assert f" {name} " in f" {drawn} ".replace("\n", " ")
            assert issubclass(item, errors.GuardError)


def test_a_blocked_call_keeps_its_verdict_out_of_the_message() -> None:
    verdict = guard.Verdict(True, (guard.Match("t0001", 0, 2),), "secret")
    error = guard.TriggeredInput(verdict)
    assert error.verdict is verdict
    assert "secret" not in str(error)
    assert "t0001" not in str(error)
    assert pickle.loads(pickle.dumps(error)).verdict == verdict
