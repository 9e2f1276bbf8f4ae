"""What the socket and the command line ask for besides melts: implements :class:`daemon.ports.Operations`."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from daemon.ports import (
    Lane,
    MeltEvidence,
    MintStatus,
    PaceStatus,
    ProofStory,
    ReconcileReport,
    SettlingStatus,
    StatusReport,
    TokenMention,
)
from melt.errors import Code, InvariantBroken, MintError, Refusal, StoreError, StoreUnavailable
from melt.model import LIVE_PLAN, EventType, MalformedToken, Token
from melt.reconcile import TOURED, Outcome, sort_urls
from melt.recovery import look, resolve
from melt.saga.holding import payable_at, units_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from daemon.lanes import Lanes
    from daemon.mode import ModeKeeper
    from daemon.pauses import Pauses
    from daemon.ports import LeaseStatus, LoopStatus, PlanDesk
    from daemon.sweep import Sweeper
    from daemon.warm import WarmLane
    from melt.errors import Severity
    from melt.events import CriticalEvents
    from melt.model import (
        Actor,
        Balance,
        CriticalEvent,
        Discrepancy,
        DiscrepancyState,
        DriftType,
        HintStatus,
        Melt,
        MeltId,
        MeltState,
        MintAlias,
        Plan,
        ResolveAs,
        TokenStatus,
        Y,
    )
    from melt.ports import Clock, Holdings, Mint, Store, StoreThreads, Tour
    from melt.ports.cases import OpenFigures
    from melt.reconcile import Reconciler, ReconcileScope
    from melt.recovery import Recovery
    from melt.saga.holding import Payable

PAGE_DOCUMENTS: Final = 100
EVENTS_MAX: Final = 1_000
STORY_MAX: Final = 100
PLANS_MAX: Final = 50
FOUND_MAX: Final = 1_000
"""How many findings a report lists; its counts are of all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """What the status page says about the process."""

    version: str
    instance_id: str
    started_at: datetime
    data_dir: Path
    embedded: bool
    seed_id: str
    metrics_url: Callable[[], str | None]
    loops: Callable[[], Sequence[LoopStatus]]
    draining: Callable[[], bool]


@dataclass(slots=True)
class MintHealth:
    """What the last requests to a mint came to."""

    up: bool | None = None
    last_ok: datetime | None = None
    error: str | None = None


@dataclass(slots=True, kw_only=True)
class DaemonOperations:
    """Answers questions from the store and from what the loops know; changes only on request."""

    store: Store
    threads: StoreThreads
    mints: Mapping[MintAlias, Mint]
    reconciler: Reconciler
    sweeper: Sweeper
    lanes: Mapping[MintAlias, Lanes]
    warm: WarmLane
    pauses: Pauses
    mode: ModeKeeper
    clock: Clock
    process: Process
    health: Mapping[MintAlias, MintHealth]
    critical: CriticalEvents
    on_pause: Callable[[], None]
    on_event: Callable[[], None]
    recovery: Recovery
    on_resolved: Callable[[Melt], None]
    plans: PlanDesk
    open_figures: Callable[[], OpenFigures]
    lease_of: Callable[[MintAlias], LeaseStatus | None]
    hint_status: Callable[[MintAlias], HintStatus | None] = lambda _: None
    holdings: Holdings | None = None
    _reconciling: asyncio.Lock = field(default_factory=asyncio.Lock)
    _resolving: asyncio.Lock = field(default_factory=asyncio.Lock)

    # --- reading ---

    async def melt_by_id(self, melt_id: MeltId) -> Melt | None:
        """One journal entry."""
        return await self.threads(partial(self.store.melt, melt_id))

    async def melt_evidence(self, melt_id: MeltId) -> MeltEvidence | None:
        """The journal, and what the mint says now."""
        melt = await self.threads(partial(self.store.melt, melt_id))
        if melt is None:
            return None
        sight = await look(self.recovery, melt)
        events = await self.threads(partial(self.store.events, open_only=False, limit=EVENTS_MAX))
        audit = await self.threads(partial(self.store.audit, token_id=None, melt_id=melt_id, limit=STORY_MAX))
        about = tuple(event for event in events if event.subject == f"melt:{melt_id}")
        return MeltEvidence(melt=melt, sight=sight, events=about, audit=audit)

    async def resolve_melt(
        self, *, melt_id: MeltId, outcome: ResolveAs, reason: str, actor: Actor, preimage: str | None = None
    ) -> Melt | None:
        """Carry out a person's decision about an open melt."""
        async with self._resolving:
            melt = await self.threads(partial(self.store.melt, melt_id))
            if melt is None:
                return None
            after = await resolve(
                self.recovery,
                melt,
                outcome,
                reason=reason,
                actor=actor,
                holder=self.process.instance_id,
                preimage=preimage,
            )
        self.on_resolved(after)
        self.on_event()
        return after

    async def melts(self, *, npub: str | None, states: Sequence[MeltState], limit: int) -> tuple[Melt, ...]:
        """Newest first."""
        return await self.threads(partial(self.store.list_melts, npub=npub, states=states, limit=limit))

    async def balances(self, npub: str) -> tuple[Balance, ...]:
        """By mint, unit and status."""
        units = await units_of(self.mints)
        return await self.threads(partial(self.store.balances, npub, units))

    async def payable(self, npub: str) -> tuple[Payable, ...]:
        """What could be paid with now at the mints that can be asked; see :mod:`melt.saga.holding`."""
        found: list[Payable] = []
        for mint in self.mints.values():
            with suppress(MintError):
                found += await payable_at(mint, npub, self.store, self.threads, now=self.clock.now())
        return tuple(found)

    async def discrepancies(
        self,
        *,
        states: Sequence[DiscrepancyState],
        types: Sequence[DriftType],
        severities: Sequence[Severity],
        npub: str | None,
        limit: int,
    ) -> tuple[Discrepancy, ...]:
        """Newest first; an empty filter means all."""
        return await self.threads(
            partial(self.store.discrepancies, states=states, types=types, severities=severities, npub=npub, limit=limit)
        )

    async def events(self, *, open_only: bool, limit: int) -> tuple[CriticalEvent, ...]:
        """Newest first."""
        return await self.threads(partial(self.store.events, open_only=open_only, limit=limit))

    async def proof_story(self, y: Y) -> ProofStory | None:
        """All that the records say about one proof; None where none knows it."""
        melts = await self.threads(partial(self.store.melts_with_proof, y, STORY_MAX))
        audit = await self.threads(partial(self.store.audit_of_proof, y, STORY_MAX))
        found = await self.threads(partial(self.store.discrepancies_of_proof, y, STORY_MAX))
        ids = list(
            dict.fromkeys(
                [entry.token_id for entry in audit]
                + [ref.token_id for melt in melts for ref in melt.inputs if ref.y == y]
                + [record.token_id for record in found if record.token_id is not None]
            )
        )
        tokens = await self.threads(partial(self.store.tokens, ids)) if ids else ()
        mentions = tuple(_mention(token) for token in tokens if isinstance(token, Token) and _holds(token, y))
        if not (melts or audit or found or mentions):
            return None
        return ProofStory(y=y, tokens=mentions, melts=melts, audit=audit, discrepancies=found)

    async def status(self) -> StatusReport:
        """The daemon on one page; answers although the store is down."""
        open_melts: dict[str, int] = {}
        open_discrepancies: dict[str, int] = {}
        settling = SettlingStatus()
        oldest = 0.0
        open_events = 0
        plans: tuple[Plan, ...] = ()
        at_mint: Counter[str] = Counter()
        store_error = None
        try:
            melts = await self.threads(self.store.open_melts)
            open_melts = dict(Counter(melt.state.value for melt in melts))
            at_mint.update(melt.mint for melt in melts)
            now = self.clock.now()
            oldest = max(((now - melt.created_at).total_seconds() for melt in melts), default=0.0)
            counts = await self.threads(self.store.count_open_discrepancies)
            open_discrepancies = {"/".join(key): count for key, count in counts.items()}
            settling = SettlingStatus.of(await self.threads(self.open_figures))
            open_events = len(await self.threads(partial(self.store.events, open_only=True, limit=EVENTS_MAX)))
            plans = await self.plans.plans(states=tuple(LIVE_PLAN), limit=PLANS_MAX)
        except StoreError as error:
            store_error = f"{error.code}: {error.detail}"
        process = self.process
        now = self.clock.now()
        return StatusReport(
            version=process.version,
            instance_id=process.instance_id,
            started_at=process.started_at,
            uptime_s=(now - process.started_at).total_seconds(),
            data_dir=str(process.data_dir),
            embedded=process.embedded,
            store_ok=store_error is None,
            store_error=store_error,
            draining=process.draining(),
            paused=self.pauses.reason(None) is not None,
            paused_reason=self.pauses.reason(None),
            mode=self.mode.mode,
            mode_reason=self.mode.reason,
            mints=tuple(self._mint_status(alias, mint, at_mint[alias]) for alias, mint in self.mints.items()),
            open_melts=open_melts,
            oldest_open_melt_s=oldest,
            open_events=open_events,
            open_plans=plans,
            open_discrepancies=open_discrepancies,
            settling=settling,
            loops=tuple(process.loops()),
            seed_id=process.seed_id,
            metrics_url=process.metrics_url(),
            unconfigured_mint_documents=self.sweeper.unconfigured_documents,
        )

    def _mint_status(self, alias: MintAlias, mint: Mint, open_melts: int) -> MintStatus:
        health = self.health[alias]
        reason = self.pauses.reason(alias)
        return MintStatus(
            alias=alias,
            url=mint.url,
            up=health.up,
            last_ok=health.last_ok,
            paused=reason is not None,
            paused_reason=reason,
            open_melts=open_melts,
            error=health.error,
            report=mint.report(),
            frozen=self.critical.frozen(None, alias) is not None or self.critical.distrusted(alias) is not None,
            sweep=self.sweeper.records.get(alias),
            pace=self._pace_status(alias),
            hints=self.hint_status(alias),
            lease=self.lease_of(alias),
        )

    def _pace_status(self, alias: MintAlias) -> PaceStatus:
        lanes, warm, progress = self.lanes[alias], self.warm.records[alias], self.sweeper.progress.get(alias)
        return PaceStatus(
            lane=lanes.lane,
            touring=progress is not None,
            detection_lag_s=self.sweeper.detection_lag_s(alias),
            lag_target_s=lanes.pace.policy.lag_target_s,
            duty=lanes.pace.duty,
            resting_s=lanes.resting_s,
            documents_per_s=None if progress is None else progress.documents_per_s,
            eta_s=None if progress is None else progress.eta_s,
            warm_at=warm.at,
            warm_documents=warm.documents,
            warm_error=warm.error,
        )

    # --- acting ---

    async def reconcile(self, *, scope: ReconcileScope, dry_run: bool, actor: Actor) -> ReconcileReport:
        """
        Compare what is in scope with the mints now, one request at a time.

        Raises Refusal MINT_UNKNOWN for a mint that is not configured. A mint that can't be asked is an error in the
        report; the others are reconciled.
        """
        aliases = list(self.mints)
        if scope.mint is not None:
            aliases = [alias for alias in aliases if alias == scope.mint]
            if not aliases:
                raise Refusal(Code.MINT_UNKNOWN, "no mint of this alias is configured")
        started = self.clock.monotonic()
        observing = self.mode.observing()
        errors: list[str] = []
        total = Outcome()
        async with self._reconciling:
            urls = sort_urls(await self.threads(self.store.mint_urls), self.mints)
            statuses = scope.statuses or TOURED
            for alias in aliases:
                paused = self.pauses.reason(alias)
                if paused is not None and not dry_run:
                    errors.append(f"{alias}: paused ({paused}); use dry_run, or resume first")
                    continue
                outcome = Outcome()
                try:
                    await self._reconcile_mint(
                        alias, urls.by_alias[alias], statuses, scope.npub, outcome, dry_run=dry_run, actor=actor
                    )
                except InvariantBroken as error:
                    await self.reconciler.freeze(alias, error)
                    errors.append(f"{alias}: {error.code}: {error.detail}")
                except MintError as error:
                    errors.append(f"{alias}: {error.code}: {error.detail}")
                _add(total, outcome)
                if outcome.capped:
                    caps = ", ".join(sorted(outcome.capped))
                    errors.append(f"{alias}: over the cap: {caps}; `meltd reconcile --plan` makes a plan to approve")
        return ReconcileReport(
            dry_run=dry_run or observing is not None,
            documents=total.documents,
            proofs=total.proofs,
            found=tuple(total.found[:FOUND_MAX]),
            planned=total.planned,
            corrected=total.corrected,
            performed=tuple(total.performed),
            blocked=bool(total.blocking),
            observing=observing,
            settling=total.settling,
            errors=tuple(errors),
            seconds=round(self.clock.monotonic() - started, 3),
        )

    async def _reconcile_mint(
        self,
        alias: MintAlias,
        urls: Sequence[str],
        statuses: Sequence[TokenStatus],
        npub: str | None,
        outcome: Outcome,
        *,
        dry_run: bool,
        actor: Actor,
    ) -> None:
        mint = self.mints[alias]
        if self.holdings is not None and self.holdings.reads_once:
            urls = urls or (mint.url,)
        if urls:
            tour = self.store.tour(statuses, urls, None, npub=npub)
            await self._walk(tour, mint, outcome, dry_run=dry_run, actor=actor)
        if npub is not None:
            return
        if self.holdings is not None:
            strays = self.holdings.strays(urls, homeless=alias == min(self.mints))
            await self._walk(strays, mint, outcome, dry_run=dry_run, actor=actor)
        if set(TOURED) <= set(statuses):
            await self.reconciler.keysets_expiring(mint, outcome, dry_run=dry_run)

    async def _walk(self, tour: Tour, mint: Mint, outcome: Outcome, *, dry_run: bool, actor: Actor) -> None:
        try:
            while page := await self.threads(partial(tour.next_page, PAGE_DOCUMENTS)):
                work = partial(self.reconciler.page, mint, page, outcome, dry_run=dry_run, actor=actor)
                await self.lanes[mint.alias].prompt_page(Lane.ASKED, work, outcome)
        finally:
            await self.threads(tour.close)

    async def raise_drill(self, *, detail: str, actor: Actor) -> CriticalEvent:
        """Open a CRITICAL event of type DRILL."""
        await self.critical.open(
            EventType.DRILL,
            "drill",
            mint=None,
            detail=detail,
            requires_manual_intervention=False,
            evidence={"uid": actor.uid, "pid": actor.pid},
        )
        self.on_event()
        for event in await self.threads(partial(self.store.events, open_only=True, limit=EVENTS_MAX)):
            if event.type is EventType.DRILL:
                return event
        raise StoreUnavailable("the drill could not be written down; it is logged and counted")

    async def resolve_event(self, *, event_id: str, reason: str, actor: Actor) -> CriticalEvent | None:
        """Close an open event for a person's reason; None where no open event has this id."""
        for event in await self.threads(partial(self.store.events, open_only=True, limit=EVENTS_MAX)):
            if event.id == event_id:
                by = f"{reason} (uid {actor.uid})"
                await self.critical.resolve(event.type, event.subject, reason=by)
                self.on_event()
                recent = await self.threads(partial(self.store.events, open_only=False, limit=EVENTS_MAX))
                return next((one for one in recent if one.id == event_id), event)
        return None

    async def pause(self, *, mint: MintAlias | None, reason: str, actor: Actor) -> None:
        """Detect and report only, and refuse melts; kept over restarts."""
        self._check_mint(mint)
        self.pauses.pause(mint, f"{reason} (uid {actor.uid})")
        self.on_pause()

    async def resume(self, *, mint: MintAlias | None, actor: Actor) -> None:  # noqa: ARG002 - the port's
        """The opposite."""
        self._check_mint(mint)
        self.pauses.resume(mint)
        self.on_pause()

    def _check_mint(self, mint: MintAlias | None) -> None:
        if mint is not None and mint not in self.mints:
            raise Refusal(Code.MINT_UNKNOWN, "no mint of this alias is configured")


def _add(total: Outcome, part: Outcome) -> None:
    total.documents += part.documents
    total.proofs += part.proofs
    total.planned += part.planned
    total.corrected += part.corrected
    total.performed.extend(part.performed[: max(0, FOUND_MAX - len(total.performed))])
    total.blocking |= part.blocking
    total.settling += part.settling
    total.found.extend(part.found[: max(0, FOUND_MAX - len(total.found))])


def _holds(token: Token | MalformedToken, y: Y) -> bool:
    return isinstance(token, Token) and any(proof.y == y for proof in token.proofs)


def _mention(token: Token) -> TokenMention:
    return TokenMention(
        token_id=token.id,
        npub=token.npub,
        mint_url=token.mint_url,
        status=token.status,
        transaction_type=token.transaction_type,
        transaction_id=token.transaction_id,
        amount=token.amount,
        created_at=token.created_at,
        updated_at=token.updated_at,
    )
