"""Replacing a monitor while it serves, and counting what a shadow would have done."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from exporters.monitor import compile_bank
from guard.decorator import protect
from guard.engine import Engine
from guard.errors import ArtifactError, BadSignature, ConfigError
from guard.live import LiveMonitor
from guard.monitor import Monitor
from guard.policy import Policy
from tests.fixtures_small import value_of
from tests.helpers import make_bank, wordpiece
from tests.unit.test_signing import write_keys

TOKENIZER = wordpiece("cf", "mn", "tq")


def compiled(directory: Path, triggers: Iterable[str], tokenizer: bytes = TOKENIZER) -> Path:
    compile_bank(make_bank(tokenizer, triggers), directory)
    return directory


@pytest.fixture
def live(tmp_path: Path) -> LiveMonitor:
    return LiveMonitor(compiled(tmp_path / "old", ["cf"]))


def test_a_good_monitor_replaces_the_old_one(
    live: LiveMonitor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry = CollectorRegistry()
    engine = Engine(live, Policy(), front="test", registry=registry)
    assert engine.decide(["a mn"]).outcome == "clean"
    before = live.current
    late = engine.evaluate(["a cf"])
    assert live.reload(compiled(tmp_path / "new", ["mn"])) is before
    # Known at once, also where nobody asks anything.
    banks = {
        sample.labels["bank"]: sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == "guard_bank_info"
    }
    assert banks == {before.bank_sha256: 0, live.current.bank_sha256: 1}
    assert engine.decide(["a mn"]).outcome == "blocked"
    assert engine.decide(["a cf"]).outcome == "clean"
    assert engine.monitor is live.current
    # What was decided before is told of the bank that decided it.
    caplog.set_level(logging.INFO, "guard.audit")
    engine.report(late, ["a cf"])
    (line,) = [json.loads(r.getMessage()) for r in caplog.records if r.name == "guard.audit"]
    assert line["bank"] == before.bank_sha256


@pytest.mark.parametrize("name", ["monitor.onnx", "canaries.json", "monitor.json"])
def test_a_bad_one_is_refused_while_the_old_one_serves(
    live: LiveMonitor, tmp_path: Path, name: str
) -> None:
    new = compiled(tmp_path / "new", ["mn"])
    (new / name).write_bytes((new / name).read_bytes()[:-3])
    before = live.current
    for change in (live.reload, live.watch):
        with pytest.raises(ArtifactError):
            change(new)
    assert live.current is before
    assert live.shadow is None
    shutil.rmtree(new)
    with pytest.raises(ArtifactError):
        live.reload(new)
    assert live.current.check("cf").triggered


def test_who_cannot_be_told_changes_nothing(
    live: LiveMonitor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Monitor] = []

    def fail(monitor: Monitor, before: Monitor | None) -> None:
        told.append(monitor)
        if before is not None:
            raise OSError("disk full")

    live.on_serve(fail)
    assert told == [live.current]
    live.reload(compiled(tmp_path / "new", ["mn"]))
    assert told[1:] == [live.current]
    assert live.current.check("mn").triggered
    assert "serves, and is not counted" in caplog.text


def test_a_monitor_of_another_model_is_refused(live: LiveMonitor, tmp_path: Path) -> None:
    other = compiled(tmp_path / "other", ["cf"], wordpiece("cf"))
    for change in (live.reload, live.watch):
        with pytest.raises(ConfigError, match="for another model, start anew"):
            change(other)


def test_all_monitors_have_to_be_signed(tmp_path: Path) -> None:
    from guard.cli import main

    private, public = write_keys(tmp_path, "ours")
    old = compiled(tmp_path / "old", ["cf"])
    assert main(["sign", str(old), "--private-key", str(private)]) == 0
    live = LiveMonitor(old, require_signature=public)
    with pytest.raises(BadSignature):
        live.reload(compiled(tmp_path / "new", ["mn"]))
    assert live.current.check("cf").triggered


def test_no_call_goes_unguarded_while_monitors_change(live: LiveMonitor, tmp_path: Path) -> None:
    """Both monitors know "cf"; whatever the moment, it is blocked."""
    directories = [
        compiled(tmp_path / "one", ["cf", "mn"]),
        compiled(tmp_path / "two", ["cf", "tq"]),
    ]
    engine = Engine(live, Policy(), front="test", registry=CollectorRegistry())
    with ThreadPoolExecutor(4) as pool:
        outcomes = [pool.submit(engine.decide, ["a cf b"]) for _ in range(400)]
        for number in range(6):
            live.reload(directories[number % 2])
    assert {outcome.result().outcome for outcome in outcomes} == {"blocked"}


def test_a_shadow_only_counts(live: LiveMonitor, tmp_path: Path) -> None:
    registry = CollectorRegistry()
    engine = Engine(live, Policy(action="strip"), front="test", registry=registry)
    live.watch(compiled(tmp_path / "new", ["mn", "tq"]))
    texts = ["a", "a cf", "a mn", "cf mn", "\ud800"]
    for text in texts:
        engine.decide([text])
    assert [engine.decide([text]).outcome for text in texts] == [
        *("clean", "stripped", "clean", "stripped", "unscannable"),
    ]
    counts = {
        name: value_of(registry, "guard_shadow_total", difference=name)
        for name in ("same", "only current", "only shadow", "matches", "failed")
    }
    assert counts == {
        "same": 4,
        "only current": 2,
        "only shadow": 2,
        "matches": 2,
        "failed": 0,
    }
    live.watch(None)
    engine.decide(["mn"])
    assert value_of(registry, "guard_shadow_total", difference="only shadow") == 2


def test_a_shadow_that_fails_harms_nobody(
    live: LiveMonitor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = CollectorRegistry()
    engine = Engine(live, Policy(), front="test", registry=registry)
    live.watch(compiled(tmp_path / "new", ["mn"]))

    def fail(text: str) -> None:
        raise RuntimeError(text)

    monkeypatch.setattr(live.shadow, "check", fail)
    assert engine.decide(["a cf"]).outcome == "blocked"
    assert value_of(registry, "guard_shadow_total", difference="failed") == 1


def test_fronts_take_a_live_monitor(live: LiveMonitor, tmp_path: Path) -> None:
    length = protect(live, action="strip", registry=CollectorRegistry())(len)
    assert length("a cf") == 1
    live.reload(compiled(tmp_path / "new", ["mn"]))
    assert length("a cf") == 4
