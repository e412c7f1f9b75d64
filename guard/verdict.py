"""What is said of one text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Match:
    """One trigger in a text.

    Parameters
    ----------
    trigger
        The trigger's id in the bank.
    start, end
        Half-open range in the text, in code points.
    """

    trigger: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the monitor says of one text.

    Parameters
    ----------
    triggered
        Whether there is any match.
    matches
        By position; at each token the longest trigger that starts there. They may overlap.
    stripped
        The text without its triggers, and without any that their removal would have made. It is
        the text itself when there is no match.
    """

    triggered: bool
    matches: tuple[Match, ...]
    stripped: str
