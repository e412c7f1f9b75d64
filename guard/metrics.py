"""Every metric: its name, its labels, its buckets.

All names are made here, from `DEFINITIONS`; `exporters.prometheus` writes alert rules and a
dashboard from the same. Times are in seconds and sizes in numbers, as Prometheus asks for.

Every label has a bounded set of values, and none is made from a text: a label with the text of a
trigger would tell everyone who may read the metrics which words the guard knows.

Under several worker processes set ``PROMETHEUS_MULTIPROC_DIR`` to an empty directory before they
start: each worker then leaves its numbers there, and `exposition` in any of them adds them up.
"""

from __future__ import annotations

import os
import time
from collections import Counter as Tally
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Literal, get_args
from weakref import WeakKeyDictionary

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)

from guard.errors import ConfigError, GuardError
from guard.live import Difference
from guard.policy import Outcome

if TYPE_CHECKING:
    from guard.monitor import Monitor
    from guard.policy import Action, Decision

SCAN_BUCKETS = (
    *(5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4),
    *(1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 0.1, 0.25, 1.0, 5.0),
)


@dataclass(frozen=True, slots=True)
class Definition:
    """One metric.

    Parameters
    ----------
    name
        As it is exposed; that of a histogram is without ``_bucket``.
    kind
        What Prometheus calls its type.
    help
        What it counts.
    labels
        Names of its labels.
    across
        How a gauge of several worker processes becomes one. All are of living workers only.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...]
    across: Literal["livesum", "livemax"] = "livemax"


REQUESTS = Definition(
    "guard_requests_total",
    "counter",
    "Decisions of the guard. Requests without text are not decided on.",
    ("front", "action", "outcome"),
)
SCAN_SECONDS = Definition(
    "guard_scan_seconds",
    "histogram",
    "Time to scan the texts of one call and to decide, without parsing.",
    ("front",),
)
MATCHES = Definition(
    "guard_matches_total", "counter", "Matches of triggers, by trigger id.", ("trigger",)
)
ERRORS = Definition(
    "guard_errors_total",
    "counter",
    "Why calls could not be scanned, or how the guard failed.",
    ("kind",),
)
IN_FLIGHT = Definition(
    "guard_in_flight",
    "gauge",
    "Calls that are being scanned, or wait for it.",
    ("front",),
    across="livesum",
)
BANK_INFO = Definition(
    "guard_bank_info",
    "gauge",
    "1: a bank that is being served; 0: one that was replaced.",
    ("bank", "tokenizer", "model", "triggers"),
)
BANK_LOADED = Definition(
    "guard_bank_loaded_timestamp_seconds",
    "gauge",
    "When a bank began to serve, in seconds since 1970: its age is time() minus this.",
    ("bank",),
)
RELOADS = Definition(
    "guard_reloads_total",
    "counter",
    "Attempts to replace the bank by what is in its directory now, by whether it is served.",
    ("outcome",),
)
UNSCANNED = Definition(
    "guard_unscanned_total",
    "counter",
    "Calls that were forwarded though the guard failed, or could not scan all of their text.",
    ("front", "outcome"),
)
SHADOW = Definition(
    "guard_shadow_total",
    "counter",
    "Texts that a shadow bank saw, by how its verdict differs.",
    ("difference",),
)
UPSTREAM_ERRORS = Definition(
    "guard_upstream_errors_total",
    "counter",
    "Requests that the sidecar passed on and that the server behind it did not answer in full.",
    ("kind",),
)

DEFINITIONS = (
    *(REQUESTS, SCAN_SECONDS, MATCHES, ERRORS, IN_FLIGHT),
    *(BANK_INFO, BANK_LOADED, RELOADS, UNSCANNED, SHADOW, UPSTREAM_ERRORS),
)

UpstreamError = Literal["unreachable", "timeout", "broken", "truncated"]

# A bank may hold 100,000 triggers; beyond this many seen, further ones share the label "other".
MAX_TRIGGER_LABELS = 1000


class Metrics:
    """The metrics on one registry. `metrics_on` makes them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(which: Definition) -> Counter:
            return Counter(which.name, which.help, which.labels, registry=registry)

        def gauge(which: Definition) -> Gauge:
            return Gauge(
                which.name,
                which.help,
                which.labels,
                registry=registry,
                multiprocess_mode=which.across,
            )

        self.requests = counter(REQUESTS)
        self.scan_seconds = Histogram(
            SCAN_SECONDS.name,
            SCAN_SECONDS.help,
            SCAN_SECONDS.labels,
            buckets=SCAN_BUCKETS,
            registry=registry,
        )
        self.matches = counter(MATCHES)
        self.errors = counter(ERRORS)
        self.in_flight = gauge(IN_FLIGHT)
        self.bank_info = gauge(BANK_INFO)
        self.bank_loaded = gauge(BANK_LOADED)
        self.reloads = counter(RELOADS)
        self.unscanned = counter(UNSCANNED)
        self.shadow = counter(SHADOW)
        self.upstream_errors = counter(UPSTREAM_ERRORS)
        self._seen: set[str] = set()
        # Every decision comes to these two, and `labels` takes a lock and longer than counting.
        self._requests_of = cache(self.requests.labels)
        self._scan_seconds_of = cache(self.scan_seconds.labels)
        # A counter that is first seen at 1 never rose, to Prometheus: what may be alerted on
        # starts at 0.
        for outcome in ("replaced", "failed"):
            self.reloads.labels(outcome)
        for difference in get_args(Difference):
            self.shadow.labels(difference)
        for kind in get_args(UpstreamError):
            self.upstream_errors.labels(kind)

    def start(self, front: str, action: Action) -> None:
        """Begin to count the decisions of a front, at 0."""
        for outcome in get_args(Outcome):
            self.requests.labels(front, action, outcome)
            if outcome not in ("clean", "blocked"):  # scanned in full, or not forwarded
                self.unscanned.labels(front, outcome)

    def serve(self, monitor: Monitor, before: Monitor | None = None) -> None:
        """Tell which bank is being served, and which one no longer is."""
        if before is not None:
            self._info(before).set(0)
        self._info(monitor).set(1)
        self.bank_loaded.labels(monitor.bank_sha256).set(time.time())

    def _info(self, monitor: Monitor) -> Gauge:
        return self.bank_info.labels(
            bank=monitor.bank_sha256,
            tokenizer=monitor.tokenizer_sha256,
            model=monitor.model.name,
            triggers=str(len(monitor.triggers)),
        )

    def record(self, front: str, action: Action, decision: Decision) -> None:
        """Count one decision."""
        self._requests_of(front, action, decision.outcome).inc()
        if decision.seconds is not None:
            self._scan_seconds_of(front).observe(decision.seconds)
        if decision.outcome == "clean":
            return
        if decision.error is not None:
            self.errors.labels(kind_of(decision.error)).inc()
        if decision.forward and None in decision.verdicts:
            self.unscanned.labels(front, decision.outcome).inc()
        tally = Tally(
            match.trigger for verdict in decision.verdicts if verdict for match in verdict.matches
        )
        for trigger, count in tally.items():
            self.matches.labels(self._label(trigger)).inc(count)

    def _label(self, trigger: str) -> str:
        if trigger not in self._seen:
            if len(self._seen) >= MAX_TRIGGER_LABELS:
                return "other"
            self._seen.add(trigger)
        return trigger


def kind_of(error: Exception) -> str:
    """Name an error in a label: the kind that our own errors have, ``"Unexpected"`` for others."""
    if isinstance(error, GuardError):
        return str(getattr(error, "kind", type(error).__name__))
    return "Unexpected"


_on_registry: WeakKeyDictionary[CollectorRegistry, Metrics] = WeakKeyDictionary()
_lock = Lock()


def metrics_on(registry: CollectorRegistry | None = None) -> Metrics:
    """Return the metrics of a registry, the default one unless told.

    A registry takes a name once, and an application may hold several guards: they share.

    Raises
    ------
    ConfigError
        Workers are to share their counts in a directory that does not exist.
    """
    registry = REGISTRY if registry is None else registry
    _shared()
    with _lock:
        if registry not in _on_registry:
            _on_registry[registry] = Metrics(registry)
        return _on_registry[registry]


def exposition(registry: CollectorRegistry | None = None) -> bytes:
    """Return what a ``/metrics`` endpoint answers, in Prometheus' text format.

    In multiprocess mode these are the numbers of all workers, whatever the registry. What workers
    counted that died since still counts; what they were doing does not.

    Raises
    ------
    ConfigError
        The directory that they share does not exist.
    """
    directory = _shared()
    if directory is None:
        return generate_latest(REGISTRY if registry is None else registry)
    # Nobody tells when a worker was killed, and uvicorn has no hook for one that ended.
    for pid in {int(file.stem.rpartition("_")[2]) for file in directory.glob("gauge_live*.db")}:
        if not _alive(pid):
            multiprocess.mark_process_dead(pid, str(directory))
    everyone = CollectorRegistry()
    multiprocess.MultiProcessCollector(everyone, path=str(directory))
    return generate_latest(everyone)


def _shared() -> Path | None:
    """Return where the workers of this application keep their counts, if it has several."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return None
    directory = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
    if not directory.is_dir():
        raise ConfigError(
            f"PROMETHEUS_MULTIPROC_DIR names {str(directory)!r}, which is no directory; make it, "
            "empty, before the first worker starts"
        )
    return directory


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
