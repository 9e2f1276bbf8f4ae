"""
Swapping many small proofs together until a payment fits into as many inputs as a mint takes (DESIGN section 4, Select). Pure.

Each swap takes the smallest proofs, as many as the mint takes at a time, and costs their input fee. It is tried on paper
first: whether the fees leave enough, and whether all of them stay within what the payment may cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from melt.selection import split_amount
from melt.usable import payable

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

SWAPS_MAX: Final = 64
"""So many swaps may one payment begin with (I11)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathering:
    """How many swaps it takes, and what they cost in the unit."""

    swaps: int
    fees: int


def gathering(
    worth: Sequence[tuple[int, int]],
    *,
    need: int,
    limit: int,
    denominations: Collection[int],
    ppk: int,
    fee_max: int,
) -> Gathering | None:
    """
    What it takes until ``need`` can be paid with ``limit`` inputs; None where no swapping reaches, or it costs too much.

    ``worth`` are the proofs as (amount, ``input_fee_ppk``); what comes out of a swap has the amounts ``denominations`` and
    the fee ``ppk``. ``fee_max`` bounds the swaps' fees together with the input fee of the payment.
    """
    pool = sorted((amount, fee) for amount, fee in worth if 1000 * amount > fee)
    swaps = fees = 0
    while payable(pool, inputs_max=limit) < need:
        part, rest = pool[:limit], pool[limit:]
        fee = -(-sum(own for _, own in part) // 1000)
        left = sum(amount for amount, _ in part) - fee
        if swaps == SWAPS_MAX or left <= 0:
            return None
        try:
            made = split_amount(left, list(denominations))
        except ValueError:
            return None
        if len(made) >= len(part):
            return None
        pool = sorted([*rest, *((amount, ppk) for amount in made if 1000 * amount > ppk)])
        swaps, fees = swaps + 1, fees + fee
    inputs = pool[-limit:]
    return None if fees + -(-sum(own for _, own in inputs) // 1000) > fee_max else Gathering(swaps=swaps, fees=fees)
