"""
A swap that the mint refused because of a keyset, planned anew with the one that it signs with now (NUT-02, NUT-03).

12001, 12002 and 12003 mean that our list of keysets is older than the mint's. The refused request signed nothing and took
nothing: that was looked at (:func:`melt.recovery.swaps.run_swap`) before anybody comes here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from melt.errors import MintRejected
from melt.model import JournalKind, MeltState
from melt.recovery.decide import REFUSALS_MAX
from melt.recovery.keysets import signing_keyset
from melt.recovery.swaps import exact_amounts, plan_amounts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melt.model import Keyset, Melt, SwapPlan
    from melt.ports import Mint
    from melt.recovery.follow import Recovery

_log = structlog.get_logger("melt.recovery")


async def anew(recovery: Recovery, mint: Mint, melt: Melt, plan: SwapPlan, mint_code: int) -> Melt | None:
    """
    The entry with a new plan, in the same state; None where a new plan would be the old one, or can't be made.

    Raises MintError where the mint can't be asked, LostRace, StoreError.
    """
    try:
        keyset = await signing_keyset(mint, melt.unit, now=recovery.clock.now())
        if keyset.id == plan.outputs.keyset_id or melt.refusals >= REFUSALS_MAX:
            return None
        amounts, keep, fee = await _amounts(mint, keyset, melt, plan)
    except MintRejected:
        return None  # no keyset takes outputs, or an input's keyset is gone
    if not amounts:
        return None
    await recovery.fresh_counters(mint, keyset.id)
    fence = melt.state is MeltState.FENCING
    planned = await recovery.threads(
        lambda: recovery.store.plan_swap(
            melt,
            melt.state,
            inputs=plan.inputs,
            amounts=amounts,
            keep=keep,
            fee=fee,
            keyset_id=keyset.id,
            seed_id=recovery.outputs.seed_id,
            fence=fence,
        )
    )
    _log.info(
        "a swap was planned anew: the mint signs with another keyset now",
        melt_id=melt.id,
        mint=melt.mint,
        mint_code=mint_code,
        keyset=keyset.id,
    )
    return planned


async def _amounts(mint: Mint, keyset: Keyset, melt: Melt, plan: SwapPlan) -> tuple[Sequence[int], int, int]:
    if melt.kind is JournalKind.MELT and melt.state is MeltState.SWAPPING:
        exact = await exact_amounts(mint, keyset, plan.inputs, melt.amount + melt.fee_reserve)
        return ((), 0, 0) if exact is None else ((*exact.keep, *exact.pay), len(exact.keep), exact.fee)
    amounts, fee = await plan_amounts(mint, keyset, plan.inputs)
    return amounts, len(amounts), fee
