"""The texts of one call, scanned within its limits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from time import monotonic

from guard.errors import DeadlinePassed, InputError, TextTooLong
from guard.monitor import Monitor
from guard.verdict import Match, Verdict

# Between two of these the deadline is looked at.
_BATCH = 32


@dataclass(frozen=True, slots=True)
class Ids:
    """The token ids of one text, where the protected model is given ids."""

    row: tuple[int, ...]


def scan(
    monitor: Monitor, texts: tuple[str | Ids, ...], *, deadline: float | None, max_text: int
) -> list[Verdict | InputError]:
    """Scan texts, each to its verdict or to why there is none.

    Parameters
    ----------
    deadline
        Seconds that it may take, or None. Looked at between texts.
    max_text
        Characters that a text may have.

    Raises
    ------
    DeadlinePassed
        It took longer.
    """
    results: list[Verdict | InputError] = []
    end = math.inf if deadline is None else monotonic() + deadline
    for start in range(0, len(texts), _BATCH):
        if start and monotonic() > end:
            break
        results += _scan_some(monitor, texts[start : start + _BATCH], max_text)
    if monotonic() > end:
        raise DeadlinePassed(
            f"scanning took over {deadline} s; set a longer deadline or a lower max_text"
        )
    return results


def _scan_some(
    monitor: Monitor, texts: tuple[str | Ids, ...], max_text: int
) -> list[Verdict | InputError]:
    if len(texts) > 1 and all(isinstance(t, str) and len(t) <= max_text for t in texts):
        try:
            return list(monitor.check_batch(texts))  # type: ignore[arg-type]
        except InputError:
            # One text that cannot be scanned must not hide the others: scan each by itself.
            pass
    results: list[Verdict | InputError] = []
    for text in texts:
        try:
            results.append(_scan_one(monitor, text, max_text))
        except InputError as error:
            results.append(error)
    return results


def _scan_one(monitor: Monitor, text: str | Ids, max_text: int) -> Verdict:
    if isinstance(text, Ids):
        # Their places lead to no text, and there is none that could be stripped.
        matches: tuple[Match, ...] = monitor.check_ids(text.row)
        return Verdict(bool(matches), matches, "")
    if isinstance(text, str) and len(text) > max_text:
        raise TextTooLong(
            f"the text has {len(text)} characters, and the guard is set to scan at most "
            f"{max_text}; split it"
        )
    return monitor.check(text)
