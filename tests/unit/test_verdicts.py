"""Which of a person's decisions may be taken, by what the mint says now."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from melt.model import MeltState, MintState, QuoteState, ResolveAs
from melt.recovery import Sight
from melt.recovery.verdicts import forbidden, proves
from tests.support.engine import NOW, melt_of, quote_of, y

U, P, S = MintState.UNSPENT, MintState.PENDING, MintState.SPENT
SETTLED, RELEASED, GONE, OBSERVE = ResolveAs.SETTLED, ResolveAs.RELEASED, ResolveAs.INPUTS_GONE, ResolveAs.OBSERVE
UNPAID = quote_of(QuoteState.UNPAID)


def sight(*states: MintState, **more: Any) -> Sight:
    """What the mint says about inputs 0, 1, ...; nothing where none is given."""
    gone = bool(states) and set(states) == {S}
    fields: dict[str, Any] = {
        "asked_at": NOW,
        "states": {y(i): state for i, state in enumerate(states)} or None,
        "states_error": None,
        "quote": UNPAID,
        "quote_error": None,
        "quote_withheld": False,
        "forbidden": {},
        "change_signed": 0 if gone else None,
        "fence_signed": 0 if gone else None,
    }
    return Sight(**{**fields, **more})


def allowed(state: MeltState, seen: Sight, **more: Any) -> set[ResolveAs]:
    melt = melt_of(1, 2, state=state)
    return {outcome for outcome in ResolveAs if forbidden(outcome, melt, seen, **more) is None}


@pytest.mark.parametrize("state", [MeltState.MELTING, MeltState.PENDING, MeltState.HELD])
@pytest.mark.parametrize(
    ("seen", "may"),
    [
        (sight(U, U), {RELEASED}),
        (sight(U, S), {RELEASED}),
        (sight(P, S), set()),
        (sight(), set()),
        (sight(S, S), {GONE}),
        (sight(S, S, quote=quote_of(QuoteState.PAID)), {SETTLED}),
        (sight(S, S, quote=quote_of(QuoteState.PENDING)), set()),
        (sight(U, U, quote=quote_of(QuoteState.PENDING)), set()),
        (sight(S, S, change_signed=1), {SETTLED}),
        (sight(S, S, fence_signed=1), set()),
        (sight(S, S, change_signed=None), set()),
        (sight(S, S, quote=None, quote_error="no answer"), set()),
        (sight(S, S, quote=None, quote_error="unknown quote", quote_refused=True), {GONE}),
        (sight(S, S, may_run=True), set()),
        (sight(U, U, may_run=True), set()),
    ],
)
def test_what_may_be_decided_of_a_payment_that_was_sent(state: MeltState, seen: Sight, may: set[ResolveAs]) -> None:
    assert allowed(state, seen) == may | {OBSERVE}


def test_the_payees_preimage_shows_the_payment() -> None:
    assert allowed(MeltState.HELD, sight(S, S), proven=True) == {SETTLED, GONE, OBSERVE}
    assert allowed(MeltState.HELD, sight(U, S), proven=True) == {RELEASED, OBSERVE}, "that money is not gone"
    melt = melt_of(1, payment_hash=hashlib.sha256(b"\1" * 32).hexdigest())
    assert proves(melt, "01" * 32)
    assert not proves(melt, "02" * 32)
    assert not proves(melt, "junk")


@pytest.mark.parametrize("state", [MeltState.RESERVED, MeltState.READY, MeltState.SWAPPING])
def test_what_was_never_sent_is_only_released(state: MeltState) -> None:
    assert allowed(state, sight(U, U)) == {RELEASED, OBSERVE}
    assert allowed(state, sight(S, S)) == {RELEASED, OBSERVE}
    assert allowed(state, sight(P, U)) == {OBSERVE}
    assert allowed(state, sight()) == {OBSERVE}


def test_a_fence_tells_first_who_has_taken_the_inputs() -> None:
    assert allowed(MeltState.FENCING, sight(S, S)) == {OBSERVE}
    assert allowed(MeltState.FENCING, sight(U, U)) == {RELEASED, OBSERVE}


@pytest.mark.parametrize("state", [MeltState.SETTLED, MeltState.RELEASED])
def test_what_has_ended_is_not_decided_again(state: MeltState) -> None:
    assert allowed(state, sight(S, S)) == set()
