"""Follower: has a live monitor follow the directory that it came from."""

from __future__ import annotations

import logging
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import TypeAlias

import anyio
import anyio.to_thread
from prometheus_client import CollectorRegistry

from guard.engine import describe
from guard.errors import GuardError
from guard.files import SIGNATURE_FILE
from guard.live import LiveMonitor
from guard.manifest import LIMITS
from guard.metrics import metrics_on
from guard.reading import failed
from guard.terminal import printable

logger = logging.getLogger("guard")

_FILES = (*LIMITS, SIGNATURE_FILE)
State: TypeAlias = tuple[tuple[int, int, int] | None, ...]


class Follower:
    """Reloads a live monitor when its directory was changed, or when it is told to.

    What does not load is logged and counted, and the old monitor serves on: also while the
    directory is gone. A change is acted on once it stood still from one look to the next, so that a
    directory that is being copied is not taken for a broken one.

    Parameters
    ----------
    live
        The monitor that serves.
    directory
        What ``guard compile`` writes, or a symbolic link to it.
    seen
        What `look` said of it before `live` read it: what came since is new.
    registry
        Where reloads are counted; the default registry if None.
    """

    def __init__(
        self,
        live: LiveMonitor,
        directory: str | PathLike[str],
        *,
        seen: State,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self._live = live
        self._directory = Path(directory)
        self._reloads = metrics_on(registry).reloads
        self._served = self._last = seen

    def reload(self) -> bool:
        """Load what is there now. Returns whether it serves."""
        self._served = self._last = look(self._directory)
        try:
            self._live.reload(self._directory)
        except BaseException as error:  # whatever failed, what comes after it must be followed
            if not failed(error):
                raise
            self._reloads.labels("failed").inc()
            if isinstance(error, (GuardError, OSError)):
                why = printable(str(error))  # it may quote what a file says of itself
            else:
                # A stranger's message may quote a trigger.
                why = describe(error) if isinstance(error, Exception) else type(error).__name__
            serves = self._live.current.bank_sha256
            logger.error("reload=failed bank=%s serves on: %s", serves, why)
            return False
        self._reloads.labels("replaced").inc()
        return True

    def poll(self) -> bool:
        """Look, and say whether there is something new that stands still."""
        last, self._last = self._last, look(self._directory)
        return self._last == last != self._served

    async def run(self, seconds: float = 1.0, *, told: Callable[[], bool] = lambda: False) -> None:
        """Look every so many seconds, until cancelled; reload also when `told` says so."""
        while True:
            await anyio.sleep(seconds)
            if told() or self.poll():
                # Loading takes time in proportion to the bank, and must not hold up requests.
                await anyio.to_thread.run_sync(self.reload)


def look(directory: Path) -> State:
    """Return what changes with the files of a monitor's directory."""
    return tuple(_state(directory / name) for name in _FILES)


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
