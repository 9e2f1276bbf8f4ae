"""Every cell of the matrix of DESIGN section 5, and what lies beyond states."""

from __future__ import annotations

from datetime import timedelta

import pytest

from melt.drift import SEVERITIES, Context, classify
from melt.errors import Severity
from melt.model import Action, DriftType, KeysetId, MintState, TokenStatus
from tests.support.engine import KEYSET, NOW, proof, token, y

UNSPENT, PENDING, SPENT = MintState.UNSPENT, MintState.PENDING, MintState.SPENT
GRACE_S = 600.0
OLD = NOW - timedelta(seconds=GRACE_S)
YOUNG = NOW - timedelta(seconds=GRACE_S - 1)
TYPES = ("received", "minted", "change", "sent", "melted", "")


def context(**more):
    return Context(**{"now": NOW, "pending_grace_s": GRACE_S, **more})


def about_states(verdicts):
    return [v for v in verdicts if v.type is not DriftType.LEGACY_MELTED_DOCUMENT]


# (status, mint state, reservation: None / "live" / "gone") -> (type, severity, action); None: nothing to say
MATRIX = {
    ("unspent", UNSPENT, None): None,
    ("unspent", PENDING, None): ("DB_UNSPENT_MINT_PENDING", "LOW", "watch"),
    ("unspent", SPENT, None): ("DB_UNSPENT_MINT_SPENT", "HIGH", "mark_spent"),
    ("pending", UNSPENT, "live"): None,
    ("pending", PENDING, "live"): None,
    ("pending", SPENT, "live"): None,
    ("pending", UNSPENT, "gone"): ("RESERVATION_ORPHANED", "MEDIUM", "release"),
    ("pending", PENDING, "gone"): ("RESERVATION_ORPHANED", "MEDIUM", "watch"),
    ("pending", SPENT, "gone"): ("RESERVATION_ORPHANED", "MEDIUM", "mark_spent"),
    ("pending", UNSPENT, None): ("DB_PENDING_MINT_UNSPENT", "LOW", "release"),
    ("pending", PENDING, None): ("DB_PENDING_MINT_PENDING", "LOW", "watch"),
    ("pending", SPENT, None): ("DB_PENDING_MINT_SPENT", "MEDIUM", "mark_spent"),
    ("spent", UNSPENT, None): ("DB_SPENT_MINT_UNSPENT", "MEDIUM", "reclaim"),
    ("spent", PENDING, None): ("DB_SPENT_MINT_PENDING", "LOW", "watch"),
    ("spent", SPENT, None): None,
    ("failed", UNSPENT, None): ("DB_FAILED_MINT_UNSPENT", "MEDIUM", "reclaim"),
    ("failed", PENDING, None): None,
    ("failed", SPENT, None): None,
}


# What was handed out is its recipient's: redeemed is how it ends, and it is never given back by rule.
SENT = {
    ("unspent", "SPENT", None): ("SENT_TOKEN_REDEEMED", "LOW", "mark_spent"),
    ("pending", "SPENT", None): ("SENT_TOKEN_REDEEMED", "LOW", "mark_spent"),
    ("pending", "UNSPENT", None): ("DB_PENDING_MINT_UNSPENT", "LOW", "record"),
    ("pending", "UNSPENT", "gone"): ("RESERVATION_ORPHANED", "MEDIUM", "record"),
}


@pytest.mark.parametrize("transaction_type", TYPES)
@pytest.mark.parametrize(
    ("cell", "expected"), MATRIX.items(), ids=["-".join(str(part) for part in cell) for cell in MATRIX]
)
def test_each_cell_has_its_verdict(cell, expected, transaction_type):
    status, state, reservation = cell
    document = token(
        TokenStatus(status), 4, 8, type_=transaction_type, updated_at=OLD, reserved_by="m" if reservation else None
    )
    verdicts = about_states(
        classify(document, {y(0): state, y(1): state}, context(reservation_live=reservation == "live"))
    )
    if expected is None:
        assert verdicts == []
        return
    drift, severity, action = expected
    if transaction_type == "sent":
        drift, severity, action = SENT.get((status, state.value, reservation), expected)
    if action == "reclaim" and transaction_type in {"sent", "melted"}:
        action = "record"
    (verdict,) = verdicts
    assert (verdict.type.value, verdict.severity.value, verdict.action.value) == (drift, severity, action)
    assert verdict.ys == (y(0), y(1))
    assert verdict.value == 12


def test_every_type_has_a_severity_and_the_ones_of_the_design():
    assert set(SEVERITIES) == set(DriftType)
    high = {t for t, s in SEVERITIES.items() if s is Severity.HIGH}
    assert high == {
        DriftType.DB_UNSPENT_MINT_SPENT,
        DriftType.DUPLICATE_PROOF,
        DriftType.INVALID_SIGNATURE,
        DriftType.PROOF_REFUSED,
    }
    critical = {t for t, s in SEVERITIES.items() if s is Severity.CRITICAL}
    assert critical == {
        DriftType.MINT_STATE_REGRESSED,
        DriftType.QUOTE_PAID_INPUTS_UNSPENT,
        DriftType.QUOTE_UNPAID_INPUTS_SPENT,
    }


@pytest.mark.parametrize("status", [TokenStatus.SPENT, TokenStatus.FAILED])
@pytest.mark.parametrize("state", [UNSPENT, PENDING])
def test_a_proof_that_lives_on_in_another_document_is_not_written_off_by_its_spent_copy(status, state):
    document = token(status, 4, 8, type_="received")
    states = {y(0): state, y(1): SPENT}
    assert classify(document, states, context(elsewhere=frozenset({y(0)}))) == ()
    both = {y(0): UNSPENT, y(1): UNSPENT}
    (verdict,) = classify(document, both, context(elsewhere=frozenset({y(1)})))
    assert (verdict.action, verdict.ys, verdict.value) == (Action.RECLAIM, (y(0),), 4)


def test_a_counted_document_is_judged_whatever_else_holds_its_proofs():
    document = token(TokenStatus.UNSPENT, 4)
    (verdict,) = classify(document, {y(0): SPENT}, context(elsewhere=frozenset({y(0)})))
    assert verdict.type is DriftType.DB_UNSPENT_MINT_SPENT


# --- some of a document ---


def test_only_the_spent_proofs_are_named_so_that_the_document_is_split():
    document = token(TokenStatus.UNSPENT, 1, 2, 4)
    (verdict,) = classify(document, {y(0): UNSPENT, y(1): SPENT, y(2): UNSPENT}, context())
    assert (verdict.type, verdict.ys, verdict.value) == (DriftType.DB_UNSPENT_MINT_SPENT, (y(1),), 2)


def test_one_document_may_show_two_types():
    document = token(TokenStatus.UNSPENT, 1, 2, 4)
    verdicts = classify(document, {y(0): PENDING, y(1): SPENT, y(2): UNSPENT}, context())
    assert {(v.type, v.ys) for v in verdicts} == {
        (DriftType.DB_UNSPENT_MINT_PENDING, (y(0),)),
        (DriftType.DB_UNSPENT_MINT_SPENT, (y(1),)),
    }


@pytest.mark.parametrize("order", [(UNSPENT, SPENT), (SPENT, UNSPENT), (UNSPENT, PENDING), (UNSPENT, PENDING, SPENT)])
def test_an_orphaned_document_of_mixed_states_has_one_verdict_about_what_is_gone_first(order):
    """Two verdicts of one type would share one record, and a release would pass as confirmed by another's action."""
    document = token(TokenStatus.PENDING, *(1,) * len(order), reserved_by="gone", updated_at=OLD)
    states = {y(i): state for i, state in enumerate(order)}
    (verdict,) = classify(document, states, context())
    assert verdict.type is DriftType.RESERVATION_ORPHANED
    if SPENT in order:
        assert (verdict.action, verdict.ys) == (Action.MARK_SPENT, (y(order.index(SPENT)),))
    else:
        assert verdict.action is Action.WATCH


def test_a_proof_that_was_not_asked_about_says_nothing():
    document = token(TokenStatus.UNSPENT, 1, 2)
    assert classify(document, {}, context()) == ()
    (verdict,) = classify(document, {y(1): SPENT}, context())
    assert verdict.ys == (y(1),)


def test_states_of_other_documents_proofs_are_nothing_to_this_one():
    assert classify(token(TokenStatus.UNSPENT, 1), {y("stranger"): SPENT, y(0): UNSPENT}, context()) == ()


def test_a_pending_document_that_awaits_its_mint_has_no_drift():
    assert classify(token(TokenStatus.PENDING, updated_at=OLD), {}, context()) == ()


# --- age ---


@pytest.mark.parametrize("reserved_by", [None, "gone"])
@pytest.mark.parametrize(
    ("dates", "action"),
    [
        ({"updated_at": OLD}, Action.RELEASE),
        ({"updated_at": YOUNG}, Action.WATCH),
        ({"updated_at": YOUNG, "created_at": OLD}, Action.WATCH),
        ({"updated_at": OLD, "created_at": YOUNG}, Action.RELEASE),
        ({"created_at": OLD}, Action.RELEASE),
        ({"created_at": YOUNG}, Action.WATCH),
        ({}, Action.RELEASE),
        ({"updated_at": NOW + timedelta(days=1)}, Action.WATCH),
    ],
)
def test_a_pending_document_is_released_after_the_grace_time_only(dates, action, reserved_by):
    document = token(TokenStatus.PENDING, 1, reserved_by=reserved_by, **dates)
    (verdict,) = classify(document, {y(0): UNSPENT}, context())
    assert verdict.action is action


@pytest.mark.parametrize("reserved_by", [None, "gone"])
def test_what_the_mint_has_taken_is_marked_at_any_age(reserved_by):
    document = token(TokenStatus.PENDING, 1, reserved_by=reserved_by, updated_at=NOW)
    (verdict,) = classify(document, {y(0): SPENT}, context())
    assert verdict.action is Action.MARK_SPENT


# --- beyond states ---


def test_a_total_that_is_not_the_sum_is_recorded():
    document = token(TokenStatus.UNSPENT, 1, 2, total_amount=4)
    (verdict,) = classify(document, {}, context())
    assert (verdict.type, verdict.action) == (DriftType.AMOUNT_MISMATCH, Action.RECORD)


@pytest.mark.parametrize("total", [None, 3])
def test_no_total_or_the_right_one_is_no_mismatch(total):
    assert classify(token(TokenStatus.UNSPENT, 1, 2, total_amount=total), {}, context()) == ()


@pytest.mark.parametrize(
    ("status", "severity"),
    [("unspent", Severity.HIGH), ("pending", Severity.HIGH), ("spent", Severity.LOW), ("failed", Severity.LOW)],
)
def test_a_legacy_melted_document_is_high_where_it_counts(status, severity):
    (verdict,) = classify(token(TokenStatus(status), 1, type_="melted"), {}, context())
    assert (verdict.type, verdict.severity, verdict.action) == (
        DriftType.LEGACY_MELTED_DOCUMENT,
        severity,
        Action.RECORD,
    )


def test_an_unknown_keyset_is_recorded_for_money_that_counts_and_only_where_keysets_are_known():
    foreign = KeysetId("00ffffffffffffff")
    proofs = (proof(0, 1), proof(1, 2, keyset_id=foreign))
    for status in (TokenStatus.UNSPENT, TokenStatus.PENDING):
        document = token(status, proofs=proofs, total_amount=3)
        (verdict,) = classify(document, {}, context(known_keysets=frozenset({KEYSET})))
        assert (verdict.type, verdict.ys) == (DriftType.UNKNOWN_KEYSET, (y(1),))
        assert classify(document, {}, context()) == ()
    document = token(TokenStatus.SPENT, proofs=proofs, total_amount=3)
    assert classify(document, {}, context(known_keysets=frozenset({KEYSET}))) == ()
