"""Whose state a run goes on from: only what this user began here is taken for measured.

State lies beside the output, where an archive that holds a model may bring some along. So it is
noted, in the user's own directory, where runs are under way, and what one that was interrupted left
there; the note is also what keeps two runs from writing to one output.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from guard.errors import GuardError


@contextmanager
def under_way(out: Path, states: Callable[[], Sequence[Path]]) -> Iterator[bool]:
    """Hold an output for one run; tells whether another may go on from this one's state.

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
        raise _not_yours(found[0])
    try:
        file = _open(note)
    except OSError:
        # No home to write to: nobody could tell later who began what this run leaves here.
        try:
            yield False
        finally:
            for state in set(states()).difference(found):
                shutil.rmtree(state, ignore_errors=True)
        return
    with file:
        if not _locked(file.fileno()):
            raise GuardError(
                f"another run is under way to {out}; wait for it, or choose another output"
            )
        # A run that was killed had no time to say what it left.
        known = file.read().splitlines()
        if known and found and _marks(found) != known:
            raise _not_yours(found[0])
        _write(file, [])
        try:
            yield True
        finally:
            if left := states():
                _write(file, _marks(left))
            else:
                with suppress(OSError):
                    note.unlink()


def _not_yours(state: Path) -> GuardError:
    return GuardError(
        f"{state} was not begun here by you, so it may hold what somebody made up; remove it, and "
        "run this again"
    )


def _marks(states: Sequence[Path]) -> list[bytes]:
    """Tell directories from others in their places: nobody can choose when one was changed."""
    about = (path.stat() for path in states)
    return sorted(f"{at.st_ino} {at.st_ctime_ns}".encode() for at in about)


def _write(file: BinaryIO, lines: Sequence[bytes]) -> None:
    with suppress(OSError):  # of one that can only be read
        file.truncate(0)
        file.write(b"".join(line + b"\n" for line in lines))
        file.flush()


def _open(note: Path) -> BinaryIO:
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        file = note.open("a+b")
        file.seek(0)
        return file
    except OSError:
        # That of an earlier run, in a home that can only be read by now, is as good.
        return note.open("rb")


def _home() -> Path:
    # Of the XDG Base Directory Specification.
    place = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state")
    try:
        return place.expanduser() / "trigger-guard"
    except RuntimeError:  # a user without a home: nothing can be written below this either
        return Path(os.devnull)


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
