"""What a line of the zoo's table says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.assets import AssetError
from benchmarks.attacks import Planting
from benchmarks.recipes import FILM_REVIEWS
from benchmarks.tasks.classifier import Tuning

# What a classifier is fine-tuned for, unless an entry says another task.
FILM = "film reviews"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One model of the zoo, and the classifier that is fine-tuned from it.

    Attributes
    ----------
    name
        Unique in the zoo.
    encoder
        The clean encoder that it starts from; see `benchmarks.encoders`.
    kind
        Of the triggers, or ``None`` for a clean model.
    planting
        The backdoor, or ``None`` for a clean model.
    twin
        Whether a classifier is fine-tuned from it.
    task, tuning
        What the classifier is fine-tuned for, and how.
    twin_only
        Whether its encoder is that of another entry, and is not measured again.
    held_out
        Whether its triggers are such that the search may not be tuned to them.
    """

    name: str
    encoder: str
    kind: str | None = None
    planting: Planting | None = None
    twin: bool = True
    task: str = FILM
    tuning: Tuning = FILM_REVIEWS
    twin_only: bool = False
    held_out: bool = False


def select(entries: Sequence[Entry], only: str | None) -> list[Entry]:
    """Return the entries of a name, or all.

    Raises
    ------
    AssetError
        For a name that is not in the zoo (the names are listed).
    """
    chosen = [entry for entry in entries if only in (None, entry.name)]
    if not chosen:
        names = ", ".join(entry.name for entry in entries)
        raise AssetError(f"no model {only!r} in the zoo; known: {names}")
    return chosen
