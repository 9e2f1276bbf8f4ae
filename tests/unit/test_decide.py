"""The table of recovery, row by row (DESIGN section 4, Following an open melt, Release)."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from melt.model import EventType, KeysetId, MeltState, MintState, OutputPlan, PostOutcome, QuoteState
from melt.recovery.decide import (
    Hold,
    Inputs,
    NoteClear,
    NoteContradiction,
    Patience,
    Release,
    Settle,
    Wait,
    by_another_clock,
    decide,
    post_is_over,
    summarise,
)
from tests.support.engine import NOW, melt_of, quote_of, y

U, P, S = MintState.UNSPENT, MintState.PENDING, MintState.SPENT
GRACE_S, CONFIRM_S = 100.0, 5.0
PATIENCE = Patience(post_grace_s=GRACE_S, confirm_s=CONFIRM_S)
LOST = (PostOutcome.IN_FLIGHT, PostOutcome.AMBIGUOUS)
ANSWERED = (PostOutcome.PAID, PostOutcome.PENDING, PostOutcome.REFUSED, PostOutcome.FAILED)
PAID_UNSPENT = EventType.QUOTE_PAID_INPUTS_UNSPENT
UNPAID_SPENT = EventType.QUOTE_UNPAID_INPUTS_SPENT


def ago(seconds):
    return NOW - timedelta(seconds=seconds)


def states(*seen):
    return {y(i): state for i, state in enumerate(seen)}


def decision(melt, seen, quote):
    quoted = None if quote is None else quote_of(quote)
    return decide(melt, states(*seen), quoted, now=NOW, patience=PATIENCE)


@pytest.mark.parametrize(
    ("seen", "word"),
    [
        ((U, U), Inputs.UNSPENT),
        ((S, S), Inputs.SPENT),
        ((P, P), Inputs.PENDING),
        ((P, U), Inputs.PENDING),
        ((P, S), Inputs.PENDING),
        ((U, S), Inputs.MIXED),
    ],
)
def test_the_inputs_in_one_word(seen, word):
    assert summarise(melt_of(1, 2), states(*seen)) is word


def test_an_input_without_a_state_is_an_error_and_no_guess():
    with pytest.raises(KeyError):
        summarise(melt_of(1, 2), states(U))


# --- is the POST over? ---


@pytest.mark.parametrize("post", ANSWERED)
@pytest.mark.parametrize("inputs", Inputs)
def test_an_answered_post_is_over(post, inputs):
    assert post_is_over(melt_of(1, post=post, posted_at=NOW), inputs, now=NOW, patience=PATIENCE)


@pytest.mark.parametrize("post", LOST)
@pytest.mark.parametrize(
    ("inputs", "age_s", "over"),
    [
        (Inputs.UNSPENT, GRACE_S - 1, False),
        (Inputs.PENDING, GRACE_S - 1, False),
        (Inputs.UNSPENT, GRACE_S, True),
        (Inputs.PENDING, GRACE_S, True),
        (Inputs.SPENT, 0, True),
        (Inputs.MIXED, 0, True),
        (Inputs.UNSPENT, -60, False),
    ],
)
def test_a_lost_post_is_over_when_it_is_through_or_after_the_grace_time(post, inputs, age_s, over):
    melt = melt_of(1, post=post, posted_at=ago(age_s))
    assert post_is_over(melt, inputs, now=NOW, patience=PATIENCE) is over


@pytest.mark.parametrize("post", LOST)
def test_a_lost_post_of_unknown_start_counts_from_the_last_write_of_its_entry(post):
    young = melt_of(1, post=post, posted_at=None, updated_at=ago(GRACE_S - 1))
    assert not post_is_over(young, Inputs.UNSPENT, now=NOW, patience=PATIENCE)
    old = melt_of(1, post=post, posted_at=None, updated_at=ago(GRACE_S))
    assert post_is_over(old, Inputs.UNSPENT, now=NOW, patience=PATIENCE)


def test_a_post_that_was_never_sent_is_over():
    melt = melt_of(1, post=PostOutcome.NOT_SENT, posted_at=None)
    assert post_is_over(melt, Inputs.UNSPENT, now=NOW, patience=PATIENCE)


# --- the table ---

ROWS = [
    # quote, inputs, changes of the melt, decision
    (None, (U,), {}, Wait),
    (None, (P,), {}, Wait),
    (None, (S,), {}, Wait),
    ("PAID", (S, S), {}, Settle),
    ("PAID", (P, S), {}, Wait),
    ("PAID", (P, U), {}, Wait),
    ("PAID", (U, U), {}, NoteContradiction(event=PAID_UNSPENT)),
    ("PAID", (U, S), {}, NoteContradiction(event=PAID_UNSPENT)),
    ("PENDING", (U,), {}, Wait),
    ("PENDING", (P,), {}, Wait),
    ("PENDING", (S,), {}, Wait),
    ("UNPAID", (P,), {}, Wait),
    ("UNPAID", (P, U), {}, Wait),
    ("UNPAID", (U,), {}, NoteClear),
    ("UNPAID", (U, S), {}, NoteClear),
    ("UNPAID", (S,), {}, NoteContradiction(event=UNPAID_SPENT)),
    # twice, and how far apart
    ("UNPAID", (U,), {"clear_since": ago(CONFIRM_S - 0.1)}, Wait),
    ("UNPAID", (U,), {"clear_since": ago(-10)}, Wait),
    ("UNPAID", (U,), {"clear_since": ago(CONFIRM_S)}, Release(fence=True, spent=())),
    ("UNPAID", (U, S), {"clear_since": ago(CONFIRM_S)}, Release(fence=True, spent=(y(1),))),
    ("PAID", (U,), {"contradiction": PAID_UNSPENT, "contradiction_since": ago(CONFIRM_S - 0.1)}, Wait),
    ("PAID", (U,), {"contradiction": PAID_UNSPENT, "contradiction_since": ago(CONFIRM_S)}, Hold(event=PAID_UNSPENT)),
    ("UNPAID", (S,), {"contradiction": UNPAID_SPENT, "contradiction_since": ago(CONFIRM_S)}, Hold(event=UNPAID_SPENT)),
    (
        "UNPAID",
        (S,),
        {"contradiction": PAID_UNSPENT, "contradiction_since": ago(60)},
        NoteContradiction(event=UNPAID_SPENT),
    ),
    # inputs that others have taken, where no payment of ours can have been tried
    ("UNPAID", (S,), {"post": PostOutcome.REFUSED}, NoteClear),
    (
        "UNPAID",
        (S,),
        {"post": PostOutcome.REFUSED, "clear_since": ago(CONFIRM_S)},
        Release(fence=False, spent=(y(0),)),
    ),
    ("UNPAID", (S,), {"post": PostOutcome.FAILED}, NoteContradiction(event=UNPAID_SPENT)),
    ("UNPAID", (S,), {"post": PostOutcome.AMBIGUOUS}, NoteContradiction(event=UNPAID_SPENT)),
    # an earlier clear sighting does not survive a contradiction, nor does a payment
    ("PAID", (S,), {"clear_since": ago(60)}, Settle),
    ("PENDING", (U,), {"clear_since": ago(60)}, Wait),
    ("UNPAID", (P,), {"clear_since": ago(60)}, Wait),
    # held
    ("PAID", (S,), {"state": MeltState.HELD}, Settle),
    ("UNPAID", (U,), {"state": MeltState.HELD, "clear_since": ago(60)}, Wait),
    ("UNPAID", (S,), {"state": MeltState.HELD, "contradiction": UNPAID_SPENT, "contradiction_since": ago(60)}, Wait),
    ("PAID", (U,), {"state": MeltState.HELD}, Wait),
    # a lost answer
    ("UNPAID", (U,), {"post": PostOutcome.AMBIGUOUS, "posted_at": ago(GRACE_S - 1)}, Wait),
    ("UNPAID", (U,), {"post": PostOutcome.IN_FLIGHT, "posted_at": ago(GRACE_S - 1), "clear_since": ago(60)}, Wait),
    ("UNPAID", (U,), {"post": PostOutcome.AMBIGUOUS, "posted_at": ago(GRACE_S)}, NoteClear),
    ("PAID", (S,), {"post": PostOutcome.IN_FLIGHT, "posted_at": NOW}, Settle),
]


@pytest.mark.parametrize(("quote", "seen", "changes", "expected"), ROWS)
def test_each_row(quote, seen, changes, expected):
    melt = melt_of(*(1,) * len(seen), **changes)
    found = decision(melt, seen, None if quote is None else QuoteState(quote))
    if isinstance(expected, type):
        assert isinstance(found, expected), found
    else:
        assert found == expected


@pytest.mark.parametrize(
    ("post", "fence"),
    [
        (PostOutcome.REFUSED, False),
        (PostOutcome.FAILED, False),
        (PostOutcome.PENDING, True),
        (PostOutcome.AMBIGUOUS, True),
        (PostOutcome.IN_FLIGHT, True),
        (PostOutcome.PAID, True),
        (PostOutcome.NOT_SENT, True),
    ],
)
def test_only_a_definite_no_is_released_without_a_fence(post, fence):
    found = decision(melt_of(1, post=post, clear_since=ago(60)), (U,), QuoteState.UNPAID)
    assert found == Release(fence=fence, spent=())


@pytest.mark.parametrize(
    ("quote", "seen", "changes", "forget"),
    [
        (None, (U,), {}, False),
        (None, (P,), {}, True),
        (None, (S,), {}, True),
        ("PENDING", (U,), {}, True),
        ("UNPAID", (P,), {}, True),
        ("PAID", (P,), {}, True),
        ("UNPAID", (U,), {"clear_since": ago(1)}, False),
        ("UNPAID", (U,), {"post": PostOutcome.AMBIGUOUS, "posted_at": NOW}, False),
        ("UNPAID", (S,), {"contradiction": UNPAID_SPENT, "contradiction_since": ago(1)}, False),
    ],
)
def test_what_contradicts_an_earlier_sighting_makes_it_forgotten(quote, seen, changes, forget):
    found = decision(melt_of(1, **changes), seen, None if quote is None else QuoteState(quote))
    assert isinstance(found, Wait)
    assert found.forget is forget


@pytest.mark.parametrize("quote", [None, *QuoteState])
@pytest.mark.parametrize("seen", [(U,), (P,), (S,)])
def test_an_expired_quote_changes_nothing(quote, seen):
    fresh, expired = (melt_of(1, quote_expiry=at) for at in (None, 1))
    assert decision(fresh, seen, quote) == decision(expired, seen, quote)


def _paid_without_change(post, seconds):
    blanks = OutputPlan(keyset_id=KeysetId("00c3c8469bdea580"), counter=0, amounts=(0, 0), seed_id="seed")
    melt = melt_of(64, state=MeltState.PENDING, post=post, posted_at=ago(seconds), blanks=blanks)
    return decision(melt, (S,), QuoteState.PAID)


@pytest.mark.parametrize("post", LOST)
def test_paid_without_change_is_looked_at_again_while_the_mint_may_be_signing_it(post):
    assert isinstance(_paid_without_change(post, GRACE_S - 1), Wait)
    assert isinstance(_paid_without_change(post, GRACE_S), Settle)


@pytest.mark.parametrize("post", ANSWERED)
def test_paid_without_change_settles_where_the_post_has_an_answer(post):
    assert isinstance(_paid_without_change(post, 1), Settle)


# --- another instance's clock ---


def test_a_sighting_by_another_clock_is_forgotten_by_whoever_takes_over():
    seen = melt_of(8, state=MeltState.PENDING, clear_since=NOW - timedelta(hours=1))
    assert by_another_clock(seen, NOW) == {"clear_since": None}
    seen = melt_of(8, state=MeltState.PENDING, contradiction_since=NOW)
    assert by_another_clock(seen, NOW) == {"contradiction_since": None}


@pytest.mark.parametrize("state", [MeltState.FENCING, MeltState.HELD])
def test_what_was_seen_twice_stays_when_another_takes_over(state):
    assert by_another_clock(melt_of(8, state=state, clear_since=NOW, contradiction_since=NOW), NOW) == {}


def test_a_request_that_a_clock_ahead_has_dated_is_not_waited_for_until_then():
    ahead = melt_of(8, state=MeltState.MELTING, posted_at=NOW + timedelta(hours=1))
    assert by_another_clock(ahead, NOW) == {"posted_at": NOW}
    assert by_another_clock(replace(ahead, posted_at=NOW - timedelta(seconds=5)), NOW) == {}
