"""Engine: a monitor with a policy that is timed, counted and logged. Every front holds one."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import anyio
from prometheus_client import CollectorRegistry

from guard import audit, tracing
from guard.body import Document
from guard.errors import ConfigError, DeadlinePassed, InputError
from guard.live import LiveMonitor, difference
from guard.metrics import kind_of, metrics_on
from guard.monitor import Monitor
from guard.offload import in_thread
from guard.policy import Decision, Policy, decide, undecided
from guard.scanning import Ids

logger = logging.getLogger("guard")

# Up to this many bytes or characters are scanned on the event loop: some 500 tokens, which hold it
# for about 0.6 ms. A hop to a thread costs 0.04 to 0.1 ms, which shorter texts would feel.
INLINE_SIZE = 2048

_MAX_LOGGED_TRIGGERS = 8

T = TypeVar("T")


class Engine:
    """What every front asks.

    Parameters
    ----------
    monitor
        A monitor, one that can be replaced, or the directory of one.
    policy
        What to do with what it finds.
    front
        Name of the front in metrics and logs.
    registry
        Where to register the metrics; the default registry if None.

    Raises
    ------
    ConfigError
        `monitor` is something else.
    ArtifactError
        The monitor does not load.
    """

    def __init__(
        self,
        monitor: Monitor | LiveMonitor | str | os.PathLike[str],
        policy: Policy,
        *,
        front: str,
        registry: CollectorRegistry | None = None,
    ) -> None:
        if isinstance(monitor, (str, os.PathLike)):
            monitor = Monitor.load(Path(monitor))
        if not isinstance(monitor, (Monitor, LiveMonitor)):
            # A function, if protect stands bare above it.
            raise ConfigError(
                f"the monitor is of type {type(monitor).__name__}; pass a guard.Monitor or the "
                'directory of one, as in @guard.protect("monitor") or '
                'GuardMiddleware(app, monitor="monitor")'
            )
        self._source = monitor
        self.policy = policy
        self._front = front
        self._metrics = metrics_on(registry)
        self._metrics.start(front, policy.action)
        # Entered while a call waits for its scan, and during it.
        self.in_flight = self._metrics.in_flight.labels(front).track_inprogress()
        if isinstance(monitor, LiveMonitor):
            monitor.on_serve(self._metrics.serve)
        else:
            self._metrics.serve(monitor)

    @property
    def monitor(self) -> Monitor:
        """The monitor that decides now."""
        return self._source.current if isinstance(self._source, LiveMonitor) else self._source

    def decide(self, texts: Sequence[str], fixed: Sequence[str] = ()) -> Decision:
        """Scan, decide, count and log; see `guard.policy.decide`."""
        with self.in_flight:
            decision = self.evaluate(texts, fixed)
        return self.report(decision, (*texts, *fixed))

    def evaluate(self, texts: Sequence[str], fixed: Sequence[str | Ids] = ()) -> Decision:
        """Scan and decide, without counting it: a thread that does this may be given up."""
        monitor = self.monitor  # one for all of this decision
        decision = decide(monitor, self.policy, texts, fixed)
        if decision.outcome != "clean":
            decision = replace(decision, bank=monitor.bank_sha256)
        if isinstance(self._source, LiveMonitor) and self._source.shadow is not None:
            shadow = self._source.shadow
            for text, verdict in zip((*texts, *fixed), decision.verdicts, strict=False):
                if isinstance(text, str):
                    self._metrics.shadow.labels(difference(verdict, shadow, text)).inc()
        return decision

    def evaluate_body(
        self, body: bytes, read: Callable[[bytes], Document]
    ) -> tuple[Decision, bytes, list[str]]:
        """Scan and decide on the texts that `read` finds in a body.

        What stripping makes of it is read again, and is forwarded only if there is no trigger then:
        what was no JSON, or one part of a form, may be something else without the trigger.

        Returns
        -------
        Decision
            On the texts, as they came.
        bytes
            What to forward: `body` itself where that is as it came.
        list of str
            The texts.

        Raises
        ------
        UnreadableBody
            What `read` raises for `body`.
        """
        document = read(body)
        decision = self.evaluate(document.texts, document.keys)
        if decision.outcome == "stripped":
            body = document.replace(decision.texts)
            again = self._again(body, read)
            if again is not None and again.outcome == "failed":
                decision = again
            # Unscannable, and forwarded: what was so before, where the policy lets that pass.
            elif (
                again is None or not again.forward or again.outcome not in ("clean", "unscannable")
            ):
                decision = replace(decision, outcome="blocked", forward=False, texts=())
        return decision, body, [*document.texts, *document.keys]

    def _again(self, body: bytes, read: Callable[[bytes], Document]) -> Decision | None:
        """Decide on a body that was rewritten, unless it cannot be read any more."""
        try:
            document = read(body)
        except InputError:
            return None
        return decide(self.monitor, self.policy, document.texts, document.keys)

    def undecided(self, error: Exception) -> Decision:
        """Decide on a call whose texts were not even reached."""
        return self.report(undecided(self.policy, error))

    async def offload(self, size: int, function: Callable[..., T], *args: object) -> T:
        """Call a function that takes time in proportion to `size`, and leave the event loop free.

        Raises
        ------
        DeadlinePassed
            It has not returned by the policy's deadline. What it does then is of no consequence,
            but that it keeps its place until it ends.
        """
        with self.in_flight:
            # A deep check is a pass of an encoder, whatever the size.
            if size <= INLINE_SIZE and self.monitor.deep is None:
                return function(*args)
            try:
                with anyio.fail_after(self.policy.deadline):
                    return await in_thread(function, *args)
            except TimeoutError as error:
                raise DeadlinePassed(
                    f"scanning took over {self.policy.deadline} s; "
                    "set a longer deadline or a lower max_body"
                ) from error

    def report(self, decision: Decision, texts: Sequence[str] = ()) -> Decision:
        """Count and log a decision on `texts`; return it with an incident, if it is one."""
        self._metrics.record(self._front, self.policy.action, decision)
        if decision.outcome != "clean":
            decision = replace(decision, incident=f"urn:uuid:{uuid4()}")
        tracing.record(self._front, self.policy.action, decision)
        if decision.outcome == "clean":
            return decision
        bank = decision.bank or self.monitor.bank_sha256
        audit.record(self._front, self.policy.action, bank, decision, texts)
        logger.log(
            logging.ERROR if decision.outcome == "failed" else logging.WARNING,
            "front=%s action=%s outcome=%s forwarded=%s would=%s triggers=%s error=%s incident=%s",
            self._front,
            self.policy.action,
            decision.outcome,
            "yes" if decision.forward else "no",
            decision.would or "-",
            _triggers(decision) or "-",
            "-" if decision.error is None else describe(decision.error),
            decision.incident,
        )
        return decision


def _triggers(decision: Decision) -> str:
    ids = sorted({m.trigger for v in decision.verdicts if v is not None for m in v.matches})
    more = len(ids) - _MAX_LOGGED_TRIGGERS
    return ",".join(ids[:_MAX_LOGGED_TRIGGERS]) + (f",and {more} more" if more > 0 else "")


def describe(error: Exception) -> str:
    """Name an error without its message: that of a stranger's may quote the text."""
    if (kind := kind_of(error)) != "Unexpected":
        return kind
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"
