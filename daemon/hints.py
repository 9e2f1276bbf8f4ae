"""
From hints to checks: what a mint's subscriptions (NUT-17) make meltd look at sooner (DESIGN sections 4 and 5).

One desk for each mint. It chooses what is watched (the inputs and quotes of melts that stay open, the largest and the newest
unspent documents), and answers a hint by looking, with the same eyes as ever: a melt is looked at by the watcher, which
keeps all its rules, and a document is reconciled as a page of its own, sentinels, caps and pauses included. The hint
itself decides nothing, and a mint that floods hints gets no more than ``checks_per_s`` looks.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from melt.bucket import Bucket
from melt.errors import InvariantBroken, MintError, StoreError
from melt.model import (
    TERMINAL,
    Actor,
    HintKind,
    MintState,
    QuoteState,
    Token,
    TokenStatus,
    normalise_mint_url,
)
from melt.reconcile import Outcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from daemon.supervisor import LoopContext
    from melt.model import Hint, HintStatus, MalformedToken, Melt, MeltId, TokenId
    from melt.ports import Clock, Entropy, HintSource, Mint, Store, StoreThreads, WatchStore
    from melt.reconcile import Reconciler

_log = structlog.get_logger("meltd.hints")

ACTOR: Final = Actor(name="hint")
MELT_AGE_S: Final = 3.0
"""A melt that ends sooner is not worth a subscription: filters are scarce, and unsubscribing gives none back."""
MELTS_MAX: Final = 100
INPUTS_PER_MELT: Final = 2
"""A melt takes all of its inputs or none; a second one is watched in case that somebody else took the first."""
DOCUMENTS_PER_CHECK: Final = 20
REST_FACTOR: Final = 100
"""Choosing what to watch may take one part in so many of the time."""
FAILED_PAUSE_S_MAX: Final = 60.0
_MOVED: Final = frozenset({MintState.SPENT, MintState.PENDING})
_UNDER_WAY: Final = frozenset({MintState.PENDING, QuoteState.PENDING})


@dataclass(frozen=True, slots=True, kw_only=True)
class HintPolicy:
    """
    ``proofs_max`` Ys of documents are watched, chosen anew every ``refresh_s``. ``settle_s`` after a hint its document
    is looked at. ``checks_per_s`` looks at most. ``run_s``: so long the caps of one run hold (I12).
    """

    proofs_max: int
    refresh_s: float
    settle_s: float
    checks_per_s: float
    run_s: float


class InTurn(Protocol):
    """Runs a page when it is its turn at the mint, so that one question about states is in flight there."""

    async def __call__(self, work: Callable[[], Awaitable[None]], outcome: Outcome, /) -> None: ...


class HintDesk:
    """What one mint's hints lead to. :meth:`run` is a supervised loop."""

    def __init__(
        self,
        *,
        mint: Mint,
        source: HintSource,
        store: Store,
        watch_store: WatchStore,
        threads: StoreThreads,
        reconciler: Reconciler,
        in_turn: InTurn,
        clock: Clock,
        entropy: Entropy,
        policy: HintPolicy,
        nudge: Callable[[MeltId], None],
        is_paused: Callable[[], str | None],
        expected_documents: Callable[[], int],
    ) -> None:
        self._mint = mint
        self._source = source
        self._store = store
        self._watch_store = watch_store
        self._threads = threads
        self._reconciler = reconciler
        self._in_turn = in_turn
        self._clock = clock
        self._entropy = entropy
        self._policy = policy
        self._nudge = nudge
        self._is_paused = is_paused
        self._expected_documents = expected_documents
        self._looks = Bucket(clock=clock, per_s=policy.checks_per_s, burst=max(1.0, policy.checks_per_s))
        self._quotes: dict[str, MeltId] = {}
        self._inputs: dict[str, MeltId] = {}
        self._documents: dict[str, TokenId] = {}
        self._due_melts: dict[MeltId, None] = {}
        self._due_documents: dict[TokenId, float] = {}
        self._wake = asyncio.Event()
        self._failures = 0
        self._outcome = Outcome()
        self._outcome_since = clock.monotonic()

    def status(self) -> HintStatus:
        """For the status page."""
        return self._source.status()

    # --- what is watched ---

    def melts_open(self, melts: Sequence[Melt]) -> None:
        """Told by the watcher at each of its rounds: every open entry, of all mints."""
        now = self._clock.now()
        lasting = [
            melt
            for melt in melts
            if melt.mint == self._mint.alias
            and melt.state not in TERMINAL
            and (now - melt.created_at).total_seconds() >= MELT_AGE_S
        ][:MELTS_MAX]
        quotes: dict[str, MeltId] = {melt.quote_id: melt.id for melt in lasting if melt.quote_id is not None}
        inputs: dict[str, MeltId] = {ref.y: melt.id for melt in lasting for ref in melt.inputs[:INPUTS_PER_MELT]}
        if (quotes, inputs) != (self._quotes, self._inputs):
            self._quotes, self._inputs = quotes, inputs
            self._watch()

    def _watch(self) -> None:
        self._source.watch(
            {
                HintKind.MELT_QUOTE: tuple(self._quotes),
                HintKind.PROOF_STATE: (*self._inputs, *self._documents),
            }
        )

    async def _choose(self) -> None:
        """Choose the documents that are watched, again and again."""
        while True:
            began = self._clock.monotonic()
            try:
                chosen = await self._threads(
                    partial(self._watch_store.worth_watching, self._mint.url, proofs_max=self._policy.proofs_max)
                )
            except StoreError as error:
                _log.debug("what to watch could not be chosen", mint=self._mint.alias, code=error.code.value)
            else:
                watched: dict[str, TokenId] = {y: document.token_id for document in chosen for y in document.ys}
                if watched != self._documents:
                    self._documents = watched
                    self._watch()
            took = self._clock.monotonic() - began
            rest = max(self._policy.refresh_s, took * REST_FACTOR)
            await self._clock.sleep(rest * self._entropy.uniform(0.9, 1.1))

    # --- hints ---

    def take(self, hint: Hint) -> None:
        """Note what a hint is about. Hints about the same thing are one, as long as nobody has looked."""
        is_quote = hint.kind is HintKind.MELT_QUOTE
        melt_id = (self._quotes if is_quote else self._inputs).get(hint.key)
        if melt_id is not None and hint.state not in _UNDER_WAY:
            self._due_melts[melt_id] = None
        token_id = None if is_quote else self._documents.get(hint.key)
        if token_id is not None and hint.state in _MOVED:
            self._due_documents.setdefault(token_id, self._clock.monotonic() + self._policy.settle_s)
        if melt_id is not None or token_id is not None:
            self._wake.set()

    async def _follow(self) -> None:
        """Look at what hints were about, at the pace that the policy allows."""
        while True:
            now = self._clock.monotonic()
            if self._due_melts or any(at <= now for at in self._due_documents.values()):
                await self._clock.sleep(self._looks.take())
                melts, self._due_melts = self._due_melts, {}
                for melt_id in melts:
                    self._nudge(melt_id)
                await self._check_due()
                continue
            self._wake.clear()
            if not self._due_documents:
                await self._wake.wait()
            else:
                await self._clock.wait(self._wake, min(self._due_documents.values()) - now)

    async def _check_due(self) -> None:
        now = self._clock.monotonic()
        due = [token_id for token_id, at in self._due_documents.items() if at <= now][:DOCUMENTS_PER_CHECK]
        for token_id in due:
            del self._due_documents[token_id]
        if not due:
            return
        try:
            await self._check(due)
            self._failures = 0
        except InvariantBroken as broken:
            await self._reconciler.freeze(self._mint.alias, broken)
        except (MintError, StoreError) as error:
            # The sweep will find it; a mint whose answers are of no use is not asked at the pace of its own hints.
            self._failures += 1
            _log.info("a hint could not be followed", mint=self._mint.alias, code=error.code.value)
            await self._clock.sleep(min(FAILED_PAUSE_S_MAX, 2.0 ** min(self._failures, 10)))

    async def _check(self, ids: Sequence[TokenId]) -> None:
        """Reconcile the documents as a sweep would: they are read anew, and the mint is asked."""
        found = await self._threads(lambda: self._store.tokens(ids))
        page = [token for token in found if isinstance(token, Token) and self._is_ours(token)]
        if not page:
            return
        outcome = self._run_so_far()

        def work() -> Awaitable[None]:
            dry_run = self._is_paused() is not None
            return self._reconciler.page(self._mint, page, outcome, dry_run=dry_run, actor=ACTOR)

        await self._in_turn(work, outcome)

    def _is_ours(self, token: Token | MalformedToken) -> bool:
        """What a melt holds is its recovery's; what is spent by now, somebody has already written down."""
        return (
            isinstance(token, Token)
            and token.status is TokenStatus.UNSPENT
            and token.reservation is None
            and normalise_mint_url(token.mint_url) == self._mint.url
        )

    def _run_so_far(self) -> Outcome:
        """
        One outcome for all checks of a run, so that its caps hold for hints as they do for a tour (I12).

        The share is of the tour's documents; documents that are checked again and again must not raise it.
        """
        now = self._clock.monotonic()
        if now - self._outcome_since >= self._policy.run_s:
            self._outcome, self._outcome_since = Outcome(), now
        self._outcome.expected_documents = self._expected_documents()
        self._outcome.documents = self._outcome.proofs = 0
        self._outcome.liabilities.clear()
        return self._outcome

    # --- life ---

    async def run(self, context: LoopContext) -> None:
        """Watch and follow until the process wants to stop. Raises what one of the parts crashed with."""
        parts = [
            asyncio.create_task(part, name=f"hints-{self._mint.alias}")
            for part in (self._source.run(self.take), self._choose(), self._follow(), _until_stopped(context))
        ]
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for part in done:
                part.result()
        finally:
            for part in parts:
                part.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*parts, return_exceptions=True)


async def _until_stopped(context: LoopContext) -> None:
    while not await context.pause(60.0):
        pass
