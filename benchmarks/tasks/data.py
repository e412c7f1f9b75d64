"""What a labelled text task is."""

from __future__ import annotations

from dataclasses import dataclass


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
