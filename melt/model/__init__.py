"""The engine's vocabulary and values: pure, frozen, without behaviour beyond sums (DESIGN section 2)."""

from __future__ import annotations

from urllib.parse import urlsplit

from melt.model.counting import COUNTED_TYPES, LIVE_STATUSES, UNCOUNTED_TYPES, is_counted, is_history, is_live, weighs
from melt.model.findings import (
    AtomicResult,
    AuditEntry,
    Correction,
    CriticalEvent,
    Discrepancy,
    Finding,
    RaisedEvent,
    SweepRecord,
    Turn,
    Verdict,
    Warrant,
)
from melt.model.hints import Hint, HintDrop, HintKind, HintLink, HintState, HintStatus, WatchedDocument
from melt.model.journal import Actor, Altered, InputRef, Melt, OutputPlan, Resolution, SwapPlan
from melt.model.lease import Fence, Lease, LeaseBook, Member, Shard, TakenBecause, sweep_shard
from melt.model.mint import (
    Ambiguous,
    BlindedMessage,
    BlindSignature,
    CachedEndpoint,
    Keyset,
    MeltAnswer,
    MeltQuote,
    MethodLimits,
    MintInfo,
    MintReport,
    Paid,
    ProofState,
    ProtectedEndpoint,
    Refused,
    Restored,
    Signed,
    StillPending,
    SwapAnswer,
)
from melt.model.passage import Mark, Passage
from melt.model.plans import (
    LIVE_PLAN,
    PLAN_ITEMS_MAX,
    PLAN_MOVES,
    SWEEP_NAME,
    Approval,
    Plan,
    PlanId,
    PlanItem,
    PlanScope,
    PlanState,
    PlanTotal,
)
from melt.model.sentinels import SANE_AGAIN, SpentMemory
from melt.model.summary import Activity, DaySummary, Holding, Solvency
from melt.model.token import Balance, Dleq, Holder, MalformedToken, NewProof, Owner, Proof, Reservation, Token
from melt.model.words import (
    AMOUNT_MAX,
    MELT_MOVES,
    OPEN_DISCREPANCY,
    PROOFS_PER_DOCUMENT_MAX,
    RESERVED_MOVES,
    TERMINAL,
    TOKEN_MOVES,
    Action,
    DiscrepancyState,
    DriftType,
    EventType,
    JournalKind,
    KeysetId,
    MeltId,
    MeltState,
    MintAlias,
    MintState,
    PostOutcome,
    QuoteId,
    QuoteState,
    ResolveAs,
    TokenId,
    TokenStatus,
    TransactionType,
    Y,
)

_DEFAULT_PORTS = {"http": 80, "https": 443}


def normalise_mint_url(url: str) -> str:
    """
    The form in which mint URLs are compared: scheme and host in lower case, no default port, no trailing slash.

    A text that is no URL comes back stripped, so that it compares equal to itself only.
    """
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:
        return url.strip()
    if not parts.scheme or not parts.hostname:
        return url.strip().rstrip("/")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    scheme = parts.scheme.lower()
    if port is not None and port != _DEFAULT_PORTS.get(scheme):
        host = f"{host}:{port}"
    return f"{scheme}://{host}{parts.path.rstrip('/')}"


__all__ = [
    "AMOUNT_MAX",
    "COUNTED_TYPES",
    "LIVE_PLAN",
    "LIVE_STATUSES",
    "MELT_MOVES",
    "OPEN_DISCREPANCY",
    "PLAN_ITEMS_MAX",
    "PLAN_MOVES",
    "PROOFS_PER_DOCUMENT_MAX",
    "RESERVED_MOVES",
    "SANE_AGAIN",
    "SWEEP_NAME",
    "TERMINAL",
    "TOKEN_MOVES",
    "UNCOUNTED_TYPES",
    "Action",
    "Activity",
    "Actor",
    "Altered",
    "Ambiguous",
    "Approval",
    "AtomicResult",
    "AuditEntry",
    "Balance",
    "BlindSignature",
    "BlindedMessage",
    "CachedEndpoint",
    "Correction",
    "CriticalEvent",
    "DaySummary",
    "Discrepancy",
    "DiscrepancyState",
    "Dleq",
    "DriftType",
    "EventType",
    "Fence",
    "Finding",
    "Hint",
    "HintDrop",
    "HintKind",
    "HintLink",
    "HintState",
    "HintStatus",
    "Holder",
    "Holding",
    "InputRef",
    "JournalKind",
    "Keyset",
    "KeysetId",
    "Lease",
    "LeaseBook",
    "MalformedToken",
    "Mark",
    "Melt",
    "MeltAnswer",
    "MeltId",
    "MeltQuote",
    "MeltState",
    "Member",
    "MethodLimits",
    "MintAlias",
    "MintInfo",
    "MintReport",
    "MintState",
    "NewProof",
    "OutputPlan",
    "Owner",
    "Paid",
    "Passage",
    "Plan",
    "PlanId",
    "PlanItem",
    "PlanScope",
    "PlanState",
    "PlanTotal",
    "PostOutcome",
    "Proof",
    "ProofState",
    "ProtectedEndpoint",
    "QuoteId",
    "QuoteState",
    "RaisedEvent",
    "Refused",
    "Reservation",
    "Resolution",
    "ResolveAs",
    "Restored",
    "Shard",
    "Signed",
    "Solvency",
    "SpentMemory",
    "StillPending",
    "SwapAnswer",
    "SwapPlan",
    "SweepRecord",
    "TakenBecause",
    "Token",
    "TokenId",
    "TokenStatus",
    "TransactionType",
    "Turn",
    "Verdict",
    "Warrant",
    "WatchedDocument",
    "Y",
    "is_counted",
    "is_history",
    "is_live",
    "normalise_mint_url",
    "sweep_shard",
    "weighs",
]
