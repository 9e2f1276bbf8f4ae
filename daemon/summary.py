"""
The daily summaries: made some times a day, and once more when the day is over (UTC), then with a row for each user.

A row of a day that is over is final and stays. Should the daemon be down at midnight, the day before is closed at its next
start: what happened in it is in the journal, while what is owed is what is owed then; ``made_at`` tells.
"""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from melt.reconcile import sort_urls
from melt.saga.holding import units_of
from melt.summary import Tally, bounds, day_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from daemon.metrics import Metrics
    from melt.model import DaySummary, MintAlias, SweepRecord
    from melt.ports import Clock, Mint, Store, StoreThreads, SummaryStore

_log = structlog.get_logger("meltd.summary")

USERS_PAGE: Final = 100
"""Users whose rows are written in one go (the store takes no more)."""


class Summaries:
    """Makes the rows and reads them. Implements :class:`daemon.ports.SummaryReads`."""

    def __init__(
        self,
        *,
        store: Store,
        summaries: SummaryStore,
        threads: StoreThreads,
        mints: Mapping[MintAlias, Mint],
        sweeps: Callable[[], Mapping[MintAlias, SweepRecord]],
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self._store = store
        self._summaries = summaries
        self._threads = threads
        self._mints = mints
        self._sweeps = sweeps
        self._metrics = metrics
        self._clock = clock

    async def make(self, stop: Callable[[], bool], beat: Callable[[], None]) -> int:
        """
        Close the day before where that was not done, and bring today's rows up to date; how many rows were written.

        Raises StoreError: what was written stays, and the next round writes it again.
        """
        now = self._clock.now()
        today, before = day_of(now), day_of(now - timedelta(days=1))
        urls = sort_urls(await self._threads(self._store.mint_urls), self._mints).by_alias
        written = 0
        for alias in self._mints:
            if stop():
                return written
            closed = await self._threads(partial(self._summaries.summaries, mint=alias, npub=None, day=before, limit=1))
            if not closed or not closed[0].is_final:
                written += await self._make_day(alias, urls[alias], before, stop, beat, is_final=True)
            written += await self._make_day(alias, urls[alias], today, stop, beat, is_final=False)
        self._metrics.summary_made()
        _log.info("summaries made", day=today, mints=len(self._mints), rows=written)
        return written

    async def _make_day(
        self,
        alias: MintAlias,
        urls: Sequence[str],
        day: str,
        stop: Callable[[], bool],
        beat: Callable[[], None],
        *,
        is_final: bool,
    ) -> int:
        since, until = bounds(day)
        activity = await self._threads(partial(self._summaries.activity, alias, since, until))
        tally = Tally(alias, day, activity, made_at=self._clock.now(), is_final=is_final)
        written = 0
        units = await units_of({alias: self._mints[alias]})
        walk = self._summaries.holdings(urls, keyset_units=units)
        try:
            while urls and (page := await self._threads(partial(walk.next_users, USERS_PAGE))):
                beat()
                if stop():
                    return written
                rows = tally.users(page)
                if is_final:
                    written += await self._save(rows)
        finally:
            await self._threads(walk.close)
        if is_final:
            written += await self._save([row for row in tally.others() if row.npub])
        record = self._sweeps().get(alias)
        # The mint's own rows come last: they say that the day is closed, and a day that is not is made again.
        return written + await self._save(tally.mint(() if record is None else record.solvency))

    async def _save(self, rows: Sequence[DaySummary]) -> int:
        for start in range(0, len(rows), USERS_PAGE):
            batch = rows[start : start + USERS_PAGE]
            await self._threads(partial(self._summaries.save_summaries, batch))
        return len(rows)

    # --- reading ---

    async def summaries(
        self, *, mint: MintAlias | None, npub: str | None, day: str | None, limit: int
    ) -> tuple[DaySummary, ...]:
        """
        The mints' rows, newest day first; with ``npub`` that user's, of which today's is made as it is asked for.

        Raises StoreError.
        """
        stored = await self._threads(partial(self._summaries.summaries, mint=mint, npub=npub, day=day, limit=limit))
        now = self._clock.now()
        if npub is None or day not in {None, day_of(now)}:
            return stored
        return (*await self._today(npub, mint, now), *stored)[:limit]

    async def _today(self, npub: str, mint: MintAlias | None, now: datetime) -> tuple[DaySummary, ...]:
        urls = sort_urls(await self._threads(self._store.mint_urls), self._mints).by_alias
        day = day_of(now)
        since, until = bounds(day)
        rows: list[DaySummary] = []
        for alias in self._mints if mint is None else [mint] if mint in self._mints else []:
            activity = await self._threads(partial(self._summaries.activity, alias, since, until, npub=npub))
            tally = Tally(alias, day, activity, made_at=now, is_final=False)
            units = await units_of({alias: self._mints[alias]})
            walk = self._summaries.holdings(urls[alias], npub=npub, keyset_units=units)
            try:
                page = await self._threads(partial(walk.next_users, 1)) if urls[alias] else ()
            finally:
                await self._threads(walk.close)
            rows += [*tally.users(page), *tally.others()]
        return tuple(rows)
