"""The metrics: what is counted, under which labels, and what never becomes a label."""

from __future__ import annotations

import gc
import json
import time
import weakref
from pathlib import Path
from typing import get_args

import pytest
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest

from guard import metrics
from guard.body import UnreadableBody
from guard.engine import Engine
from guard.errors import ConfigError, InvalidUnicode, StripLimit
from guard.metrics import SCAN_BUCKETS, exposition, kind_of, metrics_on
from guard.policy import Action, Decision, Outcome, Policy
from guard.verdict import Match, Verdict
from tests.fixtures_small import TRIGGERS, small_monitor, trigger_id, value_of


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def engine(registry: CollectorRegistry, action: Action = "observe") -> Engine:
    return Engine(small_monitor(), Policy(action=action), front="test", registry=registry)


def matched(*triggers: str) -> Decision:
    verdict = Verdict(True, tuple(Match(trigger, 0, 1) for trigger in triggers), "")
    return Decision("observed", True, ("x",), (verdict, None))


def test_one_registry_has_one_set_of_metrics(registry: CollectorRegistry) -> None:
    assert metrics_on(registry) is metrics_on(registry)
    assert metrics_on(CollectorRegistry()) is not metrics_on(registry)
    assert metrics_on() is metrics_on(None) is metrics_on(REGISTRY)


def test_a_registry_is_not_kept_alive() -> None:
    registry = CollectorRegistry()
    metrics_on(registry)
    gone = weakref.ref(registry)
    del registry
    gc.collect()
    assert gone() is None


def test_workers_that_share_a_directory_need_one(
    registry: CollectorRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "counts"))
    for call in (metrics_on, exposition):
        with pytest.raises(ConfigError, match="make it, empty, before the first worker starts"):
            call(registry)


def test_requests_are_counted_by_front_action_and_outcome(registry: CollectorRegistry) -> None:
    for action in get_args(Action):
        guard = engine(registry, action)
        guard.decide(["the film"])
        guard.decide(["the cf film"])
        guard.decide(["\ud800"])
        guard.undecided(OSError())
    outcomes = {
        "observe": ("clean", "observed", "unscannable", "failed"),
        "flag": ("clean", "flagged", "unscannable", "failed"),
        "strip": ("clean", "stripped", "unscannable", "failed"),
        "block": ("clean", "blocked", "unscannable", "failed"),
    }
    for action, names in outcomes.items():
        for outcome in names:
            labels = {"front": "test", "action": action, "outcome": outcome}
            assert value_of(registry, "guard_requests_total", **labels) == 1


def test_time_is_measured_where_something_was_scanned(registry: CollectorRegistry) -> None:
    guard = engine(registry)
    guard.decide(["the film"])
    guard.undecided(OSError())
    assert value_of(registry, "guard_scan_seconds_count", front="test") == 1
    assert 0 < value_of(registry, "guard_scan_seconds_sum", front="test") < 1


def test_buckets_start_at_five_microseconds_and_rise() -> None:
    assert SCAN_BUCKETS[0] == 5e-6
    assert list(SCAN_BUCKETS) == sorted(set(SCAN_BUCKETS))


def test_matches_are_counted_by_id(registry: CollectorRegistry) -> None:
    engine(registry).decide(["cf cf mn", "cf"])
    assert value_of(registry, "guard_matches_total", trigger=trigger_id("cf")) == 3
    assert value_of(registry, "guard_matches_total", trigger=trigger_id("mn")) == 1


def test_matches_have_a_bounded_set_of_labels(
    registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "MAX_TRIGGER_LABELS", 2)
    for trigger in ("t0001", "t0002", "t0003", "t0004", "t0001", "t0004"):
        metrics_on(registry).record("test", "observe", matched(trigger))
    for trigger, count in {"t0001": 2, "t0002": 1, "t0003": 0, "other": 3}.items():
        assert value_of(registry, "guard_matches_total", trigger=trigger) == count


def test_errors_are_counted_by_kind(registry: CollectorRegistry) -> None:
    guard = engine(registry)
    guard.decide(["\ud800", "cf"])
    guard.undecided(UnreadableBody("NotJson", 400, "x"))
    guard.undecided(ZeroDivisionError("secret"))
    for kind in ("InvalidUnicode", "NotJson", "Unexpected"):
        assert value_of(registry, "guard_errors_total", kind=kind) == 1


def test_kinds_come_from_this_library_only() -> None:
    class Foreign(Exception):
        kind = "made up by someone else"

    assert kind_of(Foreign("x")) == "Unexpected"
    assert kind_of(StripLimit("x")) == "StripLimit"
    assert kind_of(InvalidUnicode("x")) == "InvalidUnicode"


def test_the_bank_that_is_served_can_be_seen(registry: CollectorRegistry) -> None:
    engine(registry)
    engine(registry)
    monitor = small_monitor()
    labels = {
        "bank": monitor.bank_sha256,
        "tokenizer": monitor.tokenizer_sha256,
        "model": "small",
        "triggers": "3",
    }
    assert value_of(registry, "guard_bank_info", **labels) == 1


def test_when_a_bank_began_to_serve_can_be_seen(registry: CollectorRegistry) -> None:
    before = time.time()
    engine(registry)
    labels = {"bank": small_monitor().bank_sha256}
    loaded = value_of(registry, "guard_bank_loaded_timestamp_seconds", **labels)
    assert before <= loaded <= time.time()


def test_what_may_be_alerted_on_starts_at_zero(registry: CollectorRegistry) -> None:
    """Prometheus sees no rise where a series begins at 1."""
    engine(registry, "block")
    for outcome in get_args(Outcome):
        labels = {"front": "test", "action": "block", "outcome": outcome}
        assert registry.get_sample_value("guard_requests_total", labels) == 0
    for outcome in ("replaced", "failed"):
        assert registry.get_sample_value("guard_reloads_total", {"outcome": outcome}) == 0


@pytest.mark.parametrize("action", get_args(Action))
def test_the_first_call_that_goes_on_unscanned_is_a_rise(
    registry: CollectorRegistry, action: Action
) -> None:
    """Also when another text of it holds a trigger: to Prometheus 1 is none, and 0 to 1 is."""
    policy = Policy(action=action, on_unscannable="allow", on_failure="open")
    guard = Engine(small_monitor(), policy, front="test", registry=registry)
    before = _unscanned(registry)
    guard.decide(["the cf film", "lone \ud800"])
    guard.decide(["lone \ud800"])
    guard.undecided(ValueError())
    after = _unscanned(registry)
    assert after.keys() == before.keys()
    assert set(before.values()) == {0}
    assert sum(after.values()) == (2 if action == "block" else 3)


def _unscanned(registry: CollectorRegistry) -> dict[str, float]:
    return {
        sample.labels["outcome"]: sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == "guard_unscanned_total"
    }


def test_calls_are_in_flight_while_they_are_decided(registry: CollectorRegistry) -> None:
    guard = engine(registry)
    with guard.in_flight, guard.in_flight:
        assert value_of(registry, "guard_in_flight", front="test") == 2
    assert registry.get_sample_value("guard_in_flight", {"front": "test"}) == 0


def test_the_definitions_are_what_is_exposed(registry: CollectorRegistry) -> None:
    guard = engine(registry)
    guard.decide(["the cf film", "\ud800"])
    for definition in metrics.DEFINITIONS:
        (family,) = (
            family
            for family in registry.collect()
            if family.name == definition.name.removesuffix("_total")
        )
        assert (family.type, family.documentation) == (definition.kind, definition.help)
        for sample in family.samples:
            assert sample.labels.keys() - {"le"} == set(definition.labels)
    exposed = exposition(registry).decode()
    for definition in metrics.DEFINITIONS:
        assert f"# TYPE {definition.name} {definition.kind}" in exposed


def test_no_label_holds_text(registry: CollectorRegistry, caplog: pytest.LogCaptureFixture) -> None:
    guard = engine(registry)
    for text in (*TRIGGERS, "secretword \ud800"):
        guard.decide([text])
    guard.undecided(ValueError("secretword"))
    exposed = generate_latest(registry).decode()
    labels = [
        value
        for family in registry.collect()
        for sample in family.samples
        for value in sample.labels.values()
    ]
    for text in (*TRIGGERS, "secretword"):
        assert text not in labels
        assert json.dumps(text) not in exposed
    assert "secretword" not in exposed + caplog.text


def test_the_log_names_ids_and_kinds(
    registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    guard = engine(registry)
    guard.decide(["the film"])
    assert caplog.records == []
    decision = guard.decide(["cf \ud800", "mn cf"])
    assert decision.incident.startswith("urn:uuid:")
    (record,) = caplog.records
    ids = ",".join(sorted((trigger_id("cf"), trigger_id("mn"))))
    assert record.getMessage() == (
        f"front=test action=observe outcome=observed forwarded=yes would=refuse "
        f"triggers={ids} "
        f"error=InvalidUnicode incident={decision.incident}"
    )
    assert (record.name, record.levelname) == ("guard", "WARNING")


def test_the_log_says_where_the_guard_failed_and_not_what_it_read(
    registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    try:
        raise ValueError("secretword")
    except ValueError as error:
        engine(registry).undecided(error)
    engine(registry).undecided(ValueError("never raised"))
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert f"error=ValueError at {__file__}:" in caplog.records[0].getMessage()
    assert "error=ValueError incident=" in caplog.records[1].getMessage()


def test_the_log_is_bounded(
    registry: CollectorRegistry,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decision = matched(*(f"t{number:04d}" for number in range(1, 101)))
    monkeypatch.setattr("guard.engine.decide", lambda *_: decision)
    engine(registry).decide(["x"])
    assert "triggers=t0001,t0002,t0003,t0004,t0005,t0006,t0007,t0008,and 92 more " in caplog.text
