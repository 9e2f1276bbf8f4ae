"""
Many proofs swapped into fewer, or into new ones to see whether the mint takes them (NUT-03).

Journaled like a melt that pays nobody: inputs reserved and the swap written down before it is sent, the sources spent and
the new proofs stored in one transaction when it went through, everything given back when the mint refused it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from melt.model import JournalKind, MeltState
from melt.recovery.entries import plan_keeping, swap_entry
from melt.recovery.keysets import signing_keyset
from melt.recovery.swaps import plan_amounts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from melt.model import Actor, InputRef, Melt, MeltId, Token, TokenId
    from melt.ports import Mint
    from melt.recovery.follow import Recovery

STEPS_MAX: Final = 3


async def swap_together(
    recovery: Recovery,
    mint: Mint,
    refs: Sequence[InputRef],
    tokens: Mapping[TokenId, Token],
    *,
    entry_id: MeltId,
    unit: str,
    actor: Actor,
    holder: str,
    note: str,
) -> Melt | None:
    """
    Swap these proofs of one wallet, all of them at once; ``tokens`` are the documents that they lie in.

    Returns:
        The entry: SETTLED when it went through, RELEASED when the mint refused it, SWAPPING when that is not known yet
        (the watcher goes on). None where the input fee would eat what the proofs are worth: nothing was written.

    Raises:
        LostRace: somebody else has moved a document. MintError, StoreError: what was journaled is taken to its end.
    """
    keyset = await signing_keyset(mint, unit, now=recovery.clock.now())
    amounts, fee = await plan_amounts(mint, keyset, refs)
    if not amounts:
        return None
    await recovery.fresh_counters(mint, keyset.id)
    entry = swap_entry(
        JournalKind.TOGETHER,
        entry_id,
        tokens[refs[0].token_id],
        refs,
        mint=mint,
        unit=unit,
        transaction_id=f"tx_{entry_id}",
        actor=actor,
        holder=holder,
        note=note,
        now=recovery.clock.now(),
    )
    seed_id = recovery.outputs.seed_id
    reserved = await recovery.threads(lambda: recovery.store.reserve(entry, blanks=None, seed_id=seed_id))
    swapping = await plan_keeping(
        recovery, reserved, MeltState.SWAPPING, reserved.inputs, amounts, fee=fee, keyset_id=keyset.id
    )
    for _ in range(STEPS_MAX):
        if swapping.state is not MeltState.SWAPPING:
            break
        swapping = await recovery.step(swapping)
    return swapping
