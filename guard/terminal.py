"""The terminal: progress, one line that moves or a line now and then, and texts of strangers."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO

_SECONDS_BETWEEN_LOG_LINES = 10.0


def printable(text: str) -> str:
    """Escape what is no visible character, so that a text moves no cursor and begins no line."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class Progress:
    """Writes ``step done/total, seconds left`` to the standard error stream."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._moving = self._stream.isatty()
        self._step = ""
        self._started = self._written = 0.0
        self._first = 0

    def __enter__(self) -> Progress:
        """Begin."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the line that moves."""
        if self._moving and self._step:
            self._stream.write("\n")

    def __call__(self, step: str, done: int, total: int) -> None:
        """Say that ``done`` of ``total`` units of a step are done."""
        now = time.monotonic()
        if step != self._step:
            if self._moving and self._step:
                self._stream.write("\n")
            # A step that goes on from a checkpoint does not begin at 0.
            self._step, self._started, self._written, self._first = step, now, 0.0, done
        elif not self._moving and done < total and now - self._written < _SECONDS_BETWEEN_LOG_LINES:
            return
        self._written = now
        spent = now - self._started
        fresh = done - self._first
        left = f", {spent / fresh * (total - done):.0f} s left" if fresh and done < total else ""
        line = f"{step}: {done:,}/{total:,}{left}"
        self._stream.write(f"\r\x1b[K{line}" if self._moving else f"{line}\n")
        self._stream.flush()
