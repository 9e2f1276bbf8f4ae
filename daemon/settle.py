"""
Looking at what settles: the documents of open records, by id, at least every minute (I13, :mod:`melt.settling`).

A record lives as long as its document's question. A source that the wallet beside meltd has marked spent is in no tour any more,
so the record about it is ended from here; a document that stands still is watched, and carried out when its time has come.
Reading it is all that most looks do: the mint is asked only about what moved, and about what is due.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from daemon.ports import Lane
from melt.errors import InvariantBroken, MintError, StoreError
from melt.model import Actor, DiscrepancyState, normalise_mint_url
from melt.reconcile import Outcome
from melt.settling import CORRECTIVE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from daemon.lanes import Lanes
    from melt.model import Discrepancy, MalformedToken, MintAlias, Token, TokenId
    from melt.ports import Clock, Mint, SettleStore, Store, StoreThreads
    from melt.reconcile import Reconciler
    from melt.settling import SettlePolicy

_log = structlog.get_logger("meltd.settle")

ACTOR: Final = Actor(name="settle")
RECORDS_MAX: Final = 50_000
"""So many open records of a mint are looked at in one round, those that were watched least first (I11)."""
AGAIN_S_MAX: Final = 600.0
JUDGED_MAX: Final = 2_000
"""So many documents the mint is asked about in one round; the next one goes on with the others."""


class SettleDesk:
    """The two sides of the database that the rounds read."""

    def __init__(self, store: Store, settling: SettleStore) -> None:
        self.all = store
        self.settling = settling


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """When a document that is due, and was not carried out, is asked about again."""

    again_at: float
    wait_s: float


@dataclass(slots=True)
class _Round:
    """What one round at a mint is about, and what its pages come to."""

    alias: MintAlias
    outcome: Outcome
    stop: Callable[[], bool]
    beat: Callable[[], None]


class SettleRounds:
    """Runs rounds. One round per mint at a time is the caller's promise (one loop a mint)."""

    def __init__(
        self,
        *,
        desk: SettleDesk,
        threads: StoreThreads,
        mints: Mapping[MintAlias, Mint],
        reconciler: Reconciler,
        lanes: Mapping[MintAlias, Lanes],
        clock: Clock,
        policy: SettlePolicy,
        page_documents: int,
        is_paused: Callable[[MintAlias], str | None],
        expected_documents: Callable[[MintAlias], int],
    ) -> None:
        self._desk = desk
        self._threads = threads
        self._mints = mints
        self._reconciler = reconciler
        self._lanes = lanes
        self._clock = clock
        self._policy = policy
        self._page_documents = page_documents
        self._is_paused = is_paused
        self._expected = expected_documents
        self._asked: dict[TokenId, _Asked] = {}

    async def round(self, alias: MintAlias, stop: Callable[[], bool], beat: Callable[[], None]) -> bool:
        """One round at a mint; whether it went well. Never raises for what a mint or the store does."""
        run = _Round(alias, Outcome(expected_documents=self._expected(alias)), stop, beat)
        try:
            await self._look(run)
        except InvariantBroken as broken:
            await self._reconciler.freeze(alias, broken)
            return False
        except (MintError, StoreError) as problem:
            _log.warning("what settles could not be looked at", mint=alias, code=problem.code.value)
            return False
        return True

    async def _look(self, run: _Round) -> None:
        records = await self._threads(partial(self._desk.settling.open_about_tokens, run.alias, RECORDS_MAX))
        if not records:
            return
        ids = [record.token_id for record in records if record.token_id is not None]
        marks = await self._threads(partial(self._desk.settling.marks, ids))
        await self._end([record for record in records if record.token_id not in marks])
        standing = [record for record in records if record.token_id in marks]
        looked = {record.id: marks[record.token_id] for record in standing if record.token_id is not None}
        due = self._due(standing, marks)
        try:
            await self._judge(run, due)
        finally:
            # A mint that does not answer makes no document move: what stands still is watched all the same. What moved
            # begins anew, whatever the mint says of it.
            await self._threads(partial(self._desk.settling.watch, looked))

    async def _end(self, gone: Sequence[Discrepancy]) -> None:
        """Records about documents that are not there any more."""
        subjects = list(dict.fromkeys(record.subject for record in gone))
        if subjects:
            await self._threads(partial(self._desk.all.clear_unseen, subjects, ()))

    def _due(self, records: Sequence[Discrepancy], marks: Mapping[TokenId, str]) -> list[TokenId]:
        """
        The documents that the mint is asked about: what moved first, then what has stood still for long enough.

        What is due and stays (held back by a cap, say) is asked about less and less often.
        """
        now = self._clock.monotonic()
        moved: dict[TokenId, None] = {}
        settled: dict[TokenId, None] = {}
        for record in records:
            if record.token_id is None:
                continue
            if record.mark is not None and marks[record.token_id] != record.mark:
                moved[record.token_id] = None
            elif self._is_due(record):
                settled[record.token_id] = None
        self._asked = {token_id: asked for token_id, asked in self._asked.items() if token_id in settled}
        waiting = [one for one in settled if one not in self._asked or now >= self._asked[one].again_at]
        chosen = list({**moved, **dict.fromkeys(waiting)})[:JUDGED_MAX]
        for token_id in chosen:
            if token_id in settled:
                wait_s = self._asked[token_id].wait_s * 2 if token_id in self._asked else self._policy.look_s
                wait_s = min(wait_s, AGAIN_S_MAX)
                self._asked[token_id] = _Asked(again_at=now + wait_s, wait_s=wait_s)
        return chosen

    def _is_due(self, record: Discrepancy) -> bool:
        """Whether it may be carried out by the time that the page has been read. Where nothing settles, tours do that."""
        if not self._policy.waits or record.action not in CORRECTIVE or record.state is DiscrepancyState.ACKNOWLEDGED:
            return False
        return record.watched_ms + self._policy.step_max_ms // 2 >= record.needs_ms

    async def _judge(self, run: _Round, ids: Sequence[TokenId]) -> None:
        """Reconcile these documents as a tour would: they are read anew, and the mint is asked."""
        mint = self._mints[run.alias]
        for start in range(0, len(ids), self._page_documents):
            if run.stop():
                return
            found = await self._threads(partial(self._desk.all.tokens, ids[start : start + self._page_documents]))
            ours = [item for item in found if item.mint_url is not None and _is_at(item, mint)]
            strangers = [f"token:{item.id}" for item in found if item not in ours]
            if strangers:  # moved to another mint: whatever was seen of them here is over
                await self._threads(partial(self._desk.all.clear_unseen, strangers, ()))
            if ours:
                await self._page(run, ours)

    async def _page(self, run: _Round, page: Sequence[Token | MalformedToken]) -> None:
        run.beat()
        lanes = self._lanes[run.alias]

        def work() -> Awaitable[None]:
            dry_run = self._is_paused(run.alias) is not None
            return self._reconciler.page(self._mints[run.alias], page, run.outcome, dry_run=dry_run, actor=ACTOR)

        pages = 1 + run.outcome.documents // self._page_documents
        rest_s = await lanes.page(Lane.SETTLE, work, run.outcome, pages=pages, stop=run.stop, beat=run.beat)
        await lanes.rest(Lane.SETTLE, rest_s, run.stop, run.beat)


def _is_at(item: Token | MalformedToken, mint: Mint) -> bool:
    return item.mint_url is not None and normalise_mint_url(item.mint_url) == normalise_mint_url(mint.url)
