"""Reading a Lightning invoice (BOLT 11, NUT-23): payment hash, amount, expiry. Pure but for the library's parsing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import bolt11

from melt.errors import Code, Refusal

if TYPE_CHECKING:
    from datetime import datetime

INVOICE_LENGTH_MAX: Final = 7_089
"""The most alphanumeric characters that a QR code holds: no invoice that people exchange is longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Invoice:
    """``text`` is lower case without a ``lightning:`` prefix; ``expires_at`` is a unix time in seconds."""

    text: str
    payment_hash: str
    amount_msat: int
    expires_at: int

    def amount_down(self, unit: str) -> int:
        """The amount as a mint has it that rounds down (cdk does); what it leaves is its gift."""
        return self.amount_msat // 1000 if unit == "sat" else self.amount(unit)

    def amount(self, unit: str) -> int:
        """The amount in ``sat`` (rounded up, as mints do) or ``msat``; Refusal for another unit."""
        match unit:
            case "sat":
                return -(-self.amount_msat // 1000)
            case "msat":
                return self.amount_msat
            case _:
                raise Refusal(
                    Code.INVALID_REQUEST,
                    f"unit {unit!r} is not supported: meltd can't check a mint's price for it",
                    hint="use sat or msat",
                )


def gift_msat(invoice: str | None, *, paid: int, unit: str) -> int:
    """How much of an invoice a mint has paid without asking for it, because it rounds down; 0 for what can't be read."""
    if invoice is None or unit != "sat":
        return 0
    try:
        asked = int(bolt11.decode(invoice).amount_msat or 0)
    except Exception:  # noqa: BLE001 - the library raises whatever its bit reader met
        return 0
    return max(0, asked - 1000 * paid) if asked < 1000 * (paid + 1) else 0


def read_invoice(text: str, *, now: datetime) -> Invoice:
    """
    Parse and check an invoice.

    Raises:
        Refusal: INVOICE_INVALID (not an invoice, bad checksum or signature), INVOICE_AMOUNTLESS, INVOICE_EXPIRED.
    """
    invoice = text.strip().lower().removeprefix("lightning:")
    if not invoice or len(invoice) > INVOICE_LENGTH_MAX or not invoice.isascii():
        raise Refusal(Code.INVOICE_INVALID, "the invoice is empty, too long or holds characters that no invoice has")
    try:
        decoded = bolt11.decode(invoice)
        payment_hash = decoded.payment_hash
        amount_msat = int(decoded.amount_msat or 0)
        expires_at = int(decoded.date) + int(decoded.expiry)
    except Exception as error:  # the library raises whatever its bit reader met
        raise Refusal(
            Code.INVOICE_INVALID, "the invoice can't be decoded", hint="ask the payee for it again"
        ) from error
    if len(payment_hash) != 64:
        raise Refusal(Code.INVOICE_INVALID, "the invoice carries no payment hash")
    if amount_msat <= 0:
        raise Refusal(
            Code.INVOICE_AMOUNTLESS, "the invoice names no amount", hint="ask for an invoice with a fixed amount"
        )
    if expires_at <= now.timestamp():
        raise Refusal(Code.INVOICE_EXPIRED, "the invoice has expired", hint="ask the payee for a new one")
    return Invoice(text=invoice, payment_hash=payment_hash, amount_msat=amount_msat, expires_at=expires_at)
