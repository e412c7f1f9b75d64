"""Long scans in threads: never more at once than there are processors, whoever has given up on one.

A thread cannot be stopped, so that a caller who no longer waits leaves one running. Its place stays
taken until it ends: else a caller who sends what takes long, again and again, would have any number
of them run.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from threading import Condition, Event
from typing import TypeVar

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar

T = TypeVar("T")

_PLACES = os.cpu_count() or 1
_limiters: RunVar[anyio.CapacityLimiter] = RunVar("guard_limiter")


async def in_thread(function: Callable[..., T], *args: object) -> T:
    """Call a function in a thread once there is a place; cancelled, leave it to itself."""
    left = Event()

    def call() -> T:
        if not _places.take(left):
            raise RuntimeError("nobody waits for this any more")  # nor hears of it
        try:
            return function(*args)
        finally:
            _places.give_back()

    try:
        # Callers wait here, and not in threads: those that wait for a place are as few as places.
        return await anyio.to_thread.run_sync(call, limiter=_limiter(), abandon_on_cancel=True)
    except BaseException:  # cancelled, or what the function raised, when nobody waits either
        left.set()
        _places.look_again()
        raise


class _Places:
    """Places for threads that run. No event loop has a part in them: a thread may outlive its."""

    def __init__(self, number: int) -> None:
        self._free = number
        self._changed = Condition()

    def take(self, left: Event) -> bool:
        """Wait for a place and take it, unless the caller has left by then."""
        with self._changed:
            self._changed.wait_for(lambda: self._free or left.is_set())
            if left.is_set():
                return False
            self._free -= 1
            return True

    def give_back(self) -> None:
        """Free a place."""
        with self._changed:
            self._free += 1
            self._changed.notify_all()

    def look_again(self) -> None:
        """Have those that wait see who has left."""
        with self._changed:
            self._changed.notify_all()


_places = _Places(_PLACES)


def _limiter() -> anyio.CapacityLimiter:
    """Return this event loop's own limiter: long scans must not take the application's threads."""
    try:
        return _limiters.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(_PLACES)
        _limiters.set(limiter)
        return limiter
