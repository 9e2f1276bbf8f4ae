"""
What callers send: read within a bound, parsed as JSON whatever the Content-Type says, checked strictly.

``curl -d`` declares a form; refusing that would only make people add a header. What counts is that the body is
one JSON object without duplicate keys, and that no field is unknown or of another type.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from starlette.requests import ClientDisconnect

from daemon.api.problems import ApiError
from melt.errors import Severity
from melt.model import AMOUNT_MAX, DiscrepancyState, DriftType, MeltState, ResolveAs, TokenStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastapi import Request

NPUB: Final = r"^npub1[a-z0-9]{58,63}$"
ALIAS_OR_URL_MAX: Final = 512
DRAIN_BYTES_MAX: Final = 4 * 1024 * 1024
"""Of a body over the limit so much is read and dropped, so that its sender gets to read the answer."""
_KEY: Final = re.compile(r"[\x20-\x7e]{1,128}\Z")
_PREFER_WAIT: Final = re.compile(r"(?:^|[,;\s])wait\s*=\s*(\d{1,6})(?:$|[,;\s])", re.IGNORECASE)

Npub = Annotated[str, Field(pattern=NPUB, description="Owner: a bech32 Nostr public key.")]
Alias = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$", description="Alias of a configured mint.")]
Reason = Annotated[str, Field(min_length=1, max_length=500, description="Why; kept in the records.")]
Limit = Annotated[int, Field(ge=1, le=1000, description="At most so many, newest first.")]

B = TypeVar("B", bound="Body")


class Body(BaseModel):
    """A JSON object: strict types, no unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class MeltBody(Body):
    """Pay a Lightning invoice out of a user's ecash."""

    npub: Npub
    mint: str = Field(min_length=1, max_length=ALIAS_OR_URL_MAX, description="Alias or URL of a configured mint.")
    invoice: str = Field(min_length=1, max_length=8192, description="BOLT-11 invoice with an amount.")
    unit: str = Field(default="sat", pattern=r"^[a-z0-9]{1,16}$", description="Unit of the ecash to pay with.")
    max_fee: int | None = Field(
        default=None,
        ge=0,
        le=AMOUNT_MAX,
        description="Refuse when fee reserve and input fees are above this, in `unit`.",
    )


def statuses_by_value(value: object) -> object:
    """JSON has no enums: in strict mode pydantic wants them made."""
    return [TokenStatus(item) for item in value] if isinstance(value, list) else value


class ReconcileBody(Body):
    """Compare with the mints now. Without fields: everything."""

    mint: Alias | None = None
    npub: Npub | None = None
    statuses: Annotated[list[TokenStatus], BeforeValidator(statuses_by_value)] = Field(
        default_factory=list, max_length=4, description="Only documents of these statuses; empty: the sweep's choice."
    )
    dry_run: bool = Field(default=False, description="Report exactly what would be done, and change nothing.")


class PauseBody(Body):
    """Stop changing things, at one mint or (without `mint`) everywhere. Looking goes on."""

    mint: Alias | None = None
    reason: Reason


class ResumeBody(Body):
    """End a pause."""

    mint: Alias | None = None


class DrillBody(Body):
    """Raise a CRITICAL event of type DRILL, to see the alert arrive."""

    detail: str = Field(default="raised on purpose", min_length=1, max_length=500)


class ResolveBody(Body):
    """Close an open CRITICAL event."""

    reason: Reason


def _as_outcome(value: object) -> object:
    return ResolveAs(value) if isinstance(value, str) else value


class ResolveMeltBody(Body):
    """Decide about an open melt."""

    action: Annotated[ResolveAs, BeforeValidator(_as_outcome)] = Field(
        description="settled: it was paid; released: give the inputs back behind a fence; inputs_gone: the inputs are spent "
        "and nobody knows by whom, nothing is called paid and the invoice stays claimed; observe: follow it again."
    )
    reason: Reason
    preimage: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")] | None = Field(
        default=None,
        description="The payee's preimage: shows that the invoice was paid where the mint does not say so.",
    )


class Query(BaseModel):
    """Query parameters: unknown ones are refused, so that a misspelt filter doesn't show everything."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class MeltsQuery(Query):
    """Filters of melts; an empty list means all."""

    npub: Npub | None = None
    state: list[MeltState] = Field(default_factory=list, max_length=16)
    limit: Limit = 50


class DiscrepanciesQuery(Query):
    """Filters of discrepancies; an empty list means all."""

    state: list[DiscrepancyState] = Field(default_factory=list, max_length=16)
    type: list[DriftType] = Field(default_factory=list, max_length=64)
    severity: list[Severity] = Field(default_factory=list, max_length=8)
    npub: Npub | None = None
    limit: Limit = 100


class EventsQuery(Query):
    """Filters of events."""

    open: bool = Field(default=True, description="Only open ones.")
    limit: Limit = 100


class WaitQuery(Query):
    """How long the caller waits."""

    wait: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description="Seconds to wait for the end of the melt. `Prefer: wait=n` too.",
    )


async def read(request: Request, model: type[B], *, limit: int) -> B:
    """The body as ``model``; an empty body counts as ``{}``. Raises :class:`ApiError`."""
    raw = await _raw(request, limit)
    value: Any = parse(raw) if raw.strip() else {}
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise ApiError(sentences(error.errors(include_url=False, include_input=False))) from None


async def _raw(request: Request, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and len(declared) < 16 and int(declared) > DRAIN_BYTES_MAX:
        raise ApiError(f"the body may have at most {limit} bytes", status=413, headers={"Connection": "close"})
    try:
        async for part in request.stream():
            size += len(part)
            if size <= limit:
                parts.append(part)
            elif size > DRAIN_BYTES_MAX:
                break
    except ClientDisconnect:
        raise ApiError("the body ended early", status=400) from None
    if size > limit:
        raise ApiError(f"the body may have at most {limit} bytes", status=413, headers={"Connection": "close"})
    return b"".join(parts)


def parse(raw: bytes) -> dict[str, Any]:
    """One JSON object of RFC 8259: UTF-8, no NaN, no duplicate keys. Raises :class:`ApiError`."""
    try:
        value = json.loads(raw.decode(), object_pairs_hook=_object, parse_constant=_constant)
    except UnicodeDecodeError:
        raise ApiError("the body is not UTF-8") from None
    except RecursionError:
        raise ApiError("the body is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ApiError(f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except ValueError:
        raise ApiError("the body holds a number that is too long") from None
    if not isinstance(value, dict):
        raise ApiError("the body must be a JSON object")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ApiError("the body names a key twice")
    return found


def _constant(_: str) -> NoReturn:
    raise ApiError("the body holds NaN or Infinity, which JSON does not have")


def sentences(errors: Sequence[Any]) -> str:
    """Validation errors as ``field: what is wrong``, without the input, which may hold anything."""
    shown = []
    for item in errors[:10]:
        place = ".".join(str(part) for part in item["loc"] if part not in {"body", "query", "path"})[:100]
        what = {"extra_forbidden": "no such field", "missing": "is required"}.get(item["type"], item["msg"])
        shown.append(f"{place or 'request'}: {what.removeprefix('Value error, ')}")
    more = f"; and {len(errors) - 10} more" if len(errors) > 10 else ""
    return "; ".join(shown) + more


def idempotency_key(request: Request) -> str:
    """The ``Idempotency-Key`` header: 1 to 128 printable ASCII characters. Raises :class:`ApiError`."""
    values = request.headers.getlist("idempotency-key")
    if not values:
        raise ApiError(
            "the header Idempotency-Key is required",
            hint="choose one key per payment and repeat it with every retry of that payment",
        )
    key = values[0].strip()
    if len(values) > 1 or not _KEY.match(key):
        raise ApiError("Idempotency-Key must be given once, with 1 to 128 printable ASCII characters")
    return key


def wait_seconds(request: Request, asked: float | None, *, default: float, most: float) -> float:
    """How long this caller waits: ``?wait=``, else ``Prefer: wait=n`` (RFC 7240), else the default; bounded."""
    if asked is not None:
        if asked > most:
            raise ApiError(f"wait: must be 0 to {most:g} seconds")
        return asked
    found = _PREFER_WAIT.search(request.headers.get("prefer", ""))
    return min(float(found.group(1)), most) if found else default
