"""
The sweep: every document of every configured mint, for ever (DESIGN section 5, Sweep).

Each mint has a loop of its own, so that one that hangs holds up nobody. A tour goes through the unspent and pending
documents in ``_id`` order, page by page, with its position in the database, and then through a share of the spent and
failed ones, going on where the sample before it ended. A tour that is interrupted goes on from its position.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias

import structlog

from daemon.ports import Lane
from daemon.sweep.telling import Progress, Telling, solvency_of
from daemon.sweep.unconfigured import Unconfigured
from melt.detection import detection_lag_s, pass_page
from melt.errors import InvariantBroken, LeaseLost, MintError, StoreError
from melt.model import SWEEP_NAME, Actor, MintAlias, Passage, SweepRecord, TokenId, TokenStatus
from melt.reconcile import TOURED, Outcome, sort_urls

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from daemon.lanes import Lanes
    from daemon.metrics import Metrics
    from melt.caps import RunTotals
    from melt.model import MalformedToken, Token
    from melt.planner import Planner
    from melt.ports import Clock, Holdings, Mint, Store, StoreThreads, Tour
    from melt.reconcile import Reconciler

_log = structlog.get_logger("meltd.sweep")

SAMPLED: Final = (TokenStatus.SPENT, TokenStatus.FAILED)
ACTOR: Final = Actor(name=SWEEP_NAME)

Keep: TypeAlias = Callable[[TokenId, datetime], Awaitable[None]]
"""Told of each page that is done: its last document, and when its reading began."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPolicy:
    """``page_documents`` a page; ``spent_sample_share`` of the spent and failed documents a tour."""

    page_documents: int
    spent_sample_share: float


@dataclass(slots=True, kw_only=True)
class _Run:
    """A tour, or the rest of one, under way: its record so far, what it has come to, and what its caller wants."""

    record: SweepRecord
    outcome: Outcome
    stop: Callable[[], bool]
    beat: Callable[[], None]
    urls: tuple[str, ...] = ()

    @property
    def alias(self) -> MintAlias:
        return self.record.mint


async def _keep_nothing(_: TokenId, __: datetime) -> None:
    """No position to come back to."""


class Sweeper:
    """Runs tours. One tour per mint at a time is the caller's promise (one loop a mint)."""

    def __init__(
        self,
        *,
        store: Store,
        threads: StoreThreads,
        mints: Mapping[MintAlias, Mint],
        reconciler: Reconciler,
        metrics: Metrics,
        lanes: Mapping[MintAlias, Lanes],
        clock: Clock,
        policy: SweepPolicy,
        is_paused: Callable[[MintAlias], str | None],
        holdings: Holdings | None = None,
        planner: Planner | None = None,
    ) -> None:
        self._holdings = holdings
        self._store = store
        self._threads = threads
        self._mints = mints
        self._reconciler = reconciler
        self._metrics = metrics
        self._lanes = lanes
        self._clock = clock
        self._policy = policy
        self._is_paused = is_paused
        self._planner = planner
        self._telling = Telling(metrics)
        self._unconfigured = Unconfigured(store, threads, metrics)
        self._first_seen: dict[MintAlias, datetime] = {}
        self._totals: dict[MintAlias, tuple[int, RunTotals]] = {}
        self.records: dict[MintAlias, SweepRecord] = {}

    @property
    def progress(self) -> Mapping[MintAlias, Progress]:
        """Of the tours that are under way."""
        return self._telling.progress

    @property
    def unconfigured_documents(self) -> int:
        """How many documents stand under URLs of no configured mint, as the last tour counted."""
        return self._unconfigured.documents

    async def load(self, only: Collection[MintAlias] | None = None) -> None:
        """Read where the tours are: before the last stop, or of another instance; of all mints, or ``only`` some."""
        for alias in self._mints:
            self._first_seen.setdefault(alias, self._clock.now())
        for record in await self._threads(self._store.sweeps):
            if record.mint in (self._mints if only is None else only):
                self.records[record.mint] = record

    def detection_lag_s(self, alias: MintAlias) -> float:
        """See :mod:`melt.detection`; before the first record, since this process knows the mint."""
        now = self._clock.now()
        record = self.records.get(alias)
        if record is None:
            return max(0.0, (now - self._first_seen.get(alias, now)).total_seconds())
        return detection_lag_s(record, now)

    def documents_of(self, alias: MintAlias) -> int:
        """How many documents the last tour was about; 0 before the first."""
        record = self.records.get(alias)
        return 0 if record is None else record.total_documents

    async def tour(self, alias: MintAlias, stop: Callable[[], bool], beat: Callable[[], None]) -> SweepRecord:
        """
        One tour of a mint's documents, or the rest of the one that was interrupted. Returns its record.

        Never raises for what a mint or the store does: the record's ``error`` says it, and the next tour goes on.
        """
        started = self._clock.monotonic()
        run = self._begin_run(alias, stop, beat)
        whole = run.record.position is None
        error = await self._go(run, whole=whole)
        record = replace(run.record, error=error, updated_at=self._clock.now())
        self._telling.walk_ended(alias)
        try:
            await self._save(record)
        except LeaseLost as lost:
            error = f"{lost.code}: {lost.detail}"
            record = replace(record, error=error, finished_at=None)
        seconds = self._clock.monotonic() - started
        if error is not None or record.finished_at is not None:
            self._metrics.sweep_finished(alias, ok=error is None, seconds=seconds)
        complete = error is None and whole and record.finished_at is not None
        plan = await self._offer(alias, run.outcome) if complete and run.outcome.dry_pages == 0 else None
        self._telling.ended(record, run.outcome, seconds, dry_run=self._is_paused(alias) is not None, plan=plan)
        if complete:
            self._telling.liabilities(alias, run.outcome)
        return record

    # --- the beginning ---

    def _begin_run(self, alias: MintAlias, stop: Callable[[], bool], beat: Callable[[], None]) -> _Run:
        """What an interrupted tour has come to counts on."""
        record = self._begin(alias)
        outcome = Outcome(turn=record.tour)
        outcome.found_by_type.update(record.found)
        outcome.corrected_by_type.update(record.corrected)
        outcome.owed.update(record.owed)
        outcome.honoured.update(record.honoured)
        outcome.totals = self._totals_of(alias, record.tour, outcome.totals)
        return _Run(record=record, outcome=outcome, stop=stop, beat=beat)

    def _begin(self, alias: MintAlias) -> SweepRecord:
        now = self._clock.now()
        before = self.records.get(alias)
        if before is not None and before.finished_at is None and before.position is not None:
            return before
        complete = before is not None and before.finished_at is not None
        return SweepRecord(
            mint=alias,
            tour=1 if before is None else before.tour + 1,
            position=None,
            started_at=now,
            updated_at=now,
            finished_at=None,
            documents=0,
            proofs=0,
            total_documents=0,
            found={},
            corrected={},
            error=None,
            sampled=None if before is None else before.sampled,
            solvency=() if before is None else before.solvency,
            first_seen=self._first_seen.get(alias, now) if before is None else before.first_seen or before.started_at,
            passing=Passage(started_at=now),
            passed=None if before is None else before.passing if complete else before.passed,
            succeeded_at=None if before is None else before.succeeded_at,
        )

    def _totals_of(self, alias: MintAlias, tour: int, fresh: RunTotals) -> RunTotals:
        """What this tour has corrected so far: an interruption must not open its caps anew (I12)."""
        known = self._totals.get(alias)
        if known is None or known[0] != tour:
            known = self._totals[alias] = (tour, fresh)
        return known[1]

    # --- the way ---

    async def _go(self, run: _Run, *, whole: bool) -> str | None:
        """All the way; what ended it early, None where nothing did."""
        try:
            await self._pass(run, whole=whole)
        except InvariantBroken as broken:
            # What is not about one document is about all that this mint says: nothing is corrected until a person looked.
            await self._reconciler.freeze(run.alias, broken)
            return f"{broken.code}: {broken.detail}"
        except (MintError, StoreError) as problem:
            return f"{problem.code}: {problem.detail}"
        return None

    async def _pass(self, run: _Run, *, whole: bool) -> None:
        """The documents, the strays, the mint's keysets, the sample. ``whole``: not the rest of an interrupted tour."""
        alias, mint = run.alias, self._mints[run.alias]
        run.urls = urls = await self._urls(alias)
        # Each tour: a mint without documents shows that it is up, and rotated keysets are seen in time.
        await self._reconciler.meet(mint)
        total = await self._threads(lambda: self._store.count_tokens(TOURED, urls)) if urls else 0
        run.outcome.expected_documents = total
        run.record = replace(run.record, total_documents=total)
        run.record = await self._walk(run)
        if run.stop():
            return
        await self._strays(run)
        if whole:
            # Before the sample: what lies on a keyset is what the tour has seen of it, each document once.
            dry_run = self._is_paused(alias) is not None
            await self._reconciler.keysets_expiring(mint, run.outcome, dry_run=dry_run)
        run.record = await self._sample(run)
        now = self._clock.now()
        solvency = solvency_of(alias, run.outcome, now)
        run.record = replace(run.record, position=None, finished_at=now, succeeded_at=now, solvency=solvency)
        self._metrics.set_solvency(alias, solvency)

    async def _urls(self, alias: MintAlias) -> tuple[str, ...]:
        """The texts under which this mint stands in the database; the first mint reports what belongs to none."""
        sorted_urls = sort_urls(await self._threads(self._store.mint_urls), self._mints)
        if self._reads_once:
            # Nobody can say under which texts it stands before all documents have been passed: the tour compares them.
            return sorted_urls.by_alias[alias] or (self._mints[alias].url,)
        if alias == min(self._mints):
            await self._unconfigured.report(sorted_urls.unconfigured)
        return sorted_urls.by_alias[alias]

    @property
    def _reads_once(self) -> bool:
        """Without its indexes a tour reads each document once, and asks nothing that would read them all again."""
        return self._holdings is not None and self._holdings.reads_once

    async def _walk(self, run: _Run) -> SweepRecord:
        """Unspent and pending documents, from the tour's position on, which is saved after each page."""
        record, outcome = run.record, run.outcome
        if not run.urls:
            return record
        began = self._clock.monotonic()
        documents, proofs = record.documents - outcome.documents, record.proofs - outcome.proofs
        self._telling.walk_begins(run.alias)

        async def keep(position: TokenId, begun_at: datetime) -> None:
            nonlocal record
            passing = record.passing or Passage(started_at=record.started_at)
            record = replace(
                record,
                position=position,
                updated_at=self._clock.now(),
                documents=documents + outcome.documents,
                proofs=proofs + outcome.proofs,
                found=dict(outcome.found_by_type),
                corrected=dict(outcome.corrected_by_type),
                owed=dict(outcome.owed),
                honoured=dict(outcome.honoured),
                passing=pass_page(passing, position, begun_at),
                error=None,
            )
            run.record = record  # should a later page fail, the tour goes on from here and not from where it began
            await self._save(record)
            self._telling.walked(record, outcome, self._clock.monotonic() - began)

        await self._pages(run, self._store.tour(TOURED, run.urls, record.position), keep)
        return record

    async def _strays(self, run: _Run) -> None:
        """Documents that no tour passes, because their status or their mint is none; the first mint tells of the latter."""
        if self._holdings is not None and not self._reads_once:
            await self._pages(run, self._holdings.strays(run.urls, homeless=run.alias == min(self._mints)))

    async def _sample(self, run: _Run) -> SweepRecord:
        """A share of the spent and failed documents, from where the last sample ended; at the end, from the start."""
        share, urls = 0.0 if self._reads_once else self._policy.spent_sample_share, run.urls
        count = await self._threads(lambda: self._store.count_tokens(SAMPLED, urls)) if urls and share > 0 else 0
        left = math.ceil(count * share)
        position = run.record.sampled

        async def keep(last: TokenId, _: datetime) -> None:
            nonlocal position
            position = last

        while left > 0 and not run.stop():
            from_start = position is None
            left -= await self._pages(run, self._store.tour(SAMPLED, urls, position), keep, documents_max=left)
            if left > 0:
                if from_start:
                    break  # fewer documents than were counted
                position = None
        return replace(
            run.record,
            sampled=position,
            found=dict(run.outcome.found_by_type),
            corrected=dict(run.outcome.corrected_by_type),
        )

    # --- a page ---

    async def _pages(
        self, run: _Run, tour: Tour, keep: Keep = _keep_nothing, *, documents_max: int = sys.maxsize
    ) -> int:
        """Page after page, each when the lane's turn has come, with a rest behind it; how many documents there were."""
        lanes = self._lanes[run.alias]
        done = pages = 0
        try:
            while done < documents_max and not run.stop():
                run.beat()
                begun_at = self._clock.now()
                page = await self._threads(
                    partial(tour.next_page, min(documents_max - done, self._policy.page_documents))
                )
                if not page:
                    break
                pages += 1
                work = partial(self._reconcile, run, page)
                rest_s = await lanes.page(Lane.COLD, work, run.outcome, pages=pages, stop=run.stop, beat=run.beat)
                done += len(page)
                await keep(page[-1].id, begun_at)
                await lanes.rest(Lane.COLD, rest_s, run.stop, run.beat)
        finally:
            await self._threads(tour.close)
        return done

    def _reconcile(self, run: _Run, page: Sequence[Token | MalformedToken]) -> Awaitable[None]:
        """While the mint is paused, nothing is changed: a pause counts from the next page on."""
        dry_run = self._is_paused(run.alias) is not None
        return self._reconciler.page(self._mints[run.alias], page, run.outcome, dry_run=dry_run, actor=ACTOR)

    # --- what is kept ---

    async def _save(self, record: SweepRecord) -> None:
        self.records[record.mint] = record
        try:
            await self._threads(lambda: self._store.save_sweep(record))
        except LeaseLost:
            raise  # whoever holds it now goes on from the position that is stored
        except StoreError as problem:
            _log.warning("the sweep's position could not be saved", mint=record.mint, code=problem.code.value)

    async def _offer(self, alias: MintAlias, outcome: Outcome) -> str | None:
        """What the caps held back, as a plan; the id of the one that waits for this mint."""
        if self._planner is None:
            return None
        left_out = outcome.held_back_count - len(outcome.held_back)
        try:
            plan = await self._planner.offer(alias, outcome.held_back, left_out=left_out, actor=ACTOR)
        except StoreError as problem:
            _log.warning("the plan of what is over the cap could not be kept", mint=alias, code=problem.code.value)
            return None
        return None if plan is None else plan.id
