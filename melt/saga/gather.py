"""Before a payment that needs more inputs than the mint takes: its smallest proofs are swapped together (:mod:`melt.gathering`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from melt.errors import Code, MintRejected
from melt.gathering import SWAPS_MAX, gathering
from melt.model import MeltId, MeltState
from melt.recovery.keysets import signing_keyset
from melt.recovery.together import swap_together
from melt.selection import input_fee

if TYPE_CHECKING:
    from collections.abc import Mapping

    from melt.model import KeysetId
    from melt.ports import Mint
    from melt.preflight import Preflight
    from melt.recovery import Recovery
    from melt.saga.choice import TooMany
    from melt.saga.met import DriftMet
    from melt.saga.request import MeltRequest

DRIFT_ROUNDS_MAX: Final = 16
"""So often is chosen anew because documents turned out to be in use by somebody else (I11)."""

_log = structlog.get_logger("melt.saga")


@dataclass(slots=True)
class SwapsBefore:
    """What was swapped together for one payment so far; fees in the unit."""

    number: int = 0
    fees: int = 0


async def swap_smallest(
    recovery: Recovery,
    preflight: Preflight,
    mint: Mint,
    request: MeltRequest,
    many: TooMany,
    *,
    need: int,
    limit: int,
    ppk: Mapping[KeysetId, int],
    fee_max: int,
    swaps: SwapsBefore,
    drift: DriftMet,
    melt_id: MeltId,
    holder: str,
) -> None:
    """
    One swap of the ``limit`` smallest proofs; the caller chooses anew, and comes back where it still does not reach.

    Raises ``many``, with the number of inputs and the limit, where no swaps would do or their fees would be too high, and
    what :func:`melt.recovery.together.swap_together` and the preflight raise.
    """
    try:
        keyset = await signing_keyset(mint, request.unit, now=recovery.clock.now())
    except MintRejected as error:
        raise many from error
    pool = [ref for ref in many.pool if 1000 * ref.amount > ppk[ref.keyset_id]]
    plan = gathering(
        [(ref.amount, ppk[ref.keyset_id]) for ref in pool],
        need=need,
        limit=limit,
        denominations=await mint.keys(keyset.id),
        ppk=keyset.input_fee_ppk,
        fee_max=fee_max,
    )
    if plan is None or plan.swaps == 0 or swaps.number >= SWAPS_MAX:
        raise many
    refs = pool[:limit]
    touched = {ref.token_id: many.tokens[ref.token_id] for ref in refs}
    checked = await preflight.check(mint, touched, unit=request.unit, actor=request.actor)
    if checked.out:
        if drift.rounds >= DRIFT_ROUNDS_MAX:
            raise many
        drift.meet(checked)
        return  # somebody is at work on them: chosen anew without these documents
    swaps.number += 1
    done = await swap_together(
        recovery,
        mint,
        refs,
        many.tokens,
        entry_id=MeltId(f"together_{melt_id}_{swaps.number}"),
        unit=request.unit,
        actor=request.actor,
        holder=holder,
        note=f"swapped together to pay {melt_id}",
    )
    if done is not None and done.error_code == Code.TOO_MANY_INPUTS.value:
        return  # even these were too many, which is known now: chosen anew, it is fewer
    if done is None or done.state is not MeltState.SETTLED:
        raise many
    swaps.fees += input_fee([ref.keyset_id for ref in refs], ppk)
    _log.info("proofs were swapped together for a payment", melt_id=melt_id, proofs=len(refs), left=plan.swaps - 1)
