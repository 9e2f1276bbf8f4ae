"""
The same payment once more, with change outputs of the keyset that the mint signs with now (NUT-02, NUT-08).

Only after a POST that was refused by a code that is about keysets, hence before any payment, and only where quote and inputs
say so themselves: UNPAID and UNSPENT. That the refusal came is in the journal before anything else is done, and the new
outputs are before the next POST leaves (I1, I2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from melt.errors import MintError
from melt.model import MintState, QuoteState
from melt.recovery.keysets import has_expired, signing_keyset
from melt.selection import blank_count, input_fee

if TYPE_CHECKING:
    from melt.model import Melt
    from melt.ports import Mint
    from melt.recovery import Recovery

_log = structlog.get_logger("melt.saga")


async def with_new_blanks(recovery: Recovery, mint: Mint, refused: Melt) -> Melt | None:
    """
    The entry with new blank outputs, ready to be sent; None where that would not help, or nothing certain is known.

    ``refused`` is MELTING, its POST REFUSED. Raises LostRace, StoreError.
    """
    if refused.blanks is None or refused.quote_id is None:
        return None
    try:
        keysets = await mint.keysets(refresh=True)
        now = recovery.clock.now()
        for ref in refused.inputs:
            keyset = keysets.get(ref.keyset_id)
            if keyset is None or keyset.unit != refused.unit or has_expired(keyset, now):
                return None  # it is the inputs that the mint does not take
        keyset = await signing_keyset(mint, refused.unit, now=now)
        fee = input_fee([ref.keyset_id for ref in refused.inputs], {k: v.input_fee_ppk for k, v in keysets.items()})
        overpaid = refused.inputs_amount - refused.amount - fee
        if keyset.id == refused.blanks.keyset_id or overpaid < refused.fee_reserve:
            return None
        if not await _nothing_happened(mint, refused):
            return None
        await recovery.fresh_counters(mint, keyset.id)
    except MintError as error:
        _log.warning("a refused payment is not tried with other outputs", melt_id=refused.id, code=error.code.value)
        return None
    count = max(1, blank_count(overpaid))
    renewed = await recovery.threads(
        lambda: recovery.store.renew_blanks(refused, keyset_id=keyset.id, count=count, seed_id=recovery.outputs.seed_id)
    )
    _log.info(
        "the mint signs with another keyset now: the payment goes on with outputs of that one",
        melt_id=refused.id,
        mint=refused.mint,
        mint_code=refused.post_code,
        keyset=keyset.id,
    )
    return renewed


async def _nothing_happened(mint: Mint, melt: Melt) -> bool:
    """UNPAID, and every input UNSPENT before and after: asking for a quote can move them at some mints."""
    if melt.quote_id is None:
        return False
    ys = [ref.y for ref in melt.inputs]
    before = {one.state for one in await mint.check_states(ys)}
    quote = await mint.melt_quote_state(melt.quote_id)
    after = {one.state for one in await mint.check_states(ys)}
    return quote.state is QuoteState.UNPAID and before == after == {MintState.UNSPENT}
