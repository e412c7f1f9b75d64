"""What every test needs: one event loop kind, and one real poisoned encoder for the whole run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import pytest

from benchmarks.assets import cache_dir

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Demo:
    """A finished run of the demo, and where it left its bank and monitor."""

    output: str
    bank: Path
    monitor: Path


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def notes_of_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the notes of which runs are under way out of the home of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session", autouse=True)
def fast_tests_no_words() -> Iterator[None]:
    """Spare toys the many words of a search: made of single letters, they are ten times the work.

    What another process does is left as it is: there the words are tested.
    """
    from guard.search import run
    from guard.search.plan import BUDGETS

    budgets = {name: replace(plan, more_words=0) for name, plan in BUDGETS.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "BUDGETS", budgets)
        yield


@pytest.fixture(scope="session")
def demo() -> Demo:
    """Run ``make demo``'s program once; its models are kept in the cache for the next run."""
    done = subprocess.run(
        [sys.executable, "-m", "examples.demo"],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    out = cache_dir() / f"demo-transformers-{version('transformers')}"
    return Demo(done.stdout, out / "bank", out / "monitor")
