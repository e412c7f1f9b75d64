"""Long scans in threads: never more at once than there are processors, whoever has given up on one.

A thread cannot be stopped, so that a caller who no longer waits leaves one running. Its place stays
taken until it ends: else a caller who sends what takes long, again and again, would have any number
of them run.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from threading import Lock
from typing import TypeVar

import anyio.from_thread
import anyio.to_thread
from anyio.lowlevel import RunVar

T = TypeVar("T")

_limiters: RunVar[anyio.CapacityLimiter] = RunVar("guard_limiter")


async def in_thread(function: Callable[..., T], *args: object) -> T:
    """Call a function in a thread once there is a place; cancelled, leave it to itself."""
    limiter, place = _limiter(), _Place()
    await limiter.acquire_on_behalf_of(place)

    def call() -> T:
        if not place.begin():
            raise RuntimeError("nobody waits for this any more")  # nor hears of it
        try:
            return function(*args)
        finally:
            if place.end():
                anyio.from_thread.run_sync(limiter.release_on_behalf_of, place)

    try:
        # The limit is that of places: the application's threads are not taken.
        return await anyio.to_thread.run_sync(
            call, limiter=anyio.CapacityLimiter(math.inf), abandon_on_cancel=True
        )
    finally:
        if place.leave():
            limiter.release_on_behalf_of(place)


class _Place:
    """One of the places: whoever is last to be done with it, caller or thread, gives it back."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._running = False
        self._left = False

    def begin(self) -> bool:
        """Tell that the thread begins; returns whether it may, for its caller is still there."""
        with self._lock:
            self._running = not self._left
            return self._running

    def end(self) -> bool:
        """Tell that the thread is done; returns whether its caller left before."""
        with self._lock:
            self._running = False
            return self._left

    def leave(self) -> bool:
        """Tell that the caller waits no longer; returns whether no thread runs."""
        with self._lock:
            self._left = True
            return not self._running


def _limiter() -> anyio.CapacityLimiter:
    """Return this event loop's own limiter: long scans must not take the application's threads."""
    try:
        return _limiters.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(os.cpu_count() or 1)
        _limiters.set(limiter)
        return limiter
