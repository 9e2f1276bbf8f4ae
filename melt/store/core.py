"""What the parts of the store have in common: the collections, the clock and the transaction runner."""

from __future__ import annotations

import secrets
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import structlog

from melt import fencing
from melt.errors import LeaseLost
from melt.store.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from pymongo.client_session import ClientSession

    from melt.model import Actor, Fence, MeltId
    from melt.model.mode import Mode
    from melt.ports import Clock, Telemetry
    from melt.settling import SettlePolicy, Stopwatch
    from melt.store.connect import Collections
    from melt.store.indexes import WalletIndexes
    from melt.store.transactions import Transactions

T = TypeVar("T")

_log = structlog.get_logger("melt.store")

LIMIT_MAX = 1000
"""The most records that one listing returns (I11)."""


class Core:
    """
    The base of the store's parts.

    It is assembled in :class:`melt.store.mongo.MongoStore`; the parts hold no state of their own.
    """

    telemetry: Telemetry | None
    unique_proofs_indexed: bool
    setting_mode: Mode | None
    """What this process was told; the more careful of it and of the database's choice holds."""
    _indexes: WalletIndexes
    _c: Collections
    _clock: Clock
    _transactions: Transactions
    _settle: SettlePolicy
    _stopwatch: Stopwatch

    @property
    def reads_once(self) -> bool:
        """
        Whether meltd reads the token collection in ``_id`` order and in no other way, because its indexes are not there.

        Then whatever else a tour would ask reads the whole collection a second time, and is left out (ADR 25).
        """
        return self._indexes.report.lacks("status", "_id")

    def _run(self, work: Callable[[ClientSession], T]) -> T:
        return self._transactions.run(work)

    def _run_alone(self, work: Callable[[ClientSession], T]) -> T:
        return self._transactions.run_alone(work)

    def _run_fenced(self, work: Callable[[ClientSession], T]) -> T:
        """Like :meth:`_run`; under a fence (:mod:`melt.fencing`) only while its lease stands, else LeaseLost."""
        fence = fencing.current()
        if fence is None:
            return self._run(work)

        def fenced(session: ClientSession) -> T:
            self._hold_fence(session, fence)
            return work(session)

        return self._run(fenced)

    def _hold_fence(self, session: ClientSession, fence: Fence) -> None:
        """
        Write to the lease in this transaction, so that it and a takeover can't both be committed.

        To read the lease would not do: a snapshot may be older than a takeover that was committed since.
        """
        held = {"_id": str(fence.shard), "holder": fence.holder, "epoch": fence.epoch}
        if self._c.leases.update_one(held, {"$inc": {"writes": 1}}, session=session).modified_count != 1:
            _log.warning("a write was refused: the lease is another's", shard=fence.shard, epoch=fence.epoch)
            msg = f"the lease {fence.shard} of epoch {fence.epoch} is held no longer"
            raise LeaseLost(msg)

    def _new_ledger(
        self,
        session: ClientSession,
        *,
        now: datetime,
        operation_id: str,
        actor: Actor,
        melt_id: MeltId | None = None,
        discrepancy_id: str | None = None,
        note: str | None = None,
        fence: Fence | None = None,
        finishing: bool = False,
    ) -> Ledger:
        """A ledger that passes the gate of the mode before its first write; ``finishing`` what the journal has begun."""
        return Ledger(
            self._c,
            session,
            now=now,
            operation_id=operation_id,
            actor=actor,
            melt_id=melt_id,
            discrepancy_id=discrepancy_id,
            note=note,
            fence=fence,
            gate=partial(self._pass_gate, session, finishing=finishing),
        )

    def _pass_gate(self, session: ClientSession, *, finishing: bool) -> None:
        """See :meth:`melt.store.mode.Modes._pass_gate`."""
        raise NotImplementedError

    def _now(self) -> datetime:
        """The present in whole milliseconds, as BSON keeps it: what was written reads back equal."""
        now = self._clock.now()
        return now.replace(microsecond=now.microsecond // 1000 * 1000)


def new_mark() -> str:
    """A mark by which a repeated write knows its own earlier run. Made outside the transaction's callback."""
    return secrets.token_hex(8)


def bounded(limit: int) -> int:
    """A listing's limit within 1 and :data:`LIMIT_MAX`; the driver takes 0 for none."""
    return max(1, min(limit, LIMIT_MAX))


def in_batches(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """The items in consecutive batches of at most ``size``."""
    return [items[start : start + size] for start in range(0, len(items), size)]
