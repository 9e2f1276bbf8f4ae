"""
Transactions with explicit concerns, bounded in time (DESIGN section 3).

The driver's own ``with_transaction`` retries for a fixed 120 s and reruns the callback where only the commit's answer
was lost. Here

- the concerns are set on each transaction and never left to a default: snapshot, majority with journal, primary;
- an unknown result of a commit retries the commit alone;
- a transient error reruns the whole callback, on a fresh snapshot;
- both end at a deadline, and pauses between have jitter so that losers of a race don't meet again.

A commit may be durable although its answer was lost and the server died; the rerun callback then finds its
operation's audit entries or its mark in the journal, and takes it for done. Callbacks are therefore idempotent.
"""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING, TypeVar

import pymongo
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern

from melt import failpoints
from melt.errors import StoreUnavailable
from melt.store.faults import Retry
from melt.store.sessions import SessionBook

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pymongo import MongoClient
    from pymongo.client_session import ClientSession

T = TypeVar("T")

SNAPSHOT = ReadConcern("snapshot")
MAJORITY = WriteConcern(w="majority", j=True)
_PAUSE_S_FIRST = 0.002
_PAUSE_S_MAX = 0.25
_COMMIT_MS_MAX = 10_000
_TIMED_OUT = 50


class Transactions:
    """Runs callbacks in transactions of one client. Used by several threads at once."""

    def __init__(
        self, client: MongoClient[dict[str, Any]], *, deadline_s: float, sessions: SessionBook | None = None
    ) -> None:
        self._client = client
        self._deadline_s = deadline_s
        self._sessions = sessions or SessionBook(None)
        self._alone = threading.Lock()

    def run_alone(self, work: Callable[[ClientSession], T]) -> T:
        """
        Like :meth:`run`, one at a time in this process.

        For transactions that all write one document, such as a counter: side by side they would only make each
        other start again. Other processes may still do that.
        """
        if not self._alone.acquire(timeout=self._deadline_s):
            msg = "the transactions before this one did not end in time"
            raise StoreUnavailable(msg)
        try:
            return self.run(work)
        finally:
            self._alone.release()

    def run(self, work: Callable[[ClientSession], T]) -> T:
        """
        Run ``work`` in a transaction and commit it.

        Whatever ``work`` raises aborts the transaction and is raised on, except for transient errors and
        :class:`melt.store.faults.Retry`, which start it again until the deadline.
        """
        deadline = time.monotonic() + self._deadline_s
        attempt = 0
        with self._client.start_session() as session:
            self._sessions.note(session)
            while True:
                attempt += 1
                session.start_transaction(SNAPSHOT, MAJORITY, ReadPreference.PRIMARY, _COMMIT_MS_MAX)
                try:
                    with pymongo.timeout(max(deadline - time.monotonic(), 0.1)):
                        result = work(session)
                except BaseException as error:
                    if session.in_transaction:
                        session.abort_transaction()
                    if _is_transient(error) and _pause(attempt, deadline):
                        continue
                    raise
                failpoints.hit(f"store.{failpoints.store_method.get()}.before_commit")
                if _committed(session, attempt, deadline):
                    failpoints.hit(f"store.{failpoints.store_method.get()}.after_commit")
                    return result


def _committed(session: ClientSession, attempt: int, deadline: float) -> bool:
    """Commit, repeating the commit alone while its result is unknown. False: run the callback again."""
    while True:
        try:
            with pymongo.timeout(max(deadline - time.monotonic(), 0.1)):
                session.commit_transaction()
        except PyMongoError as error:
            attempt += 1
            expired = getattr(error, "code", None) == _TIMED_OUT
            if error.has_error_label("UnknownTransactionCommitResult") and not expired and _pause(attempt, deadline):
                continue
            if error.has_error_label("TransientTransactionError") and _pause(attempt, deadline):
                return False
            raise
        else:
            return True


def _is_transient(error: BaseException) -> bool:
    return isinstance(error, Retry) or (
        isinstance(error, PyMongoError) and error.has_error_label("TransientTransactionError")
    )


def _pause(attempt: int, deadline: float) -> bool:
    """Wait a little, with jitter. False where the deadline would pass."""
    longest = min(_PAUSE_S_FIRST * 2 ** min(attempt, 10), _PAUSE_S_MAX)
    pause_s = random.uniform(longest / 4, longest)  # noqa: S311 - spreads retries, guards nothing
    if time.monotonic() + pause_s >= deadline:
        return False
    time.sleep(pause_s)
    return True
