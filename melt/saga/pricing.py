"""What a mint asks for a payment, and whether that may be paid: limits, amount, fees (NUT-05, NUT-23). Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from melt.errors import Code, MintUntrusted, Refusal
from melt.model import QuoteState
from melt.refusals import Reason, reason_of

if TYPE_CHECKING:
    from melt.errors import MintRejected
    from melt.invoice import Invoice
    from melt.model import MeltQuote, MintAlias, MintInfo
    from melt.saga.request import MeltRequest

MELTS: Final = (("POST", "/v1/melt/quote/bolt11"), ("POST", "/v1/melt/bolt11"))
SWAPS: Final = (("POST", "/v1/swap"),)
READS: Final = (("POST", "/v1/checkstate"), ("POST", "/v1/restore"), ("GET", "/v1/keysets"), ("GET", "/v1/keys"))
_PATTERN_CHARS_MAX: Final = 128


def wanting_login(info: MintInfo) -> tuple[str, ...]:
    """Which of the requests that meltd makes want a login, by what the mint says (NUT-21, NUT-22)."""
    return tuple(
        f"{method} {path}"
        for method, path in (*MELTS, *SWAPS, *READS)
        if any(one.method == method and _covers(one.path, path) for one in info.protected)
    )


def _covers(pattern: str, path: str) -> bool:
    """Whether a path of NUT-21, which may be a regular expression or end in ``*``, is about ``path``."""
    if pattern == path:
        return True
    if pattern.endswith("*") and not pattern.endswith(".*"):
        return path.startswith(pattern.rstrip("*").lstrip("^"))
    # Of regular expressions only the one shape that mints use, so that no pattern of theirs can keep us busy.
    plain = re.fullmatch(r"\^?([/\w.-]*?)(\.\*)?\$?", pattern[:_PATTERN_CHARS_MAX])
    if plain is None:
        return False
    return path.startswith(plain[1]) if plain[2] else path == plain[1]


def check_announced(info: MintInfo, mint: MintAlias, invoice: Invoice, unit: str) -> None:
    """
    Refuse, before anything is asked, what the mint says that it does not do.

    Raises Refusal: MINT_WANTS_LOGIN, MELTING_DISABLED, AMOUNT_OUT_OF_LIMITS.
    """
    wanted = wanting_login(info)
    if any(f"{method} {path}" in wanted for method, path in MELTS):
        raise Refusal(
            Code.MINT_WANTS_LOGIN,
            f"mint {mint} wants a login for melts (NUT-21, NUT-22), which meltd has not",
            hint="pay at another mint",
        )
    if info.melting_disabled:
        raise Refusal(
            Code.MELTING_DISABLED, f"mint {mint} says that it does not melt at the moment", hint="try again later"
        )
    limits = info.limits(unit)
    amounts = {invoice.amount(unit), invoice.amount_down(unit)}
    if limits is not None and not any(limits.fits(amount) for amount in amounts):
        raise Refusal(
            Code.AMOUNT_OUT_OF_LIMITS,
            f"mint {mint} melts {limits} at a time, the invoice is of {invoice.amount(unit)} {unit}",
            hint="pay in smaller parts, or at another mint" if invoice.amount(unit) > limits.min_amount else None,
        )


def refused_quote(error: MintRejected, info: MintInfo | None, mint: MintAlias, unit: str) -> Refusal | None:
    """What the caller is told about a quote that the mint refused; None where its code says nothing to a caller."""
    reason: Reason | None = reason_of(error.mint_code)
    if reason is None:
        return None
    detail = f"{reason.text} (mint {mint}, code {error.mint_code})"
    if reason.code is Code.AMOUNT_OUT_OF_LIMITS:
        limits = None if info is None else info.limits(unit)
        detail += "; it does not say which amounts it melts" if limits is None else f"; it says that it melts {limits}"
    return Refusal(reason.code, detail, hint=reason.hint)


def check_quote(quote: MeltQuote, invoice: Invoice, unit: str, mint: MintAlias) -> None:
    """
    Whether the quote is for this invoice and can be paid.

    A mint whose unit is coarser than the invoice may round to either side: what it leaves is its gift. Raises
    MintUntrusted for any other amount, Refusal for a quote that is paid already or of nothing.
    """
    most, least = invoice.amount(unit), invoice.amount_down(unit)
    if not least <= quote.amount <= most:
        raise MintUntrusted(f"the mint quotes {quote.amount} {unit} for an invoice of {most}")
    if quote.amount == 0:
        raise Refusal(
            Code.AMOUNT_OUT_OF_LIMITS, f"the invoice is of less than 1 {unit}, and mint {mint} rounds that to nothing"
        )
    code = {QuoteState.PAID: 20006, QuoteState.PENDING: 20005}.get(quote.state)
    reason = reason_of(code)
    if reason is not None:
        raise Refusal(
            reason.code, f"{reason.text} (mint {mint}: its new quote is {quote.state.value})", hint=reason.hint
        )


def fees_allowed(amount: int, max_fee: int | None, *, percent: float, floor: int) -> int:
    """What everything beyond the amount may come to: fee reserve, input fees, and fees of swaps before the payment."""
    allowed = max(floor, int(amount * percent / 100))
    return allowed if max_fee is None else min(allowed, max_fee)


def too_dear(request: MeltRequest, quote: MeltQuote, mint_fees: int, allowed: int) -> Refusal:
    """The refusal of a payment whose reserve, with ``mint_fees`` for inputs and swaps, is above what is allowed."""
    by_caller = request.max_fee is not None and request.max_fee <= allowed
    bound = f"max_fee {request.max_fee}" if by_caller else f"the {allowed} {request.unit} that are allowed"
    beyond = f"fee reserve {quote.fee_reserve} and input fee {mint_fees} {request.unit} exceed {bound}"
    return Refusal(
        Code.FEE_TOO_HIGH,
        beyond
        if mint_fees
        else f"the mint reserves {quote.fee_reserve} {request.unit} for fees, at most {allowed} are allowed",
        quote_id=quote.id,
        hint="raise max_fee in the request, or melt.max_fee_percent in the configuration",
    )
