"""What the database knows, as metrics: open events survive a restart this way."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from melt.errors import InvariantBroken, StoreError
from melt.model import LIVE_PLAN

if TYPE_CHECKING:
    from daemon.bootstrap.ground import Ground
    from daemon.supervisor import LoopContext
    from melt.planner import Planner

_log = structlog.get_logger("meltd")

GAUGES_S: Final = 5.0
READ_MAX: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauges:
    """Reads them every few seconds, and at once where somebody asks for it."""

    ground: Ground
    planner: Planner

    async def loop(self, context: LoopContext) -> None:
        """Read, and say whether the database answers."""
        ground = self.ground
        while not context.stopping.is_set():
            context.beat()
            ground.gauges_now.clear()
            try:
                await self._read()
                ground.metrics.set_store_up(True)
            except StoreError as error:
                ground.metrics.set_store_up(False)
                _log.warning("the database does not answer", code=error.code.value, detail=error.detail)
            await ground.clock.wait(ground.gauges_now, GAUGES_S)

    async def _read(self) -> None:
        await self._read_events()
        ground = self.ground
        ground.metrics.set_open_discrepancies(await ground.threads(ground.store.count_open_discrepancies))
        await self._read_cases()
        await self._read_plans()
        await self._read_journal()

    async def _read_events(self) -> None:
        ground = self.ground
        events = await ground.threads(partial(ground.store.events, open_only=True, limit=READ_MAX))
        ground.metrics.set_open_events(Counter(event.type for event in events))
        for alias in ground.mints:
            frozen = ground.events.frozen(None, alias) is not None or ground.events.distrusted(alias) is not None
            ground.metrics.set_mint_frozen(alias, frozen)

    async def _read_cases(self) -> None:
        ground, now = self.ground, self.ground.clock.now()
        figures = await ground.threads(ground.store.open_figures)
        ages = {severity: (now - since).total_seconds() for severity, since in figures.oldest.items()}
        ground.metrics.set_open_cases(oldest_age_s=ages, value=figures.value)
        ground.metrics.set_settling(figures)

    async def _read_plans(self) -> None:
        now = self.ground.clock.now()
        plans = await self.planner.plans(states=tuple(LIVE_PLAN), limit=READ_MAX)
        ages_s = [(now - plan.made_at).total_seconds() for plan in plans]
        self.ground.metrics.set_plans(Counter(plan.state for plan in plans), oldest_age_s=max(ages_s, default=0.0))

    async def _read_journal(self) -> None:
        """Open melts; an entry that can't be read freezes its wallet, since it can't be followed."""
        ground = self.ground
        for melt_id, npub, mint in await ground.threads(ground.store.unreadable_melts):
            if mint is None or ground.events.frozen(npub, mint) is None:
                damaged = InvariantBroken(f"journal entry {melt_id} can't be read, so it is not followed")
                await ground.events.invariant_broken(damaged, npub=npub, mint=mint, melt_id=melt_id)
        melts = await ground.threads(ground.store.open_melts)
        now = ground.clock.now()
        oldest = max(((now - melt.created_at).total_seconds() for melt in melts), default=0.0)
        ground.metrics.set_open_melts(Counter(melt.state for melt in melts), oldest_age_s=oldest)


__all__ = ["Gauges"]
