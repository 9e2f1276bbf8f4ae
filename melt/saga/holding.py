"""What a user could pay with now at each mint, input fees taken, and the rest with its reasons: for whoever asks for a balance."""

from __future__ import annotations

from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from melt.errors import MintError
from melt.saga.choice import INPUTS_MAX, kept_out
from melt.usable import Unusable, payable, why_unusable

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import datetime

    from melt.model import Keyset, KeysetId, MintAlias
    from melt.ports import Mint, Store, StoreThreads

UNKNOWN_UNIT = "unknown"
"""The unit of proofs whose keyset the mint does not list: nobody can tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Payable:
    """
    A user's unspent ecash of one unit at one mint. ``at_once`` could be paid with in one payment, ``in_all`` after swaps
    together or in several; ``rest`` is what can't be, by its reason. All in the unit.
    """

    mint: MintAlias
    unit: str
    at_once: int
    in_all: int
    rest: Mapping[Unusable, int]


async def payable_at(
    mint: Mint, npub: str, store: Store, threads: StoreThreads, *, now: datetime
) -> tuple[Payable, ...]:
    """By unit, sorted. Raises MintError where the mint has no list of keysets to give, StoreError."""
    tokens = await threads(lambda: store.spendable(npub, (mint.url,)))
    if not tokens:
        return ()
    held = {proof.keyset_id for token in tokens for proof in token.proofs}
    keysets = await mint.keysets_with(held)
    denominations: dict[KeysetId, Collection[int]] = {}
    for keyset_id in sorted(held & set(keysets)):
        with suppress(MintError):
            denominations[keyset_id] = await mint.keys(keyset_id)
    kept = await kept_out(store, threads, tokens)
    blocked = {record.token_id for record in kept.records}
    worth: dict[str, list[tuple[int, int]]] = defaultdict(list)
    rest: dict[str, Counter[Unusable]] = defaultdict(Counter)
    for token in tokens:
        if token.id in kept.reserved:
            continue
        for proof in token.proofs:
            keyset = keysets.get(proof.keyset_id)
            unit = UNKNOWN_UNIT if keyset is None else keyset.unit
            why = why_unusable(proof, keysets, unit=unit, now=now, denominations=denominations)
            if why is None and proof.y in kept.refused:
                why = Unusable.REFUSED
            if why is None and token.id in blocked:
                why = Unusable.BLOCKED
            if why is None and keyset is not None and 1000 * proof.amount <= keyset.input_fee_ppk:
                why = Unusable.DUST
            if why is not None:
                rest[unit][why] += proof.amount
            elif keyset is not None:
                worth[unit].append((proof.amount, keyset.input_fee_ppk))
    limit = INPUTS_MAX
    with suppress(MintError):
        info = await mint.info()
        limit = min(limit, info.max_array_length, info.inputs_max or limit)
    return tuple(
        Payable(
            mint=mint.alias,
            unit=unit,
            at_once=payable(worth[unit], inputs_max=limit),
            in_all=payable(worth[unit]),
            rest=dict(rest[unit]),
        )
        for unit in sorted({*worth, *rest})
    )


async def units_of(mints: Mapping[MintAlias, Mint]) -> dict[KeysetId, str]:
    """The unit of every keyset that a mint lists; of a mint that can't be asked nothing."""
    found: dict[KeysetId, str] = {}
    for mint in mints.values():
        listed: Mapping[KeysetId, Keyset] = {}
        with suppress(MintError):
            listed = await mint.keysets()
        found |= {keyset_id: keyset.unit for keyset_id, keyset in listed.items()}
    return found
