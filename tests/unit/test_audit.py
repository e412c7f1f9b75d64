"""The audit log: what a line tells, and that it tells no text."""

from __future__ import annotations

import json
import logging

import pytest
from prometheus_client import CollectorRegistry

from guard import audit
from guard.engine import Engine
from guard.policy import Policy
from tests.fixtures_small import TRIGGERS, small_monitor, trigger_id


@pytest.fixture
def engine(caplog: pytest.LogCaptureFixture) -> Engine:
    caplog.set_level(logging.INFO, "guard.audit")
    return Engine(small_monitor(), Policy(), front="test", registry=CollectorRegistry())


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    return [json.loads(r.getMessage()) for r in caplog.records if r.name == "guard.audit"]


def test_nothing_is_written_unasked(caplog: pytest.LogCaptureFixture) -> None:
    guard = Engine(small_monitor(), Policy(), front="test", registry=CollectorRegistry())
    guard.decide(["cf"])
    assert lines(caplog) == []


def test_a_clean_decision_leaves_no_line(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    engine.decide(["the film"])
    assert lines(caplog) == []


def test_a_line_tells_what_was_decided(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    decision = engine.decide(["the film", "the cf film"], ["mn"])
    (line,) = lines(caplog)
    time = line.pop("time")
    assert isinstance(time, str)
    assert time.endswith("+00:00")
    assert line == {
        "front": "test",
        "action": "block",
        "outcome": "blocked",
        "forwarded": False,
        "would": None,
        "triggers": sorted((trigger_id("cf"), trigger_id("mn"))),
        "error": None,
        "incident": decision.incident,
        "bank": small_monitor().bank_sha256,
        # Of the three texts the two that hold a trigger.
        "texts": [
            {"hmac_sha256": audit.fingerprint("the cf film"), "characters": 11},
            {"hmac_sha256": audit.fingerprint("mn"), "characters": 2},
        ],
        "more_texts": 0,
    }


def test_no_line_holds_text(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    for text in (*TRIGGERS, "secretword \ud800"):
        engine.decide([text])
    engine.undecided(ValueError("secretword"))
    found = lines(caplog)
    assert len(found) == len(TRIGGERS) + 2
    assert [line["error"] for line in found[-2:]] == ["InvalidUnicode", "Unexpected"]
    for text in (*TRIGGERS, "secretword"):
        assert f'"{text}"' not in json.dumps(found)
    assert "secretword" not in json.dumps(found)


def test_a_line_is_bounded(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    engine.decide(["cf"] * 1000)
    (line,) = lines(caplog)
    assert isinstance(line["texts"], list)
    assert len(line["texts"]) == audit.MAX_TEXTS
    assert line["more_texts"] == 1000 - audit.MAX_TEXTS


def test_a_fingerprint_cannot_be_tried_without_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = audit.fingerprint("cf")
    monkeypatch.setattr(audit, "_key", b"another")
    assert audit.fingerprint("cf") != before
