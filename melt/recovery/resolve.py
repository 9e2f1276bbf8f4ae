"""
A person's hand on an open entry (DESIGN section 4): what there is to see, and what may be decided on it.

The mint is asked anew before anything is changed, because a decision on what was seen an hour ago is none. What may be
decided follows from what it says now (:mod:`melt.recovery.verdicts`):

============  ==========================================================  ==============================================
outcome       needs                                                       does
============  ==========================================================  ==============================================
settled       every input SPENT, and something that shows a payment:      T3: inputs spent, change collected, the rest
              quote PAID, change signed, or the payee's preimage          a shortfall
released      no input PENDING, some UNSPENT                              a fencing swap; the inputs come back as new
                                                                          proofs (I7)
inputs_gone   every input SPENT, and nothing that shows a payment         the entry ends, nothing is called paid, and
                                                                          the invoice stays claimed for good (I1)
observe       nothing                                                     followed as before
============  ==========================================================  ==============================================

An entry whose payment request never left is only released. None of the first three is taken while it may still run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, assert_never

import structlog

from melt.errors import Code, LostRace, MeltdError, MintError, MintRejected
from melt.model import EventType, MeltQuote, MeltState, MintState, QuoteState, Resolution, ResolveAs
from melt.recovery import decide as rules
from melt.recovery.verdicts import forbidden, proves

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from melt.model import Actor, Melt, OutputPlan, QuoteId, Y
    from melt.ports import Mint
    from melt.recovery.follow import Recovery

_log = structlog.get_logger("melt.recovery")

RELEASE_STEPS_MAX = 3
_EVENTS = (
    EventType.MELT_HELD,
    EventType.MELT_STUCK,
    EventType.QUOTE_PAID_INPUTS_UNSPENT,
    EventType.QUOTE_UNPAID_INPUTS_SPENT,
)
"""What a decision about a melt resolves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """
    What the mint says about an open melt now; ``None`` where it could not be asked, and then why.

    ``quote_withheld``: the quote was not asked because our POST may still be running, which asking could disturb.
    ``may_run``: so it is by the journal and the clock alone. ``quote_refused``: the mint knows no such quote (any more).
    ``change_signed``, ``fence_signed``: how many of the entry's blanks (which only its payment gets signed) and of its
    fence's outputs the mint has signed; asked where the inputs are gone and the quote does not say PAID, else None.
    ``forbidden`` says for each outcome why it may not be chosen, None: it may.
    """

    asked_at: datetime
    states: Mapping[Y, MintState] | None
    states_error: str | None
    quote: MeltQuote | None
    quote_error: str | None
    quote_withheld: bool
    forbidden: Mapping[ResolveAs, str | None]
    may_run: bool = False
    quote_refused: bool = False
    change_signed: int | None = None
    fence_signed: int | None = None


async def look(recovery: Recovery, melt: Melt) -> Sight:
    """Ask the mint about the inputs and the quote of a melt. Never raises for what the mint does."""
    mint = recovery.mints.get(melt.mint)
    states: Mapping[Y, MintState] | None = None
    states_error = None if mint is not None else f"mint {melt.mint} is not configured"
    quote: MeltQuote | None = None
    quote_error = states_error
    withheld = quote_refused = False
    change_signed: int | None = None
    fence_signed: int | None = None
    may_run = not rules.answered_or_late(melt, recovery.clock.now(), recovery.policy.patience)
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
                quote_refused = isinstance(error, MintRejected)
            else:
                states, states_error = await _again(mint, melt, states)
        gone = states is not None and set(states.values()) == {MintState.SPENT}
        if melt.is_open and gone and (quote is None or quote.state is not QuoteState.PAID):
            change_signed = await _signed(recovery, mint, melt.blanks)
            fence_signed = await _signed(recovery, mint, None if melt.fence is None else melt.fence.outputs)
    asked = Sight(
        asked_at=recovery.clock.now(),
        states=states,
        states_error=states_error,
        quote=quote,
        quote_error=quote_error,
        quote_withheld=withheld and melt.quote_id is not None,
        forbidden={},
        may_run=may_run,
        quote_refused=quote_refused,
        change_signed=change_signed,
        fence_signed=fence_signed,
    )
    return replace(asked, forbidden={outcome: forbidden(outcome, melt, asked) for outcome in ResolveAs})


async def _signed(recovery: Recovery, mint: Mint, plan: OutputPlan | None) -> int | None:
    """How many of these outputs the mint has signed; None where it could not be asked, 0 where it can't tell (no NUT-09)."""
    if plan is None:
        return 0
    try:
        return len(await mint.restore(recovery.outputs.blinded(plan)))
    except MintRejected:
        return 0
    except MintError:
        return None


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


async def resolve(
    recovery: Recovery,
    melt: Melt,
    outcome: ResolveAs,
    *,
    reason: str,
    actor: Actor,
    holder: str,
    preimage: str | None = None,
) -> Melt:
    """
    Do what a person has decided, and resolve the entry's CRITICAL events with it.

    ``preimage`` is the payee's, of the invoice: it proves a payment that the mint does not own up to.

    Returns:
        The entry afterwards: SETTLED, RELEASED, as it was (observe), or open still where the mint's answer to what was
        begun is not known yet; then the watcher finishes it.

    Raises:
        MeltdError: WRONG_STATE, with the reason why this may not be done now.
        MintError, LostRace, StoreError: nothing was decided; try again.
    """
    sight = await look(recovery, melt)
    proven = preimage is not None and proves(melt, preimage)
    refused = forbidden(outcome, melt, sight, proven=proven)
    if preimage is not None and not proven:
        refused = "this preimage is not the invoice's: it proves no payment"
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
            after = await _observe(recovery, melt, holder, sight)
        case ResolveAs.SETTLED:
            settling = await _journal(recovery, melt, decision, holder)
            after = await _settle(recovery, settling, sight, preimage if proven else None)
        case ResolveAs.RELEASED:
            after = await _release(recovery, await _journal(recovery, melt, decision, holder), sight)
        case ResolveAs.INPUTS_GONE:
            after = await recovery.inputs_gone(melt, decision)
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


_DECIDED_IN_PLACE = frozenset({MeltState.RESERVED, MeltState.READY, MeltState.SWAPPING, MeltState.FENCING})
"""States whose own step carries a release out; the others go through HELD, from where each end can be reached."""


async def _journal(recovery: Recovery, melt: Melt, decision: Resolution, holder: str) -> Melt:
    """Intent before effect: who decided what, and that this instance carries it out."""
    changes: dict[str, object] = {"resolution": decision, "holder": holder}
    if decision.outcome is ResolveAs.RELEASED:
        changes |= {"error_code": Code.PAYMENT_FAILED.value, "error_detail": "released by a person, behind a fence"}
    to = melt.state if melt.state in _DECIDED_IN_PLACE else MeltState.HELD
    return await recovery.threads(lambda: recovery.store.advance(melt, to, **changes))


async def _observe(recovery: Recovery, melt: Melt, holder: str, sight: Sight) -> Melt:
    if melt.state in {MeltState.RESERVED, MeltState.READY, MeltState.SWAPPING} or sight.may_run:
        return melt  # its own step goes on with it, or a request is under way that must find the entry as it left it
    posted = rules.by_another_clock(melt, recovery.clock.now()) if holder != melt.holder else {}
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
            **posted,
        )
    )


async def _settle(recovery: Recovery, melt: Melt, sight: Sight, preimage: str | None) -> Melt:
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
            preimage=preimage,
            change=() if quote is None else quote.change,
            change_known=True,
        )
    return await recovery.settle(melt, quote)


async def _release(recovery: Recovery, melt: Melt, sight: Sight) -> Melt:
    states = sight.states or {}
    spent = tuple(ref.y for ref in melt.inputs if states.get(ref.y) is MintState.SPENT)
    after = melt if melt.state in _DECIDED_IN_PLACE else await recovery.fence(melt, spent)
    for _ in range(RELEASE_STEPS_MAX):
        if after.state not in _DECIDED_IN_PLACE:
            break
        try:
            after = await recovery.step(after)
        except LostRace:
            # The watcher follows it too, and has done the same.
            after = await _fresh(recovery, after)
        except MintError as error:
            _log.warning("the release is left to the watcher", melt_id=melt.id, code=error.code.value)
            break
    if after.state is MeltState.SWAPPING and not spent:
        # The swap can't be brought to an end. No payment was tried, and what a late copy of it would make is restored.
        detail = "released by a person before the payment was sent; nothing was paid"
        return await recovery.release(after, Code.PAYMENT_FAILED, detail, ())
    return after


async def _fresh(recovery: Recovery, melt: Melt) -> Melt:
    def read() -> Melt | None:
        return recovery.store.melt(melt.id)

    found = await recovery.threads(read)
    return melt if found is None else found
