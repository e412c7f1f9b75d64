"""What is said of one text."""

from __future__ import annotations

import re
from dataclasses import dataclass

# How banks name their triggers: names stand in logs, metrics and responses.
TRIGGER_ID = re.compile("t[0-9]{4,}")


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
        Whether it holds a trigger, or does what triggers do.
    matches
        By position; at each token the longest trigger that starts there. They may overlap. Of a
        text that is triggered and cannot be stripped (`StripLimit`), policies know none.
    stripped
        The text without its triggers, and without any that their removal would have made. It is
        the text itself when it is not triggered, and empty where nothing can be stripped.
    """

    triggered: bool
    matches: tuple[Match, ...]
    stripped: str
