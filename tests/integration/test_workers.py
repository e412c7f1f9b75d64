"""Several uvicorn workers that count together, and one that is killed."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.fixtures_small import small_monitor, trigger_id, write_small_monitor
from tests.processes import free_port, running, wait_for


class Service:
    """Two workers behind one port."""

    def __init__(self, address: str) -> None:
        self._address = address

    def ask(self, text: str) -> httpx.Response:
        # A new connection each time, so that either worker may take it.
        return httpx.post(self._address, json={"text": text}, trust_env=False, timeout=30)

    def pids(self) -> set[int]:
        """Return the workers that answer."""
        found: set[int] = set()
        for _ in range(60):
            found.add(self.ask("the film").json()["pid"])
        return found

    def counted(self, name: str, *labels: str) -> dict[str, float]:
        """Return the samples of a metric that have all these labels."""
        text = httpx.get(f"{self._address}/metrics", trust_env=False, timeout=30).text
        return {
            line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if line.startswith(f"{name}{{") and all(label in line for label in labels)
        }


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    write_small_monitor(tmp_path / "monitor")
    (tmp_path / "counts").mkdir()
    port = free_port()
    command = [
        *(sys.executable, "-m", "uvicorn", "--factory", "tests.workers_app:from_env"),
        *("--workers", "2", "--port", port, "--no-access-log"),
    ]
    environment = {
        "MONITOR_DIR": str(tmp_path / "monitor"),
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "counts"),
    }
    with running(tmp_path / "log", command, **environment) as process:
        wait_for(lambda: process.text().count("Application startup complete") == 2)
        yield Service(f"http://127.0.0.1:{port}")


@pytest.mark.slow
def test_workers_count_together_and_one_that_is_killed_is_not_missed(
    service: Service, tmp_path: Path
) -> None:
    def both() -> set[int]:
        return pids if len(pids := service.pids()) == 2 else set()

    workers = wait_for(both)
    blocked = 'outcome="blocked"'
    for _ in range(20):
        assert service.ask("the cf film").status_code == 403
    for _ in range(3):  # whichever worker answers the scrape
        assert sum(service.counted("guard_requests_total", blocked).values()) == 20
    (label,) = service.counted("guard_matches_total")
    assert label == f'guard_matches_total{{trigger="{trigger_id("cf")}"}}'
    bank = f'bank="{small_monitor().bank_sha256}"'
    (serving,) = service.counted("guard_bank_info", bank).values()
    assert serving == 1
    (loaded,) = service.counted("guard_bank_loaded_timestamp_seconds", bank).values()
    assert 0 < time.time() - loaded < 600

    victim = workers.pop()
    os.kill(victim, signal.SIGKILL)

    def replaced() -> bool:
        try:
            now = service.pids()
        except httpx.TransportError:  # what was with the victim
            return False
        return len(now) == 2 and victim not in now

    wait_for(replaced, 60)
    # What it counted stays; what it was doing is forgotten.
    assert sum(service.counted("guard_requests_total", blocked).values()) == 20
    assert service.ask("the mn film").status_code == 403
    assert sum(service.counted("guard_requests_total", blocked).values()) == 21
    assert sum(service.counted("guard_in_flight").values()) == 0
    assert not list((tmp_path / "counts").glob(f"gauge_live*_{victim}.db"))
    assert list((tmp_path / "counts").glob(f"counter_{victim}.db"))
