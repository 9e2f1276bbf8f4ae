"""The engine's vocabulary and values: pure, frozen, without behaviour beyond sums (DESIGN section 2)."""

from __future__ import annotations

from urllib.parse import urlsplit

from melt.model.findings import (
    AtomicResult,
    AuditEntry,
    Correction,
    CriticalEvent,
    Discrepancy,
    Finding,
    RaisedEvent,
    SweepRecord,
    Verdict,
)
from melt.model.journal import Actor, InputRef, Melt, OutputPlan, Resolution, SwapPlan
from melt.model.lease import Fence, Lease, LeaseBook, Member, Shard, TakenBecause, sweep_shard
from melt.model.mint import (
    Ambiguous,
    BlindedMessage,
    BlindSignature,
    Keyset,
    MeltAnswer,
    MeltQuote,
    MintInfo,
    Paid,
    ProofState,
    Refused,
    Restored,
    Signed,
    StillPending,
    SwapAnswer,
)
from melt.model.token import Balance, Dleq, MalformedToken, NewProof, Owner, Proof, Reservation, Token
from melt.model.words import (
    AMOUNT_MAX,
    MELT_MOVES,
    OPEN_DISCREPANCY,
    PROOFS_PER_DOCUMENT_MAX,
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
    "MELT_MOVES",
    "OPEN_DISCREPANCY",
    "PROOFS_PER_DOCUMENT_MAX",
    "TERMINAL",
    "TOKEN_MOVES",
    "Action",
    "Actor",
    "Ambiguous",
    "AtomicResult",
    "AuditEntry",
    "Balance",
    "BlindSignature",
    "BlindedMessage",
    "Correction",
    "CriticalEvent",
    "Discrepancy",
    "DiscrepancyState",
    "Dleq",
    "DriftType",
    "EventType",
    "Fence",
    "Finding",
    "InputRef",
    "JournalKind",
    "Keyset",
    "KeysetId",
    "Lease",
    "LeaseBook",
    "MalformedToken",
    "Melt",
    "MeltAnswer",
    "MeltId",
    "MeltQuote",
    "MeltState",
    "Member",
    "MintAlias",
    "MintInfo",
    "MintState",
    "NewProof",
    "OutputPlan",
    "Owner",
    "Paid",
    "PostOutcome",
    "Proof",
    "ProofState",
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
    "StillPending",
    "SwapAnswer",
    "SwapPlan",
    "SweepRecord",
    "TakenBecause",
    "Token",
    "TokenId",
    "TokenStatus",
    "TransactionType",
    "Verdict",
    "Y",
    "normalise_mint_url",
    "sweep_shard",
]
