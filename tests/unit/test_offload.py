"""Long scans in threads, whose callers may leave at any time."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time

import anyio
import pytest

from guard import offload
from tests.processes import ROOT

_OUTLIVES = """
import asyncio, time
import anyio
from guard.offload import in_thread

async def leave():
    with anyio.move_on_after(0.05):
        await in_thread(time.sleep, 0.5)

loop = asyncio.new_event_loop()
loop.run_until_complete(leave())
"""


def test_a_thread_may_outlive_its_loop() -> None:
    """Nobody closes that one, and yet the process ends."""
    subprocess.run([sys.executable, "-c", _OUTLIVES], cwd=ROOT, check=True, timeout=20)


@pytest.mark.anyio
async def test_who_waits_for_a_place_in_vain_takes_no_thread() -> None:
    resume = threading.Event()
    for _ in range(offload._PLACES):
        with anyio.move_on_after(0.05):
            await offload.in_thread(resume.wait, 10)
    before = threading.active_count()
    for _ in range(20):
        with anyio.move_on_after(0.01):
            await offload.in_thread(resume.wait, 10)
        await anyio.sleep(0.005)
    assert threading.active_count() < before + 10
    resume.set()
    with anyio.fail_after(5):
        await offload.in_thread(resume.wait, 10)


@pytest.mark.anyio
async def test_no_place_is_lost_and_none_is_given_twice() -> None:
    rng, lock = random.Random(0), threading.Lock()
    running, most = 0, 0

    def work(seconds: float) -> float:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(seconds)
        with lock:
            running -= 1
        return seconds

    async def call(patience: float, seconds: float) -> None:
        with anyio.move_on_after(patience):
            assert await offload.in_thread(work, seconds) == seconds

    async with anyio.create_task_group() as tasks:
        for _ in range(200):
            tasks.start_soon(call, rng.choice([0, 0.001, 0.01, 0.1]), rng.choice([0, 0.002, 0.01]))
            if rng.random() < 0.2:
                await anyio.sleep(0.002)
    places = offload._PLACES
    assert 1 <= most <= places
    meeting = threading.Barrier(places)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for _ in range(places):
                tasks.start_soon(offload.in_thread, meeting.wait, 5)
