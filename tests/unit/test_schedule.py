"""Ticks come, come once, and never do work themselves."""

from __future__ import annotations

import asyncio
import logging

import pytest
from apscheduler.events import EVENT_JOB_MAX_INSTANCES, EVENT_JOB_MISSED, JobExecutionEvent

from daemon.schedule import Schedule
from tests.support.running_api import eventually


class Counters:
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.missed: list[str] = []
        self.overlapped: list[str] = []
        self.restarted: list[str] = []

    def job_missed(self, name: str) -> None:
        self.missed.append(name)

    def job_overlapped(self, name: str) -> None:
        self.overlapped.append(name)

    def loop_restarted(self, name: str) -> None:
        self.restarted.append(name)


async def test_the_first_tick_comes_at_once_and_the_next_ones_follow() -> None:
    schedule = Schedule(Counters())
    tick = schedule.every("sweep", 0.05, jitter_s=10)
    await schedule.start()
    try:
        for _ in range(3):
            assert await tick.wait(20)
    finally:
        await schedule.stop()


async def test_a_tick_that_is_not_taken_is_counted_and_comes_once() -> None:
    counters = Counters()
    schedule = Schedule(counters)
    tick = schedule.every("sweep", 0.02)
    await schedule.start()
    await eventually(lambda: len(counters.overlapped) >= 2)
    await schedule.stop()
    assert set(counters.overlapped) == {"sweep"}
    assert await tick.wait(5)
    assert not tick.is_due


async def test_a_tick_can_be_made_due_by_hand_and_waiting_can_end_without_one() -> None:
    schedule = Schedule(Counters())
    tick = schedule.every("slow", 3600, at_once=False)
    await schedule.start()
    assert not await tick.wait(0.01)
    tick.wake()
    tick.wake()
    assert await tick.wait(5)
    assert not await tick.wait(0.01)
    await schedule.stop()


async def test_no_tick_comes_after_the_stop() -> None:
    schedule = Schedule(Counters())
    tick = schedule.every("sweep", 0.02)
    await schedule.start()
    assert await tick.wait(20)
    await schedule.stop()
    await schedule.stop()
    tick.is_due and await tick.wait(1)
    assert not await tick.wait(0.1)


async def test_a_name_is_taken_once() -> None:
    schedule = Schedule(Counters())
    schedule.every("sweep", 1)
    with pytest.raises(ValueError, match="already"):
        schedule.every("sweep", 2)


async def test_what_the_scheduler_drops_is_counted() -> None:
    counters = Counters()
    schedule = Schedule(counters)
    schedule._scheduler._dispatch_event(JobExecutionEvent(EVENT_JOB_MISSED, "sweep", "default", None))
    schedule._scheduler._dispatch_event(JobExecutionEvent(EVENT_JOB_MAX_INSTANCES, "hot", "default", None))
    assert (counters.missed, counters.overlapped) == (["sweep"], ["hot"])


async def test_a_stalled_event_loop_loses_no_tick(caplog: pytest.LogCaptureFixture) -> None:
    import time

    counters = Counters()
    schedule = Schedule(counters)
    tick = schedule.every("sweep", 0.05, at_once=False)
    await schedule.start()
    with caplog.at_level(logging.WARNING):
        time.sleep(1.5)  # noqa: ASYNC251 - the stall is the point: apscheduler drops what is a second late by default
        async with asyncio.timeout(20):
            assert await tick.wait(20)
    await schedule.stop()
    assert counters.missed == []
    assert "missed" not in caplog.text
