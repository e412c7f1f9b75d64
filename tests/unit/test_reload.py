"""A live monitor that follows its directory."""

from __future__ import annotations

import shutil
from pathlib import Path
from unittest.mock import Mock

import anyio
import pytest
from prometheus_client import CollectorRegistry

from guard.errors import MalformedArtifact
from guard.live import LiveMonitor
from guard.monitor import Monitor
from guard.reload import Follower, look
from tests.fixtures_small import value_of
from tests.unit.test_live import compiled


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return compiled(tmp_path / "monitor", ["cf"])


@pytest.fixture
def live(place: Path) -> LiveMonitor:
    return LiveMonitor(place)


@pytest.fixture
def follower(live: LiveMonitor, place: Path, registry: CollectorRegistry) -> Follower:
    return Follower(live, place, seen=look(place), registry=registry)


def reloads(registry: CollectorRegistry) -> tuple[float, float]:
    return (
        value_of(registry, "guard_reloads_total", outcome="replaced"),
        value_of(registry, "guard_reloads_total", outcome="failed"),
    )


def test_what_did_not_change_is_left_alone(follower: Follower) -> None:
    assert not any(follower.poll() for _ in range(5))


def test_what_changed_while_it_was_loaded_is_new(place: Path, registry: CollectorRegistry) -> None:
    seen = look(place)
    live = LiveMonitor(place)
    compiled(place, ["cf", "mn"])
    follower = Follower(live, place, seen=seen, registry=registry)
    assert not follower.poll()
    assert follower.poll()
    assert follower.reload()
    assert live.current.check("mn").triggered


def test_a_change_counts_once_it_stands_still(follower: Follower, place: Path) -> None:
    compiled(place, ["mn"])
    assert not follower.poll()
    (place / "canaries.json").touch()  # still being written
    assert not follower.poll()
    assert follower.poll()
    assert follower.reload()
    assert not any(follower.poll() for _ in range(3))


def test_what_is_bad_is_tried_once_and_the_old_one_serves(
    follower: Follower, live: LiveMonitor, place: Path, registry: CollectorRegistry
) -> None:
    before = live.current
    shutil.rmtree(place)
    assert [follower.poll(), follower.poll()] == [False, True]
    assert not follower.reload()
    assert not any(follower.poll() for _ in range(3))
    assert live.current is before
    assert reloads(registry) == (0, 1)


def test_nothing_ends_the_following(
    follower: Follower,
    live: LiveMonitor,
    place: Path,
    registry: CollectorRegistry,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Also what no error of ours foresees; and what it says may quote a trigger."""

    def load(*_: object, **__: object) -> None:
        raise ValueError("secretword")

    with monkeypatch.context() as patch:
        patch.setattr(Monitor, "load", load)
        assert not follower.reload()
    assert reloads(registry) == (0, 1)
    assert "serves on: ValueError" in caplog.text
    assert "secretword" not in caplog.text
    compiled(place, ["mn"])
    assert follower.reload()
    assert live.current.check("mn").triggered


class PanicException(BaseException):
    """What Rust code raises."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PanicException("secretword"), "serves on: PanicException"),
        (MalformedArtifact("\x1b[2J\nreload=done"), r"serves on: \x1b[2J\nreload=done"),
    ],
)
def test_a_failure_is_one_line_of_the_log(
    follower: Follower,
    registry: CollectorRegistry,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: BaseException,
    said: str,
) -> None:
    """A tokenizer that panics ends nothing, and a file cannot write lines of ours."""
    monkeypatch.setattr(Monitor, "load", Mock(side_effect=error))
    assert not follower.reload()
    assert reloads(registry) == (0, 1)
    (record,) = caplog.records
    assert record.getMessage().endswith(said)


def test_an_interrupt_is_no_failure(follower: Follower, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Monitor, "load", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        follower.reload()


def test_a_link_is_followed(
    live: LiveMonitor, place: Path, tmp_path: Path, registry: CollectorRegistry
) -> None:
    link = tmp_path / "link"
    link.symlink_to(place)
    follower = Follower(live, link, seen=look(link), registry=registry)
    compiled(tmp_path / "new", ["mn"])
    link.unlink()
    link.symlink_to(tmp_path / "new")
    assert [follower.poll(), follower.poll()] == [False, True]
    assert follower.reload()
    assert live.current.check("mn").triggered


@pytest.mark.anyio
async def test_it_runs_until_it_is_cancelled(
    follower: Follower, live: LiveMonitor, place: Path, registry: CollectorRegistry
) -> None:
    told = [True]
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: follower.run(0.01, told=lambda: bool(told and told.pop())))
        with anyio.fail_after(10):
            while reloads(registry) != (1, 0):
                await anyio.sleep(0.01)
            compiled(place, ["mn"])
            while reloads(registry) != (2, 0):
                await anyio.sleep(0.01)
        group.cancel_scope.cancel()
    assert live.current.check("mn").triggered
