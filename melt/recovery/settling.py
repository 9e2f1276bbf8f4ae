"""T3 of a melt that the mint calls PAID, and what is written down with it (DESIGN section 4, Change, PAID)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from melt.corrections import record_findings
from melt.drift import SEVERITIES
from melt.errors import LostRace, MintError, StoreError, StoreLostAfterPayment
from melt.model import Action, DriftType, EventType, Finding, MeltId, MeltState, Token
from melt.recovery import alarms
from melt.recovery.preimages import Preimage, judge
from melt.recovery.reclaim import reclaim
from melt.recovery.signatures import collect_change

if TYPE_CHECKING:
    from melt.model import Melt, MeltQuote, TokenId
    from melt.recovery.follow import Recovery
    from melt.recovery.signatures import Change

_log = structlog.get_logger("melt.recovery")


async def settle(recovery: Recovery, melt: Melt, quote: MeltQuote) -> Melt:
    """
    Change collected, inputs spent, all in one transaction.

    Raises MintError where the change can't be told yet, StoreUnavailable after raising the CRITICAL event.
    """
    change = await collect_change(recovery.mints[melt.mint], recovery.outputs, melt, quote)
    await alarms.check_surplus(recovery.events, melt, change)
    preimage = await _checked_preimage(recovery, melt, quote)
    started = recovery.clock.monotonic()
    try:
        settled, result = await recovery.threads(
            lambda: recovery.store.settle(
                melt,
                change.proofs,
                shortfall=change.shortfall,
                fees_paid=change.fees_paid,
                preimage=preimage,
                unproved=change.unproved,
            )
        )
    except LostRace:
        raise  # somebody else has moved the entry: read it again
    except StoreError as error:
        await alarms.lost_after_payment(recovery.events, melt, quote, change, error)
        raise StoreLostAfterPayment("the mint has paid; the database has not been updated yet") from error
    recovery.telemetry.melt_phase(melt.mint, "settle", recovery.clock.monotonic() - started)
    await _after_settling(recovery, melt, settled, change)
    if result.unproved_token_id is not None:
        await _prove(recovery, settled, result.unproved_token_id)
    return settled


async def _after_settling(recovery: Recovery, melt: Melt, settled: Melt, change: Change) -> None:
    recovery.telemetry.amount_paid(melt.mint, melt.unit, melt.amount, change.fees_paid, change.shortfall)
    subject = f"melt:{melt.id}"
    if change.shortfall:
        await _book_shortfall(recovery, settled, change.shortfall)
    for event in (
        EventType.DB_FAILURE_AFTER_MINT_SUCCESS,
        EventType.QUOTE_PAID_INPUTS_UNSPENT,
        EventType.QUOTE_UNPAID_INPUTS_SPENT,
    ):
        contradicted = melt.contradiction == event and melt.resolution is None
        if event is EventType.DB_FAILURE_AFTER_MINT_SUCCESS or contradicted:
            await recovery.events.resolve(event, subject, reason="the melt has settled")


async def _book_shortfall(recovery: Recovery, melt: Melt, shortfall: int) -> None:
    drift = DriftType.CHANGE_SHORTFALL
    finding = Finding(
        type=drift,
        severity=SEVERITIES[drift],
        action=Action.RECORD,
        subject=f"melt:{melt.id}",
        npub=melt.npub,
        mint=melt.mint,
        unit=melt.unit,
        value=shortfall,
        token_id=melt.change_token_id,
        ys=(),
        evidence={"quote_id": melt.quote_id, "overpaid": melt.overpaid, "fee_reserve": melt.fee_reserve},
    )
    try:
        await recovery.threads(lambda: recovery.store.record([finding]))
    except StoreError:
        _log.exception("a change shortfall could not be recorded", melt_id=melt.id, shortfall=shortfall)
        return
    recovery.telemetry.drift_found(drift, finding.severity, melt.mint)
    recovery.telemetry.drift_alerting(drift, finding.severity, melt.mint)


async def _prove(recovery: Recovery, melt: Melt, token_id: TokenId) -> None:
    """
    A swap, at once, of the change that nothing proves: what the mint takes was money, and comes back as new proofs.

    It is journaled as a reclaim of the ``failed`` document in which it lies, and corrects the melt's books. What the mint
    refuses stays a shortfall. Raises nothing: T3 is done.
    """
    mint = recovery.mints[melt.mint]
    try:
        (token,) = await recovery.threads(lambda: recovery.store.tokens([token_id]))
        if not isinstance(token, Token):
            return
        entry = await reclaim(
            recovery,
            mint,
            token,
            [proof.y for proof in token.proofs],
            warrant=None,
            unit=melt.unit,
            actor=melt.actor,
            holder=melt.holder,
            clock=recovery.clock,
            entropy=None,
            note=f"change of {melt.id} under another keyset than planned, without a DLEQ proof",
            entry_id=MeltId(f"reclaim_{melt.id}"),
        )
    except (MintError, StoreError) as error:
        _log.warning("unproved change is left to the watcher", melt_id=melt.id, code=error.code.value)
        return
    if entry is not None and (entry.is_open or entry.state is MeltState.SETTLED):
        return
    await recovery.events.open(
        EventType.MINT_UNTRUSTED,
        f"melt:{melt.id}",
        mint=melt.mint,
        detail="the mint signed change under another keyset than planned, without a DLEQ proof, and does not take it back; "
        "it is booked as a shortfall",
        requires_manual_intervention=True,
        evidence={"quote_id": melt.quote_id, "value": token.amount, "unit": melt.unit, "token_id": token_id},
    )


async def _checked_preimage(recovery: Recovery, melt: Melt, quote: MeltQuote) -> str | None:
    """The preimage where it proves the payment; a wrong one is a CRITICAL event, the money counted as spent."""
    shown, preimage = judge(quote.preimage, melt.payment_hash)
    if shown is Preimage.WRONG:
        await recovery.events.open(
            EventType.WRONG_PREIMAGE,
            f"melt:{melt.id}",
            mint=melt.mint,
            detail="the mint says PAID with a preimage that does not belong to the invoice; the money counts as spent",
            requires_manual_intervention=True,
            evidence={"quote_id": melt.quote_id, "payment_hash": melt.payment_hash},
        )
    elif shown is Preimage.IS_HASH:
        await _record_unproved(recovery, melt)
    return preimage


async def _record_unproved(recovery: Recovery, melt: Melt) -> None:
    """The mint gave the payment hash for the preimage: no alarm, but whoever has to show the payment should know."""
    drift = DriftType.PAYMENT_UNPROVED
    finding = Finding(
        type=drift,
        severity=SEVERITIES[drift],
        action=Action.RECORD,
        subject=f"melt:{melt.id}",
        npub=melt.npub,
        mint=melt.mint,
        unit=melt.unit,
        value=melt.amount,
        token_id=None,
        ys=(),
        evidence={
            "quote_id": melt.quote_id,
            "payment_hash": melt.payment_hash,
            "reason": "the mint says PAID and gives the payment hash where the preimage belongs",
        },
    )
    try:
        await record_findings([finding], store=recovery.store, threads=recovery.threads, telemetry=recovery.telemetry)
    except StoreError:
        _log.exception("a payment without a preimage could not be recorded", melt_id=melt.id)
