"""Where a purification keeps its state until it is done: a directory beside the output."""

from __future__ import annotations

import hashlib
import math
import secrets
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from guard.errors import ArtifactError, MalformedArtifact, ModelError
from guard.files import Json, dump_json, parse_json, read_bounded
from guard.search.checkpoint import safe_weights

# In a round's directory, beside its model.
ROUND_FILE = "round.json"
_SEED_FILE = "seed.json"
_MAX_BYTES = 1 << 20
# Copies of the weights on the disk at a time, in single precision: moments, best and last ones in a
# checkpoint and in its successor, and the models of two rounds.
_COPIES = 10


class Workplace:
    """The state of one purification, which another call with the same arguments goes on from.

    It has a directory for each round, which has a model once the round's training ended, and a scan
    once that ended too.

    Parameters
    ----------
    out
        The output that it lies beside.
    about
        All that the result depends on; another purification has another place.
    folder
        The model, for the room that is needed.
    seed
        Drawn at random if ``None``, and kept.

    Attributes
    ----------
    seed
        The seed, of an earlier call where there was one.

    Raises
    ------
    ArtifactError
        The disk has not the room that the whole takes.
    """

    def __init__(
        self, out: Path, about: Mapping[str, Json], folder: Path, seed: int | None
    ) -> None:
        key = hashlib.sha256(dump_json({**about, "seed": seed})).hexdigest()
        self._folder = out.absolute().with_name(f".{out.name}.purify-{key[:12]}")
        self._removed = self._folder.with_name(f"{self._folder.name}.old")
        # A removal may have been cut short.
        shutil.rmtree(self._removed, ignore_errors=True)
        kept = self._folder / _SEED_FILE
        if (known := _seed(kept)) is None:
            # What lies there without a seed is of no run that can be gone on with.
            if self._folder.is_dir():
                shutil.rmtree(self._folder)
            self._folder.mkdir(parents=True)
            self._need(4 * _COPIES * _weights(folder))
            known = secrets.randbits(32) if seed is None else seed
            fresh = kept.with_suffix(".new")
            fresh.write_bytes(dump_json({"seed": known}))
            fresh.replace(kept)
        self.seed: int = known

    def made(self, number: int) -> Path:
        """Return the directory of a round, which is there once its model is."""
        return self._folder / f"round-{number}"

    def checkpoint(self, number: int) -> Path:
        """Return the file that the state of a round's training is in until it ends."""
        return self._folder / f"round-{number}.safetensors"

    def scan(self, number: int) -> Path:
        """Return the directory that the state of a round's scan is in until it ends."""
        return self._folder / f"round-{number}.scan"

    def words(self, number: int) -> Path:
        """Return the file of the words that a round's scan tests besides."""
        return self._folder / f"round-{number}.words"

    def remove(self) -> None:
        """Remove it, with all that is in it."""
        # At once: half of it would be taken for the state of a run.
        self._folder.rename(self._removed)
        shutil.rmtree(self._removed)

    def _need(self, room: int) -> None:
        free = shutil.disk_usage(self._folder).free
        if free < room:
            self._folder.rmdir()
            raise ArtifactError(
                f"{self._folder.parent} has {free >> 20} MiB left, and purifying takes up to "
                f"{room >> 20}; make room, or choose another output"
            )


def whole(made: Path) -> bool:
    """Whether a round's directory is there, and is what was written.

    What a disk that lost power has of it is made anew.
    """
    try:
        read(made / ROUND_FILE)
        for path in safe_weights(made):
            with safe_open(path, framework="pt"):
                pass
    except (MalformedArtifact, ModelError, SafetensorError):
        return False
    return True


def _seed(kept: Path) -> int | None:
    with suppress(MalformedArtifact):
        seed: int = read(kept)["seed"]
        return seed
    return None


def _weights(folder: Path) -> int:
    """Return how many numbers a model's files hold; files may hold them in half precision."""
    count = 0
    for path in safe_weights(folder):
        with safe_open(path, framework="pt") as file:
            count += sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
    return count


def read(path: Path) -> dict[str, Any]:
    """Return what a JSON file of the state holds."""
    value: dict[str, Any] = parse_json(read_bounded(path, _MAX_BYTES), str(path))
    return value
