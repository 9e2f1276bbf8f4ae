"""
The driver's errors turned into the engine's, in our own words (I10).

A driver's message may hold a document, and a duplicate key's holds the key, which can be a proof's secret. So a
message is never copied, and such an error is not even chained: it is raised anew outside the ``except`` block, which
leaves neither cause nor context. Only errors about the connection, which know nothing of documents, are chained.
"""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Concatenate, ParamSpec, Protocol, TypeVar, cast

from bson.errors import BSONError
from pymongo.errors import (
    BulkWriteError,
    ConnectionFailure,
    DuplicateKeyError,
    ExecutionTimeout,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
    WTimeoutError,
)

from melt import failpoints
from melt.errors import Code, DuplicateMelt, DuplicateSecret, LostRace, MeltdError, StoreError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from melt.ports import Telemetry

_RETRYABLE_LABELS = ("TransientTransactionError", "UnknownTransactionCommitResult", "RetryableWriteError")
_WRITE_CONFLICT = 112
_VALIDATION_FAILED = 121


class AlreadyDone(Exception):
    """An operation's entries are in the audit: an earlier run of it was committed. Never leaves this package."""


class Retry(Exception):
    """Run the whole transaction again, on a fresh snapshot. Never leaves this package."""


def key_of(error: DuplicateKeyError) -> str:
    """The first field of the index that refused a duplicate; "" where the server does not say."""
    details = error.details or {}
    pattern = details.get("keyPattern")
    if isinstance(pattern, dict) and pattern:
        return str(next(iter(pattern)))
    return ""


def translated(error: Exception, method: str) -> StoreError:
    """What a driver's error means to the engine. ``method`` names the store's method in the message."""
    if isinstance(error, DuplicateKeyError):
        return _duplicate(key_of(error), method)
    if isinstance(error, Retry):
        return LostRace(f"{method} kept losing to other writers until its deadline")
    if isinstance(error, AlreadyDone):
        return LostRace(f"{method} was done before")
    if isinstance(error, BSONError | OverflowError):
        return StoreError(Code.INTERNAL, f"{method} was given a value that the database can't hold")
    if isinstance(error, ConnectionFailure | ExecutionTimeout | WTimeoutError):
        return StoreUnavailable(f"the database did not answer {method} in time")
    if isinstance(error, PyMongoError) and (
        error.timeout or any(error.has_error_label(label) for label in _RETRYABLE_LABELS)
    ):
        return StoreUnavailable(f"the database did not finish {method} in time")
    if isinstance(error, BulkWriteError):
        return StoreError(Code.INTERNAL, f"the database refused a batch of {method}")
    if isinstance(error, OperationFailure):
        if error.code == _VALIDATION_FAILED:
            return StoreError(Code.INTERNAL, f"{method} tried to write a document that its schema forbids")
        if error.code == _WRITE_CONFLICT:
            return StoreUnavailable(f"the database had a write conflict in {method}")
        return StoreUnavailable(f"the database refused {method} with code {error.code}")
    return StoreUnavailable(f"the database driver failed in {method}: {type(error).__name__}")


def _duplicate(key: str, method: str) -> StoreError:
    if key == "proofs.secret":
        return DuplicateSecret(f"{method}: a proof already lies in another token document")
    if key in {"idempotency_key", "claim"}:
        return DuplicateMelt("the idempotency key or the payment hash is taken by another melt")
    if key == "held":
        return LostRace("another open melt holds one of the proofs")
    return LostRace(f"{method}: a document with this {key or 'key'} is there already")


def _may_be_chained(error: Exception) -> bool:
    return isinstance(error, ConnectionFailure) and not isinstance(error, NotPrimaryError)


class _Instrumented(Protocol):
    @property
    def telemetry(self) -> Telemetry | None: ...


S = TypeVar("S", bound=_Instrumented)
P = ParamSpec("P")
T = TypeVar("T")


def store_method(function: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """
    The edge of the store: translates every error of the driver and tells telemetry how long a method took.

    Outcomes: ``ok``, ``refused`` (an error of the engine's own: a lost race, a duplicate), ``error``.
    """
    name = getattr(function, "__name__", "store")

    @functools.wraps(function)
    def call(self: S, *args: P.args, **kwargs: P.kwargs) -> T:
        started = time.perf_counter()
        outermost = failpoints.store_method.set(failpoints.store_method.get() or name)
        outcome = "error"
        failure: StoreError
        cause: Exception | None = None
        try:
            result = function(self, *args, **kwargs)
        except MeltdError:
            outcome = "refused"
            raise
        except (PyMongoError, BSONError, OverflowError, AlreadyDone, Retry) as error:
            failure = translated(error, name)
            cause = error if _may_be_chained(error) else None
        else:
            outcome = "ok"
            return result
        finally:
            failpoints.store_method.reset(outermost)
            if self.telemetry is not None:
                self.telemetry.store_call(name, outcome, time.perf_counter() - started)
        raise failure from cause

    return cast("Callable[Concatenate[S, P], T]", call)
