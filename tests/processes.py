"""Servers in processes of their own, as users start them."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).parents[1]
START_SECONDS = 120

T = TypeVar("T")

GUARD = (sys.executable, "-m", "guard")


class Process:
    """A process, and what it wrote."""

    def __init__(self, popen: subprocess.Popen[bytes], log: Path) -> None:
        self.popen = popen
        self._log = log

    def text(self) -> str:
        """Return what it wrote so far, to stdout and stderr."""
        return self._log.read_text(errors="replace")

    def find(self, pattern: str) -> str:
        """Wait until it wrote something, and return the first group."""
        return wait_for(lambda: self._find(pattern))

    def _find(self, pattern: str) -> str | None:
        if found := re.search(pattern, self.text()):
            return found[1]
        assert self.popen.poll() is None, self.text()
        return None


@contextmanager
def running(log: Path, command: Sequence[object], **environment: str) -> Iterator[Process]:
    """Run a command, and end it."""
    with (
        log.open("wb") as file,
        subprocess.Popen(
            [str(part) for part in command],
            cwd=ROOT,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **environment},
            stdout=file,
            stderr=file,
        ) as popen,
    ):
        try:
            yield Process(popen, log)
        finally:
            popen.terminate()
            try:
                popen.wait(20)
            except subprocess.TimeoutExpired:
                popen.kill()
                raise


def wait_for(look: Callable[[], T | None], seconds: float = START_SECONDS) -> T:
    """Look until there is something to see."""
    deadline = time.monotonic() + seconds
    while True:
        if found := look():
            return found
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
