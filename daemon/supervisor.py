"""
The life of the process: start in order, run, drain, stop in reverse (DESIGN section 2).

::

    STARTING -- components started, loops running --> READY -- SIGTERM or SIGINT --> DRAINING --> STOPPED
                                                                 a second signal: exit at once

A crash of one loop is logged, counted and cured by a restart with growing pauses; it never takes the others
down. A loop that stops turning makes ``/healthz`` fail and leaves systemd's watchdog unpetted.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from time import monotonic
from typing import TYPE_CHECKING, Final

import structlog

from daemon.ports import LoopStatus

if TYPE_CHECKING:
    from daemon.notify import Notifier
    from daemon.ports import LoopCounters

log = structlog.get_logger("meltd.supervisor")

EXIT_OK: Final = os.EX_OK
EXIT_CRASH: Final = os.EX_SOFTWARE
EXIT_UNAVAILABLE: Final = os.EX_UNAVAILABLE
EXIT_CONFIG: Final = os.EX_CONFIG

BACKOFF_FIRST_S: Final = 0.5
BACKOFF_MAX_S: Final = 60.0
HEALTHY_AFTER_S: Final = 120.0
"""A loop that ran so long starts anew with the first back-off when it crashes."""
STOP_S_MAX: Final = 10.0
"""For one component to stop, after the drain."""


class Phase(StrEnum):
    """Where the process is in its life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"


class LoopContext:
    """What a supervised loop is given: its heartbeat, and the wish to stop."""

    def __init__(self, name: str, stopping: asyncio.Event) -> None:
        self.name = name
        self.stopping = stopping
        self.turned_at = monotonic()

    def beat(self) -> None:
        """Say that the loop made a step. Call it at least once per ``stall_after_s``."""
        self.turned_at = monotonic()

    async def pause(self, seconds: float) -> bool:
        """Sleep in beating slices; True as soon as the process wants to stop."""
        until = monotonic() + seconds
        while not self.stopping.is_set():
            self.beat()
            left = until - monotonic()
            if left <= 0:
                return False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, 5.0)):
                    await self.stopping.wait()
        return True


LoopWork = Callable[[LoopContext], Awaitable[None]]


@dataclass(slots=True, kw_only=True)
class Supervised:
    """One loop with its record."""

    name: str
    work: LoopWork
    stall_after_s: float
    context: LoopContext
    task: asyncio.Task[None] | None = None
    restarts: int = 0

    def status(self) -> LoopStatus:
        """As ``/v1/status`` and ``/healthz`` show it."""
        running = self.task is not None and not self.task.done()
        ago = monotonic() - self.context.turned_at
        stalled = running and ago > self.stall_after_s
        return LoopStatus(name=self.name, running=running, turned_s_ago=ago, stalled=stalled, restarts=self.restarts)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Component:
    name: str
    start: Callable[[], Awaitable[None]]
    stop: Callable[[], Awaitable[None]]


class Supervisor:
    """
    Runs components and loops until a signal or :meth:`request_stop`.

    Components start in the order of :meth:`add` and stop in reverse, after the loops. :meth:`on_drain` adds what
    must be waited for when the process is asked to stop (melts under way); all of it together has ``drain_s``.
    """

    def __init__(self, *, drain_s: float, counters: LoopCounters, notifier: Notifier) -> None:
        self._drain_s = drain_s
        self._counters = counters
        self._notifier = notifier
        self._components: list[_Component] = []
        self._drains: list[tuple[str, Callable[[float], Awaitable[None]]]] = []
        self._loops: dict[str, Supervised] = {}
        self._stop_asked = asyncio.Event()
        self._stopping = asyncio.Event()
        self._reload: Callable[[], None] | None = None
        self.phase = Phase.STARTING

    # --- composition ---
    def add(self, name: str, start: Callable[[], Awaitable[None]], stop: Callable[[], Awaitable[None]]) -> None:
        """A component: ``start`` returns once it works; ``stop`` is called even after a start that failed."""
        self._components.append(_Component(name=name, start=start, stop=stop))

    def add_loop(self, name: str, work: LoopWork, *, stall_after_s: float = 300.0) -> None:
        """A loop that runs until ``context.stopping`` is set. Raises ValueError on a name that is taken."""
        if name in self._loops:
            raise ValueError(f"there is a loop named {name!r} already")
        context = LoopContext(name, self._stopping)
        self._loops[name] = Supervised(name=name, work=work, stall_after_s=stall_after_s, context=context)

    def on_drain(self, name: str, drain: Callable[[float], Awaitable[None]]) -> None:
        """Awaited, all at once, when draining begins; told how many seconds there are."""
        self._drains.append((name, drain))

    def on_reload(self, reload: Callable[[], None]) -> None:
        """Called at SIGHUP."""
        self._reload = reload

    # --- what others ask ---
    def draining(self) -> bool:
        """Whether no new work may begin."""
        return self.phase in {Phase.DRAINING, Phase.STOPPED} or self._stop_asked.is_set()

    def loops(self) -> tuple[LoopStatus, ...]:
        """Every loop, in the order of its addition."""
        return tuple(loop.status() for loop in self._loops.values())

    def stalled(self) -> tuple[str, ...]:
        """Names of the loops that do not turn."""
        return tuple(status.name for status in self.loops() if status.stalled)

    def request_stop(self, why: str) -> None:
        """Begin to drain. May be called from a callback of the loop."""
        if not self._stop_asked.is_set():
            log.info("stopping", why=why, drain_s=self._drain_s)
            self._stop_asked.set()

    # --- life ---
    async def run(self) -> int:
        """
        The whole life; returns the exit code.

        Raises what a component's start raised, after the ones before it were stopped.
        """
        self._install_signals()
        started: list[_Component] = []
        watchdog: asyncio.Task[None] | None = None
        try:
            for component in self._components:
                if self._stop_asked.is_set():
                    break
                started.append(component)
                await self._start(component)
            if not self._stop_asked.is_set():
                for loop in self._loops.values():
                    loop.context.beat()
                    loop.task = asyncio.create_task(self._supervise(loop), name=f"loop:{loop.name}")
                watchdog = asyncio.create_task(self._watch(), name="watchdog")
                self.phase = Phase.READY
                self._notifier.ready(f"{len(self._loops)} loops turn")
                log.info("ready", components=[component.name for component in started])
                await self._stop_asked.wait()
                await self._drain()
        finally:
            self.phase = Phase.DRAINING if self.phase is not Phase.STOPPED else self.phase
            if watchdog is not None:
                watchdog.cancel()
            await self._stop_loops(0.0)
            for component in reversed(started):
                await self._stop(component)
            self.phase = Phase.STOPPED
            self._remove_signals()
        log.info("stopped")
        return EXIT_OK

    async def _start(self, component: _Component) -> None:
        """Start one component; a wish to stop interrupts it, since a store that is down may take for ever."""
        start = asyncio.ensure_future(component.start())
        asked = asyncio.create_task(self._stop_asked.wait())
        try:
            await asyncio.wait({start, asked}, return_when=asyncio.FIRST_COMPLETED)
            if not start.done():
                start.cancel()
                await asyncio.gather(start, return_exceptions=True)
                return
            start.result()
        finally:
            asked.cancel()
        log.debug("component started", component=component.name)

    async def _drain(self) -> None:
        self.phase = Phase.DRAINING
        self._notifier.stopping("draining")
        until = monotonic() + self._drain_s
        self._stopping.set()
        tasks = {
            asyncio.create_task(self._guarded(name, drain(self._drain_s)), name=f"drain:{name}")
            for name, drain in self._drains
        }
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=self._drain_s)
            for task in late:
                log.warning("drain cut short; open work is in the journal", part=task.get_name())
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await self._stop_loops(max(0.0, until - monotonic()))

    async def _guarded(self, name: str, work: Awaitable[None]) -> None:
        try:
            await work
        except Exception:  # one drain's failure must not keep the others from draining
            log.exception("drain failed", part=name)

    async def _stop_loops(self, grace_s: float) -> None:
        self._stopping.set()
        tasks = {loop.task for loop in self._loops.values() if loop.task is not None and not loop.task.done()}
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=grace_s)
        for task in late:
            task.cancel()
        if late:
            _, stuck = await asyncio.wait(late, timeout=STOP_S_MAX)
            for task in stuck:
                log.error("loop does not end", loop=task.get_name())

    async def _stop(self, component: _Component) -> None:
        try:
            async with asyncio.timeout(self._drain_s + STOP_S_MAX):
                await component.stop()
        except Exception:  # the ones below it must be stopped all the same
            log.exception("component did not stop", component=component.name)

    async def _supervise(self, loop: Supervised) -> None:
        """Run one loop for ever: a crash is logged and counted, and the loop starts again after a pause."""
        failures = 0
        me = asyncio.current_task()
        while not self._stopping.is_set():
            began = monotonic()
            loop.context.beat()
            try:
                await loop.work(loop.context)
                if self._stopping.is_set():
                    return
                log.error("loop ended by itself", loop=loop.name)
            except asyncio.CancelledError:
                if me is not None and me.cancelling():
                    raise
                log.exception("loop was cancelled from within", loop=loop.name)
            except Exception:  # the outermost level of a loop
                log.exception("loop crashed", loop=loop.name)
            failures = 1 if monotonic() - began > HEALTHY_AFTER_S else failures + 1
            loop.restarts += 1
            self._counters.loop_restarted(loop.name)
            delay = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** min(failures - 1, 16))
            if await loop.context.pause(delay * random.uniform(0.8, 1.2)):  # noqa: S311 - jitter
                return

    async def _watch(self) -> None:
        """Pet systemd's watchdog while the event loop and every supervised loop turn."""
        interval = self._notifier.watchdog_s
        if interval is None:
            return
        while True:
            stalled = self.stalled()
            if stalled:
                log.error("loops do not turn; the watchdog is not petted", loops=list(stalled))
            else:
                self._notifier.alive()
            await asyncio.sleep(interval / 3)

    # --- signals ---
    def _install_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)

    def _remove_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)

    def _on_signal(self, number: signal.Signals) -> None:
        if self._stop_asked.is_set():
            log.warning("second signal: exiting at once; open work is in the journal", signal=number.name)
            os._exit(128 + number)
        self.request_stop(number.name)

    def _on_hangup(self) -> None:
        if self._reload is None:
            log.info("SIGHUP: settings are read at start only; restart to change them")
            return
        try:
            self._reload()
        except Exception:  # a broken file must not end a working daemon
            log.exception("SIGHUP: reload failed; everything stays as it was")
