"""Every metric: its name, its labels, its buckets.

======================= ======================= ====================================================
metric                  labels                  what it counts
======================= ======================= ====================================================
guard_requests_total    front, action, outcome  decisions; requests without text are not decided on
guard_scan_seconds      front                   time to scan and decide, without parsing
guard_matches_total     trigger                 matches, by trigger id
guard_errors_total      kind                    why something could not be scanned, or how the guard
                                                failed
guard_shadow_total      difference              texts that a shadow bank saw, by how it differs
guard_bank_info         bank, tokenizer, model, 1: a bank that is being served; 0: one
                        triggers                that was replaced
======================= ======================= ====================================================

Every label has a bounded set of values, and none is made from a text: a label with the text of a
trigger would tell everyone who may read the metrics which words the guard knows.
"""

from __future__ import annotations

from collections import Counter as Tally
from threading import Lock
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from guard.errors import GuardError

if TYPE_CHECKING:
    from guard.monitor import Monitor
    from guard.policy import Action, Decision

SCAN_BUCKETS = (
    *(5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4),
    *(1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 0.1, 0.25, 1.0, 5.0),
)

# A bank may hold 100,000 triggers; beyond this many seen, further ones share the label "other".
MAX_TRIGGER_LABELS = 1000


class Metrics:
    """The metrics on one registry. `metrics_on` makes them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "guard_requests",
            "Decisions of the guard.",
            ("front", "action", "outcome"),
            registry=registry,
        )
        self.scan_seconds = Histogram(
            "guard_scan_seconds",
            "Time to scan the texts of one call and to decide.",
            ("front",),
            buckets=SCAN_BUCKETS,
            registry=registry,
        )
        self.matches = Counter(
            "guard_matches", "Matches of triggers, by trigger id.", ("trigger",), registry=registry
        )
        self.errors = Counter(
            "guard_errors", "Calls that could not be scanned.", ("kind",), registry=registry
        )
        self.shadow = Counter(
            "guard_shadow",
            "Texts that a shadow bank saw, by how its verdict differs.",
            ("difference",),
            registry=registry,
        )
        self.bank_info = Gauge(
            "guard_bank_info",
            "The banks that are being served.",
            ("bank", "tokenizer", "model", "triggers"),
            registry=registry,
            multiprocess_mode="max",
        )
        self._seen: set[str] = set()

    def serve(self, monitor: Monitor, *, on: bool = True) -> None:
        """Tell which bank is being served, or no longer is."""
        self.bank_info.labels(
            bank=monitor.bank_sha256,
            tokenizer=monitor.tokenizer_sha256,
            model=monitor.model.name,
            triggers=str(len(monitor.triggers)),
        ).set(on)

    def record(self, front: str, action: Action, decision: Decision, seconds: float | None) -> None:
        """Count one decision; `seconds` is None where nothing was scanned."""
        self.requests.labels(front, action, decision.outcome).inc()
        if seconds is not None:
            self.scan_seconds.labels(front).observe(seconds)
        if decision.outcome == "clean":
            return
        if decision.error is not None:
            self.errors.labels(kind_of(decision.error)).inc()
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
    """
    registry = REGISTRY if registry is None else registry
    with _lock:
        if registry not in _on_registry:
            _on_registry[registry] = Metrics(registry)
        return _on_registry[registry]
