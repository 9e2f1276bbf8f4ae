"""
What of a wallet's ecash can be paid with at its mint, and why the rest can't (DESIGN section 4, Select). Pure.

The unit of a proof is its keyset's (NUT-02), whatever the wallet's settings say.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from datetime import datetime

    from melt.model import Keyset, KeysetId, Proof


class Unusable(StrEnum):
    """Why a proof can't be paid with now."""

    LOCKED = "locked"
    UNLISTED = "unlisted_keyset"
    OTHER_UNIT = "other_unit"
    EXPIRED = "expired_keyset"
    NO_SUCH_AMOUNT = "no_such_amount"
    REFUSED = "refused_by_mint"
    BLOCKED = "blocked"
    DUST = "dust"

    @property
    def words(self) -> str:
        """After an amount: ``"12 sat lie on .."``."""
        return _WORDS[self]


_WORDS = {
    Unusable.LOCKED: "are locked by a spending condition",
    Unusable.UNLISTED: "lie on a keyset that the mint does not list",
    Unusable.OTHER_UNIT: "are of another unit",
    Unusable.EXPIRED: "lie on a keyset that has expired",
    Unusable.NO_SUCH_AMOUNT: "have an amount that their keyset does not sign",
    Unusable.REFUSED: "are proofs that the mint has refused",
    Unusable.BLOCKED: "are blocked by open HIGH discrepancies",
    Unusable.DUST: "are eaten by their own input fee",
}


def why_unusable(
    proof: Proof,
    keysets: Mapping[KeysetId, Keyset],
    *,
    unit: str,
    now: datetime,
    denominations: Mapping[KeysetId, Collection[int]] | None = None,
) -> Unusable | None:
    """
    Why this proof can't be paid with in ``unit``; None: it can, as far as the proof itself tells.

    ``denominations`` are the amounts of keysets whose keys are known; of the others every amount is taken for good.
    """
    keyset = keysets.get(proof.keyset_id)
    if keyset is None:
        return Unusable.UNLISTED
    if keyset.unit != unit:
        return Unusable.OTHER_UNIT
    if proof.is_locked:
        return Unusable.LOCKED
    if keyset.final_expiry is not None and keyset.final_expiry <= now.timestamp():
        return Unusable.EXPIRED
    known = (denominations or {}).get(proof.keyset_id)
    if known is not None and proof.amount not in known:
        return Unusable.NO_SUCH_AMOUNT
    return None


def payable(worth: Iterable[tuple[int, int]], *, inputs_max: int | None = None) -> int:
    """
    What could be paid with these proofs in one payment, their input fees taken: each is (amount, ``input_fee_ppk``).

    Those whose own fee eats them are left out, and of the others the ``inputs_max`` most valuable are taken.
    """
    thousandths = sorted((1000 * amount - ppk for amount, ppk in worth if 1000 * amount > ppk), reverse=True)
    return sum(thousandths[:inputs_max]) // 1000
