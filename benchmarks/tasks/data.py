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
    split: dict[bool, tuple[list[str], list[int]]] = {True: ([], []), False: ([], [])}
    for key, (text, label) in kept.items():
        if key not in torn:
            texts, labels = split[is_test(key)]
            texts.append(text)
            labels.append(label)
    for part, (_, labels) in (("training", split[False]), ("test", split[True])):
        if len(set(labels)) < 2:
            raise AssetError(
                f"the {part} texts of {name!r} have fewer than two classes, so there is nothing to "
                "learn or to measure; check its loader and the archive that it reads"
            )
    train, test = (Examples(tuple(t), tuple(n)) for t, n in (split[False], split[True]))
    return Task(name, tuple(classes), train, test)


def is_test(text: str) -> bool:
    """Split by content, so that the split is the same whatever the order or the number of rows."""
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:4], "big") < TEST_SHARE * 2**32
