"""A monitor that can be replaced while it serves."""

from __future__ import annotations

import logging
from collections.abc import Callable
from os import PathLike
from threading import Lock
from typing import Literal, TypeAlias

from guard.errors import ConfigError, InputError
from guard.monitor import Monitor
from guard.verdict import Verdict

logger = logging.getLogger("guard")

Difference: TypeAlias = Literal["same", "only current", "only shadow", "matches", "failed"]


class LiveMonitor:
    """Holds the monitor that serves, and replaces it by another without a gap.

    A new monitor is loaded, and so checked, signed and proven on its canaries, before it takes
    over; where that fails, the error is raised and the old one serves on. Each decision is made by
    one monitor from beginning to end. Pass it to the fronts in place of a `Monitor`.

    Parameters
    ----------
    directory
        Of the first monitor.
    require_signature
        A public key that all monitors have to be signed by; see `Monitor.load`.
    deep
        The directory of a deep check for the monitor that serves; it is read anew with each.

    Attributes
    ----------
    current
        The monitor that serves.
    shadow
        A monitor that sees the same texts and decides nothing, or None.

    Raises
    ------
    ArtifactError
        The first monitor does not load.
    """

    def __init__(
        self,
        directory: str | PathLike[str],
        *,
        require_signature: str | PathLike[str] | None = None,
        deep: str | PathLike[str] | None = None,
    ) -> None:
        self._key = require_signature
        self._deep = deep
        self._lock = Lock()
        self._listeners: set[Callable[[Monitor, Monitor | None], object]] = set()
        self.shadow: Monitor | None = None
        self.current = self._load(directory, self._deep)

    def reload(self, directory: str | PathLike[str]) -> Monitor:
        """Load another monitor, and have it serve from now on.

        Returns
        -------
        Monitor
            The one that served until now.

        Raises
        ------
        ArtifactError
            The new one is bad; the old one serves on.
        ConfigError
            The new one is for another tokenizer, so it would see other ids than the model.
        """
        with self._lock:
            fresh = self._load(directory, self._deep)
            self._check(fresh)
            old, self.current = self.current, fresh
            for listener in self._listeners:
                try:
                    listener(fresh, old)
                except Exception:  # it serves, whoever cannot be told
                    logger.exception("bank=%s serves, and is not counted", fresh.bank_sha256)
        logger.info("bank=%s replaces bank=%s", fresh.bank_sha256, old.bank_sha256)
        return old

    def on_serve(self, listener: Callable[[Monitor, Monitor | None], object]) -> None:
        """Have a function called with the monitor that serves and the one that did before, or None.

        Now, and whenever another takes over.
        """
        with self._lock:
            self._listeners.add(listener)
            listener(self.current, None)

    def watch(self, directory: str | PathLike[str] | None) -> None:
        """Have another monitor see the same texts, only to count where it differs; None ends that.

        It costs a second check of each text. It has no deep check.

        Raises
        ------
        ArtifactError
            It is bad.
        ConfigError
            It is for another tokenizer.
        """
        with self._lock:
            shadow = None if directory is None else self._load(directory)
            if shadow is not None:
                self._check(shadow)
            self.shadow = shadow

    def _load(
        self, directory: str | PathLike[str], deep: str | PathLike[str] | None = None
    ) -> Monitor:
        return Monitor.load(directory, require_signature=self._key, deep=deep)

    def _check(self, other: Monitor) -> None:
        if other.tokenizer_sha256 != self.current.tokenizer_sha256:
            raise ConfigError(
                f"the monitor is for tokenizer {other.tokenizer_sha256[:16]}, and the model that "
                f"is served has {self.current.tokenizer_sha256[:16]}; for another model, start anew"
            )


def difference(current: Verdict | None, shadow: Monitor, text: str) -> Difference:
    """Name how a shadow's verdict on a text differs from the one that counts.

    Returns
    -------
    Difference
        ``"same"``, ``"only current"`` or ``"only shadow"`` (is triggered), ``"matches"`` (both are,
        in other places), or ``"failed"``.
    """
    try:
        triggered, spans = _facts(shadow.check(text))
    except InputError:
        triggered, spans = current is None or current.triggered, None
    except Exception:  # a shadow must not break anything
        return "failed"
    if current is None:
        return "same"
    if current.triggered != triggered:
        return "only current" if current.triggered else "only shadow"
    return "same" if spans is None or spans == _facts(current)[1] else "matches"


def _facts(verdict: Verdict) -> tuple[bool, set[tuple[int, int]]]:
    # Ids are names within one bank, so places are what two banks can be compared by.
    return verdict.triggered, {(match.start, match.end) for match in verdict.matches}
