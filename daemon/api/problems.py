"""
Errors as RFC 9457 problem documents (DESIGN sections 6 and 7).

One table says which HTTP status a code has. A status never says more than the code does: clients decide by
``code``, proxies and curl by the status.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from melt.errors import SEVERITY_OF, Blocked, Code, MeltdError, MintUnreachable, Severity

if TYPE_CHECKING:
    from collections.abc import Mapping

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_S: Final = 5

STATUS_OF: Final[dict[Code, int]] = {
    Code.INVALID_REQUEST: 400,
    Code.INVOICE_INVALID: 400,
    Code.INVOICE_EXPIRED: 400,
    Code.INVOICE_AMOUNTLESS: 400,
    Code.MINT_UNKNOWN: 404,
    Code.WALLET_UNKNOWN: 404,
    Code.NOT_FOUND: 404,
    Code.INSUFFICIENT_FUNDS: 402,
    Code.FEE_TOO_HIGH: 422,
    Code.DUPLICATE_OPERATION: 409,
    Code.CONCURRENT_OPERATION: 409,
    Code.PROOF_STATE_INCONSISTENCY: 409,
    Code.HIGH_SEVERITY_DISCREPANCIES: 409,
    Code.MELT_BLOCKED_BY_RECONCILIATION: 409,
    Code.FUNDS_SETTLING: 409,
    Code.TOKEN_ALREADY_SPENT: 409,
    Code.PAYMENT_PENDING: 409,
    Code.PAYMENT_FAILED: 402,
    Code.OUTCOME_UNKNOWN: 504,
    Code.MINT_UNREACHABLE: 503,
    Code.MINT_REJECTED: 502,
    Code.STORE_UNAVAILABLE: 503,
    Code.CRITICAL_DB_FAILURE_AFTER_MINT_SUCCESS: 500,
    Code.CRITICAL_MELT_FAILURE: 500,
    Code.CRITICAL_MINT_UNTRUSTED: 502,
    Code.SHUTTING_DOWN: 503,
    Code.TOO_MANY_MELTS: 429,
    Code.WRONG_STATE: 409,
    Code.PLAN_STALE: 409,
    Code.FORBIDDEN: 403,
    Code.PAUSED: 503,
    Code.OBSERVING: 503,
    Code.AMOUNT_OUT_OF_LIMITS: 422,
    Code.UNIT_UNSUPPORTED: 422,
    Code.TOO_MANY_INPUTS: 422,
    Code.INVOICE_PAID: 409,
    Code.INVOICE_BEING_PAID: 409,
    Code.PROOF_REFUSED: 409,
    Code.KEYSET_UNUSABLE: 409,
    Code.MINT_WANTS_LOGIN: 502,
    Code.MELTING_DISABLED: 503,
    Code.INTERNAL: 500,
}
"""Every code has one (a test holds it)."""

TITLE_OF: Final[dict[Code, str]] = {
    Code.INVALID_REQUEST: "The request is not valid",
    Code.INVOICE_INVALID: "The invoice can't be read",
    Code.INVOICE_EXPIRED: "The invoice has expired",
    Code.INVOICE_AMOUNTLESS: "The invoice names no amount",
    Code.MINT_UNKNOWN: "The mint is not configured",
    Code.WALLET_UNKNOWN: "No wallet of this npub is known",
    Code.NOT_FOUND: "Nothing is found here",
    Code.INSUFFICIENT_FUNDS: "Not enough ecash",
    Code.FEE_TOO_HIGH: "The fee is above the limit",
    Code.DUPLICATE_OPERATION: "This was asked for before",
    Code.CONCURRENT_OPERATION: "Another operation was faster",
    Code.PROOF_STATE_INCONSISTENCY: "Proofs are not in the state that the database says",
    Code.HIGH_SEVERITY_DISCREPANCIES: "Drift of HIGH severity was found",
    Code.MELT_BLOCKED_BY_RECONCILIATION: "Reconciliation blocks this melt",
    Code.FUNDS_SETTLING: "Somebody else is at work on this ecash, or was a moment ago",
    Code.TOKEN_ALREADY_SPENT: "Proofs are spent already",
    Code.PAYMENT_PENDING: "The payment is under way",
    Code.PAYMENT_FAILED: "The payment failed and nothing was paid",
    Code.OUTCOME_UNKNOWN: "The outcome is not known yet",
    Code.MINT_UNREACHABLE: "The mint can't be reached",
    Code.MINT_REJECTED: "The mint refused",
    Code.STORE_UNAVAILABLE: "The database can't be used",
    Code.CRITICAL_DB_FAILURE_AFTER_MINT_SUCCESS: "The mint has paid and the database can't record it yet",
    Code.CRITICAL_MELT_FAILURE: "An invariant would be broken",
    Code.CRITICAL_MINT_UNTRUSTED: "The mint's answers contradict the protocol",
    Code.SHUTTING_DOWN: "The daemon is stopping",
    Code.TOO_MANY_MELTS: "Too many melts are under way",
    Code.WRONG_STATE: "What is there does not permit this",
    Code.PLAN_STALE: "What the plan was made from has changed",
    Code.FORBIDDEN: "This peer may not do this",
    Code.PAUSED: "Paused by an operator",
    Code.OBSERVING: "meltd observes and changes nothing",
    Code.AMOUNT_OUT_OF_LIMITS: "The mint does not melt this amount",
    Code.UNIT_UNSUPPORTED: "The mint does not melt this unit",
    Code.TOO_MANY_INPUTS: "The mint takes fewer inputs at a time",
    Code.INVOICE_PAID: "The invoice has been paid already",
    Code.INVOICE_BEING_PAID: "The invoice is being paid by somebody else",
    Code.PROOF_REFUSED: "The mint has not signed one of the proofs",
    Code.KEYSET_UNUSABLE: "A keyset of the mint can't be used",
    Code.MINT_WANTS_LOGIN: "The mint wants a login",
    Code.MELTING_DISABLED: "The mint does not melt at the moment",
    Code.INTERNAL: "Something unexpected went wrong",
}

_RETRY: Final = frozenset(
    {Code.MINT_UNREACHABLE, Code.STORE_UNAVAILABLE, Code.SHUTTING_DOWN, Code.PAUSED, Code.TOO_MANY_MELTS}
)


class Problem(BaseModel):
    """What every error answer holds. ``code`` is stable; ``detail`` is for people."""

    model_config = ConfigDict(extra="forbid")

    type: str = Field(description="`urn:meltd:problem:<code>`, lower case.")
    title: str
    status: int
    detail: str
    instance: str | None = Field(default=None, description="Path of the request.")
    code: Code
    severity: Severity
    requires_manual_intervention: bool = Field(description="True only when no automatic step will resolve it.")
    quote_id: str | None = None
    transaction_id: str | None = None
    melt_id: str | None = None
    hint: str | None = Field(default=None, description="What to do next.")
    discrepancies: list[str] | None = Field(
        default=None, description="Ids of the records that stand in the way: `GET /v1/discrepancies/{id}`."
    )
    blocked_amount: int | None = Field(default=None, description="What they keep from being paid with, in `unit`.")
    unit: str | None = None
    settles_in_s: float | None = Field(
        default=None, description="After how long the last of them has settled if nothing moves; null: nobody can tell."
    )


class ApiError(Exception):
    """A request that the HTTP layer itself refuses, with a status that may differ from its code's."""

    def __init__(
        self,
        detail: str,
        *,
        code: Code = Code.INVALID_REQUEST,
        status: int | None = None,
        hint: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code
        self.status = STATUS_OF[code] if status is None else status
        self.hint = hint
        self.headers = dict(headers or {})


def document(
    code: Code,
    detail: str,
    *,
    status: int | None = None,
    instance: str | None = None,
    severity: Severity | None = None,
    requires_manual_intervention: bool = False,
    quote_id: str | None = None,
    transaction_id: str | None = None,
    melt_id: str | None = None,
    hint: str | None = None,
    blocked: Blocked | None = None,
) -> dict[str, Any]:
    """The problem document as plain values."""
    return Problem(
        type=f"urn:meltd:problem:{code.lower()}",
        title=TITLE_OF[code],
        status=STATUS_OF[code] if status is None else status,
        detail=detail,
        instance=instance,
        code=code,
        severity=severity or SEVERITY_OF.get(code, Severity.LOW),
        requires_manual_intervention=requires_manual_intervention,
        quote_id=quote_id,
        transaction_id=transaction_id,
        melt_id=melt_id,
        hint=hint,
        discrepancies=None if blocked is None else list(blocked.discrepancies),
        blocked_amount=None if blocked is None else blocked.value,
        unit=None if blocked is None else blocked.unit,
        settles_in_s=None if blocked is None else blocked.settles_in_s,
    ).model_dump(mode="json")


def answer(body: dict[str, Any], headers: Mapping[str, str] | None = None) -> JSONResponse:
    """A problem document as a response."""
    return JSONResponse(body, status_code=body["status"], media_type=MEDIA_TYPE, headers=dict(headers or {}))


def of_error(error: MeltdError, instance: str) -> JSONResponse:
    """The engine's error as a response. Its detail is written by meltd and carries no secret (I10)."""
    headers = {}
    if error.code in _RETRY:
        given = error.retry_after_s if isinstance(error, MintUnreachable) else None
        headers["Retry-After"] = str(max(1, min(3600, round(given if given is not None else RETRY_AFTER_S))))
    body = document(
        error.code,
        error.detail,
        instance=instance,
        severity=error.severity,
        requires_manual_intervention=error.requires_manual_intervention,
        quote_id=error.quote_id,
        transaction_id=error.transaction_id,
        melt_id=error.melt_id,
        hint=error.hint,
        blocked=error.blocked,
    )
    return answer(body, headers)


def of_api_error(error: ApiError, instance: str) -> JSONResponse:
    """A refusal of the HTTP layer as a response."""
    body = document(error.code, error.detail, status=error.status, instance=instance, hint=error.hint)
    return answer(body, error.headers)
