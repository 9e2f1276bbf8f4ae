"""What turns for as long as the daemon lives: each loop does the work of one part, when its tick or its event says so."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from daemon.bootstrap import names
from daemon.bootstrap.gauges import Gauges
from melt.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from daemon.bootstrap.ground import Ground
    from daemon.bootstrap.looking import Looking
    from daemon.bootstrap.paying import Paying
    from daemon.schedule import Schedule, Tick
    from daemon.settings import Settings
    from daemon.supervisor import LoopContext, Supervisor
    from melt.model import MintAlias

_log = structlog.get_logger("meltd")

WATCH_STEP_S_MAX: Final = 5.0
TICK_BEAT_S: Final = 5.0
"""How often a loop looks up while no tick is due; a mint that is not believed is asked anew each time."""
STORE_PAUSE_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticks:
    """What the schedule wakes."""

    sweep: Mapping[MintAlias, Tick]
    warm: Mapping[MintAlias, Tick]
    settle: Mapping[MintAlias, Tick]
    summary: Tick
    restore: Tick

    def __iter__(self) -> Iterator[Tick]:
        yield from self.sweep.values()
        yield from self.warm.values()
        yield from self.settle.values()
        yield self.summary
        yield self.restore


def make_ticks(schedule: Schedule, settings: Settings, mints: Sequence[MintAlias]) -> Ticks:
    """Every job of the schedule; the rounds of the warm lane and of restoring come first after an interval."""
    sweep_s, warm_s = settings.sweep.interval_s, settings.sweep.warm_interval_s
    restore_s, look_s = settings.restore.interval_s, settings.settle_policy.look_s
    return Ticks(
        sweep={alias: schedule.every(names.sweep_loop(alias), sweep_s, jitter_s=sweep_s * 0.05) for alias in mints},
        warm={
            alias: schedule.every(names.warm_loop(alias), warm_s, jitter_s=warm_s * 0.1, at_once=False)
            for alias in mints
        },
        settle={
            alias: schedule.every(names.settle_loop(alias), look_s, jitter_s=look_s * 0.05, at_once=False)
            for alias in mints
        },
        summary=schedule.every(names.SUMMARY, settings.summary.interval_s, jitter_s=60.0),
        restore=schedule.every(names.RESTORE, restore_s, jitter_s=restore_s * 0.05, at_once=False),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Loops:
    """The loops of one daemon."""

    ground: Ground
    paying: Paying
    looking: Looking
    ticks: Ticks

    def add_to(self, supervisor: Supervisor) -> None:
        """Have them supervised, under their names."""
        gauges = Gauges(ground=self.ground, planner=self.looking.planner)
        supervisor.add_loop(names.WATCH, self._watch)
        supervisor.add_loop(names.GAUGES, gauges.loop)
        supervisor.add_loop(names.LEASE, self._lease)
        supervisor.add_loop(names.MODE, self.ground.mode.run)
        if self.ground.webhook is not None:
            supervisor.add_loop(names.WEBHOOK, self.ground.webhook.run, stall_after_s=600.0)
        for alias in self.ground.mints:
            supervisor.add_loop(names.sweep_loop(alias), partial(self._sweep, alias))
            supervisor.add_loop(names.warm_loop(alias), partial(self._warm, alias))
            supervisor.add_loop(names.settle_loop(alias), partial(self._settle, alias))
        supervisor.add_loop(names.SUMMARY, self._summarise, stall_after_s=1800.0)
        supervisor.add_loop(names.RESTORE, self._restore)
        for alias, desk in self.looking.hints.items():
            supervisor.add_loop(names.hints_loop(alias), desk.run)

    def wake(self) -> None:
        """Loops that sleep see that they are to stop."""
        self.paying.engine.followed.set()
        self.ground.gauges_now.set()
        self.ground.mode.wake()
        self.looking.leases.changed.set()
        for tick in self.ticks:
            tick.wake()

    async def _watch(self, context: LoopContext) -> None:
        """Open melts: look, act, look again."""
        followed = self.paying.engine.followed
        while not context.stopping.is_set():
            context.beat()
            followed.clear()
            try:
                delay = await self.paying.watcher.tick()
            except StoreError as error:
                _log.warning("the journal can't be read", code=error.code.value, detail=error.detail)
                delay = STORE_PAUSE_S
            delay = min(delay, WATCH_STEP_S_MAX, self.ground.settings.sweep.hot_interval_s)
            await self.ground.clock.wait(followed, delay)

    async def _lease(self, context: LoopContext) -> None:
        """Which mints this instance sweeps."""
        leases = self.looking.leases
        while not context.stopping.is_set():
            context.beat()
            try:
                delay = await leases.run_once()
            except StoreError as error:
                _log.warning("leases can't be renewed", code=error.code.value, detail=error.detail)
                delay = STORE_PAUSE_S
            await self.ground.clock.wait(leases.changed, delay)

    async def _sweep(self, alias: MintAlias, context: LoopContext) -> None:
        """One mint's tours, while this instance holds its lease; and one at once where the mint is believed again."""
        tick, looking = self.ticks.sweep[alias], self.looking
        while not context.stopping.is_set():
            context.beat()
            due = await tick.wait(TICK_BEAT_S)
            with looking.leases.tenure(alias) as tenure:
                if tenure is None or context.stopping.is_set():
                    continue
                if not due and not await self.paying.sentinels.probe(self.ground.mints[alias]):
                    continue
                record = await looking.sweeper.tour(alias, tenure.stop_or(context.stopping.is_set), context.beat)
            self.ground.look_at_gauges()
            retry_s = looking.lanes[alias].pace.tour_ended(ok=record.error is None)
            if retry_s is not None:
                asyncio.get_running_loop().call_later(retry_s, tick.wake)

    async def _warm(self, alias: MintAlias, context: LoopContext) -> None:
        """One mint's rounds over new and large documents, by whoever sweeps it."""
        while await _due(self.ticks.warm[alias], context):
            with self.looking.leases.tenure(alias) as tenure:
                if tenure is not None:
                    await self.looking.warm.round(alias, tenure.stop_or(context.stopping.is_set), context.beat)

    async def _settle(self, alias: MintAlias, context: LoopContext) -> None:
        """Looks at what settles at one mint, by whoever sweeps it."""
        while await _due(self.ticks.settle[alias], context):
            with self.looking.leases.tenure(alias) as tenure:
                if tenure is None:
                    continue
                stop = tenure.stop_or(context.stopping.is_set)
                if await self.looking.settle.round(alias, stop, context.beat):
                    self.ground.metrics.settle_looked(alias)
            self.ground.look_at_gauges()

    async def _summarise(self, context: LoopContext) -> None:
        """What a day cost and what is owed, written down."""
        while await _due(self.ticks.summary, context):
            if self.ground.store.reads_once:
                continue  # without its indexes meltd reads the collection in its tours, and not once more for this
            try:
                await self.looking.summaries.make(context.stopping.is_set, context.beat)
            except StoreError as error:
                _log.warning("the summaries could not be made", code=error.code.value, detail=error.detail)

    async def _restore(self, context: LoopContext) -> None:
        """Looking for lost value, at one mint after another."""
        if self.looking.restores.is_overdue():
            self.ticks.restore.wake()
        while await _due(self.ticks.restore, context):
            await self.looking.restores.round(context.stopping.is_set, context.beat)


async def _due(tick: Tick, context: LoopContext) -> bool:
    """Wait until the tick is due; False as soon as the process wants to stop."""
    while not context.stopping.is_set():
        context.beat()
        if await tick.wait(TICK_BEAT_S) and not context.stopping.is_set():
            return True
    return False


__all__ = ["Loops", "Ticks", "make_ticks"]
