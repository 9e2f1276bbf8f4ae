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

from melt.drift import SEVERITIES
from melt.errors import InvariantBroken, LeaseLost, MintError, StoreError
from melt.model import OPEN_DISCREPANCY, Action, Actor, DriftType, Finding, MintAlias, SweepRecord, TokenStatus
from melt.reconcile import TOURED, MintUrls, Outcome, sort_urls

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from daemon.metrics import Metrics
    from melt.model import MalformedToken, Token, TokenId
    from melt.ports import Clock, Mint, Store, StoreThreads
    from melt.reconcile import Reconciler

_log = structlog.get_logger("meltd.sweep")

STRAY_MAX: Final = 100
"""So many URLs without a configured mint are reported; more would be a database of something else."""
SAMPLED: Final = (TokenStatus.SPENT, TokenStatus.FAILED)
ACTOR: Final = Actor(name="sweep")


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPolicy:
    """``page_documents`` a page; ``spent_sample_share`` of the spent and failed documents a tour."""

    page_documents: int
    spent_sample_share: float


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
        clock: Clock,
        policy: SweepPolicy,
        is_paused: Callable[[MintAlias], str | None],
    ) -> None:
        self._store = store
        self._threads = threads
        self._mints = mints
        self._reconciler = reconciler
        self._metrics = metrics
        self._clock = clock
        self._policy = policy
        self._is_paused = is_paused
        self._units: dict[MintAlias, set[tuple[str, str]]] = {}
        self.records: dict[MintAlias, SweepRecord] = {}
        self.unconfigured_documents = 0

    async def load(self, only: Collection[MintAlias] | None = None) -> None:
        """Read where the tours are: before the last stop, or of another instance; of all mints, or ``only`` some."""
        for record in await self._threads(self._store.sweeps):
            if record.mint in (self._mints if only is None else only):
                self.records[record.mint] = record

    async def tour(self, alias: MintAlias, stop: Callable[[], bool], beat: Callable[[], None]) -> SweepRecord:
        """
        One tour of a mint's documents, or the rest of the one that was interrupted. Returns its record.

        Never raises for what a mint or the store does: the record's ``error`` says it, and the next tour goes on.
        """
        started = self._clock.monotonic()
        record = self._begin(alias)
        outcome = Outcome()
        outcome.found_by_type.update(record.found)
        outcome.corrected_by_type.update(record.corrected)
        whole = record.position is None
        try:
            urls = await self._urls(alias)
            # Asked anew each tour: a mint without documents shows that it is up, and rotated keysets are seen in time.
            await self._mints[alias].keysets(refresh=True)
            total = await self._threads(lambda: self._store.count_tokens(TOURED, urls)) if urls else 0
            outcome.expected_documents = total
            record = replace(record, total_documents=total)
            record = await self._walk(alias, urls, record, outcome, stop, beat)
            if not stop():
                record = await self._sample(alias, urls, record, outcome, stop, beat)
                now = self._clock.now()
                record = replace(record, position=None, finished_at=now, succeeded_at=now)
            error = None
        except InvariantBroken as broken:
            # What is not about one document is about all that this mint says: nothing is corrected until a person looked.
            await self._reconciler.freeze(alias, broken)
            error = f"{broken.code}: {broken.detail}"
        except (MintError, StoreError) as problem:
            error = f"{problem.code}: {problem.detail}"
        record = replace(record, error=error, updated_at=self._clock.now())
        try:
            await self._save(record)
        except LeaseLost as lost:
            error = f"{lost.code}: {lost.detail}"
            record = replace(record, error=error, finished_at=None)
        seconds = self._clock.monotonic() - started
        if error is not None or record.finished_at is not None:
            self._metrics.sweep_finished(alias, ok=error is None, seconds=seconds)
        self._say(alias, record, outcome, seconds, dry_run=self._is_paused(alias) is not None)
        if error is None and whole and record.finished_at is not None:
            self._show_liabilities(alias, outcome)
        return record

    def _begin(self, alias: MintAlias) -> SweepRecord:
        now = self._clock.now()
        before = self.records.get(alias)
        if before is not None and before.finished_at is None and before.position is not None:
            return before
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
            succeeded_at=None if before is None else before.succeeded_at,
        )

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
            for one in await self._threads(lambda: self._store.record(findings)):
                if one.sightings == 1:
                    self._metrics.drift_found(one.type, one.severity, None)

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
        tour = self._store.tour(TOURED, urls, record.position)
        try:
            while not stop():
                beat()
                page = await self._threads(lambda: tour.next_page(self._policy.page_documents))
                if not page:
                    break
                documents, proofs = outcome.documents, outcome.proofs
                await self._reconcile(alias, page, outcome)
                record = replace(
                    record,
                    position=page[-1].id,
                    updated_at=self._clock.now(),
                    documents=record.documents + outcome.documents - documents,
                    proofs=record.proofs + outcome.proofs - proofs,
                    found=dict(outcome.found_by_type),
                    corrected=dict(outcome.corrected_by_type),
                )
                await self._save(record)
                self._show_progress(alias, record, outcome, self._clock.monotonic() - began)
        finally:
            await self._threads(tour.close)
        return record

    async def _reconcile(self, alias: MintAlias, page: Sequence[Token | MalformedToken], outcome: Outcome) -> None:
        """A page; while the mint is paused, without changing anything: a pause counts from the next page on."""
        dry_run = self._is_paused(alias) is not None
        await self._reconciler.page(self._mints[alias], page, outcome, dry_run=dry_run, actor=ACTOR)

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
        done = 0
        try:
            while done < documents_max and not stop():
                beat()
                page = await self._threads(
                    partial(tour.next_page, min(documents_max - done, self._policy.page_documents))
                )
                if not page:
                    break
                await self._reconcile(alias, page, outcome)
                done += len(page)
                position = page[-1].id
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
    def _say(alias: MintAlias, record: SweepRecord, outcome: Outcome, seconds: float, *, dry_run: bool) -> None:
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
        if record.error is not None:
            _log.warning("sweep interrupted", **said, error=record.error)
        elif dry_run:
            _log.info("sweep done while paused: nothing was changed", **said)
        else:
            _log.info("sweep done", **said)
