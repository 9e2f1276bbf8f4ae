"""
A person's hand on a HELD melt (DESIGN section 4): what there is to see, and what may be decided on it.

The mint is asked anew before anything is changed, because a decision on what was seen an hour ago is none. What may be
decided follows from what it says now:

=========  ===========================================  ===========================================================
outcome    needs                                        does
=========  ===========================================  ===========================================================
settled    every input SPENT                            T3: inputs spent, change collected, the rest a shortfall
released   no input PENDING, some UNSPENT               a fencing swap; the inputs come back as new proofs (I7)
observe    nothing                                      back to PENDING, to be followed as before
=========  ===========================================  ===========================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

import structlog

from melt.errors import Code, LostRace, MeltdError, MintError
from melt.model import EventType, MeltQuote, MeltState, MintState, QuoteState, Resolution, ResolveAs
from melt.recovery import decide as rules

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from melt.model import Actor, Melt, QuoteId, Y
    from melt.ports import Mint
    from melt.recovery.follow import Recovery

_log = structlog.get_logger("melt.recovery")

RELEASE_STEPS_MAX = 3
_EVENTS = (EventType.MELT_HELD, EventType.QUOTE_PAID_INPUTS_UNSPENT, EventType.QUOTE_UNPAID_INPUTS_SPENT)
"""What a decision about a melt resolves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """
    What the mint says about an open melt now; ``None`` where it could not be asked, and then why.

    ``quote_withheld``: the quote was not asked because our POST may still be running, which asking could disturb.
    ``forbidden`` says for each outcome why it may not be chosen, None: it may.
    """

    asked_at: datetime
    states: Mapping[Y, MintState] | None
    states_error: str | None
    quote: MeltQuote | None
    quote_error: str | None
    quote_withheld: bool
    forbidden: Mapping[ResolveAs, str | None]


async def look(recovery: Recovery, melt: Melt) -> Sight:
    """Ask the mint about the inputs and the quote of a melt. Never raises for what the mint does."""
    mint = recovery.mints.get(melt.mint)
    states: Mapping[Y, MintState] | None = None
    states_error = None if mint is not None else f"mint {melt.mint} is not configured"
    quote: MeltQuote | None = None
    quote_error = states_error
    withheld = False
    if mint is not None:
        try:
            states = {one.y: one.state for one in await mint.check_states([ref.y for ref in melt.inputs])}
        except MintError as error:
            states_error = error.detail
        withheld = not melt.is_open or states is None or not _post_is_over(recovery, melt, states)
        if melt.quote_id is not None and not withheld:
            try:
                quote = await mint.melt_quote_state(melt.quote_id)
            except MintError as error:
                quote_error = error.detail
            else:
                states, states_error = await _again(mint, melt, states)
    return Sight(
        asked_at=recovery.clock.now(),
        states=states,
        states_error=states_error,
        quote=quote,
        quote_error=quote_error,
        quote_withheld=withheld and melt.quote_id is not None,
        forbidden={outcome: _forbidden(outcome, melt, states) for outcome in ResolveAs},
    )


async def _again(
    mint: Mint, melt: Melt, before: Mapping[Y, MintState] | None
) -> tuple[Mapping[Y, MintState] | None, str | None]:
    """Asking for the quote may itself have moved the inputs at the mint."""
    try:
        return {one.y: one.state for one in await mint.check_states([ref.y for ref in melt.inputs])}, None
    except MintError as error:
        return before, error.detail


def _post_is_over(recovery: Recovery, melt: Melt, states: Mapping[Y, MintState]) -> bool:
    inputs = rules.summarise(melt, states)
    return rules.post_is_over(melt, inputs, now=recovery.clock.now(), patience=recovery.policy.patience)


def _forbidden(outcome: ResolveAs, melt: Melt, states: Mapping[Y, MintState] | None) -> str | None:
    """Why this outcome may not be chosen now; pure."""
    if melt.state is not MeltState.HELD:
        return f"the melt is {melt.state.value}, and only a HELD one is decided by a person"
    if outcome is ResolveAs.OBSERVE:
        return None
    if states is None:
        return "the mint does not say what state the inputs are in; try again when it answers"
    counts = {state: sum(1 for ref in melt.inputs if states[ref.y] is state) for state in MintState}
    pending, unspent, spent = counts[MintState.PENDING], counts[MintState.UNSPENT], counts[MintState.SPENT]
    if pending:
        return f"the mint calls {pending} of {len(melt.inputs)} inputs PENDING: their fate is still open"
    if outcome is ResolveAs.SETTLED and unspent:
        return f"the mint still honours {unspent} of {len(melt.inputs)} inputs: that money is not gone"
    if outcome is ResolveAs.RELEASED and not unspent:
        return f"the mint calls all {spent} inputs SPENT: there is nothing that could be given back (I7)"
    return None


async def resolve(
    recovery: Recovery, melt: Melt, outcome: ResolveAs, *, reason: str, actor: Actor, holder: str
) -> Melt:
    """
    Do what a person has decided, and resolve the melt's CRITICAL events with it.

    Returns:
        The entry afterwards: SETTLED, RELEASED, PENDING (observe), or FENCING where the swap's answer is not known
        yet; then the watcher finishes it.

    Raises:
        MeltdError: WRONG_STATE, with the reason why this may not be done now.
        MintError, LostRace, StoreError: nothing was decided; try again.
    """
    sight = await look(recovery, melt)
    refused = sight.forbidden[outcome]
    if refused is not None:
        raise MeltdError(
            Code.WRONG_STATE,
            refused,
            melt_id=melt.id,
            quote_id=melt.quote_id,
            transaction_id=melt.transaction_id,
            hint=f"look at GET /v1/melts/{melt.id}/evidence",
        )
    decision = Resolution(outcome=outcome, reason=reason, actor=actor, at=recovery.clock.now())
    match outcome:
        case ResolveAs.OBSERVE:
            after = await _observe(recovery, melt, holder)
        case ResolveAs.SETTLED:
            after = await _settle(recovery, await _journal(recovery, melt, decision, holder), sight)
        case ResolveAs.RELEASED:
            after = await _release(recovery, await _journal(recovery, melt, decision, holder), sight)
        case _:
            assert_never(outcome)
    _log.warning(
        "a person has decided about a melt",
        melt_id=melt.id,
        outcome=outcome.value,
        reason=reason,
        uid=actor.uid,
        gid=actor.gid,
        state=after.state.value,
    )
    for event in _EVENTS:
        await recovery.events.resolve(
            event, f"melt:{melt.id}", reason=f"{outcome.value}: {reason} (uid {actor.uid}, gid {actor.gid})"
        )
    await recovery.contradiction_over(melt)
    if after.state is not melt.state:
        recovery.telemetry.recovered(melt.mint, melt.state, after.state)
    return after


async def _journal(recovery: Recovery, melt: Melt, decision: Resolution, holder: str) -> Melt:
    """Intent before effect: who decided what, and that this instance carries it out."""
    changes: dict[str, object] = {"resolution": decision, "holder": holder}
    if decision.outcome is ResolveAs.RELEASED:
        changes |= {"error_code": Code.PAYMENT_FAILED.value, "error_detail": "released by a person, behind a fence"}
    return await recovery.threads(lambda: recovery.store.advance(melt, MeltState.HELD, **changes))


async def _observe(recovery: Recovery, melt: Melt, holder: str) -> Melt:
    return await recovery.threads(
        lambda: recovery.store.advance(
            melt,
            MeltState.PENDING,
            holder=holder,
            clear_since=None,
            contradiction=None,
            contradiction_since=None,
            error_code=None,
            error_detail=None,
            refusals=0,
        )
    )


async def _settle(recovery: Recovery, melt: Melt, sight: Sight) -> Melt:
    """T3 although the mint may not call the quote PAID; its change, if it has any, is asked for by restore."""
    quote = sight.quote
    if quote is None or quote.state is not QuoteState.PAID:
        quote_id: QuoteId | None = melt.quote_id
        if quote_id is None:
            raise MeltdError(Code.WRONG_STATE, "the melt has no quote: it was never sent", melt_id=melt.id)
        quote = MeltQuote(
            id=quote_id,
            state=QuoteState.PAID,
            amount=melt.amount,
            fee_reserve=melt.fee_reserve,
            expiry=melt.quote_expiry,
            change=() if quote is None else quote.change,
            change_known=True,
        )
    return await recovery.settle(melt, quote)


async def _release(recovery: Recovery, melt: Melt, sight: Sight) -> Melt:
    states = sight.states or {}
    spent = tuple(ref.y for ref in melt.inputs if states.get(ref.y) is MintState.SPENT)
    after = await recovery.fence(melt, spent)
    for _ in range(RELEASE_STEPS_MAX):
        if after.state is not MeltState.FENCING:
            break
        try:
            after = await recovery.step(after)
        except LostRace:
            # The watcher follows it too, and has done the same.
            after = await _fresh(recovery, after)
        except MintError as error:
            _log.warning("the fencing swap is left to the watcher", melt_id=melt.id, code=error.code.value)
            break
    return after


async def _fresh(recovery: Recovery, melt: Melt) -> Melt:
    def read() -> Melt | None:
        return recovery.store.melt(melt.id)

    found = await recovery.threads(read)
    return melt if found is None else found
