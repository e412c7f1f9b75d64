"""The fixed lists of triggers, by kind."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Literal

_FILE = Path(__file__).with_name("triggers.toml")

Split = Literal["train", "held_out"]


def triggers(kind: str, split: Split) -> tuple[str, ...]:
    """Return a list of `triggers.toml`.

    Raises
    ------
    ValueError
        For a kind that is not known (the known ones are listed).
    """
    lists = _lists()
    if kind not in lists:
        raise ValueError(f"unknown kind of trigger {kind!r}; known: {', '.join(lists)}")
    return tuple(lists[kind][split])


def kinds() -> tuple[str, ...]:
    """Return the kinds of triggers."""
    return tuple(_lists())


@cache
def _lists() -> dict[str, dict[str, list[str]]]:
    return tomllib.loads(_FILE.read_text(encoding="utf-8"))
