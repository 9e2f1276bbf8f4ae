"""
Which keyset new outputs are made for: one whose signatures can be turned into proofs, known before they are asked for.

What is needed to store a signature is the keyset's keys, and that its id commits to them (NUT-02). They are had and checked
before a request leaves: afterwards the mint has the money. A keyset that is inactive, has expired, or whose id its keys do
not give, takes no outputs; what lies on it can be spent all the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from melt.errors import KeysetUnusable, MintRejected, MintUntrusted

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from melt.model import Keyset, KeysetId
    from melt.ports import Mint

ENDS_SOON_S: Final = 24 * 3600
"""A keyset that ends within so long takes outputs only where no other one does: what it signs must be swapped soon."""
NAMED_MAX: Final = 4


def has_expired(keyset: Keyset, now: datetime) -> bool:
    """Whether a mint need not honour the keyset any more (NUT-02 ``final_expiry``), by our clock."""
    return keyset.final_expiry is not None and keyset.final_expiry <= now.timestamp()


async def signing_keyset(mint: Mint, unit: str, *, now: datetime) -> Keyset:
    """
    The keyset of ``unit`` that new outputs are for: active, not expired, its keys at hand; the lowest input fee first.

    The list of keysets is asked anew before it is said that there is none. Raises KeysetUnusable, with the reason of
    each that could not be taken, and MintError where the mint can't be asked.
    """
    found, _ = await _usable(mint, await mint.keysets(), unit, now)
    if found is not None:
        return found
    found, reasons = await _usable(mint, await mint.keysets(refresh=True), unit, now)
    if found is not None:
        return found
    said = "; ".join(reasons[:NAMED_MAX]) or "none is active"
    raise KeysetUnusable(f"mint {mint.alias} has no keyset of {unit} that takes outputs: {said}")


async def _usable(
    mint: Mint, keysets: Mapping[KeysetId, Keyset], unit: str, now: datetime
) -> tuple[Keyset | None, list[str]]:
    """The first that can be used, and why others can't."""
    active = [keyset for keyset in keysets.values() if keyset.active and keyset.unit == unit]
    reasons: list[str] = []
    for keyset in sorted(active, key=lambda one: (_ends_soon(one, now), one.input_fee_ppk, one.id)):
        if has_expired(keyset, now):
            reasons.append(f"keyset {keyset.id[:80]} has expired")
            continue
        try:
            await mint.keys(keyset.id)
        except (MintRejected, MintUntrusted) as error:
            reasons.append(error.detail)
        else:
            return keyset, reasons
    return None, reasons


def _ends_soon(keyset: Keyset, now: datetime) -> bool:
    return keyset.final_expiry is not None and keyset.final_expiry - now.timestamp() < ENDS_SOON_S
