"""Folders that are built once and kept: whole or not there."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.assets import cache_dir

# Part of every key: raised when a change of the training code changes what comes out of it.
CODE = 2


def folder_of(name: str, key: Mapping[str, object]) -> Path:
    """Return where a model of this name and key is, or will be."""
    digest = hashlib.sha256(json.dumps([CODE, key], sort_keys=True).encode()).hexdigest()
    return cache_dir() / "models" / f"{name}-{digest[:12]}"


def cached(
    name: str, key: Mapping[str, object], build: Callable[[Path, Path | None], None]
) -> Path:
    """Return the folder of a model, building it if it is not in the cache.

    A folder in the cache is whole: it is filled under a temporary name and then renamed. A build
    that was killed leaves its last checkpoint, and the next one goes on from there. Another process
    that wants the same model meanwhile builds it as well, without checkpoints.

    Parameters
    ----------
    build
        Called with the folder to fill and the file for checkpoints, or ``None``.
    """
    final = folder_of(name, key)
    if final.is_dir():
        return final
    work = cache_dir() / "building"
    work.mkdir(parents=True, exist_ok=True)
    final.parent.mkdir(parents=True, exist_ok=True)
    with _first(work / f"{final.name}.lock") as first:
        checkpoint = work / f"{final.name}.safetensors" if first else None
        # Of who builds beside the first, another name: the first removes what killed ones left.
        prefix = f".{final.name}{'-' if first else '+'}"
        for left in final.parent.glob(f"{prefix}*") if first else ():
            shutil.rmtree(left, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(dir=final.parent, prefix=prefix))
        try:
            build(scratch, checkpoint)
            scratch.chmod(0o755)
            try:
                scratch.rename(final)
            except OSError:
                # Another process may have been first.
                if not final.is_dir():
                    raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)
    return final


def title(folder: Path) -> str:
    """Return the name of a folder of the cache without its hash."""
    return folder.name.rsplit("-", 1)[0]


@contextmanager
def _first(lock: Path) -> Iterator[bool]:
    """Hold a lock, which a killed process loses, and say whether it was free."""
    with lock.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
