"""The sweeps as work that leases are about: implements :class:`daemon.lease.keeper.ShardWork`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from melt.caps import HOUR_S

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from daemon.metrics import Metrics
    from daemon.schedule import Tick
    from daemon.sweep import Sweeper
    from melt.caps import Caps
    from melt.model import MintAlias
    from melt.ports import Clock, Leases, StoreThreads


def sweep_loop(mint: MintAlias) -> str:
    """The supervised loop of a mint's tours."""
    return f"sweep-{mint}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepWork:
    """Hands a mint's sweep from instance to instance: its position, and what of the hour's cap is used up."""

    sweeper: Sweeper
    caps: Caps
    leases: Leases
    threads: StoreThreads
    clock: Clock
    metrics: Metrics
    interval_s: float
    ticks: Mapping[MintAlias, Tick]
    stalled_loops: Callable[[], Sequence[str]]

    async def take_up(self, mint: MintAlias, *, lost_s_ago: float | None) -> None:
        """
        Read where the last holder came to, and what was corrected at this mint in the last hour or since we lost it.

        So a takeover in the middle of an hour does not begin the cap anew.
        """
        await self.follow([mint])
        since_s = HOUR_S if lost_s_ago is None else min(HOUR_S, lost_s_ago)
        now, now_s = self.clock.now(), self.clock.monotonic()
        since = now - timedelta(seconds=since_s)
        made = await self.threads(lambda: self.leases.corrected_since(mint, since, self.caps.hour_max + 1))
        self.caps.recall([now_s - max(0.0, (now - at).total_seconds()) for at in made])

    async def follow(self, mints: Sequence[MintAlias]) -> None:
        """Read the tours' records and show them, as if they were ours."""
        if not mints:
            return
        await self.sweeper.load(mints)
        for mint in mints:
            record = self.sweeper.records.get(mint)
            if record is not None:
                success = record.succeeded_at or (record.finished_at if record.error is None else None)
                self.metrics.set_sweep_schedule(mint, interval_s=self.interval_s, last_success=success)
                done = record.total_documents if record.finished_at is not None else record.documents
                self.metrics.set_sweep_progress(mint, done=done, total=record.total_documents, eta_s=None)

    def hurry(self, mint: MintAlias) -> None:
        """A tour is due."""
        self.ticks[mint].wake()

    def stalled(self) -> frozenset[MintAlias]:
        """Mints whose loop has not turned for so long that the supervisor calls it stalled."""
        loops = set(self.stalled_loops())
        return frozenset(mint for mint in self.ticks if sweep_loop(mint) in loops)
