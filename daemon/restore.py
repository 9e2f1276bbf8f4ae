"""
Restoring: rounds in the background, and on request (DESIGN section 5, PROOF_NOT_IN_DB).

A round takes one mint after another. At each it walks three ways, each with a position in the database, so that a journal of a
million entries is gone through in pieces: entries that ended lately have half of the round's requests, counters of no
entry a quarter, and all older entries the rest. What was asked about long after its end hardly ever changes, but a
document may be deleted years later: so the slow walk starts anew when it has come to its end.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, assert_never

import structlog

from melt.errors import Code, InvariantBroken, MintError, Refusal, StoreError
from melt.model import Actor
from melt.model.restore import CounterPosition, JournalPosition, RestoreRecord, RestoreReport

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from datetime import datetime

    from daemon.metrics import Metrics
    from melt.events import CriticalEvents
    from melt.model import Melt, MintAlias
    from melt.model.restore import RestoreScope
    from melt.ports import Clock, Mint, RestoreStore, Store, StoreThreads
    from melt.restore import Restorer, Run

_log = structlog.get_logger("meltd.restore")

PAGE_ENTRIES: Final = 25
FOUND_MAX: Final = 1_000
"""How many discoveries an answer lists; its counts are of all."""
BEAT_S: Final = 30.0
ACTOR: Final = Actor(name="restore")
UNSUPPORTED: Final = "the mint can't restore (it does not list NUT-09)"
Way: TypeAlias = Literal["recent", "counters", "past"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundPolicy:
    """Bounds of a round and of a request, as the settings say them."""

    interval_s: float
    window_s: float
    requests_max_per_round: int
    requests_max_on_request: int
    pause_s: float


def _never() -> bool:
    return False


def _no_beat() -> None:
    """Nobody watches."""


async def _forget(_: JournalPosition | CounterPosition) -> None:
    """A walk on request has no position to come back to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Walker:
    """What a round's caller wants to be asked and told between two steps."""

    stop: Callable[[], bool] = _never
    beat: Callable[[], None] = _no_beat


@dataclass(slots=True, kw_only=True)
class Restores:
    """Walks the journal and the counters; implements :class:`daemon.ports.RestoreOperations`."""

    store: Store
    restores: RestoreStore
    threads: StoreThreads
    mints: Mapping[MintAlias, Mint]
    restorer: Restorer
    events: CriticalEvents
    metrics: Metrics
    clock: Clock
    policy: RoundPolicy
    on_found: Callable[[], None]
    records: dict[MintAlias, RestoreRecord] = field(default_factory=dict)
    _busy: asyncio.Lock = field(default_factory=asyncio.Lock)

    # --- rounds ---

    async def load(self) -> None:
        """Read how far the rounds were before the last stop; a mint that is new is noted, so that its first round comes due."""
        now = self.clock.now()
        known = {record.mint: record for record in await self.threads(self.restores.restores)}
        for alias in self.mints:
            record = known.get(alias)
            if record is None:
                record = RestoreRecord(mint=alias, rounds=0, started_at=now, updated_at=now)
                await self._save(record)
            self.records[alias] = record

    def is_overdue(self) -> bool:
        """Whether the last round was longer ago than the interval: the process may have been down when one was due."""
        oldest = min((record.started_at for record in self.records.values()), default=None)
        return oldest is not None and self.clock.now() - oldest > timedelta(seconds=self.policy.interval_s)

    async def round(self, stop: Callable[[], bool], beat: Callable[[], None]) -> None:
        """One round over all mints. Never raises for what a mint or the store does: the mint's record says it."""
        for alias in self.mints:
            if stop():
                return
            if not await self._begin(stop, beat):
                return
            try:
                await self._round_at(alias, _Walker(stop=stop, beat=beat))
            finally:
                self._busy.release()
            self.on_found()

    async def _begin(self, stop: Callable[[], bool], beat: Callable[[], None]) -> bool:
        """Wait for a request that is being answered, however long; False where the process is to stop."""
        while not stop():
            beat()
            try:
                async with asyncio.timeout(BEAT_S):
                    await self._busy.acquire()
            except TimeoutError:
                continue
            return True
        return False

    async def _round_at(self, alias: MintAlias, walker: _Walker) -> None:
        mint, now = self.mints[alias], self.clock.now()
        began = self.clock.monotonic()
        present = self.records[alias]
        await self._save(replace(present, rounds=present.rounds + 1, started_at=now, finished_at=None, error=None))
        most = self.policy.requests_max_per_round
        run = self.restorer.begin(dry_run=False, actor=ACTOR, requests_max=most // 2)
        run.pace = partial(self._pace, walker)
        outcome, error = "ok", None
        try:
            if await self.restorer.is_supported(mint):
                await self._walk(mint, run, walker, now=now, quarter=most // 4)
            else:
                outcome, error = "unsupported", UNSUPPORTED
        except InvariantBroken as broken:
            await self.events.invariant_broken(broken, npub=None, mint=alias)
            outcome, error = "error", f"{broken.code}: {broken.detail}"
        except (MintError, StoreError) as problem:
            outcome, error = "error", f"{problem.code}: {problem.detail}"
        now = self.clock.now()
        await self._save(replace(self.records[alias], updated_at=now, finished_at=now, error=error))
        self.metrics.restore_round_ended(alias, outcome)
        self._say(alias, run.report(seconds=self.clock.monotonic() - began), error)

    async def _walk(self, mint: Mint, run: Run, walker: _Walker, *, now: datetime, quarter: int) -> None:
        """The three ways. Requests that one leaves over are the next one's."""
        since = now - timedelta(seconds=self.policy.window_s)
        record = self.records[mint.alias]
        recent = record.recent if record.recent is None or record.recent.at >= since else None
        keep = partial(self._keep, mint.alias)
        left = await self._entries(
            mint, run, walker, after=recent, since=since, until=None, keep=partial(keep, "recent")
        )
        await self._passed(mint.alias, "recent", over=left is None)
        run.requests_left += quarter
        at = await self.restorer.counters(
            mint, run, after=record.counters, stop=walker.stop, keep=partial(keep, "counters")
        )
        await self._passed(mint.alias, "counters", over=at is None)
        run.requests_left += quarter
        left = await self._entries(
            mint, run, walker, after=record.past, since=None, until=since, keep=partial(keep, "past")
        )
        await self._passed(mint.alias, "past", over=left is None)

    async def _keep(self, alias: MintAlias, way: Way, position: JournalPosition | CounterPosition) -> None:
        """Where a way has come to: what was done before a failure or a kill is not done again."""
        record = self.records[alias]
        match position:
            case CounterPosition():
                record = replace(record, counters=position)
            case JournalPosition() if way == "recent":
                record = replace(record, recent=position)
            case JournalPosition():
                record = replace(record, past=position)
            case _:
                assert_never(position)
        await self._save(record)

    async def _passed(self, alias: MintAlias, way: Way, *, over: bool) -> None:
        """A way that is over starts anew the next time."""
        if not over:
            return
        record = self.records[alias]
        match way:
            case "recent":
                record = replace(record, recent=None, recent_passes=record.recent_passes + 1)
            case "past":
                record = replace(record, past=None, past_passes=record.past_passes + 1)
            case "counters":
                record = replace(record, counters=None, counters_passes=record.counters_passes + 1)
            case _:
                assert_never(way)
        await self._save(record)

    async def _entries(
        self,
        mint: Mint,
        run: Run,
        walker: _Walker,
        *,
        after: JournalPosition | None,
        since: datetime | None,
        until: datetime | None,
        keep: Callable[[JournalPosition], Awaitable[None]],
    ) -> JournalPosition | None:
        """Walk over ended entries; where it has come to, None at the end."""
        position = after
        ended = self.restores.ended_melts(mint.url, after=after, since=since, until=until)
        try:
            while not run.is_spent and not walker.stop():
                walker.beat()
                page = await self.threads(lambda: ended.next_page(PAGE_ENTRIES))
                if not page:
                    return None
                await self.restorer.entries(mint, page, run)
                position = _position(page[-1], position)
                if position is not None:
                    await keep(position)
        finally:
            await self.threads(ended.close)
        return position

    async def _pace(self, walker: _Walker) -> None:
        walker.beat()
        if self.policy.pause_s > 0:
            await self.clock.sleep(self.policy.pause_s)

    async def _save(self, record: RestoreRecord) -> None:
        self.records[record.mint] = record
        try:
            await self.threads(lambda: self.restores.save_restore(record))
        except StoreError as problem:
            _log.warning("the restore's position could not be saved", mint=record.mint, code=problem.code.value)

    # --- on request ---

    async def restore(self, *, scope: RestoreScope, dry_run: bool, actor: Actor) -> RestoreReport | None:
        """See :meth:`daemon.ports.RestoreOperations.restore`."""
        began = self.clock.monotonic()
        if scope.mint is not None and scope.mint not in self.mints:
            raise Refusal(Code.MINT_UNKNOWN, "no mint of this alias is configured")
        melt: Melt | None = None
        if scope.melt is not None:
            melt = await self.threads(partial(self.store.melt, scope.melt))
            if melt is None:
                return None
            self._check(melt, scope)
        aliases = [alias for alias in self.mints if alias == (melt.mint if melt is not None else scope.mint or alias)]
        # Over all mints, the hour's total is one: in a dry run too.
        caps = self.restorer.begin(dry_run=dry_run, actor=actor, requests_max=0).caps
        reports: list[RestoreReport] = []
        async with self._busy:
            for alias in aliases:
                run = self.restorer.begin(
                    dry_run=dry_run, actor=actor, requests_max=self.policy.requests_max_on_request
                )
                run.caps = caps
                await self._restore_at(alias, melt, run)
                reports.append(run.report(seconds=0.0))
        self.on_found()
        return _sum(reports, dry_run=dry_run, seconds=round(self.clock.monotonic() - began, 3))

    def _check(self, melt: Melt, scope: RestoreScope) -> None:
        if melt.is_open:
            raise Refusal(Code.WRONG_STATE, f"melt {melt.id} is {melt.state}: its recovery looks for its outputs")
        if melt.mint not in self.mints or (scope.mint is not None and scope.mint != melt.mint):
            raise Refusal(Code.MINT_UNKNOWN, "the melt's mint is not configured, or another one was asked for")

    async def _restore_at(self, alias: MintAlias, melt: Melt | None, run: Run) -> None:
        mint = self.mints[alias]
        try:
            if not await self.restorer.is_supported(mint):
                run.fail(UNSUPPORTED)
            elif melt is not None:
                await self.restorer.entries(mint, [melt], run)
            else:
                walker = _Walker()
                left = await self._entries(mint, run, walker, after=None, since=None, until=None, keep=_forget)
                at = await self.restorer.counters(mint, run, after=None, stop=walker.stop, keep=_forget)
                if left is not None or at is not None:
                    run.fail("more than restore.requests_max_on_request; the rounds in the background do the rest")
        except InvariantBroken as broken:
            await self.events.invariant_broken(broken, npub=None, mint=alias)
            run.fail(f"{broken.code}: {broken.detail}")
        except MintError as problem:
            run.fail(f"{problem.code}: {problem.detail}")
        run.errors = [f"{alias}: {sentence}" for sentence in run.errors]

    @staticmethod
    def _say(alias: MintAlias, report: RestoreReport, error: str | None) -> None:
        said = {
            "mint": alias,
            "entries": report.entries,
            "outputs": report.outputs,
            "signed": report.signed,
            "found": len(report.discoveries),
            "imported": report.imported,
            "amounts": report.imported_amounts,
            "seconds": round(report.seconds, 3),
        }
        if report.refused or report.foreign:
            said |= {"refused_signatures": report.refused, "entries_of_another_seed": report.foreign}
        problems = [*report.errors, *([] if error is None else [error])]
        if problems:
            _log.warning("restore round ended", **said, errors=problems)
        else:
            _log.info("restore round ended", **said)


def _position(last: Melt, before: JournalPosition | None) -> JournalPosition | None:
    return before if last.ended_at is None else JournalPosition(at=last.ended_at, melt_id=last.id)


def _sum(reports: list[RestoreReport], *, dry_run: bool, seconds: float) -> RestoreReport:
    amounts: dict[str, int] = {}
    for report in reports:
        for unit, amount in report.imported_amounts.items():
            amounts[unit] = amounts.get(unit, 0) + amount
    return RestoreReport(
        dry_run=dry_run,
        entries=sum(report.entries for report in reports),
        outputs=sum(report.outputs for report in reports),
        signed=sum(report.signed for report in reports),
        refused=sum(report.refused for report in reports),
        foreign=sum(report.foreign for report in reports),
        discoveries=tuple(one for report in reports for one in report.discoveries)[:FOUND_MAX],
        imported=sum(report.imported for report in reports),
        imported_amounts=amounts,
        errors=tuple(sentence for report in reports for sentence in report.errors),
        seconds=seconds,
    )
