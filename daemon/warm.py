"""
The warm lane (DESIGN section 5, Sweep): new and large documents, every few minutes.

What was made just now is where two writers disagree most, and what is large is where it costs most: neither waits for the
tour. It goes through the same pages, guards and turns as the tour does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from daemon.ports import Lane
from melt.errors import InvariantBroken, MintError, StoreError
from melt.model import Actor, TokenId
from melt.reconcile import TOURED, Outcome, sort_urls

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from datetime import datetime

    from daemon.lanes import Lanes
    from melt.model import MalformedToken, MintAlias, Token
    from melt.ports import Clock, LargeTokens, Mint, Store, StoreThreads
    from melt.reconcile import Reconciler

_log = structlog.get_logger("meltd.sweep")

ACTOR: Final = Actor(name="warm")
LARGE_MAX: Final = 10_000
"""So many large documents are known at a time; where there are more, `sweep.large_amount` is too low."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmPolicy:
    """
    ``new_s``: documents made so many seconds ago or later are new. ``large_amount``: from this ``total_amount`` on a
    document is large. ``documents_max``: so many of each kind are looked at in one round; the next goes on from there.
    """

    page_documents: int
    new_s: float
    large_amount: int
    documents_max: int


@dataclass(slots=True)
class WarmRecord:
    """What the last round at a mint came to, for the status page, and where the next one goes on."""

    at: datetime | None = None
    documents: int = 0
    error: str | None = None
    new_position: TokenId | None = None
    large_position: TokenId | None = None


class WarmStore:
    """The two sides of the database that the lane reads."""

    def __init__(self, store: Store, large: LargeTokens) -> None:
        self.all = store
        self.large = large


class WarmLane:
    """Runs rounds. One round per mint at a time is the caller's promise (one loop a mint)."""

    def __init__(
        self,
        *,
        store: WarmStore,
        threads: StoreThreads,
        mints: Mapping[MintAlias, Mint],
        reconciler: Reconciler,
        lanes: Mapping[MintAlias, Lanes],
        clock: Clock,
        policy: WarmPolicy,
        is_paused: Callable[[MintAlias], str | None],
        expected_documents: Callable[[MintAlias], int],
    ) -> None:
        self._store = store
        self._threads = threads
        self._mints = mints
        self._reconciler = reconciler
        self._lanes = lanes
        self._clock = clock
        self._policy = policy
        self._is_paused = is_paused
        self._expected = expected_documents
        self.records = {alias: WarmRecord() for alias in mints}

    async def round(self, alias: MintAlias, stop: Callable[[], bool], beat: Callable[[], None]) -> None:
        """One round at a mint. Never raises for what a mint or the store does: the record's ``error`` says it."""
        record = self.records[alias]
        outcome = Outcome(expected_documents=self._expected(alias))
        try:
            urls = sort_urls(await self._threads(self._store.all.mint_urls), self._mints).by_alias[alias]
            # Before any document was met, the one that is configured.
            urls = urls or (self._mints[alias].url,)
            if urls:
                await self._new(alias, urls, record, outcome, stop, beat)
                await self._large(alias, urls, record, outcome, stop, beat)
            record.error = None
            record.at = self._clock.now()
        except InvariantBroken as broken:
            await self._reconciler.freeze(alias, broken)
            record.error = f"{broken.code}: {broken.detail}"
        except (MintError, StoreError) as problem:
            record.error = f"{problem.code}: {problem.detail}"
        record.documents = outcome.documents
        said = {"mint": alias, "documents": outcome.documents, "corrected": dict(outcome.corrected_by_type)}
        if record.error is not None:
            _log.warning("warm round interrupted", **said, error=record.error)
        else:
            _log.debug("warm round done", **said, found=dict(outcome.found_by_type))

    async def _new(
        self,
        alias: MintAlias,
        urls: Sequence[str],
        record: WarmRecord,
        outcome: Outcome,
        stop: Callable[[], bool],
        beat: Callable[[], None],
    ) -> None:
        """Documents by the time in their id. Ids of another kind have none: these are left to the tour."""
        since = first_id_of(self._clock.now().timestamp() - self._policy.new_s)
        position = since if record.new_position is None else max(since, record.new_position)
        tour = self._store.all.tour(TOURED, urls, position)
        left = self._policy.documents_max
        record.new_position = None
        try:
            while left > 0 and not stop():
                page = await self._threads(partial(tour.next_page, min(left, self._policy.page_documents)))
                if not page:
                    return
                await self._page(alias, page, outcome, stop, beat)
                left -= len(page)
                position = page[-1].id
            record.new_position = position
        finally:
            await self._threads(tour.close)

    async def _large(
        self,
        alias: MintAlias,
        urls: Sequence[str],
        record: WarmRecord,
        outcome: Outcome,
        stop: Callable[[], bool],
        beat: Callable[[], None],
    ) -> None:
        """Large documents in the order of their ids, going round where there are more than a round may look at."""
        policy = self._policy
        ids = sorted(
            await self._threads(partial(self._store.large.large_tokens, TOURED, urls, policy.large_amount, LARGE_MAX))
        )
        if len(ids) == LARGE_MAX:
            _log.warning(
                "more large documents than the warm lane can know", mint=alias, next_step="raise sweep.large_amount"
            )
        after = record.large_position
        due = [one for one in ids if after is None or one > after] or ids
        due = due[: policy.documents_max]
        for start in range(0, len(due), policy.page_documents):
            if stop():
                return
            wanted = due[start : start + policy.page_documents]
            page = await self._threads(partial(self._store.all.tokens, wanted))
            # One may have been spent since: it is the melt's now.
            standing = tuple(item for item in page if item.status in TOURED)
            if standing:
                await self._page(alias, standing, outcome, stop, beat)
            record.large_position = wanted[-1]

    async def _page(
        self,
        alias: MintAlias,
        page: Sequence[Token | MalformedToken],
        outcome: Outcome,
        stop: Callable[[], bool],
        beat: Callable[[], None],
    ) -> None:
        beat()
        lanes = self._lanes[alias]

        def work() -> Awaitable[None]:
            dry_run = self._is_paused(alias) is not None
            return self._reconciler.page(self._mints[alias], page, outcome, dry_run=dry_run, actor=ACTOR)

        pages = 1 + outcome.documents // self._policy.page_documents
        rest_s = await lanes.page(Lane.WARM, work, outcome, pages=pages, stop=stop, beat=beat)
        await lanes.rest(Lane.WARM, rest_s, stop, beat)


def first_id_of(seconds: float) -> TokenId:
    """The lowest ObjectId of a time, given in seconds since 1970."""
    return TokenId(f"{max(0, int(seconds)):08x}{'0' * 16}")
