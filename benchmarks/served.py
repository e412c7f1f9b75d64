"""A server in a process of its own, looked at from outside.

``python -m benchmarks.served NAME ARGUMENT ...`` runs the console script NAME unchanged, but for a
signal handler: on SIGUSR2 the process writes how many asyncio tasks it holds to SOAK_PROBE.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).parents[1]
START_SECONDS = 180
# The two servers' words for where they listen; the first such line is that for clients.
_LISTENING = re.compile(r"(?:running on|listening for clients on) http://127\.0\.0\.1:(\d+)")
_ERROR = re.compile(r"Traceback|\bERROR\b|CRITICAL|never retrieved|was never awaited|was destroyed")


class Served:
    """A process that serves."""

    def __init__(self, process: asyncio.subprocess.Process, probe: Path) -> None:
        self.errors = 0
        self.first_errors: list[str] = []
        self.port = 0
        self._process = process
        self._probe = probe
        self._listening = asyncio.Event()

    async def read(self) -> None:
        """Look at every line that it logs, until it ends."""
        assert self._process.stderr is not None
        async for raw in self._process.stderr:
            line = raw.decode(errors="replace").rstrip()
            if not self.port and (found := _LISTENING.search(line)):
                self.port = int(found[1])
                self._listening.set()
            if _ERROR.search(line):
                self.errors += 1
                if len(self.first_errors) < 20:
                    self.first_errors.append(line[:300])
        self._listening.set()

    async def started(self) -> None:
        """Wait until it listens."""
        await asyncio.wait_for(self._listening.wait(), START_SECONDS)
        if not self.port:
            raise RuntimeError(f"the server did not start: {self.first_errors}")

    def resident_mb(self) -> float:
        """Return its resident memory."""
        pages = int(self._proc("statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    async def state(self) -> dict[str, int]:
        """Return how many tasks, threads and open files it has."""
        self._probe.unlink(missing_ok=True)
        self._process.send_signal(signal.SIGUSR2)
        for _ in range(100):
            await asyncio.sleep(0.1)
            if self._probe.exists() and (text := self._probe.read_text()):
                break
        else:
            raise RuntimeError("the server does not say how many tasks it has")
        return {
            "tasks": int(text),
            "threads": len(list(self._proc("task").iterdir())),
            "files": len(list(self._proc("fd").iterdir())),
        }

    def _proc(self, name: str) -> Path:
        return Path(f"/proc/{self._process.pid}/{name}")


@contextlib.asynccontextmanager
async def serve(
    probe: Path, command: Sequence[str], more: Sequence[str], environment: dict[str, str]
) -> AsyncIterator[Served]:
    """Start a console script that serves, wait until it listens, and end it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.served", *command, *more),
        cwd=ROOT,
        env={
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "SOAK_PROBE": str(probe),
            **environment,
        },
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
    )
    served = Served(process, probe)
    reading = asyncio.create_task(served.read())
    try:
        await served.started()
        yield served
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        await reading


def _probed(_number: int, _frame: FrameType | None) -> None:
    fresh = Path(os.environ["SOAK_PROBE"] + ".new")
    fresh.write_text(str(len(asyncio.all_tasks())))
    fresh.replace(os.environ["SOAK_PROBE"])


def _main() -> None:
    signal.signal(signal.SIGUSR2, _probed)
    del sys.argv[0]
    (script,) = entry_points(group="console_scripts", name=sys.argv[0])
    sys.exit(script.load()())


if __name__ == "__main__":
    _main()
