"""How the demo is stopped from outside: once, and never in the middle of its clean-up."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import asyncio
    from types import FrameType

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupt:
    """SIGINT, SIGTERM and SIGHUP cancel the demo once; its clean-up is never interrupted."""

    def __init__(self) -> None:
        self.signal_number = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[int] | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> None:
        self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def watch(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[int] | None) -> None:
        """The task to cancel; at once where a signal came before."""
        self._loop, self._task = loop, task
        if self.signal_number and task is not None:
            task.cancel()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        first, self.signal_number = not self.signal_number, self.signal_number or number
        if first and self._loop is not None and self._task is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._task.cancel)
