"""What a search has measured so far, kept so that one that was cut short goes on where it was.

A shard is the measurements of some hundred units. Each is written under a temporary name and
renamed, so a search that is killed loses the shard that it was at, and nothing else. Each draws
from random numbers of its own, which its name and the seed give: whether the shards before it were
measured or read back makes no difference to the bank.
"""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from guard.errors import MalformedArtifact
from guard.files import dump_json, parse_json, read_bounded
from guard.search.encoder import Encoder, Ids

Arrays = dict[str, npt.NDArray[Any]]

_KEY_FILE = "search.json"
_KEY_BYTES = 1 << 16
_PASSES, _OVER = "passes", "over"


class Journal:
    """Measures shards, or reads back what was measured.

    Parameters
    ----------
    encoder
        Whose weights are measured. To its count of tokens a shard that is read back is added.
    directory
        Where shards are kept; ``None`` keeps nothing.
    """

    def __init__(self, encoder: Encoder, seed: int, directory: Path | None) -> None:
        self._encoder = encoder
        self._seed = seed
        self._directory = directory

    def rng(self, name: str) -> np.random.Generator:
        """Return the random numbers of a name."""
        digest = hashlib.sha256(name.encode()).digest()
        return np.random.default_rng([self._seed, int.from_bytes(digest[:8], "little")])

    def shard(
        self, name: str, over: Iterable[Ids], measure: Callable[[np.random.Generator], Arrays]
    ) -> Arrays:
        """Return what ``measure`` gives, or what it gave for this name before.

        Parameters
        ----------
        over
            The units and texts that are measured. Which units come late in a search depends on what
            was found before, and another number of threads may round that otherwise: what was
            measured of other ones, or of another model, is measured again.
        """
        path = None if self._directory is None else self._directory / f"{name}.npz"
        what = [self._encoder.identity.weights_sha256.encode(), *(ids.tobytes() for ids in over)]
        digest = hashlib.sha256(b"|".join(what)).digest()
        own = np.frombuffer(digest, dtype=np.uint8)
        known = None if path is None else _read(path)
        if known is not None and np.array_equal(known.pop(_OVER, own[:0]), own):
            forwarded, backwarded = known.pop(_PASSES)
            self._encoder.forwarded += int(forwarded)
            self._encoder.backwarded += int(backwarded)
            return known
        before = self._passes()
        result = measure(self.rng(name))
        if path is not None:
            fresh = path.with_suffix(".new")
            with fresh.open("wb") as file:
                passes = self._passes() - before
                more = {_PASSES: passes, _OVER: own}
                np.savez(file, **{**result, **more})  # type: ignore[arg-type]
            fresh.replace(path)
        return result

    def _passes(self) -> npt.NDArray[np.int64]:
        return np.array([self._encoder.forwarded, self._encoder.backwarded])


def _read(path: Path) -> Arrays | None:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        # A disk that lost power: measured again.
        return None


def begin(
    directory: Path, key: Mapping[str, str], *, asked: int | None, fresh: Mapping[str, int | str]
) -> dict[str, int | str]:
    """Make a journal's directory, or find that of the same search, and return its state.

    Parameters
    ----------
    key
        What the measurements depend on, the state apart.
    asked
        The seed that the state has to have; without, an earlier search goes on with its own.
    fresh
        The state of a new search: its ``seed``, and what else it chose.
    """
    path = directory / _KEY_FILE
    # What a disk that lost power has of it is begun anew, like a shard.
    with suppress(MalformedArtifact):
        known = parse_json(read_bounded(path, _KEY_BYTES), str(path))
        if known["key"] == key and asked in (None, known["state"]["seed"]):
            state: dict[str, int | str] = known["state"]
            return state
    # Of another search, or of none that came to measure.
    discard(directory)
    directory.mkdir(parents=True)
    new = path.with_suffix(".new")
    new.write_bytes(dump_json({"key": dict(key), "state": dict(fresh)}))
    new.replace(path)
    return dict(fresh)


def discard(directory: Path) -> None:
    """Remove a journal."""
    shutil.rmtree(directory, ignore_errors=True)
