"""
Verdicts: what the store says, what the mint says, what is done about it (DESIGN section 5). Pure.

The caller has checked the mint's answer (sentinels, completeness) and knows whether a reservation's melt is live.
Nothing here acts: :mod:`melt.corrections` does, and it alone decides whether a verdict has been seen often enough.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, assert_never

from melt.errors import Severity
from melt.model import Action, DriftType, MintState, Proof, Token, TokenStatus, TransactionType, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from melt.model import KeysetId, Y

SEVERITIES: Final[dict[DriftType, Severity]] = {
    DriftType.DB_UNSPENT_MINT_SPENT: Severity.HIGH,
    DriftType.DB_UNSPENT_MINT_PENDING: Severity.LOW,
    DriftType.DB_PENDING_MINT_UNSPENT: Severity.LOW,
    DriftType.DB_PENDING_MINT_PENDING: Severity.LOW,
    DriftType.DB_PENDING_MINT_SPENT: Severity.MEDIUM,
    DriftType.DB_SPENT_MINT_UNSPENT: Severity.MEDIUM,
    DriftType.DB_SPENT_MINT_PENDING: Severity.LOW,
    DriftType.DB_FAILED_MINT_UNSPENT: Severity.MEDIUM,
    DriftType.SENT_TOKEN_REDEEMED: Severity.LOW,
    DriftType.PROOF_NOT_IN_DB: Severity.LOW,
    DriftType.DUPLICATE_PROOF: Severity.HIGH,
    DriftType.LEGACY_MELTED_DOCUMENT: Severity.LOW,
    DriftType.AMOUNT_MISMATCH: Severity.MEDIUM,
    DriftType.MALFORMED_TOKEN: Severity.MEDIUM,
    DriftType.INVALID_SIGNATURE: Severity.HIGH,
    DriftType.UNKNOWN_KEYSET: Severity.MEDIUM,
    DriftType.KEYSET_EXPIRING: Severity.LOW,
    DriftType.RESERVATION_ORPHANED: Severity.MEDIUM,
    DriftType.RESERVED_TOKEN_CHANGED: Severity.LOW,
    DriftType.MINT_UNCONFIGURED: Severity.LOW,
    DriftType.MINT_STATE_REGRESSED: Severity.CRITICAL,
    DriftType.QUOTE_PAID_INPUTS_UNSPENT: Severity.CRITICAL,
    DriftType.QUOTE_UNPAID_INPUTS_SPENT: Severity.CRITICAL,
    DriftType.CHANGE_SHORTFALL: Severity.MEDIUM,
    DriftType.PAYMENT_UNPROVED: Severity.LOW,
    DriftType.PROOF_REFUSED: Severity.HIGH,
    DriftType.UNIT_MISMATCH: Severity.MEDIUM,
}
"""The severity of each type where it does not depend on the case (a LEGACY_MELTED_DOCUMENT that counts is HIGH)."""

UNCLAIMED_TYPES: Final = frozenset({TransactionType.SENT.value, TransactionType.MELTED.value})
"""Spent or failed documents whose UNSPENT proofs are not ours to take back: they were or may have been handed to
somebody (``sent``), or stem from old code that stored consumed proofs again (``melted``)."""

FINAL: Final = frozenset({TokenStatus.SPENT, TokenStatus.FAILED})
"""Statuses of documents that are history: a service that keeps a proof unchanged leaves it there and stores it anew."""

_MOST_FINAL_FIRST: Final = (MintState.SPENT, MintState.PENDING, MintState.UNSPENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """
    What a verdict depends on besides the two states.

    ``reservation_live`` tells whether the melt named by the token's reservation is open. ``known_keysets`` is empty
    when the mint's keysets are not known, and then no verdict speaks of them. ``elsewhere`` are proofs of this document
    that also lie in one that counts, or in one that was handed out: whatever a spent or failed copy says, they live on there.
    """

    now: datetime
    pending_grace_s: float
    reservation_live: bool = False
    known_keysets: frozenset[KeysetId] = frozenset()
    elsewhere: frozenset[Y] = frozenset()


def classify(token: Token, states: Mapping[Y, MintState], context: Context) -> tuple[Verdict, ...]:
    """
    Compare one document with the mint's states of its proofs.

    A proof without a state in ``states`` was not asked about and yields nothing. The result is ordered as found;
    at most one verdict a type.
    """
    by_state: dict[MintState, list[Proof]] = defaultdict(list)
    for proof in token.proofs:
        state = states.get(proof.y)
        if state is not None and not (token.status in FINAL and proof.y in context.elsewhere):
            by_state[state].append(proof)
    verdicts = list(_document_verdicts(token, context))
    if token.status is TokenStatus.PENDING and token.reservation is not None and by_state:
        # All states are one type here, and a record has one action: what is gone is settled first, the rest stays
        # behind as a document without the reservation and is judged by itself in the next round.
        first = min(by_state, key=_MOST_FINAL_FIRST.index)
        by_state = defaultdict(list, {first: by_state[first]})
    for state, proofs in by_state.items():
        verdict = _state_verdict(token, state, proofs, context)
        if verdict is not None:
            verdicts.append(verdict)
    return tuple(verdicts)


def _state_verdict(token: Token, state: MintState, proofs: Sequence[Proof], context: Context) -> Verdict | None:
    if token.reservation is not None and context.reservation_live:
        return None  # whatever another writer has called it meanwhile: the melt's own recovery decides
    match token.status:
        case TokenStatus.UNSPENT:
            return _unspent(token, state, proofs)
        case TokenStatus.PENDING:
            return _pending(token, state, proofs, context)
        case TokenStatus.SPENT:
            return _spent(token, state, proofs)
        case TokenStatus.FAILED:
            if state is MintState.UNSPENT:
                return _verdict(
                    DriftType.DB_FAILED_MINT_UNSPENT,
                    Action.RECORD if token.transaction_type in UNCLAIMED_TYPES else Action.RECLAIM,
                    proofs,
                    "the operation is recorded as failed, but the mint still honours the proofs",
                )
            return None
    assert_never(token.status)


def _unspent(token: Token, state: MintState, proofs: Sequence[Proof]) -> Verdict | None:
    match state:
        case MintState.UNSPENT:
            return None
        case MintState.PENDING:
            return _verdict(
                DriftType.DB_UNSPENT_MINT_PENDING, Action.WATCH, proofs, "somebody is spending these proofs right now"
            )
        case MintState.SPENT if token.is_sent:
            return _redeemed(proofs)
        case MintState.SPENT:
            return _verdict(
                DriftType.DB_UNSPENT_MINT_SPENT,
                Action.MARK_SPENT,
                proofs,
                "the mint has already redeemed these proofs: the balance counts money that is gone",
            )
    assert_never(state)


def _redeemed(proofs: Sequence[Proof]) -> Verdict:
    return _verdict(
        DriftType.SENT_TOKEN_REDEEMED,
        Action.MARK_SPENT,
        proofs,
        "handed out, and its recipient has redeemed it: the normal end of a payment by token",
    )


def _pending(token: Token, state: MintState, proofs: Sequence[Proof], context: Context) -> Verdict | None:
    if token.reservation is not None:
        return _verdict(
            DriftType.RESERVATION_ORPHANED,
            _pending_action(token, state, context),
            proofs,
            "the document is reserved by a melt that is over or was never recorded",
        )
    match state:
        case MintState.SPENT if token.is_sent:
            return _redeemed(proofs)
        case MintState.UNSPENT:
            drift, reason = DriftType.DB_PENDING_MINT_UNSPENT, "left pending, but nobody spends these proofs"
        case MintState.PENDING:
            drift, reason = DriftType.DB_PENDING_MINT_PENDING, "an operation on these proofs is under way at the mint"
        case MintState.SPENT:
            drift, reason = DriftType.DB_PENDING_MINT_SPENT, "left pending, but the mint has redeemed these proofs"
        case _:
            assert_never(state)
    return _verdict(drift, _pending_action(token, state, context), proofs, reason)


def _pending_action(token: Token, state: MintState, context: Context) -> Action:
    match state:
        case MintState.SPENT:
            return Action.MARK_SPENT
        case MintState.PENDING:
            return Action.WATCH
        case MintState.UNSPENT if token.is_sent:
            return Action.RECORD  # its recipient has not redeemed it; it is never given back by rule
        case MintState.UNSPENT:
            since = token.updated_at or token.created_at
            # A document without any date is older than the code that dates them. To be old enough by its own date does not
            # do: whoever dated it may have had another clock, so it is watched for as long, too (melt.settling).
            old_enough = since is None or (context.now - since).total_seconds() >= context.pending_grace_s
            return Action.RELEASE if old_enough else Action.WATCH
    assert_never(state)


def _spent(token: Token, state: MintState, proofs: Sequence[Proof]) -> Verdict | None:
    match state:
        case MintState.SPENT:
            return None
        case MintState.PENDING:
            return _verdict(
                DriftType.DB_SPENT_MINT_PENDING, Action.WATCH, proofs, "being redeemed at the mint right now"
            )
        case MintState.UNSPENT:
            if token.transaction_type in UNCLAIMED_TYPES:
                return _verdict(
                    DriftType.DB_SPENT_MINT_UNSPENT,
                    Action.RECORD,
                    proofs,
                    "handed out and not yet redeemed by its recipient: unclaimed, not ours to take back",
                )
            return _verdict(
                DriftType.DB_SPENT_MINT_UNSPENT,
                Action.RECLAIM,
                proofs,
                "recorded as spent, but the mint still honours the proofs",
            )
    assert_never(state)


def _document_verdicts(token: Token, context: Context) -> list[Verdict]:
    """What is wrong with a document whatever the mint says."""
    found: list[Verdict] = []
    if token.sum_mismatch:
        found.append(
            _verdict(
                DriftType.AMOUNT_MISMATCH, Action.RECORD, token.proofs, "total_amount is not the sum of the proofs"
            )
        )
    if token.transaction_type == TransactionType.MELTED and token.proofs:  # a repair may have emptied it
        counts = token.status in {TokenStatus.UNSPENT, TokenStatus.PENDING}
        found.append(
            _verdict(
                DriftType.LEGACY_MELTED_DOCUMENT,
                Action.RECORD,
                token.proofs,
                "consumed proofs stored once more by old code" + (", and counted as a balance" if counts else ""),
                severity=Severity.HIGH if counts else Severity.LOW,
            )
        )
    if context.known_keysets:
        unknown = [proof for proof in token.proofs if proof.keyset_id not in context.known_keysets]
        if unknown and token.status in {TokenStatus.UNSPENT, TokenStatus.PENDING}:
            found.append(
                _verdict(DriftType.UNKNOWN_KEYSET, Action.RECORD, unknown, "the mint does not list these keysets")
            )
    return found


def _verdict(
    drift: DriftType, action: Action, proofs: Sequence[Proof], reason: str, *, severity: Severity | None = None
) -> Verdict:
    return Verdict(
        type=drift,
        severity=severity or SEVERITIES[drift],
        action=action,
        ys=tuple(proof.y for proof in proofs),
        value=sum(proof.amount for proof in proofs),
        reason=reason,
    )
