"""
Every error that leaves a module of meltd: one root, stable codes (DESIGN sections 2 and 7).

An adapter raises one of these at its edge and chains the cause; nothing above an adapter sees
``httpx`` or ``pymongo`` exceptions. A message may carry ids, a Y, amounts and codes. It must never
carry a secret, a ``C``, a blinding factor or a seed (I10), so messages are written by us and never
copied from a mint's answer or a driver's error.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How bad a discrepancy, an event or an error is (DESIGN sections 5 and 7)."""

    CRITICAL = "CRITICAL"
    HIGH = "HIGH"
    MEDIUM = "MEDIUM"
    LOW = "LOW"


class Code(StrEnum):
    """The stable error codes of DESIGN section 7."""

    INVALID_REQUEST = "INVALID_REQUEST"
    INVOICE_INVALID = "INVOICE_INVALID"
    INVOICE_EXPIRED = "INVOICE_EXPIRED"
    INVOICE_AMOUNTLESS = "INVOICE_AMOUNTLESS"
    MINT_UNKNOWN = "MINT_UNKNOWN"
    WALLET_UNKNOWN = "WALLET_UNKNOWN"
    NOT_FOUND = "NOT_FOUND"
    INSUFFICIENT_FUNDS = "INSUFFICIENT_FUNDS"
    DUPLICATE_OPERATION = "DUPLICATE_OPERATION"
    CONCURRENT_OPERATION = "CONCURRENT_OPERATION"
    PROOF_STATE_INCONSISTENCY = "PROOF_STATE_INCONSISTENCY"
    HIGH_SEVERITY_DISCREPANCIES = "HIGH_SEVERITY_DISCREPANCIES"
    MELT_BLOCKED_BY_RECONCILIATION = "MELT_BLOCKED_BY_RECONCILIATION"
    FUNDS_SETTLING = "FUNDS_SETTLING"
    TOKEN_ALREADY_SPENT = "TOKEN_ALREADY_SPENT"  # noqa: S105 - a code, not a password
    FEE_TOO_HIGH = "FEE_TOO_HIGH"
    MINT_UNREACHABLE = "MINT_UNREACHABLE"
    MINT_REJECTED = "MINT_REJECTED"
    PAYMENT_PENDING = "PAYMENT_PENDING"
    PAYMENT_FAILED = "PAYMENT_FAILED"
    OUTCOME_UNKNOWN = "OUTCOME_UNKNOWN"
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    CRITICAL_DB_FAILURE_AFTER_MINT_SUCCESS = "CRITICAL_DB_FAILURE_AFTER_MINT_SUCCESS"
    CRITICAL_MELT_FAILURE = "CRITICAL_MELT_FAILURE"
    CRITICAL_MINT_UNTRUSTED = "CRITICAL_MINT_UNTRUSTED"
    SHUTTING_DOWN = "SHUTTING_DOWN"
    TOO_MANY_MELTS = "TOO_MANY_MELTS"
    WRONG_STATE = "WRONG_STATE"
    PLAN_STALE = "PLAN_STALE"
    FORBIDDEN = "FORBIDDEN"
    PAUSED = "PAUSED"
    OBSERVING = "OBSERVING"
    AMOUNT_OUT_OF_LIMITS = "AMOUNT_OUT_OF_LIMITS"
    UNIT_UNSUPPORTED = "UNIT_UNSUPPORTED"
    INVOICE_PAID = "INVOICE_PAID"
    INVOICE_BEING_PAID = "INVOICE_BEING_PAID"
    KEYSET_UNUSABLE = "KEYSET_UNUSABLE"
    MINT_WANTS_LOGIN = "MINT_WANTS_LOGIN"
    MELTING_DISABLED = "MELTING_DISABLED"
    TOO_MANY_INPUTS = "TOO_MANY_INPUTS"
    PROOF_REFUSED = "PROOF_REFUSED"
    INTERNAL = "INTERNAL"


SEVERITY_OF: dict[Code, Severity] = {
    Code.HIGH_SEVERITY_DISCREPANCIES: Severity.HIGH,
    Code.MELT_BLOCKED_BY_RECONCILIATION: Severity.HIGH,
    Code.PROOF_STATE_INCONSISTENCY: Severity.HIGH,
    Code.TOKEN_ALREADY_SPENT: Severity.HIGH,
    Code.OUTCOME_UNKNOWN: Severity.HIGH,
    Code.STORE_UNAVAILABLE: Severity.HIGH,
    Code.INTERNAL: Severity.HIGH,
    Code.MINT_UNREACHABLE: Severity.MEDIUM,
    Code.MINT_REJECTED: Severity.MEDIUM,
    Code.KEYSET_UNUSABLE: Severity.MEDIUM,
    Code.MINT_WANTS_LOGIN: Severity.MEDIUM,
    Code.MELTING_DISABLED: Severity.MEDIUM,
    Code.PROOF_REFUSED: Severity.HIGH,
    Code.CONCURRENT_OPERATION: Severity.MEDIUM,
    Code.FUNDS_SETTLING: Severity.MEDIUM,
    Code.PAYMENT_FAILED: Severity.MEDIUM,
    Code.CRITICAL_DB_FAILURE_AFTER_MINT_SUCCESS: Severity.CRITICAL,
    Code.CRITICAL_MELT_FAILURE: Severity.CRITICAL,
    Code.CRITICAL_MINT_UNTRUSTED: Severity.CRITICAL,
}
"""Severity by code; a code that is not listed is LOW (the caller's mistake, nothing is wrong here)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocked:
    """
    What stands in the way of a request: the records' ids, what they are worth in ``unit``, and in how many seconds the last of
    them will have settled if nothing moves (None: nobody can tell).
    """

    discrepancies: tuple[str, ...]
    value: int
    unit: str
    settles_in_s: float | None


class MeltdError(Exception):
    """
    The root of every error that meltd raises on purpose.

    Args:
        code: a stable code of DESIGN section 7.
        detail: one sentence for a person, without secrets.
        requires_manual_intervention: true only when no automatic step will resolve it.
        quote_id, transaction_id, melt_id: what the error is about, where known.
        hint: what to do next, in one sentence.
        blocked: what stands in the way, where it is drift.
    """

    def __init__(
        self,
        code: Code,
        detail: str,
        *,
        requires_manual_intervention: bool = False,
        quote_id: str | None = None,
        transaction_id: str | None = None,
        melt_id: str | None = None,
        hint: str | None = None,
        blocked: Blocked | None = None,
    ) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.requires_manual_intervention = requires_manual_intervention
        self.quote_id = quote_id
        self.transaction_id = transaction_id
        self.melt_id = melt_id
        self.hint = hint
        self.blocked = blocked

    @property
    def severity(self) -> Severity:
        """How bad it is, from the code."""
        return SEVERITY_OF.get(self.code, Severity.LOW)


class Refusal(MeltdError):
    """A request that was refused before anything was written or sent: the database is unchanged."""


class MintError(MeltdError):
    """A mint could not be asked, refused to answer, or answered something that can't be believed."""


class MintUnreachable(MintError):
    """
    No answer that can be used: connection, time-out, 5xx, 429, too large, not parsable.

    ``rate_limited``: it was a 429, so the mint is well and asks for fewer requests. ``status``: the HTTP status, where
    there was an answer.
    """

    def __init__(
        self,
        detail: str,
        *,
        retry_after_s: float | None = None,
        rate_limited: bool = False,
        status: int | None = None,
    ) -> None:
        super().__init__(Code.MINT_UNREACHABLE, detail, hint="meltd retries by itself; check the mint")
        self.retry_after_s = retry_after_s
        self.rate_limited = rate_limited
        self.status = status


class NotTheMint(MintUnreachable):
    """
    Something answered in the mint's place: a page instead of JSON, a redirect, a network that wants a login first.

    To whoever asked it is no answer, like MintUnreachable. But a mint that is down does not look like this.
    """


class MintRejected(MintError):
    """The mint answered a definite no (an HTTP 4xx with a NUT error code) to a read or a quote."""

    def __init__(self, detail: str, *, mint_code: int | None = None, code: Code = Code.MINT_REJECTED) -> None:
        super().__init__(code, detail)
        self.mint_code = mint_code


class KeysetUnusable(MintRejected):
    """No keyset of the unit can take outputs, or the one that is needed can't: the detail says which and why."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail, code=Code.KEYSET_UNUSABLE)


class MintWantsLogin(MintRejected):
    """The mint answers this request only to who has logged in (NUT-21, NUT-22). meltd has no login."""

    def __init__(self, detail: str, *, mint_code: int | None = None) -> None:
        super().__init__(detail, mint_code=mint_code, code=Code.MINT_WANTS_LOGIN)
        self.hint = "use a mint that serves without a login, or exempt meltd's address from it"


class MintUntrusted(MintError):
    """The mint's answer contradicts the protocol: wrong sums, wrong keys, malformed points."""

    def __init__(self, detail: str) -> None:
        super().__init__(
            Code.CRITICAL_MINT_UNTRUSTED,
            detail,
            requires_manual_intervention=True,
            hint="check the mint before trusting it again",
        )


class StateRegressed(MintUntrusted):
    """Proofs that the mint once called SPENT are not any more (DESIGN section 5). ``ys`` are those that showed it."""

    def __init__(self, detail: str, ys: tuple[str, ...]) -> None:
        super().__init__(detail)
        self.ys = ys


class StoreError(MeltdError):
    """The store could not do what was asked."""


class StoreUnavailable(StoreError):
    """The store did not answer, or answered with an error that a retry may cure."""

    def __init__(self, detail: str) -> None:
        super().__init__(Code.STORE_UNAVAILABLE, detail, hint="meltd retries by itself; check the database")


class StoreLostAfterPayment(StoreUnavailable):
    """The mint has paid and T3 could not be committed (DESIGN section 4): recovery finishes it from the journal."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.code = Code.CRITICAL_DB_FAILURE_AFTER_MINT_SUCCESS


class PlanStale(MeltdError):
    """What a plan was made from has changed: the plan is refused as a whole, and nothing was changed by it now."""

    def __init__(self, detail: str) -> None:
        super().__init__(Code.PLAN_STALE, detail, hint="make a new plan with `meltd reconcile --plan`")


class LostRace(StoreError):
    """A conditional update matched nothing: somebody else moved the document first."""

    def __init__(self, detail: str) -> None:
        super().__init__(Code.CONCURRENT_OPERATION, detail, hint="read again and retry")


class Observing(StoreError):
    """The database is in ``observe``: nothing of the wallet's two collections may be changed, and nothing was."""

    def __init__(self) -> None:
        super().__init__(
            Code.OBSERVING,
            "meltd observes this database and changes nothing in it",
            hint="meltd adopt shows what is there and what would be changed, and switches to correct on a yes",
        )


class LeaseLost(StoreError):
    """The lease that a write was to be made under has another holder or epoch now; nothing was written."""

    def __init__(self, detail: str) -> None:
        super().__init__(Code.CONCURRENT_OPERATION, detail, hint="the instance that holds it now goes on with the work")


class DuplicateSecret(StoreError):
    """A proof that is about to be written already lies in another token document (I4)."""

    def __init__(self, detail: str) -> None:
        super().__init__(Code.PROOF_STATE_INCONSISTENCY, detail, requires_manual_intervention=True)


class DuplicateMelt(StoreError):
    """The idempotency key or the payment hash is already taken by another melt (I1)."""

    def __init__(self, detail: str, *, melt_id: str | None = None) -> None:
        super().__init__(Code.DUPLICATE_OPERATION, detail, melt_id=melt_id)


class InvariantBroken(MeltdError):
    """One of I1 to I13 would be or was broken: a bug or a tampered database. Never ignored."""

    def __init__(self, detail: str) -> None:
        super().__init__(Code.CRITICAL_MELT_FAILURE, detail, requires_manual_intervention=True)


class ConfigError(Exception):
    """The configuration, the environment or the database can't be used as it is: the process exits with 78."""
