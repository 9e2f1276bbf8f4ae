"""
What a mint's refusal means to the caller, by its code (NUT error codes; the table with reasons is in docs/mints.md). Pure.

Whether a code says something about the *money* is decided elsewhere (:mod:`melt.mint.sorting`); here it is only put into
words. A code that has meant several things is told by its number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from melt.errors import Code

if TYPE_CHECKING:
    from collections.abc import Mapping

LIST_IS_OLD: Final = frozenset({12001, 12002, 12003})
"""Keyset unknown, inactive, expired: to a swap or a melt they mean that our list of keysets is older than the mint's."""
ANOTHERS: Final = frozenset({20005, 20006})
"""Being paid, paid: said about an invoice. Where our own quote is UNPAID, it is another one that pays it or has."""
BAD_PROOF: Final = frozenset({10001, 10003})
"""A signature of the inputs is not the mint's."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Our code for it, one sentence, and what to do next."""

    code: Code
    text: str
    hint: str | None = None


_REASONS: Final[Mapping[int, Reason]] = {
    10001: Reason(Code.PROOF_REFUSED, "the mint has not signed one of the proofs"),
    10003: Reason(Code.PROOF_REFUSED, "the mint has not signed one of the proofs"),
    11006: Reason(Code.AMOUNT_OUT_OF_LIMITS, "the amount is outside of what the mint melts at a time"),
    11011: Reason(Code.INVOICE_AMOUNTLESS, "the mint does not pay invoices without an amount"),
    11012: Reason(Code.INVOICE_INVALID, "the mint reads another amount from the invoice"),
    11013: Reason(Code.UNIT_UNSUPPORTED, "the mint does not melt this unit"),
    11014: Reason(Code.TOO_MANY_INPUTS, "the mint takes fewer inputs at a time"),
    11015: Reason(Code.TOO_MANY_INPUTS, "the mint takes fewer outputs at a time"),
    12001: Reason(Code.KEYSET_UNUSABLE, "the mint does not know a keyset of this payment (any more)"),
    12002: Reason(Code.KEYSET_UNUSABLE, "the mint does not sign with the keyset of this payment's change any more"),
    12003: Reason(Code.KEYSET_UNUSABLE, "a keyset of this payment has expired at the mint"),
    20003: Reason(Code.MELTING_DISABLED, "the mint does not melt at the moment", "try again later, or at another mint"),
    20005: Reason(
        Code.INVOICE_BEING_PAID,
        "the invoice is being paid by somebody else at this mint",
        "ask the payee whether it has arrived before you pay in another way",
    ),
    20006: Reason(
        Code.INVOICE_PAID,
        "the invoice has been paid at this mint already, and not by this request",
        "ask the payee for another invoice where another payment is meant",
    ),
    30001: Reason(Code.MINT_WANTS_LOGIN, "the mint wants a login (NUT-21)"),
    30002: Reason(Code.MINT_WANTS_LOGIN, "the mint wants a login (NUT-21)"),
    31001: Reason(Code.MINT_WANTS_LOGIN, "the mint wants a login by blind token (NUT-22)"),
    31002: Reason(Code.MINT_WANTS_LOGIN, "the mint wants a login by blind token (NUT-22)"),
}


def reason_of(mint_code: int | None) -> Reason | None:
    """What the caller is told about a refusal with this code; None where the code says nothing to a caller."""
    return None if mint_code is None else _REASONS.get(mint_code)
