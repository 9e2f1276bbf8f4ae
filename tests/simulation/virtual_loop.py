"""An event loop in virtual time: nobody sleeps, the clock jumps to the next timer, and the order is the seed's."""

from __future__ import annotations

import asyncio
import heapq
from contextvars import Context
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from random import Random

STEPS_MAX = 400_000
"""Callbacks of one run; more means that something spins without letting time pass."""


class Stuck(Exception):
    """Nothing is ready and no timer is set, or the run spins: the simulation itself can't go on."""


class VirtualLoop(asyncio.BaseEventLoop):
    """
    A deterministic event loop. Same callbacks, same randomness: the same order, in every process.

    With ``shuffle`` a ready callback is drawn at random in place of the oldest, as other tasks, threads and sockets
    would interleave them.
    """

    def __init__(self, shuffle: Random | None = None) -> None:
        super().__init__()
        self._virtual_s = 0.0
        self._shuffle = shuffle
        self.steps = 0
        self.tasks: list[asyncio.Task[Any]] = []
        self.errors: list[dict[str, Any]] = []
        self.set_exception_handler(lambda _, context: self.errors.append(context))

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._virtual_s

    def _run_once(self) -> None:
        ready, scheduled, shuffle = self._ready, self._scheduled, self._shuffle
        while not ready:
            if not scheduled:
                raise Stuck("nothing is ready and no timer is set")
            handle = heapq.heappop(scheduled)
            handle._scheduled = False
            if handle._cancelled:
                self._timer_cancelled_count -= 1
                continue
            self._virtual_s = max(self._virtual_s, handle._when)
            ready.append(handle)
        while ready and not self._stopping:
            if shuffle is not None and len(ready) > 1:
                ready.rotate(-shuffle.randrange(len(ready)))
            handle = ready.popleft()
            if not handle._cancelled:
                self.steps += 1
                handle._run()
        if self.steps > STEPS_MAX:
            raise Stuck(f"more than {STEPS_MAX} steps by {self._virtual_s:.3f} s")

    def create_task(self, coro: Any, *, name: str | None = None, context: Context | None = None) -> asyncio.Task[Any]:
        """As always, and remembered: asking asyncio for all tasks walks those of earlier worlds, too."""
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, name=name, context=context)
        self.tasks.append(task)
        return task

    def bury(self) -> None:
        """End what still runs, and close."""
        for _ in range(20):
            left = [task for task in self.tasks if not task.done()]
            if not left:
                break
            for task in left:
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                task.cancel()
            self.call_soon(self.stop)
            self.run_forever()
        self.tasks.clear()
        self.close()

    def _timer_handle_cancelled(self, handle: Any) -> None:
        self._timer_cancelled_count += 1

    def _process_events(self, event_list: Any) -> None:
        """There are no sockets."""

    def _write_to_self(self) -> None:
        """There are no threads."""
