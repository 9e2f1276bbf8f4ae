"""The reports and protocols of the daemon's outside (socket, command line, health)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from daemon.ports.settling import SettlingStatus

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from daemon.ports.leases import LeaseStatus
    from daemon.ports.pace import PaceStatus
    from melt.errors import Severity
    from melt.model import (
        Actor,
        AuditEntry,
        Balance,
        CriticalEvent,
        Discrepancy,
        DiscrepancyState,
        DriftType,
        Finding,
        HintStatus,
        Melt,
        MeltId,
        MeltState,
        MintAlias,
        MintReport,
        Plan,
        ResolveAs,
        SweepRecord,
        TokenId,
        TokenStatus,
        Y,
    )
    from melt.model.mode import Mode
    from melt.reconcile import Performed, ReconcileScope
    from melt.recovery import Sight
    from melt.saga.holding import Payable
    from melt.saga.request import MeltRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcileReport:
    """
    What one reconciliation did, or with ``dry_run`` would do.

    ``found`` holds the findings of this run (or their records, where they were written); ``planned`` counts the
    corrections that the rules ask for, ``corrected`` those that were applied and ``settling`` those that wait until their document
    has stood still for long enough (I13). ``errors`` are sentences about
    mints that could not be asked.
    """

    dry_run: bool
    documents: int
    proofs: int
    found: tuple[Discrepancy | Finding, ...]
    planned: int
    corrected: int
    settling: int = 0
    performed: tuple[Performed, ...] = ()
    """The corrections that were applied, the first thousand."""
    blocked: bool = False
    """Whether what was found keeps documents in scope from being paid with: something HIGH or CRITICAL is open."""
    observing: str | None = None
    """Why nothing was corrected, where meltd observes."""
    errors: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MintStatus:
    """One configured mint as the daemon sees it now. ``up`` is None before the first request."""

    alias: MintAlias
    url: str
    up: bool | None
    last_ok: datetime | None = None
    paused: bool = False
    paused_reason: str | None = None
    frozen: bool = False
    """Nothing is corrected and no melt is begun: the mint is not believed, or an invariant was found broken there."""
    open_melts: int = 0
    error: str | None = None
    report: MintReport | None = None
    """What is known of its ways; None: nothing yet."""
    sweep: SweepRecord | None = None
    pace: PaceStatus | None = None
    hints: HintStatus | None = None
    """None: subscriptions are switched off."""
    lease: LeaseStatus | None = None
    """Who sweeps it; None before the first look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopStatus:
    """One supervised loop: when it last turned (seconds ago), how often it crashed and was restarted."""

    name: str
    running: bool
    turned_s_ago: float
    stalled: bool
    restarts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusReport:
    """
    The whole daemon on one page (``GET /v1/status``).

    ``open_discrepancies`` has keys ``TYPE/SEVERITY/alias``; ``open_melts`` counts by state.
    """

    version: str
    instance_id: str
    started_at: datetime
    uptime_s: float
    data_dir: str
    embedded: bool
    store_ok: bool
    store_error: str | None
    draining: bool
    paused: bool
    paused_reason: str | None
    mode: Mode
    mode_reason: str
    mints: tuple[MintStatus, ...]
    open_melts: Mapping[str, int] = field(default_factory=dict)
    oldest_open_melt_s: float = 0.0
    open_events: int = 0
    open_discrepancies: Mapping[str, int] = field(default_factory=dict)
    settling: SettlingStatus = field(default_factory=SettlingStatus)
    loops: tuple[LoopStatus, ...] = ()
    seed_id: str | None = None
    metrics_url: str | None = None
    unconfigured_mint_documents: int = 0
    open_plans: tuple[Plan, ...] = ()
    """That wait for approval or for being applied, newest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenMention:
    """A token document that holds the proof asked for. No proof data (I10)."""

    token_id: TokenId
    npub: str
    mint_url: str
    status: TokenStatus
    transaction_type: str
    transaction_id: str
    amount: int
    created_at: datetime | None = None
    updated_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofStory:
    """All that meltd's records say about one proof, by its Y (``GET /v1/proofs/{Y}``)."""

    y: Y
    tokens: tuple[TokenMention, ...] = ()
    melts: tuple[Melt, ...] = ()
    audit: tuple[AuditEntry, ...] = ()
    discrepancies: tuple[Discrepancy, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MeltEvidence:
    """What a person needs to see to decide about a melt: the journal, the mint's word now, events and audit."""

    melt: Melt
    sight: Sight
    events: tuple[CriticalEvent, ...] = ()
    audit: tuple[AuditEntry, ...] = ()


class MeltService(Protocol):
    """Pays invoices; implemented by :mod:`melt.saga`."""

    async def melt(self, request: MeltRequest, *, wait_s: float) -> Melt:
        """
        Run or find the melt of this request and give its journal entry in the state it has when ``wait_s`` ends.

        The melt goes on when the wait ends or the caller goes away. Raises :class:`melt.errors.MeltdError`
        (a ``Refusal`` when nothing was changed).
        """
        ...


class Operations(Protocol):
    """Everything else that the API and the command line ask for. Raises :class:`melt.errors.MeltdError`."""

    async def melt_by_id(self, melt_id: MeltId) -> Melt | None: ...

    async def melts(self, *, npub: str | None, states: Sequence[MeltState], limit: int) -> tuple[Melt, ...]:
        """Newest first; an empty ``states`` means all."""
        ...

    async def melt_evidence(self, melt_id: MeltId) -> MeltEvidence | None:
        """None when there is no such melt. Asks the mint now; what it can't tell is said in its place."""
        ...

    async def resolve_melt(
        self, *, melt_id: MeltId, outcome: ResolveAs, reason: str, actor: Actor, preimage: str | None = None
    ) -> Melt | None:
        """
        Carry out a person's decision about an open melt; the entry afterwards. None: there is no such melt.

        ``preimage`` is the payee's, and proves a payment that the mint does not own up to. Raises MeltdError WRONG_STATE with the reason why this may not be done now.
        """
        ...

    async def payable(self, npub: str) -> tuple[Payable, ...]:
        """What could be paid with now, by mint and unit; a mint that can't be asked is left out. Raises StoreError."""
        ...

    async def balances(self, npub: str) -> tuple[Balance, ...]:
        """By mint, unit and status; empty when the npub owns no document and no wallet."""
        ...

    async def reconcile(self, *, scope: ReconcileScope, dry_run: bool, actor: Actor) -> ReconcileReport: ...

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
        ...

    async def events(self, *, open_only: bool, limit: int) -> tuple[CriticalEvent, ...]: ...

    async def raise_drill(self, *, detail: str, actor: Actor) -> CriticalEvent:
        """Open a CRITICAL event of type DRILL, to see the alert fire."""
        ...

    async def resolve_event(self, *, event_id: str, reason: str, actor: Actor) -> CriticalEvent | None:
        """Close an open event for a person's ``reason``. None: no open event has this id."""
        ...

    async def proof_story(self, y: Y) -> ProofStory | None:
        """None when no record knows the proof."""
        ...

    async def status(self) -> StatusReport:
        """Answers although the store is down."""
        ...

    async def pause(self, *, mint: MintAlias | None, reason: str, actor: Actor) -> None:
        """Stop changing things at one mint, or (None) at all. Raises Refusal MINT_UNKNOWN."""
        ...

    async def resume(self, *, mint: MintAlias | None, actor: Actor) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of ``/readyz``. A failing check that is not ``required`` makes the daemon degraded, not unready."""

    name: str
    ok: bool
    required: bool
    detail: str = ""


class Readiness(Protocol):
    """Asked by ``/readyz``. :mod:`daemon.health` bounds its time, so that a hanging store answers 503."""

    async def __call__(self) -> Sequence[Check]: ...


class MetricsPage(Protocol):
    """Renders the metrics; implemented by :mod:`daemon.metrics`."""

    def render(self) -> tuple[bytes, str]:
        """The page and its content type."""
        ...


class LoopCounters(Protocol):
    """Told by the supervisor and the schedule what went wrong; implemented by :mod:`daemon.metrics`. Never raises."""

    def job_missed(self, name: str) -> None: ...
    def job_overlapped(self, name: str) -> None: ...
    def loop_restarted(self, name: str) -> None: ...
