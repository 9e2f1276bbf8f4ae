"""What a settlement cries out about: a store that is lost after the payment, too much change (DESIGN section 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melt.errors import StoreUnavailable
from melt.model import EventType

if TYPE_CHECKING:
    from melt.errors import StoreError
    from melt.events import CriticalEvents
    from melt.model import Melt, MeltQuote
    from melt.recovery.signatures import Change


async def lost_after_payment(
    events: CriticalEvents, melt: Melt, quote: MeltQuote, change: Change, error: StoreError
) -> None:
    """CRITICAL: what is needed to finish by hand goes into the event and its spool; no secret does (I10)."""
    away = isinstance(error, StoreUnavailable)
    blanks = melt.blanks
    await events.open(
        EventType.DB_FAILURE_AFTER_MINT_SUCCESS,
        f"melt:{melt.id}",
        mint=melt.mint,
        detail="the mint has paid, but the database could not be updated; meltd goes on trying"
        if away
        else f"the mint has paid, and the database refuses to record it ({error.code}); meltd goes on trying",
        requires_manual_intervention=not away,
        evidence={
            "melt_id": melt.id,
            "quote_id": melt.quote_id,
            "transaction_id": melt.transaction_id,
            "npub": melt.npub,
            "unit": melt.unit,
            "amount": melt.amount,
            "inputs_amount": melt.inputs_amount,
            "change_amount": change.amount,
            "seed_id": None if blanks is None else blanks.seed_id,
            "keyset_id": None if blanks is None else blanks.keyset_id,
            "counter": None if blanks is None else blanks.counter,
            "outputs": 0 if blanks is None else len(blanks.amounts),
        },
        signatures=[f"{s.keyset_id}:{s.amount}:{s.c_}:{s.dleq_e or ''}:{s.dleq_s or ''}" for s in quote.change],
        store_is_away=away,
    )


async def check_surplus(events: CriticalEvents, melt: Melt, change: Change) -> None:
    """More change than was overpaid is proved by DLEQ, so it is kept; but such a mint's sums can't be trusted."""
    if change.amount <= max(0, melt.overpaid):
        return
    await events.open(
        EventType.MINT_UNTRUSTED,
        f"melt:{melt.id}",
        mint=melt.mint,
        detail="the mint returned more change than was overpaid; it is kept, and the mint's sums are wrong",
        requires_manual_intervention=True,
        evidence={
            "quote_id": melt.quote_id,
            "overpaid": melt.overpaid,
            "change_amount": change.amount,
            "unit": melt.unit,
        },
    )


async def tell_held(events: CriticalEvents, melt: Melt) -> None:
    """
    The event of a HELD melt, at each look: the process may have ended right after the melt became HELD.

    Without a contradiction of its own it is held because its mint is not believed.
    """
    await events.open(
        EventType.MELT_HELD if melt.contradiction is None else EventType(melt.contradiction),
        f"melt:{melt.id}",
        mint=melt.mint,
        detail=melt.error_detail or "the mint contradicts itself",
        requires_manual_intervention=True,
        evidence={"quote_id": melt.quote_id, "inputs_amount": melt.inputs_amount, "unit": melt.unit},
    )
