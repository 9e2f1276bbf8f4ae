"""
Sorting what a mint answers to the two requests that move money (MINTS.md, I8).

A code is definite only where every implementation and generation of mints that sends it does so before it touches the
Lightning backend. The numbers were given anew in January 2026, so several mean two things: where one of the two is said
about a payment that may be under way, or about a request that went through before, the code is ambiguous, like every
code that is not named here. ``docs/mints.md`` has the table with the reasons.
"""

from __future__ import annotations

from typing import Final

from melt.mint.transport import Answer
from melt.mint.wire import BadAnswer, error_code, is_validation_error, melt_quote, signatures
from melt.model import (
    Ambiguous,
    BlindedMessage,
    MeltAnswer,
    Paid,
    QuoteId,
    QuoteState,
    Refused,
    Signed,
    StillPending,
    SwapAnswer,
)

NOT_SENT: Final = -1
"""``Refused.mint_code`` of a request of which provably no byte left: our own word, no mint's."""
NOT_VALID: Final = -2
"""
``Refused.mint_code`` of a 422 in the shape of a validation error. Nutshell answers every error of its own with 400; a 422
comes from FastAPI's reading of the request, before the handler is called, hence before anything has happened.
"""

BEFORE_PAYMENT: Final = frozenset(
    {
        10001,  # proofs don't verify (0.20 on; earlier: no such code)
        10003,  # the same, until 0.18
        11005,  # not balanced; earlier, in gonuts and in nutmix: unit
        11006,  # amount outside of the limits; gonuts: method; nutmix: fee too low
        11007,  # an input twice; gonuts: method
        11009,  # several units
        11010,  # units of inputs and outputs differ
        11011,  # invoice without an amount
        11012,  # amount differs from the invoice's
        11013,  # unit not supported
        11014,  # too many inputs
        11015,  # too many outputs
        12001,  # keyset unknown
        12002,  # keyset inactive
        12003,  # keyset expired
        20003,  # disabled
        30001,  # a login is needed, or failed (NUT-21, NUT-22): before the handler is called
        30002,
        31001,
        31002,
    }
)
"""Definite: refused before any payment, in every generation."""

PAYMENT_FAILED: Final = frozenset({20000, 20004})
"""The mint says that the payment failed: a candidate for release, and no more than that (I6)."""


def sort_melt(answer: Answer, quote_id: QuoteId) -> MeltAnswer:
    """What the answer to a melt POST says about the money."""
    if 200 <= answer.status < 300:
        try:
            quote = melt_quote(answer.body, quote_id=quote_id, posted=True)
        except BadAnswer as bad:
            return Ambiguous(reason=f"unusable answer: {bad}")
        if quote.state is QuoteState.PAID:
            return Paid(quote=quote)
        if quote.state is QuoteState.PENDING:
            return StillPending()
        # 200 and UNPAID, or a word that no NUT has: neither a payment nor a refusal.
        return Ambiguous(reason=f"answered, but the quote is {quote.state.value}")
    refused = _refused(answer)
    if refused is not None:
        return refused
    code = error_code(answer.body)
    if code in PAYMENT_FAILED and _from_the_mint(answer):
        return Refused(mint_code=code, payment_tried=True)
    return _ambiguous(answer, code)


def sort_swap(answer: Answer, outputs: tuple[BlindedMessage, ...]) -> SwapAnswer:
    """What the answer to a swap says. Signatures that don't fit the outputs are not used: a restore asks for them by B_."""
    if 200 <= answer.status < 300:
        try:
            signed = signatures(answer.body)
        except BadAnswer as bad:
            return Ambiguous(reason=f"unusable answer: {bad}")
        given = [(one.keyset_id, one.amount) for one in signed]
        if given != [(output.keyset_id, output.amount) for output in outputs]:
            return Ambiguous(reason="signatures that don't fit the outputs")
        return Signed(signatures=signed)
    refused = _refused(answer)
    return refused if refused is not None else _ambiguous(answer, error_code(answer.body))


def _refused(answer: Answer) -> Refused | None:
    if not _from_the_mint(answer):
        return None
    code = error_code(answer.body)
    if code in BEFORE_PAYMENT:
        return Refused(mint_code=code, payment_tried=False)
    if answer.status == 422 and is_validation_error(answer.body):
        return Refused(mint_code=NOT_VALID, payment_tried=False)
    return None


def _from_the_mint(answer: Answer) -> bool:
    """Whether a refusal is a decision about this request: a 429 is about others before it, whatever code it carries."""
    return 400 <= answer.status < 500 and answer.status != 429


def _ambiguous(answer: Answer, code: int | None) -> Ambiguous:
    return Ambiguous(reason=f"HTTP {answer.status}", mint_code=code)
