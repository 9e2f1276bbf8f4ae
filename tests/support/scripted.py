"""A scripted engine behind the API: the edge of the contract tests. What it was asked is kept; what it answers is set."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from daemon.ports import (
    Lane,
    LoopStatus,
    MeltEvidence,
    MintStatus,
    PaceStatus,
    ProofStory,
    ReconcileReport,
    StatusReport,
    TokenMention,
)
from melt.errors import Severity
from melt.model import (
    Action,
    Activity,
    Actor,
    AuditEntry,
    Balance,
    CriticalEvent,
    DaySummary,
    Discrepancy,
    DiscrepancyState,
    DriftType,
    EventType,
    Finding,
    InputRef,
    KeysetId,
    Melt,
    MeltId,
    MeltQuote,
    MeltState,
    MintAlias,
    MintState,
    QuoteId,
    QuoteState,
    ResolveAs,
    SweepRecord,
    TokenId,
    TokenStatus,
    Y,
)
from melt.model.mode import Mode
from melt.model.restore import Discovery, RestoreReport, RestoreScope
from melt.recovery import Sight

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melt.saga.holding import Payable
    from melt.saga.request import MeltRequest

NPUB = "npub1" + "q" * 58
Y_HEX = Y("02" + "ab" * 32)
AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PREIMAGE = "5e" * 32
MINT_URL = "http://127.0.0.1:3338"


def make_melt(state: MeltState = MeltState.SETTLED, **changes: Any) -> Melt:
    """A journal entry of 10 sat at the mint ``main``; open states have no end."""
    settled = state is MeltState.SETTLED
    ended = AT + timedelta(milliseconds=1234) if state in {MeltState.SETTLED, MeltState.RELEASED} else None
    made = Melt(
        id=MeltId("m-1"),
        state=state,
        rev=3,
        holder="instance",
        idempotency_key="k1",
        request_digest="00" * 32,
        npub=NPUB,
        wallet_id=None,
        mint=MintAlias("main"),
        mint_url=MINT_URL,
        unit="sat",
        transaction_id="tx-1",
        payment_hash="11" * 32,
        invoice="lnbc1secretless",
        quote_id=QuoteId("q-1"),
        quote_expiry=None,
        amount=10,
        fee_reserve=2,
        input_fee=1,
        inputs=(InputRef(token_id=TokenId("aa" * 12), y=Y_HEX, amount=16, keyset_id=KeysetId("00" * 8)),),
        source_token_ids=(TokenId("aa" * 12),),
        blanks=None,
        preimage=PREIMAGE,
        fees_paid=1 if settled else None,
        keep_token_ids=(TokenId("bb" * 12),),
        keep_amount=48,
        change_token_id=TokenId("cc" * 12) if settled else None,
        change_amount=4 if settled else 0,
        actor=Actor(name="socket", uid=1),
        created_at=AT,
        updated_at=AT,
        ended_at=ended,
    )
    return replace(made, **changes)


def make_discrepancy() -> Discrepancy:
    """A HIGH discrepancy that was corrected."""
    return Discrepancy(
        id="d-1",
        type=DriftType.DB_UNSPENT_MINT_SPENT,
        severity=Severity.HIGH,
        action=Action.MARK_SPENT,
        state=DiscrepancyState.CORRECTED,
        subject="token:" + "aa" * 12,
        npub=NPUB,
        mint=MintAlias("main"),
        unit="sat",
        value=16,
        token_id=TokenId("aa" * 12),
        ys=(Y_HEX,),
        first_seen=AT,
        last_seen=AT,
        closed_at=AT,
        sightings=1,
        occurrence=1,
        evidence={"held": "unspent", "nested": {"a": 1}, "count": 2},
    )


def make_finding() -> Finding:
    """What a dry run finds: no record."""
    record = make_discrepancy()
    return Finding(
        type=record.type,
        severity=record.severity,
        action=record.action,
        subject=record.subject,
        npub=record.npub,
        mint=record.mint,
        unit=record.unit,
        value=record.value,
        token_id=record.token_id,
        ys=record.ys,
        evidence={"held": "unspent"},
    )


def make_summary(**changes: Any) -> DaySummary:
    activity = Activity(melts=3, paid=310, lightning_fees=3, input_fees=2, found={"DB_UNSPENT_MINT_SPENT": 1})
    given: dict[str, Any] = {
        "day": "2026-03-01",
        "mint": MintAlias("main"),
        "unit": "sat",
        "npub": None,
        "made_at": datetime(2026, 3, 1, 12, tzinfo=UTC),
        "is_final": False,
        "liabilities": {"unspent": 900, "pending": 100},
        "activity": activity,
        "verified": 1000,
        "verified_at": datetime(2026, 3, 1, 11, tzinfo=UTC),
    }
    return DaySummary(**{**given, **changes})


def make_event(*, resolved: bool = False) -> CriticalEvent:
    """A drill."""
    return CriticalEvent(
        id="e-1",
        type=EventType.DRILL,
        subject="drill",
        mint=None,
        detail="raised on purpose",
        opened_at=AT,
        last_seen=AT,
        resolved_at=AT if resolved else None,
        sightings=1,
        requires_manual_intervention=False,
    )


def make_evidence(melt_id: MeltId) -> MeltEvidence:
    """A HELD melt whose mint says PAID and honours the input."""
    melt = make_melt(
        MeltState.HELD, id=melt_id, contradiction=EventType.QUOTE_PAID_INPUTS_UNSPENT.value, contradiction_since=AT
    )
    sight = Sight(
        asked_at=AT,
        states={Y_HEX: MintState.UNSPENT},
        states_error=None,
        quote=MeltQuote(
            id=QuoteId("q-1"), state=QuoteState.PAID, amount=10, fee_reserve=2, expiry=None, preimage=PREIMAGE
        ),
        quote_error=None,
        quote_withheld=False,
        forbidden={ResolveAs.SETTLED: "still honoured", ResolveAs.RELEASED: None, ResolveAs.OBSERVE: None},
    )
    return MeltEvidence(melt=melt, sight=sight, events=(make_event(),))


def make_status(**changes: Any) -> StatusReport:
    """A daemon with two mints, one of them down."""
    sweep = SweepRecord(
        mint=MintAlias("main"),
        tour=2,
        position=None,
        started_at=AT,
        updated_at=AT,
        finished_at=AT,
        documents=40,
        proofs=200,
        total_documents=40,
        found={"DB_UNSPENT_MINT_SPENT": 1},
        corrected={"DB_UNSPENT_MINT_SPENT": 1},
        error=None,
    )
    pace = PaceStatus(
        lane=Lane.COLD,
        touring=True,
        detection_lag_s=75.0,
        lag_target_s=600.0,
        duty=0.25,
        resting_s=1.5,
        documents_per_s=20.0,
        eta_s=90.0,
        warm_at=AT,
        warm_documents=3,
    )
    made = StatusReport(
        version="0.1.0",
        instance_id="i-1",
        started_at=AT,
        uptime_s=61.0,
        data_dir="/var/lib/meltd",
        embedded=True,
        store_ok=True,
        store_error=None,
        draining=False,
        paused=False,
        paused_reason=None,
        mode=Mode.CORRECT,
        mode_reason="scripted",
        mints=(
            MintStatus(alias=MintAlias("main"), url=MINT_URL, up=True, last_ok=AT, sweep=sweep, pace=pace),
            MintStatus(alias=MintAlias("far"), url="https://far.example", up=False, error="no answer"),
        ),
        open_melts={"PENDING": 1},
        loops=(LoopStatus(name="sweep", running=True, turned_s_ago=0.5, stalled=False, restarts=0),),
    )
    return replace(made, **changes)


@dataclass
class ScriptedService:
    """Answers a melt with ``answer`` (or raises it), after ``hold`` where one is set."""

    answer: Melt | Exception = field(default_factory=make_melt)
    asked: list[tuple[MeltRequest, float]] = field(default_factory=list)
    hold: asyncio.Event | None = None

    async def melt(self, request: MeltRequest, *, wait_s: float) -> Melt:
        self.asked.append((request, wait_s))
        if self.hold is not None:
            await self.hold.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@dataclass
class ScriptedOperations:
    """Answers everything else; ``failure`` is raised by all of it."""

    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    failure: Exception | None = None
    known: bool = True
    state: StatusReport = field(default_factory=make_status)

    def _call(self, name: str, **arguments: Any) -> None:
        self.calls.append((name, arguments))
        if self.failure is not None:
            raise self.failure

    async def melt_by_id(self, melt_id: MeltId) -> Melt | None:
        self._call("melt_by_id", melt_id=melt_id)
        return make_melt(id=melt_id) if self.known else None

    async def melt_evidence(self, melt_id: MeltId) -> MeltEvidence | None:
        self._call("melt_evidence", melt_id=melt_id)
        return make_evidence(melt_id) if self.known else None

    async def resolve_melt(
        self, *, melt_id: MeltId, outcome: ResolveAs, reason: str, actor: Actor, preimage: str | None = None
    ) -> Melt | None:
        more = {} if preimage is None else {"preimage": preimage}
        self._call("resolve_melt", melt_id=melt_id, outcome=outcome, reason=reason, actor=actor, **more)
        states = {ResolveAs.SETTLED: MeltState.SETTLED, ResolveAs.RELEASED: MeltState.FENCING}
        return make_melt(states.get(outcome, MeltState.PENDING), id=melt_id) if self.known else None

    async def melts(self, *, npub: str | None, states: Sequence[MeltState], limit: int) -> tuple[Melt, ...]:
        self._call("melts", npub=npub, states=states, limit=limit)
        return (make_melt(), make_melt(MeltState.PENDING, id=MeltId("m-2")))

    async def payable(self, npub: str) -> tuple[Payable, ...]:
        return ()

    async def balances(self, npub: str) -> tuple[Balance, ...]:
        self._call("balances", npub=npub)
        if not self.known:
            return ()
        rows = ((MINT_URL, "unspent", 60, 10), (MINT_URL + "/", "unspent", 4, 0), (MINT_URL, "spent", 16, 0))
        return tuple(
            Balance(
                npub=npub, mint_url=url, unit="sat", status=status, amount=amount, locked=locked, proofs=2, documents=1
            )
            for url, status, amount, locked in rows
        )

    async def reconcile(self, *, scope: Any, dry_run: bool, actor: Actor) -> ReconcileReport:
        self._call("reconcile", scope=scope, dry_run=dry_run, actor=actor)
        found = (make_finding(),) if dry_run else (make_discrepancy(),)
        return ReconcileReport(
            dry_run=dry_run,
            documents=40,
            proofs=200,
            found=found,
            planned=1,
            corrected=0 if dry_run else 1,
            seconds=0.5,
        )

    async def discrepancies(self, **filters: Any) -> tuple[Discrepancy, ...]:
        self._call("discrepancies", **filters)
        return (make_discrepancy(),)

    async def events(self, *, open_only: bool, limit: int) -> tuple[CriticalEvent, ...]:
        self._call("events", open_only=open_only, limit=limit)
        return (make_event(),)

    async def raise_drill(self, *, detail: str, actor: Actor) -> CriticalEvent:
        self._call("raise_drill", detail=detail, actor=actor)
        return make_event()

    async def resolve_event(self, *, event_id: str, reason: str, actor: Actor) -> CriticalEvent | None:
        self._call("resolve_event", event_id=event_id, reason=reason, actor=actor)
        return make_event(resolved=True) if self.known else None

    async def proof_story(self, y: Y) -> ProofStory | None:
        self._call("proof_story", y=y)
        if not self.known:
            return None
        token = TokenMention(
            token_id=TokenId("aa" * 12),
            npub=NPUB,
            mint_url=MINT_URL,
            status=TokenStatus.SPENT,
            transaction_type="received",
            transaction_id="t",
            amount=16,
            created_at=AT,
        )
        entry = AuditEntry(
            id="a-1",
            at=AT,
            token_id=TokenId("aa" * 12),
            npub=NPUB,
            mint_url=MINT_URL,
            from_status=TokenStatus.UNSPENT,
            to_status=TokenStatus.SPENT,
            amount=16,
            ys=(y,),
            reason="DB_UNSPENT_MINT_SPENT",
            actor=Actor(name="sweep"),
            melt_id=None,
            discrepancy_id="d-1",
        )
        return ProofStory(
            y=y, tokens=(token,), melts=(make_melt(),), audit=(entry,), discrepancies=(make_discrepancy(),)
        )

    async def status(self) -> StatusReport:
        self._call("status")
        return self.state

    async def summaries(
        self, *, mint: MintAlias | None, npub: str | None, day: str | None, limit: int
    ) -> tuple[DaySummary, ...]:
        self._call("summaries", mint=mint, npub=npub, day=day, limit=limit)
        return (make_summary(npub=npub),)

    async def pause(self, *, mint: MintAlias | None, reason: str, actor: Actor) -> None:
        self._call("pause", mint=mint, reason=reason, actor=actor)
        self.state = replace(self.state, paused=True, paused_reason=reason)

    async def resume(self, *, mint: MintAlias | None, actor: Actor) -> None:
        self._call("resume", mint=mint, actor=actor)
        self.state = replace(self.state, paused=False, paused_reason=None)


@dataclass
class ScriptedRestores:
    """Answers a restore with one import and one discovery that was kept out."""

    calls: list[tuple[RestoreScope, bool, Actor]] = field(default_factory=list)
    failure: Exception | None = None
    known: bool = True
    errors: tuple[str, ...] = ()

    async def restore(self, *, scope: RestoreScope, dry_run: bool, actor: Actor) -> RestoreReport | None:
        self.calls.append((scope, dry_run, actor))
        if self.failure is not None:
            raise self.failure
        found = make_finding() if dry_run else make_discrepancy()
        return (
            RestoreReport(
                dry_run=dry_run,
                entries=12,
                outputs=96,
                signed=30,
                refused=1,
                foreign=2,
                discoveries=(Discovery(found=found, kept_out=None), Discovery(found=found, kept_out="paused: moving")),
                imported=1,
                imported_amounts={"sat": 16},
                errors=self.errors,
                seconds=0.25,
            )
            if self.known
            else None
        )
