"""Spans of decisions, collected by OpenTelemetry's own SDK."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import anyio.to_thread
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from prometheus_client import CollectorRegistry

from guard.engine import Engine
from guard.policy import Policy
from tests.fixtures_small import TRIGGERS, small_monitor, trigger_id


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    # A process takes one provider for good; a test needs it for itself only.
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    yield exporter
    provider.shutdown()


@pytest.fixture
def engine() -> Engine:
    return Engine(small_monitor(), Policy(), front="test", registry=CollectorRegistry())


def attributes(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


def test_each_decision_has_a_span(spans: InMemorySpanExporter, engine: Engine) -> None:
    engine.decide(["the film"])
    decision = engine.decide(["the cf film"])
    engine.undecided(ValueError("secretword"))
    clean, blocked, failed = spans.get_finished_spans()
    assert {span.name for span in (clean, blocked, failed)} == {"guard.decide"}
    assert attributes(clean) == {
        "guard.front": "test",
        "guard.action": "block",
        "guard.outcome": "clean",
        "guard.forwarded": True,
    }
    assert attributes(blocked)["guard.triggers"] == (trigger_id("cf"),)
    assert attributes(blocked)["guard.incident"] == decision.incident
    assert blocked.start_time is not None
    assert blocked.end_time is not None
    assert 0 < blocked.end_time - blocked.start_time < 1e9
    assert failed.status.status_code == StatusCode.ERROR


@pytest.mark.anyio
async def test_it_is_below_the_span_of_the_request(
    spans: InMemorySpanExporter, engine: Engine
) -> None:
    """Also where the scan runs in a thread, as that of a long text does."""
    with trace.get_tracer("server").start_as_current_span("request") as request:
        engine.decide(["the film"])
        await anyio.to_thread.run_sync(engine.decide, ["the film"])
    *decisions, _ = spans.get_finished_spans()
    assert len(decisions) == 2
    for span in decisions:
        assert span.parent is not None
        assert span.parent.span_id == request.get_span_context().span_id


def test_no_span_holds_text(spans: InMemorySpanExporter, engine: Engine) -> None:
    for text in TRIGGERS:
        engine.decide([f"secretword {text}"])
    values = [
        str(value) for span in spans.get_finished_spans() for value in attributes(span).values()
    ]
    assert not any("secretword" in value or value in TRIGGERS for value in values)


def test_without_an_sdk_nothing_is_made(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a span for nobody")

    monkeypatch.setattr(trace, "get_tracer", refuse)
    engine.decide(["cf"])
    monkeypatch.delitem(sys.modules, "opentelemetry.trace")
    engine.decide(["cf"])
