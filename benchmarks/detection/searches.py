"""The searches that are compared: the product's own as its users run it, and the baselines."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

from benchmarks.assets import AssetError
from benchmarks.baselines import BASELINES
from benchmarks.sources import ROOT
from benchmarks.tasks import plain_texts
from guard.bank import TriggerBank
from guard.files import Json
from guard.search.plan import BUDGETS
from guard.terminal import Progress

SEED = 0
# Of a bank's statistics.
_TOLD = ("rules", "retention", "displacement", "collapse", "gathered", "by_chance", "acts_in")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a search says of one model.

    Attributes
    ----------
    verdict
        ``"backdoored"``, ``"none found"`` or ``"incomplete"``.
    units
        Token ids of each unit that it names.
    texts
        The same for people.
    statistics
        What the search measured: of ``guard scan``, of each unit; of a baseline, of the model.
    seconds
        Of the whole command, loading included; of a baseline, after loading.
    token_forwards
        Tokens that went through the model; of a baseline, a backward pass counts as two.
    peak_mb
        Largest resident memory of the command, 10^6 bytes.
    """

    verdict: str
    units: tuple[tuple[int, ...], ...]
    texts: tuple[str, ...]
    statistics: dict[str, Json]
    seconds: float
    token_forwards: int
    peak_mb: float


Search = Callable[[Path], Answer]


def _scan(budget: str, model: Path) -> Answer:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "bank"
        command = ["guard", "scan", str(model), "--out", str(folder), "--budget", budget]
        command += ["--seed", str(SEED)]
        # 2 is an incomplete bank too, and then there is one.
        seconds, peak_mb, _ = _run(command, scratch, fine=(0, 1, 2))
        bank = TriggerBank.load(folder)
    forwards = bank.search["token_forwards"]
    assert isinstance(forwards, int)
    return Answer(
        bank.verdict,
        tuple(trigger.token_ids for trigger in bank.triggers),
        tuple(trigger.text for trigger in bank.triggers),
        {
            trigger.text: {"view": trigger.view, **{key: trigger.statistics[key] for key in _TOLD}}
            for trigger in bank.triggers
        },
        seconds,
        forwards,
        peak_mb,
    )


def _baseline(name: str, model: Path) -> Answer:
    with tempfile.TemporaryDirectory() as scratch:
        command = ["benchmarks.detection.searches", name, str(model)]
        _, peak_mb, output = _run(command, scratch, fine=(0,))
    answer = json.loads(output)
    return Answer(
        answer["verdict"],
        tuple(map(tuple, answer["units"])),
        tuple(answer["texts"]),
        answer["statistics"],
        answer["seconds"],
        answer["token_forwards"],
        peak_mb,
    )


SEARCHES: Mapping[str, Search] = MappingProxyType(
    {
        **{budget: partial(_scan, budget) for budget in BUDGETS},
        **{name: partial(_baseline, name) for name in BASELINES},
    }
)
"""The budgets of ``guard scan``, and the baselines."""


def _run(command: list[str], scratch: str, *, fine: tuple[int, ...]) -> tuple[float, float, str]:
    """Run a module to its end; return seconds, peak memory in MB, and what it printed."""
    started = time.monotonic()
    log, output = Path(scratch) / "stderr", Path(scratch) / "stdout"
    with log.open("wb") as errors, output.open("wb") as printed:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=ROOT, stdout=printed, stderr=errors
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - started
    if process.returncode not in fine:
        said = re.sub(r"\s+", " ", log.read_text(encoding="utf-8", errors="replace"))[-500:]
        raise AssetError(f"{' '.join(command)} failed with {process.returncode}: {said}")
    # Linux counts in kibibytes.
    return seconds, usage.ru_maxrss * 1024 / 1e6, output.read_text(encoding="utf-8")


def main(name: str, model: str) -> None:
    """Run a baseline in this process and print its answer."""
    texts = [text for own in plain_texts().values() for text in own]
    with Progress() as progress:
        result = BASELINES[name](Path(model), texts, seed=SEED, progress=progress)
    print(
        json.dumps(
            {
                "verdict": result.verdict,
                "units": [unit.token_ids for unit in result.found],
                "texts": [unit.text for unit in result.found],
                "statistics": dict(result.statistics),
                "seconds": result.seconds,
                "token_forwards": result.token_forwards + 2 * result.token_backwards,
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
