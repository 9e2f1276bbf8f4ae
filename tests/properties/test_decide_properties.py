"""The invariants of recovery's decisions, over everything that can be seen and remembered (I6, I8)."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from melt.model import EventType, MeltState, MintState, PostOutcome, QuoteState
from melt.recovery.decide import (
    Hold,
    NoteClear,
    NoteContradiction,
    Patience,
    Release,
    Resume,
    Settle,
    Wait,
    decide,
    post_is_over,
    summarise,
)
from tests.support.engine import NOW, melt_of, quote_of, y

PATIENCE = Patience(post_grace_s=100.0, confirm_s=5.0)
TIMES = st.none() | st.sampled_from([-10.0, 0.0, 1.0, 4.9, 5.0, 99.0, 100.0, 1e7]).map(
    lambda s: NOW - timedelta(seconds=s)
)
CONTRADICTIONS = (
    None,
    EventType.MELT_HELD.value,
    EventType.QUOTE_PAID_INPUTS_UNSPENT.value,
    EventType.QUOTE_UNPAID_INPUTS_SPENT.value,
)


@st.composite
def looks(draw):
    seen = draw(st.lists(st.sampled_from(MintState), min_size=1, max_size=5))
    melt = melt_of(
        *(1,) * len(seen),
        state=draw(st.sampled_from([MeltState.MELTING, MeltState.PENDING, MeltState.HELD])),
        post=draw(st.sampled_from(PostOutcome)),
        posted_at=draw(TIMES),
        clear_since=draw(TIMES),
        contradiction=draw(st.sampled_from(CONTRADICTIONS)),
        contradiction_since=draw(TIMES),
        quote_expiry=draw(st.none() | st.integers(0, 2**40)),
    )
    quote = draw(st.none() | st.sampled_from(QuoteState).map(quote_of))
    return melt, {y(i): state for i, state in enumerate(seen)}, quote


@settings(max_examples=2000, deadline=None)
@given(looks())
def test_no_decision_is_taken_on_less_than_it_needs(look):
    melt, states, quote = look
    decided = decide(melt, states, quote, now=NOW, patience=PATIENCE)
    seen = set(states.values())
    match decided:
        case Release(fence=fence, spent=spent):
            assert quote is not None
            assert quote.state in {QuoteState.UNPAID, QuoteState.FAILED}
            assert MintState.PENDING not in seen
            if MintState.UNSPENT not in seen:
                assert melt.post in {PostOutcome.NOT_SENT, PostOutcome.REFUSED}, "no payment can have been tried"
            assert melt.state is not MeltState.HELD, "a person decides"
            assert melt.clear_since is not None
            assert (NOW - melt.clear_since).total_seconds() >= PATIENCE.confirm_s, "seen twice, spaced"
            assert post_is_over(melt, summarise(melt, states), now=NOW, patience=PATIENCE)
            assert fence is (melt.post not in {PostOutcome.REFUSED, PostOutcome.FAILED})
            assert set(spent) == {one for one, state in states.items() if state is MintState.SPENT}
        case Settle():
            assert quote is not None
            assert quote.state is QuoteState.PAID
            assert seen == {MintState.SPENT}
        case NoteClear():
            assert quote is not None
            assert quote.state in {QuoteState.UNPAID, QuoteState.FAILED}
            assert MintState.PENDING not in seen
            assert melt.clear_since is None
            assert melt.state is not MeltState.HELD
        case Hold(event=event):
            assert melt.contradiction == event, "the same contradiction, seen before"
            assert melt.contradiction_since is not None
            assert (NOW - melt.contradiction_since).total_seconds() >= PATIENCE.confirm_s
            assert MintState.PENDING not in seen
            assert melt.state is not MeltState.HELD
        case NoteContradiction():
            assert quote is not None
            assert quote.state is not QuoteState.PENDING
            assert MintState.PENDING not in seen
        case Resume():
            assert melt.state is MeltState.HELD
            assert melt.contradiction == EventType.MELT_HELD, "for want of words, and of nothing else"
        case Wait():
            pass


@settings(max_examples=1000, deadline=None)
@given(looks(), st.none() | st.integers(0, 2**40))
def test_expiry_plays_no_part(look, expiry):
    melt, states, quote = look
    other = replace(melt, quote_expiry=expiry)
    moved = None if quote is None else replace(quote, expiry=expiry)
    before = decide(melt, states, quote, now=NOW, patience=PATIENCE)
    after = decide(other, states, moved, now=NOW, patience=PATIENCE)
    assert type(before) is type(after)


@settings(max_examples=500, deadline=None)
@given(looks())
def test_without_the_quote_nothing_is_decided_however_long_it_takes(look):
    melt, states, _ = look
    later = NOW + timedelta(days=3650)
    assert isinstance(decide(melt, states, None, now=later, patience=PATIENCE), Wait)


@settings(max_examples=500, deadline=None)
@given(looks())
def test_a_paid_and_taken_melt_settles_from_every_state(look):
    melt, states, _ = look
    taken = dict.fromkeys(states, MintState.SPENT)
    paid = quote_of(QuoteState.PAID)
    assert isinstance(decide(melt, taken, paid, now=NOW, patience=PATIENCE), Settle)
