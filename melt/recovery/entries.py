"""Journal entries that swap proofs and pay nobody, and the plan of a swap that keeps all of what it makes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melt.model import Melt, MeltState

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from melt.model import Actor, InputRef, JournalKind, KeysetId, MeltId, Token
    from melt.ports import Mint
    from melt.recovery.follow import Recovery


def swap_entry(
    kind: JournalKind,
    entry_id: MeltId,
    owned: Token,
    refs: Sequence[InputRef],
    *,
    mint: Mint,
    unit: str,
    transaction_id: str,
    actor: Actor,
    holder: str,
    note: str | None,
    now: datetime,
) -> Melt:
    """The entry as it is reserved: no quote, nothing to pay. ``owned`` tells whose the proofs of ``refs`` are."""
    return Melt(
        id=entry_id,
        kind=kind,
        state=MeltState.RESERVED,
        rev=0,
        holder=holder,
        idempotency_key=None,
        request_digest="",
        npub=owned.npub,
        wallet_id=owned.wallet_id,
        mint=mint.alias,
        mint_url=owned.mint_url,
        unit=unit,
        transaction_id=transaction_id,
        payment_hash=None,
        invoice=None,
        quote_id=None,
        quote_expiry=None,
        amount=0,
        fee_reserve=0,
        input_fee=0,
        inputs=tuple(refs),
        source_token_ids=tuple(dict.fromkeys(ref.token_id for ref in refs)),
        blanks=None,
        note=note,
        actor=actor,
        created_at=now,
        updated_at=now,
    )


async def plan_keeping(
    recovery: Recovery,
    entry: Melt,
    state: MeltState,
    refs: Sequence[InputRef],
    amounts: Sequence[int],
    *,
    fee: int,
    keyset_id: KeysetId,
) -> Melt:
    """Write down a swap of ``refs`` into ``amounts``, all of them kept, and move ``entry`` to ``state``. Raises StoreError."""
    return await recovery.threads(
        lambda: recovery.store.plan_swap(
            entry,
            state,
            inputs=refs,
            amounts=amounts,
            keep=len(amounts),
            fee=fee,
            keyset_id=keyset_id,
            seed_id=recovery.outputs.seed_id,
            fence=state is MeltState.FENCING,
        )
    )
