"""The bounded pool of threads in which store methods run (I3, I11)."""

from __future__ import annotations

import asyncio
import contextvars
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from melt.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

WORKERS_DEFAULT = 4
"""About four writers at once is where a store does most transactions a second."""
QUEUE_MAX_DEFAULT = 1000


class Threads:
    """
    Implements :class:`melt.ports.StoreThreads`: ``await threads(lambda: store.ping())``.

    Cancelling the waiter stops neither a method that runs nor one that still waits for a thread: once submitted it
    runs to its end, so that no transaction is torn and what a caller has asked for does not half happen. Its result
    is then dropped, its error with it. More than ``queue_max`` methods waiting or running are refused with
    :class:`melt.errors.StoreUnavailable`. A method sees the context variables of its caller (:mod:`melt.fencing`).
    """

    def __init__(self, workers: int = WORKERS_DEFAULT, *, queue_max: int = QUEUE_MAX_DEFAULT) -> None:
        self._executor = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="store")
        self._queue_max = queue_max
        self._in_flight = 0
        self._closed = False

    @property
    def in_flight(self) -> int:
        """Methods that run or wait for a thread."""
        return self._in_flight

    async def __call__(self, work: Callable[[], T], /) -> T:
        """Run ``work`` in the pool and give back what it returns or raises."""
        if self._in_flight >= self._queue_max:
            msg = f"{self._in_flight} store calls wait already"
            raise StoreUnavailable(msg)
        if self._closed:
            msg = "the store is being closed"
            raise StoreUnavailable(msg)
        running = asyncio.get_running_loop().run_in_executor(self._executor, contextvars.copy_context().run, work)
        self._in_flight += 1
        running.add_done_callback(self._done)
        return await asyncio.shield(running)

    def _done(self, running: asyncio.Future[T]) -> None:
        self._in_flight -= 1
        if not running.cancelled():
            # Looked at here, so that an error that nobody awaits any more is not reported as never retrieved.
            running.exception()

    async def aclose(self) -> None:
        """Refuse new work and wait for what runs and waits."""
        self._closed = True
        await asyncio.to_thread(self._executor.shutdown, wait=True)
