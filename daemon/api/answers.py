"""
What callers get: pydantic models that both render the answers and describe them in the OpenAPI document.

Built from the engine's values field by field, so that a new field of those never leaks by itself (I10).
"""

from __future__ import annotations

import math
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Self

from pydantic import BaseModel, ConfigDict, Field

from melt.errors import SEVERITY_OF, Code, Severity
from melt.invoice import gift_msat
from melt.model import (
    Action,
    Discrepancy,
    DiscrepancyState,
    DriftType,
    EventType,
    JournalKind,
    MeltState,
    TokenStatus,
    normalise_mint_url,
)
from melt.saga.holding import UNKNOWN_UNIT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from daemon.ports import ProofStory, ReconcileReport
    from melt.model import Actor, AuditEntry, Balance, CriticalEvent, Finding, Melt
    from melt.reconcile import Performed
    from melt.saga.holding import Payable

EVIDENCE_ITEMS_MAX = 50
EVIDENCE_TEXT_MAX = 500


class Answer(BaseModel):
    """A JSON object of an answer. Clients should ignore fields that they don't know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PaymentResult(StrEnum):
    """What is known of the payment."""

    PAID = "PAID"
    PENDING = "PENDING"
    FAILED = "FAILED"
    UNKNOWN = "UNKNOWN"
    """The evidence contradicts itself: the melt is HELD with a CRITICAL event, or a person ended it as *inputs gone*."""


class AtomicResultAnswer(Answer):
    """What the one database transaction did that settled the melt. Amounts in the melt's unit."""

    source_tokens_spent: int
    keep_token_id: str | None
    keep_amount: int
    melt_change_token_id: str | None
    melt_change_amount: int
    operations: int = Field(description="Token documents that the melt spent or made.")


class MeltErrorAnswer(Answer):
    """Why a melt was released or is held."""

    code: str
    severity: Severity
    detail: str | None


class AlteredAnswer(Answer):
    """A document that another writer changed while the melt had reserved it: in what, and what was done instead."""

    token_id: str
    what: str
    done: str
    amount: int = Field(description="What the melt's inputs in it were worth.")
    changed_at: datetime | None = Field(description="The document's own date.")
    seen_at: datetime


class MeltAnswer(Answer):
    """One melt. Amounts are integers in `unit`."""

    id: str
    kind: JournalKind
    transaction_id: str
    state: MeltState
    payment_result: PaymentResult
    npub: str
    mint: str
    unit: str
    amount: int = Field(description="What the mint asks for the invoice.")
    fee_reserve: int
    paid_amount: int | None = Field(
        description="Null until it is known, and for good where the inputs are gone and nobody knows; 0 when nothing was paid."
    )
    fees_paid: int | None = Field(description="Lightning fee.")
    gift_msat: int = Field(
        description="What the invoice asks for beyond `amount`: a mint that rounds down pays it without taking it."
    )
    input_fee: int = Field(description="The mint's fee for the inputs (NUT-02).")
    swap_fee: int
    shortfall: int = Field(description="Change that the mint owes and did not return.")
    unaccounted: int = Field(
        description="Went with inputs that are gone, where nobody knows whether the invoice was paid."
    )
    change_amount: int = Field(description="Change that the mint returned.")
    quote_id: str | None
    payment_hash: str | None
    payment_preimage: str | None = Field(description="Only once the invoice is paid.")
    atomic_result: AtomicResultAnswer | None = Field(description="Only once the melt is SETTLED.")
    operation_duration_ms: int | None = Field(description="From admission to the end; null while open.")
    created_at: datetime
    updated_at: datetime
    ended_at: datetime | None
    error: MeltErrorAnswer | None
    altered: list[AlteredAnswer] = Field(description="What other writers did to the reserved documents.")

    @classmethod
    def of(cls, melt: Melt) -> Self:
        settled = melt.state is MeltState.SETTLED
        paid = bool(melt.paid_amount)
        duration = None if melt.ended_at is None else round((melt.ended_at - melt.created_at).total_seconds() * 1000)
        return cls(
            id=melt.id,
            kind=melt.kind,
            transaction_id=melt.transaction_id,
            state=melt.state,
            payment_result=payment_result(melt),
            npub=melt.npub,
            mint=melt.mint,
            unit=melt.unit,
            amount=melt.amount,
            fee_reserve=melt.fee_reserve,
            paid_amount=melt.paid_amount,
            fees_paid=melt.fees_paid if settled else 0 if melt.state is MeltState.RELEASED else None,
            gift_msat=gift_msat(melt.invoice, paid=melt.amount, unit=melt.unit),
            input_fee=melt.input_fee,
            swap_fee=melt.swap_fee,
            shortfall=melt.shortfall,
            unaccounted=melt.unaccounted,
            change_amount=melt.change_amount,
            quote_id=melt.quote_id,
            payment_hash=melt.payment_hash,
            payment_preimage=melt.preimage if paid else None,
            atomic_result=_atomic_result(melt) if settled else None,
            operation_duration_ms=duration,
            created_at=melt.created_at,
            updated_at=melt.updated_at,
            ended_at=melt.ended_at,
            error=_melt_error(melt),
            altered=[
                AlteredAnswer(
                    token_id=one.token_id,
                    what=one.what,
                    done=one.done,
                    amount=one.amount,
                    changed_at=one.changed_at,
                    seen_at=one.seen_at,
                )
                for one in melt.altered[:EVIDENCE_ITEMS_MAX]
            ],
        )


class MeltsAnswer(Answer):
    """Melts, newest first."""

    melts: list[MeltAnswer]


def payment_result(melt: Melt) -> PaymentResult:
    """The payment's fate as far as the journal knows it (I8: unknown is not failed)."""
    if melt.inputs_gone:
        return PaymentResult.UNKNOWN
    if melt.state is MeltState.SETTLED:
        return PaymentResult.PAID
    if melt.state is MeltState.RELEASED:
        return PaymentResult.FAILED
    return PaymentResult.UNKNOWN if melt.state is MeltState.HELD else PaymentResult.PENDING


def _atomic_result(melt: Melt) -> AtomicResultAnswer:
    made = len(melt.keep_token_ids) + (melt.change_token_id is not None)
    return AtomicResultAnswer(
        source_tokens_spent=len(melt.source_token_ids),
        keep_token_id=melt.keep_token_ids[0] if melt.keep_token_ids else None,
        keep_amount=melt.keep_amount,
        melt_change_token_id=melt.change_token_id,
        melt_change_amount=melt.change_amount,
        operations=len(melt.source_token_ids) + made,
    )


def _melt_error(melt: Melt) -> MeltErrorAnswer | None:
    if melt.error_code is None:
        return None
    known = melt.error_code in Code.__members__
    severity = SEVERITY_OF.get(Code(melt.error_code), Severity.LOW) if known else Severity.MEDIUM
    return MeltErrorAnswer(code=melt.error_code, severity=severity, detail=melt.error_detail)


class StatusBalance(Answer):
    """Documents of one status. `locked` is the part of `amount` under NUT-10 conditions."""

    amount: int
    locked: int
    proofs: int
    documents: int


class NotSpendable(Answer):
    """Unspent ecash that can't be paid with now."""

    amount: int
    reason: str = Field(
        description="`locked`, `unlisted_keyset`, `expired_keyset`, `no_such_amount`, `refused_by_mint`, `blocked`, `dust`."
    )
    detail: str


class WalletAnswer(Answer):
    """One user's money at one mint in one unit; units are never summed."""

    mint: str | None = Field(description="Alias; null where the mint is not configured.")
    mint_url: str
    unit: str
    spendable: int = Field(
        description="What could be paid with now, input fees taken; where the mint can't be asked, what is unspent, not handed "
        "out and not locked."
    )
    spendable_at_once: int | None = Field(
        description="The part of it that one payment can take: mints bound its inputs. Null where the mint can't be asked."
    )
    not_spendable: list[NotSpendable] = Field(description="The rest of what is unspent, by reason.")
    balances: dict[str, StatusBalance] = Field(
        description="By status of the documents. `sent`: handed out to somebody and not marked spent."
    )


class WalletsAnswer(Answer):
    """One user's money, per mint and unit."""

    npub: str
    wallets: list[WalletAnswer]

    @classmethod
    def of(
        cls, npub: str, balances: Sequence[Balance], alias_of: Mapping[str, str], payable: Sequence[Payable] = ()
    ) -> Self:
        """``alias_of`` maps normalised URLs to aliases; balances of one mint under two spellings are added up."""
        known = {(str(one.mint), one.unit): one for one in payable}
        asked = {str(one.mint) for one in payable}
        grouped: dict[tuple[str, str], dict[str, StatusBalance]] = {}
        for item in balances:
            statuses = grouped.setdefault((normalise_mint_url(item.mint_url), item.unit), {})
            before = statuses.get(item.status) or StatusBalance(amount=0, locked=0, proofs=0, documents=0)
            statuses[item.status] = StatusBalance(
                amount=before.amount + item.amount,
                locked=before.locked + item.locked,
                proofs=before.proofs + item.proofs,
                documents=before.documents + item.documents,
            )
        wallets = []
        for (url, unit), statuses in sorted(grouped.items()):
            unspent = statuses.get(TokenStatus.UNSPENT)
            alias = alias_of.get(url)
            told = known.get((alias or "", unit))
            wallets.append(
                WalletAnswer(
                    mint=alias,
                    mint_url=url,
                    unit=unit,
                    spendable=_spendable(told, unspent, asked=alias in asked),
                    spendable_at_once=told.at_once if told else None,
                    not_spendable=_not_spendable(told, known.get((alias or "", UNKNOWN_UNIT)), unit),
                    balances=statuses,
                )
            )
        return cls(npub=npub, wallets=wallets)


def _spendable(told: Payable | None, unspent: StatusBalance | None, *, asked: bool) -> int:
    if told is not None:
        return told.in_all
    return 0 if asked or unspent is None else unspent.amount - unspent.locked


def _not_spendable(told: Payable | None, unlisted: Payable | None, unit: str) -> list[NotSpendable]:
    """The lines of one unit; what lies on keysets that nobody lists is told with every unit, since its own is unknown."""
    rest = {**(told.rest if told else {}), **(unlisted.rest if unlisted else {})}
    return [
        NotSpendable(amount=amount, reason=reason.value, detail=f"{amount} {unit} {reason.words}")
        for reason, amount in sorted(rest.items())
        if amount
    ]


class FindingAnswer(Answer):
    """A discrepancy. In a dry run it has no id and no dates, since nothing is written."""

    id: str | None = None
    type: DriftType
    severity: Severity
    action: Action
    state: DiscrepancyState | None = None
    subject: str
    npub: str | None
    mint: str | None
    unit: str
    value: int
    token_id: str | None
    ys: list[str]
    first_seen: datetime | None = None
    last_seen: datetime | None = None
    closed_at: datetime | None = None
    age_s: int | None = Field(default=None, description="How long it has been there, or was.")
    sightings: int | None = None
    occurrence: int | None = None
    settling: bool | None = Field(
        default=None,
        description="Whether it is so young that it pages nobody; it blocks, and is counted and valued, all the same.",
    )
    watched_s: int | None = Field(default=None, description="How long its document has been watched standing still.")
    settles_in_s: int | None = Field(
        default=None,
        description="After how many more seconds of standing still it is carried out; 0: now, or nothing is done by rule.",
    )
    evidence: dict[str, str | int | bool | None]

    @classmethod
    def of(cls, item: Discrepancy | Finding, now: datetime | None = None) -> Self:
        """Without ``now`` the age is that of its last sighting."""
        recorded = item if isinstance(item, Discrepancy) else None
        return cls(
            id=recorded.id if recorded else None,
            type=item.type,
            severity=item.severity,
            action=item.action,
            state=recorded.state if recorded else None,
            subject=item.subject,
            npub=item.npub,
            mint=item.mint,
            unit=item.unit,
            value=item.value,
            token_id=item.token_id,
            ys=list(item.ys),
            first_seen=recorded.first_seen if recorded else None,
            last_seen=recorded.last_seen if recorded else None,
            closed_at=recorded.closed_at if recorded else None,
            age_s=round(recorded.age_s(now or recorded.last_seen)) if recorded else None,
            sightings=recorded.sightings if recorded else None,
            occurrence=recorded.occurrence if recorded else None,
            settling=recorded.is_settling if recorded else None,
            watched_s=recorded.watched_ms // 1000 if recorded else None,
            settles_in_s=math.ceil(recorded.settles_in_s) if recorded and recorded.closed_at is None else None,
            evidence=_evidence(item.evidence),
        )


class DiscrepanciesAnswer(Answer):
    """Discrepancies, newest first."""

    discrepancies: list[FindingAnswer]


class PerformedAnswer(Answer):
    """One correction that was applied."""

    action: Action
    type: DriftType
    token_id: str
    npub: str
    mint: str
    unit: str
    value: int

    @classmethod
    def of(cls, one: Performed) -> Self:
        return cls(
            action=one.action,
            type=one.type,
            token_id=one.token_id,
            npub=one.npub,
            mint=one.mint,
            unit=one.unit,
            value=one.value,
        )


class ReconcileAnswer(Answer):
    """What a reconciliation did or, in a dry run or while meltd observes, would do."""

    dry_run: bool = Field(
        description="True also where meltd observes: what was found is recorded, nothing is corrected."
    )
    observing: str | None = Field(description="Why nothing was corrected, where meltd observes.")
    blocked: bool = Field(
        description="Something HIGH or CRITICAL is open about a document in scope, which keeps it out of payments."
    )
    actions_performed: list[PerformedAnswer] = Field(description="The corrections that were applied, at most 1000.")
    documents: int
    proofs: int
    found: list[FindingAnswer]
    planned: int = Field(description="Corrections that the rules ask for.")
    corrected: int = Field(description="Corrections that were applied.")
    settling: int = Field(description="Corrections that wait until their document has stood still for long enough.")
    errors: list[str]
    seconds: float

    @classmethod
    def of(cls, report: ReconcileReport) -> Self:
        return cls(
            dry_run=report.dry_run,
            observing=report.observing,
            blocked=report.blocked,
            actions_performed=[PerformedAnswer.of(one) for one in report.performed],
            documents=report.documents,
            proofs=report.proofs,
            found=[FindingAnswer.of(item) for item in report.found],
            planned=report.planned,
            corrected=report.corrected,
            settling=report.settling,
            errors=list(report.errors),
            seconds=round(report.seconds, 3),
        )


class EventAnswer(Answer):
    """A CRITICAL event, open until it is resolved."""

    id: str
    type: EventType
    subject: str
    mint: str | None
    detail: str
    opened_at: datetime
    last_seen: datetime
    resolved_at: datetime | None
    sightings: int
    requires_manual_intervention: bool
    evidence: dict[str, str | int | bool | None]
    resolution: str | None = Field(description="Why it was closed.")
    recovery_s: float | None = Field(description="From its opening to its end.")

    @classmethod
    def of(cls, event: CriticalEvent) -> Self:
        return cls(
            id=event.id,
            type=event.type,
            subject=event.subject,
            mint=event.mint,
            detail=event.detail,
            opened_at=event.opened_at,
            last_seen=event.last_seen,
            resolved_at=event.resolved_at,
            sightings=event.sightings,
            requires_manual_intervention=event.requires_manual_intervention,
            evidence=_evidence(event.evidence),
            resolution=event.resolution,
            recovery_s=event.recovery_s,
        )


class EventsAnswer(Answer):
    """CRITICAL events, newest first."""

    events: list[EventAnswer]


class ActorAnswer(Answer):
    """Who caused a change: a part of meltd, and the peer of the socket where there was one."""

    name: str
    uid: int | None
    gid: int | None
    pid: int | None

    @classmethod
    def of(cls, actor: Actor) -> Self:
        return cls(name=actor.name, uid=actor.uid, gid=actor.gid, pid=actor.pid)


class AuditAnswer(Answer):
    """One change of a token's status."""

    id: str
    at: datetime
    token_id: str
    from_status: TokenStatus | None
    to_status: TokenStatus
    amount: int
    ys: list[str]
    reason: str
    actor: ActorAnswer
    melt_id: str | None
    discrepancy_id: str | None
    note: str | None = Field(description="A person's reason, where a person decided.")
    shard: str | None = Field(description="The lease that it was written under; null: by a melt or for a person.")
    epoch: int | None = Field(description="The lease's epoch then. No two instances ever had the same.")

    @classmethod
    def of(cls, entry: AuditEntry) -> Self:
        return cls(
            id=entry.id,
            at=entry.at,
            token_id=entry.token_id,
            from_status=entry.from_status,
            to_status=entry.to_status,
            amount=entry.amount,
            ys=list(entry.ys),
            reason=entry.reason,
            actor=ActorAnswer.of(entry.actor),
            melt_id=entry.melt_id,
            discrepancy_id=entry.discrepancy_id,
            note=entry.note,
            shard=None if entry.fence is None else entry.fence.shard,
            epoch=None if entry.fence is None else entry.fence.epoch,
        )


class TokenAnswer(Answer):
    """A token document that holds the proof."""

    token_id: str
    npub: str
    mint_url: str
    status: TokenStatus
    transaction_type: str
    transaction_id: str
    amount: int
    created_at: datetime | None
    updated_at: datetime | None


class ProofAnswer(Answer):
    """The story of one proof in our records."""

    y: str
    tokens: list[TokenAnswer]
    melts: list[MeltAnswer]
    audit: list[AuditAnswer]
    discrepancies: list[FindingAnswer]

    @classmethod
    def of(cls, story: ProofStory) -> Self:
        tokens = [
            TokenAnswer(
                token_id=item.token_id,
                npub=item.npub,
                mint_url=item.mint_url,
                status=item.status,
                transaction_type=item.transaction_type,
                transaction_id=item.transaction_id,
                amount=item.amount,
                created_at=item.created_at,
                updated_at=item.updated_at,
            )
            for item in story.tokens
        ]
        return cls(
            y=story.y,
            tokens=tokens,
            melts=[MeltAnswer.of(melt) for melt in story.melts],
            audit=[AuditAnswer.of(entry) for entry in story.audit],
            discrepancies=[FindingAnswer.of(item) for item in story.discrepancies],
        )


def _evidence(evidence: Mapping[str, object]) -> dict[str, str | int | bool | None]:
    """Flat and bounded: what is no plain value is named by its type only."""
    flat: dict[str, str | int | bool | None] = {}
    for key, value in list(evidence.items())[:EVIDENCE_ITEMS_MAX]:
        if value is None or isinstance(value, (bool, int)):
            flat[str(key)] = value
        elif isinstance(value, (str, datetime)):
            flat[str(key)] = str(value)[:EVIDENCE_TEXT_MAX]
        else:
            flat[str(key)] = f"<{type(value).__name__}>"
    return flat
