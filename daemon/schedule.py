"""
The pace of the recurring work: the only module that imports apscheduler (DESIGN section 2).

A job sets an :class:`asyncio.Event` and nothing else; a supervised loop waits for it and does the work. So a slow
round can't be run twice at once, nothing of ours runs inside the scheduler, and stopping it cancels no work.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from apscheduler.events import EVENT_JOB_MAX_INSTANCES, EVENT_JOB_MISSED
from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger

if TYPE_CHECKING:
    from daemon.ports import LoopCounters

JITTER_SHARE_MAX: Final = 0.5


class Tick:
    """What a loop waits for. :meth:`wake` makes it turn now, whatever the schedule says."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._event = asyncio.Event()

    @property
    def is_due(self) -> bool:
        """Whether the next :meth:`wait` returns at once."""
        return self._event.is_set()

    def wake(self) -> None:
        """Due now."""
        self._event.set()

    async def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until due and take it; False when ``timeout_s`` ended first. Wakes that came together count once."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True


class Schedule:
    """
    Ticks in regular intervals, from memory: what was due while the process was down is due once at its start.

    A tick that is still waiting to be taken when the next one comes is counted as overlapped: the round before
    took longer than the interval.
    """

    def __init__(self, counters: LoopCounters) -> None:
        self._counters = counters
        self._scheduler = AsyncIOScheduler(
            jobstores={"default": MemoryJobStore()},
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
            timezone=UTC,
        )
        self._scheduler.add_listener(self._on_missed, EVENT_JOB_MISSED)
        self._scheduler.add_listener(self._on_overlapped, EVENT_JOB_MAX_INSTANCES)
        self._started = False

    def every(self, name: str, seconds: float, *, jitter_s: float = 0.0, at_once: bool = True) -> Tick:
        """
        A new tick every ``seconds``, each moved by up to ``jitter_s``; the first one now, or after an interval.

        Raises ValueError on a second tick of the same name.
        """
        if self._scheduler.get_job(name) is not None:
            raise ValueError(f"there is a tick named {name!r} already")
        tick = Tick(name)

        async def due() -> None:  # a coroutine, since the scheduler runs plain functions in another thread
            if tick.is_due:
                self._counters.job_overlapped(name)
            tick.wake()

        jitter = min(jitter_s, seconds * JITTER_SHARE_MAX) or None
        first: dict[str, Any] = {"next_run_time": datetime.now(UTC)} if at_once else {}
        trigger = IntervalTrigger(seconds=seconds, jitter=jitter, timezone=UTC)
        self._scheduler.add_job(due, trigger, id=name, name=name, **first)
        return tick

    async def start(self) -> None:
        """Begin; needs a running event loop."""
        self._scheduler.start()
        self._started = True

    async def stop(self) -> None:
        """No further ticks."""
        if self._started:
            self._started = False
            self._scheduler.shutdown(wait=False)
            await asyncio.sleep(0)  # the shutdown is handed to the loop

    def _on_missed(self, event: Any) -> None:
        self._counters.job_missed(str(event.job_id))

    def _on_overlapped(self, event: Any) -> None:
        self._counters.job_overlapped(str(event.job_id))
