"""
Bringing back value behind proofs that are recorded as spent or failed while the mint still honours them (I7).

The documents stay as they are: ``spent`` and ``failed`` are final. The value comes back as new proofs of the same owner,
by a swap that is journaled like a melt's, so that a crash or a lost answer is recovered by the same code.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

import structlog

from melt.ecash import is_point
from melt.model import InputRef, JournalKind, MeltId, MeltState
from melt.recovery.entries import plan_keeping, swap_entry
from melt.recovery.keysets import has_expired, signing_keyset
from melt.recovery.swaps import plan_amounts

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from melt.model import Actor, Keyset, Melt, Proof, Token, Warrant, Y
    from melt.ports import Clock, Entropy, Mint
    from melt.recovery.follow import Recovery

_log = structlog.get_logger("melt.recovery")

REFUSED_FOR: Final = timedelta(days=1)
"""How long a refused reclaim is not tried again; each try leaves a journal entry (I11)."""
_LOOKED_AT: Final = 10


def _can_be_swapped(proof: Proof, keyset: Keyset | None, unit: str, now: datetime) -> bool:
    """Not what is locked, of no keyset of this unit, of one that has ended, or no signature at all (some mints: a 500)."""
    listed = keyset is not None and keyset.unit == unit and not has_expired(keyset, now)
    return listed and not proof.is_locked and is_point(proof.c)


async def _was_refused(recovery: Recovery, y: Y, now: datetime) -> bool:
    """By the mint, that is: one that was cut short before its swap was planned was never asked for."""
    earlier = await recovery.threads(lambda: recovery.store.melts_with_proof(y, _LOOKED_AT))
    return any(
        melt.kind is JournalKind.RECLAIM
        and melt.state is MeltState.RELEASED
        and melt.swap is not None
        and melt.ended_at is not None
        and now - melt.ended_at < REFUSED_FOR
        for melt in earlier
    )


async def reclaim(
    recovery: Recovery,
    mint: Mint,
    token: Token,
    ys: Sequence[Y],
    *,
    warrant: Warrant | None,
    unit: str,
    actor: Actor,
    holder: str,
    clock: Clock,
    entropy: Entropy | None,
    note: str | None = None,
    entry_id: MeltId | None = None,
) -> Melt | None:
    """
    Journal a reclaim of some proofs of ``token`` and take its first step. ``note`` goes into the audit. One of ``entropy`` and
    ``entry_id`` names the entry.

    It swaps proofs of a document that it doesn't reserve, so the journal lets it in by its ``warrant`` alone (I13); None is for
    change that a melt of ours has stored apart as unproved.

    Returns:
        The entry (SETTLED when the swap went through at once), or None: the fee would eat the value, no proof can be
        swapped, or the mint refused the same within REFUSED_FOR (UNSPENT says nothing about a proof's signature, so
        a forged one reads so too).

    Raises:
        LostRace, DuplicateMelt: another entry holds these proofs.
        MintError, StoreError: nothing lost; an entry that was journaled is finished by the watcher.
    """
    wanted = set(ys)
    keysets = await mint.keysets()
    refs = tuple(
        InputRef(token_id=token.id, y=proof.y, amount=proof.amount, keyset_id=proof.keyset_id)
        for proof in token.proofs
        if proof.y in wanted and _can_be_swapped(proof, keysets.get(proof.keyset_id), unit, clock.now())
    )
    if not refs or await _was_refused(recovery, refs[0].y, clock.now()):
        return None
    keyset = await signing_keyset(mint, unit, now=clock.now())
    amounts, fee = await plan_amounts(mint, keyset, refs)
    if not amounts:
        _log.info("not worth reclaiming", token_id=token.id, mint=mint.alias, fee=fee, unit=unit)
        return None
    await recovery.fresh_counters(mint, keyset.id)
    if entry_id is None:
        if entropy is None:
            raise AssertionError("a reclaim without a name")
        entry_id = MeltId(f"reclaim_{entropy.token(12)}")
    entry = swap_entry(
        JournalKind.RECLAIM,
        entry_id,
        token,
        refs,
        mint=mint,
        unit=unit,
        transaction_id=token.transaction_id,
        actor=actor,
        holder=holder,
        note=note,
        now=clock.now(),
    )
    seed_id = recovery.outputs.seed_id
    reserved = await recovery.threads(
        lambda: recovery.store.reserve(entry, blanks=None, seed_id=seed_id, warrant=warrant)
    )
    planned = await plan_keeping(recovery, reserved, MeltState.SWAPPING, refs, amounts, fee=fee, keyset_id=keyset.id)
    return await recovery.step(planned)
