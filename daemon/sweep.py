"""
The sweep: every document of every configured mint, for ever (DESIGN section 5, Sweep).

Each mint has a loop of its own, so that one that hangs holds up nobody. A tour goes through the unspent and pending
documents in ``_id`` order, page by page, with its position in the database, and then through a share of the spent and
failed ones, going on where the sample before it ended. A tour that is interrupted goes on from its position.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from daemon.ports import Lane
from melt.corrections import record_findings
from melt.detection import detection_lag_s, pass_page
from melt.drift import SEVERITIES
from melt.errors import InvariantBroken, LeaseLost, MintError, StoreError
from melt.model import (
    OPEN_DISCREPANCY,
    SWEEP_NAME,
    Action,
    Actor,
    DriftType,
    Finding,
    MintAlias,
    Passage,
    Solvency,
    SweepRecord,
    TokenStatus,
)
from melt.reconcile import TOURED, MintUrls, Outcome, sort_urls

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
    from datetime import datetime

    from daemon.lanes import Lanes
    from daemon.metrics import Metrics
    from melt.caps import RunTotals
    from melt.model import MalformedToken, Token, TokenId
    from melt.planner import Planner
    from melt.ports import Clock, Holdings, Mint, Store, StoreThreads
    from melt.reconcile import Reconciler

_log = structlog.get_logger("meltd.sweep")

STRAY_MAX: Final = 100
"""So many URLs without a configured mint are reported; more would be a database of something else."""
SAMPLED: Final = (TokenStatus.SPENT, TokenStatus.FAILED)
ACTOR: Final = Actor(name=SWEEP_NAME)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPolicy:
    """``page_documents`` a page; ``spent_sample_share`` of the spent and failed documents a tour."""

    page_documents: int
    spent_sample_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How the tour under way gets on; None where nothing is known yet."""

    documents_per_s: float | None = None
    eta_s: float | None = None


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
        self._units: dict[MintAlias, set[tuple[str, str]]] = {}
        self._first_seen: dict[MintAlias, datetime] = {}
        self._totals: dict[MintAlias, tuple[int, RunTotals]] = {}
        self.progress: dict[MintAlias, Progress] = {}
        self.records: dict[MintAlias, SweepRecord] = {}
        self.unconfigured_documents = 0

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
        record = self._begin(alias)
        outcome = Outcome(turn=record.tour)
        outcome.found_by_type.update(record.found)
        outcome.corrected_by_type.update(record.corrected)
        outcome.owed.update(record.owed)
        outcome.honoured.update(record.honoured)
        outcome.totals = self._totals_of(alias, record.tour, outcome.totals)
        whole = record.position is None
        try:
            urls = await self._urls(alias)
            # Each tour: a mint without documents shows that it is up, and rotated keysets are seen in time.
            await self._reconciler.meet(self._mints[alias])
            total = await self._threads(lambda: self._store.count_tokens(TOURED, urls)) if urls else 0
            outcome.expected_documents = total
            record = replace(record, total_documents=total)
            record = await self._walk(alias, urls, record, outcome, stop, beat)
            if not stop():
                await self._strays(alias, urls, outcome, stop, beat)
                if whole:
                    # Before the sample: what lies on a keyset is what the tour has seen of it, each document once.
                    await self._reconciler.keysets_expiring(
                        self._mints[alias], outcome, dry_run=self._is_paused(alias) is not None
                    )
                record = await self._sample(alias, urls, record, outcome, stop, beat)
                now = self._clock.now()
                record = replace(
                    record,
                    position=None,
                    finished_at=now,
                    succeeded_at=now,
                    solvency=_solvency(alias, outcome, now),
                )
                self._metrics.set_solvency(alias, record.solvency)
            error = None
        except InvariantBroken as broken:
            # What is not about one document is about all that this mint says: nothing is corrected until a person looked.
            await self._reconciler.freeze(alias, broken)
            error = f"{broken.code}: {broken.detail}"
        except (MintError, StoreError) as problem:
            error = f"{problem.code}: {problem.detail}"
        record = replace(record, error=error, updated_at=self._clock.now())
        self.progress.pop(alias, None)
        try:
            await self._save(record)
        except LeaseLost as lost:
            error = f"{lost.code}: {lost.detail}"
            record = replace(record, error=error, finished_at=None)
        seconds = self._clock.monotonic() - started
        if error is not None or record.finished_at is not None:
            self._metrics.sweep_finished(alias, ok=error is None, seconds=seconds)
        complete = error is None and whole and record.finished_at is not None
        plan = await self._offer(alias, outcome) if complete and outcome.dry_pages == 0 else None
        self._say(alias, record, outcome, seconds, dry_run=self._is_paused(alias) is not None, plan=plan)
        if record.finished_at is not None:
            self._metrics.set_sweep_progress(alias, done=record.documents, total=record.documents, eta_s=None)
        if complete:
            self._show_liabilities(alias, outcome)
        return record

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

    async def _urls(self, alias: MintAlias) -> tuple[str, ...]:
        """The texts under which this mint stands in the database; what belongs to no mint is reported."""
        sorted_urls = sort_urls(await self._threads(self._store.mint_urls), self._mints)
        if alias == min(self._mints):
            await self._report_unconfigured(sorted_urls)
        return sorted_urls.by_alias[alias]

    async def _report_unconfigured(self, urls: MintUrls) -> None:
        documents = 0
        findings = []
        for url in urls.unconfigured[:STRAY_MAX]:
            count = await self._threads(partial(self._store.count_tokens, TOURED, (url,)))
            documents += count
            findings.append(
                Finding(
                    type=DriftType.MINT_UNCONFIGURED,
                    severity=SEVERITIES[DriftType.MINT_UNCONFIGURED],
                    action=Action.RECORD,
                    subject=f"mint_url:{url[:200]}",
                    npub=None,
                    mint=None,
                    unit="sat",
                    value=0,
                    token_id=None,
                    ys=(),
                    evidence={"documents": count, "mint_url": url[:200]},
                )
            )
        self.unconfigured_documents = documents
        here = {f"mint_url:{url[:200]}" for url in urls.unconfigured}
        gone = [
            one.subject
            for one in await self._threads(
                partial(
                    self._store.discrepancies,
                    states=tuple(OPEN_DISCREPANCY),
                    types=(DriftType.MINT_UNCONFIGURED,),
                    severities=(),
                    npub=None,
                    limit=STRAY_MAX,
                )
            )
            if one.subject not in here
        ]
        if gone:
            await self._threads(partial(self._store.clear_unseen, gone, ()))
        if findings:
            await record_findings(findings, store=self._store, threads=self._threads, telemetry=self._metrics)

    async def _walk(
        self,
        alias: MintAlias,
        urls: Sequence[str],
        record: SweepRecord,
        outcome: Outcome,
        stop: Callable[[], bool],
        beat: Callable[[], None],
    ) -> SweepRecord:
        if not urls:
            return record
        began = self._clock.monotonic()
        pages = 0
        self.progress[alias] = Progress()
        tour = self._store.tour(TOURED, urls, record.position)
        try:
            while not stop():
                beat()
                begun_at = self._clock.now()
                page = await self._threads(lambda: tour.next_page(self._policy.page_documents))
                if not page:
                    break
                documents, proofs = outcome.documents, outcome.proofs
                pages += 1
                rest_s = await self._reconcile(alias, page, outcome, pages, stop, beat)
                passing = record.passing or Passage(started_at=record.started_at)
                record = replace(
                    record,
                    position=page[-1].id,
                    updated_at=self._clock.now(),
                    documents=record.documents + outcome.documents - documents,
                    proofs=record.proofs + outcome.proofs - proofs,
                    found=dict(outcome.found_by_type),
                    corrected=dict(outcome.corrected_by_type),
                    owed=dict(outcome.owed),
                    honoured=dict(outcome.honoured),
                    passing=pass_page(passing, page[-1].id, begun_at),
                    error=None,
                )
                await self._save(record)
                self._show_progress(alias, record, outcome, self._clock.monotonic() - began)
                await self._lanes[alias].rest(Lane.COLD, rest_s, stop, beat)
        finally:
            await self._threads(tour.close)
        return record

    async def _reconcile(
        self,
        alias: MintAlias,
        page: Sequence[Token | MalformedToken],
        outcome: Outcome,
        pages: int,
        stop: Callable[[], bool],
        beat: Callable[[], None],
    ) -> float:
        """
        A page, when the lane's turn has come; returns how long to rest after it.

        While the mint is paused, nothing is changed: a pause counts from the next page on.
        """

        def work() -> Awaitable[None]:
            dry_run = self._is_paused(alias) is not None
            return self._reconciler.page(self._mints[alias], page, outcome, dry_run=dry_run, actor=ACTOR)

        return await self._lanes[alias].page(Lane.COLD, work, outcome, pages=pages, stop=stop, beat=beat)

    async def _strays(
        self,
        alias: MintAlias,
        urls: Sequence[str],
        outcome: Outcome,
        stop: Callable[[], bool],
        beat: Callable[[], None],
    ) -> None:
        """Documents that no tour passes, because their status or their mint is none; the first mint tells of the latter."""
        if self._holdings is None:
            return
        tour = self._holdings.strays(urls, homeless=alias == min(self._mints))
        pages = 0
        try:
            while not stop():
                beat()
                page = await self._threads(lambda: tour.next_page(self._policy.page_documents))
                if not page:
                    break
                pages += 1
                rest_s = await self._reconcile(alias, page, outcome, pages, stop, beat)
                await self._lanes[alias].rest(Lane.COLD, rest_s, stop, beat)
        finally:
            await self._threads(tour.close)

    async def _sample(
        self,
        alias: MintAlias,
        urls: Sequence[str],
        record: SweepRecord,
        outcome: Outcome,
        stop: Callable[[], bool],
        beat: Callable[[], None],
    ) -> SweepRecord:
        """A share of the spent and failed documents, from where the last sample ended; at the end, from the start."""
        share = self._policy.spent_sample_share
        count = await self._threads(lambda: self._store.count_tokens(SAMPLED, urls)) if urls and share > 0 else 0
        left = math.ceil(count * share)
        position: TokenId | None = record.sampled
        while left > 0 and not stop():
            from_start = position is None
            done, position = await self._sample_from(alias, urls, position, left, outcome, stop, beat)
            left -= done
            if left > 0:
                if from_start:
                    break  # fewer documents than were counted
                position = None
        return replace(
            record,
            sampled=position,
            found=dict(outcome.found_by_type),
            corrected=dict(outcome.corrected_by_type),
        )

    async def _sample_from(
        self,
        alias: MintAlias,
        urls: Sequence[str],
        position: TokenId | None,
        documents_max: int,
        outcome: Outcome,
        stop: Callable[[], bool],
        beat: Callable[[], None],
    ) -> tuple[int, TokenId | None]:
        """How many documents were looked at behind ``position``, and the last one's id."""
        tour = self._store.tour(SAMPLED, urls, position)
        done = pages = 0
        try:
            while done < documents_max and not stop():
                beat()
                page = await self._threads(
                    partial(tour.next_page, min(documents_max - done, self._policy.page_documents))
                )
                if not page:
                    break
                pages += 1
                rest_s = await self._reconcile(alias, page, outcome, pages, stop, beat)
                done += len(page)
                position = page[-1].id
                await self._lanes[alias].rest(Lane.COLD, rest_s, stop, beat)
        finally:
            await self._threads(tour.close)
        return done, position

    # --- telling ---

    async def _save(self, record: SweepRecord) -> None:
        self.records[record.mint] = record
        try:
            await self._threads(lambda: self._store.save_sweep(record))
        except LeaseLost:
            raise  # whoever holds it now goes on from the position that is stored
        except StoreError as problem:
            _log.warning("the sweep's position could not be saved", mint=record.mint, code=problem.code.value)

    def _show_progress(self, alias: MintAlias, record: SweepRecord, outcome: Outcome, seconds: float) -> None:
        left = max(0, record.total_documents - record.documents)
        rate = outcome.documents / seconds if seconds > 0 else 0.0
        self.progress[alias] = Progress(documents_per_s=rate or None, eta_s=left / rate if rate else None)
        self._metrics.set_sweep_progress(
            alias, done=record.documents, total=record.total_documents, eta_s=left / rate if rate else None
        )

    def _show_liabilities(self, alias: MintAlias, outcome: Outcome) -> None:
        toured = {status.value for status in TOURED}
        seen = {key for key in outcome.liabilities if key[1] in toured}
        for unit, status in seen | self._units.get(alias, set()):
            amount = outcome.liabilities.get((unit, status), 0)
            self._metrics.set_liabilities(alias, unit, TokenStatus(status), amount)
        self._units[alias] = seen

    @staticmethod
    def _say(
        alias: MintAlias, record: SweepRecord, outcome: Outcome, seconds: float, *, dry_run: bool, plan: str | None
    ) -> None:
        """The one line of a tour."""
        said = {
            "mint": alias,
            "tour": record.tour,
            "documents": outcome.documents,
            "proofs": outcome.proofs,
            "found": dict(outcome.found_by_type),
            "corrected": dict(outcome.corrected_by_type),
            "seconds": round(seconds, 3),
        }
        if outcome.capped:
            said["capped_by"] = sorted(outcome.capped)
        if plan is not None:
            said["plan"] = plan
        if record.error is not None:
            _log.warning("sweep interrupted", **said, error=record.error)
        elif dry_run:
            _log.info("sweep done while paused: nothing was changed", **said)
        else:
            _log.info("sweep done", **said)


def _solvency(alias: MintAlias, outcome: Outcome, now: datetime) -> tuple[Solvency, ...]:
    """What a whole tour came to, by unit. A page that was repeated after a crash counts once: it is saved with them."""
    return tuple(
        Solvency(mint=alias, unit=unit, owed=owed, honoured=outcome.honoured[unit], at=now)
        for unit, owed in sorted(outcome.owed.items())
    )
