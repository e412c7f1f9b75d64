"""OpenTelemetry spans: one ``guard.decide`` for each decision, below the span of the request.

Through the API package only (``pip install 'trigger-guard[otel]'``): which SDK collects the spans
is the application's choice, and without one nothing is made. Attributes are ``guard.front``,
``guard.action``, ``guard.outcome``, ``guard.forwarded``, ``guard.triggers`` (ids, never text) and
``guard.incident``.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from guard.policy import Action, Decision

MAX_TRIGGERS = 32


def record(front: str, action: Action, decision: Decision) -> None:
    """Make the span of a decision that has just been made."""
    # Whoever set an SDK up has imported this; if nobody has, there is no one to tell.
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None or isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return
    end = time.time_ns()
    span = trace.get_tracer("guard").start_span(
        "guard.decide", start_time=end - int((decision.seconds or 0) * 1e9)
    )
    if span.is_recording():
        span.set_attributes(
            {
                "guard.front": front,
                "guard.action": action,
                "guard.outcome": decision.outcome,
                "guard.forwarded": decision.forward,
            }
        )
        if decision.outcome != "clean":
            ids = {m.trigger for v in decision.verdicts if v is not None for m in v.matches}
            span.set_attribute("guard.triggers", sorted(ids)[:MAX_TRIGGERS])
            span.set_attribute("guard.incident", decision.incident)
        if decision.outcome == "failed":
            span.set_status(trace.Status(trace.StatusCode.ERROR, "the guard failed"))
    span.end(end_time=end)
