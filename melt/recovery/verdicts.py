"""Which of a person's decisions about an open entry may be taken, by what the mint says now. Pure."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from melt.model import MeltState, MintState, QuoteState, ResolveAs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from melt.model import Melt, Y
    from melt.recovery.resolve import Sight

_NOT_SENT = frozenset({MeltState.RESERVED, MeltState.READY, MeltState.SWAPPING})
_UNTOLD = "the mint does not say what state the inputs are in; try again when it answers"


def forbidden(outcome: ResolveAs, melt: Melt, sight: Sight, *, proven: bool = False) -> str | None:
    """
    Why this outcome may not be chosen now; None: it may.

    ``proven``: the payee's preimage is at hand, so that the invoice was paid whatever the mint says.
    """
    if not melt.is_open:
        return f"the melt is {melt.state.value}: it has ended, and nothing is left to decide"
    if outcome is ResolveAs.OBSERVE:
        return None
    if melt.state in _NOT_SENT:
        return _never_sent(outcome, melt, sight)
    if sight.may_run:
        return "the payment request may still be running at the mint: nothing is decided before it is over"
    if sight.states is None:
        return _UNTOLD
    pending, unspent, spent = _counts(melt, sight.states)
    if pending:
        return f"the mint calls {pending} of {len(melt.inputs)} inputs PENDING: their fate is still open"
    if sight.quote is not None and sight.quote.state is QuoteState.PENDING:
        return "the mint calls the payment PENDING: its fate is still open"
    if outcome is ResolveAs.RELEASED:
        if not unspent:
            return f"the mint calls all {spent} inputs SPENT: there is nothing that could be given back (I7)"
        return None
    if unspent:
        return f"the mint still honours {unspent} of {len(melt.inputs)} inputs: that money is not gone"
    if melt.state is MeltState.FENCING:
        return "a fencing swap of the inputs is open: it is repeated at each look, and tells first who has taken them"
    paid = sight.quote is not None and sight.quote.state is QuoteState.PAID
    if outcome is ResolveAs.SETTLED:
        return _unproven(sight, paid=paid or proven)
    return _perhaps_paid(sight, paid=paid)


def proves(melt: Melt, preimage: str) -> bool:
    """Whether it is the preimage of the entry's invoice: nobody but the payee can have given it, once paid."""
    try:
        digest = hashlib.sha256(bytes.fromhex(preimage)).hexdigest()
    except ValueError:
        return False
    return melt.payment_hash is not None and digest == melt.payment_hash


def _never_sent(outcome: ResolveAs, melt: Melt, sight: Sight) -> str | None:
    if outcome is not ResolveAs.RELEASED:
        return f"the melt is {melt.state.value}: no payment request has left, so nothing was paid"
    if sight.states is None:
        return _UNTOLD
    pending, _, _ = _counts(melt, sight.states)
    if pending:
        return f"the mint calls {pending} of {len(melt.inputs)} inputs PENDING: their fate is still open"
    return None


def _unproven(sight: Sight, *, paid: bool) -> str | None:
    """What is settled is called paid: something must show it."""
    if paid or sight.change_signed:
        return None
    return (
        "nothing shows that the invoice was paid: the mint does not call it so and has signed no change; give the payee's "
        "preimage, or end it as inputs_gone"
    )


def _perhaps_paid(sight: Sight, *, paid: bool) -> str | None:
    if paid:
        return "the mint calls the invoice PAID: that is no unknown outcome"
    if sight.quote is None and not sight.quote_refused:
        return "the mint does not say what became of the quote; try again when it answers"
    if sight.change_signed is None or sight.fence_signed is None:
        return "the mint does not say whether it has signed outputs of this melt; try again when it answers"
    if sight.change_signed:
        return "the mint has signed change of this melt: it was our payment that took the inputs, so it is settled"
    if sight.fence_signed:
        return "the mint has signed a fencing swap of this melt: nothing was paid, and it is released by itself"
    return None


def _counts(melt: Melt, states: Mapping[Y, MintState]) -> tuple[int, int, int]:
    """How many inputs are PENDING, UNSPENT and SPENT."""
    seen = [states[ref.y] for ref in melt.inputs]
    return seen.count(MintState.PENDING), seen.count(MintState.UNSPENT), seen.count(MintState.SPENT)
