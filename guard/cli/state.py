"""Whose state a run goes on from: only what this user began here is taken for measured.

State lies beside the output, where an archive that holds a model may bring some along. So it is
noted, in the user's own directory, where runs are under way; the note is also what keeps two runs
from writing to one output.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from guard.errors import GuardError


@contextmanager
def under_way(out: Path, states: Callable[[], Sequence[Path]]) -> Iterator[None]:
    """Hold an output for one run.

    Parameters
    ----------
    out
        What is written in the end.
    states
        Finds the directories of state of this output, which are gone once the run is done.

    Raises
    ------
    GuardError
        There is state that this user did not begin, or another run is under way.
    """
    note = _home() / hashlib.sha256(os.fsencode(out.resolve())).hexdigest()
    if (found := states()) and not note.is_file():
        raise GuardError(
            f"{found[0]} was not begun here by you, so it may hold what somebody made up; remove "
            "it, and run this again"
        )
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        file = note.open("wb")
    except OSError:
        # No home to write to: nothing can be gone on from, and nothing else is lost.
        yield
        return
    with file:
        if not _locked(file.fileno()):
            raise GuardError(
                f"another run is under way to {out}; wait for it, or choose another output"
            )
        try:
            yield
        finally:
            if not states():
                note.unlink(missing_ok=True)


def _home() -> Path:
    # Of the XDG Base Directory Specification.
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "trigger-guard"


def _locked(descriptor: int) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
