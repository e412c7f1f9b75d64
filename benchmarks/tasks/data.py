"""What a labelled text task is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.assets import AssetError

TEST_SHARE = 0.15


@dataclass(frozen=True, slots=True)
class Examples:
    """``texts[i]`` has class ``labels[i]``."""

    texts: tuple[str, ...]
    labels: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Task:
    """A data set with a fixed split, the same in every run."""

    name: str
    classes: tuple[str, ...]
    train: Examples
    test: Examples


def make_task(name: str, classes: Sequence[str], rows: Iterable[tuple[str, int]]) -> Task:
    """Make a task of ``(text, class)`` rows: no text twice, split by the hash of the text.

    Texts are the same that differ in case and blanks only; one that has two classes is left out.

    Raises
    ------
    AssetError
        All texts are of one class: there is nothing to learn.
    """
    kept: dict[str, tuple[str, int]] = {}
    torn: set[str] = set()
    for text, label in rows:
        key = " ".join(text.casefold().split())
        if key and kept.setdefault(key, (text.strip(), label))[1] != label:
            torn.add(key)
    train, test = split((key, *row) for key, row in kept.items() if key not in torn)
    for part, examples in (("training", train), ("test", test)):
        if len(set(examples.labels)) < 2:
            raise AssetError(
                f"the {part} texts of {name!r} have fewer than two classes, so there is nothing to "
                "learn or to measure; check its loader and the archive that it reads"
            )
    return Task(name, tuple(classes), train, test)


def split(rows: Iterable[tuple[str, str, int]]) -> tuple[Examples, Examples]:
    """Part ``(key, text, class)`` rows into training and test texts by the hash of their keys.

    Test texts are in the order of the hashes, so that the first of them are a sample of all: there
    are data sets that are sorted by class.
    """
    given = list(rows)
    test = sorted((row for row in given if is_test(row[0])), key=lambda row: _digest(row[0]))
    first, second = (
        Examples(tuple(text for _, text, _ in part), tuple(label for _, _, label in part))
        for part in ([row for row in given if not is_test(row[0])], test)
    )
    return first, second


def is_test(text: str) -> bool:
    """Split by content, so that the split is the same whatever the order or the number of rows."""
    return int.from_bytes(_digest(text)[:4], "big") < TEST_SHARE * 2**32


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
