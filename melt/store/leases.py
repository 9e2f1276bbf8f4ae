"""
Leases of shards in ``meltd_leases``: taken, renewed and given up by conditional updates (DESIGN section 5).

A shard's document is ``{_id, holder, epoch, renewals, at, writes, turns}``, an instance's ``{_id: member:<holder>, shards,
sessions, renewals, at}``. ``at`` is for people: no decision is taken by a clock of another machine. ``turns`` are the last
twenty changes of the holder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import structlog
from pymongo.errors import DuplicateKeyError

from melt.model import DiscrepancyState, Fence, Lease, LeaseBook, Member, Shard
from melt.store.core import Core, new_mark
from melt.store.faults import Retry, store_method
from melt.store.journal import record_time

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from pymongo import MongoClient
    from pymongo.client_session import ClientSession

    from melt.model import MintAlias, TakenBecause
    from melt.store.connect import Document
    from melt.store.sessions import SessionBook

TURNS_MAX: Final = 20
CORRECTED_MAX: Final = 100_000
"""The most times of corrections that are read at a takeover (I11)."""
_MEMBER: Final = "member:"
_SWEEP: Final = "sweep:"

_log = structlog.get_logger("melt.store")


class LeaseStore(Core):
    """Implements :class:`melt.ports.Leases`."""

    _client: MongoClient[Document]
    _sessions: SessionBook

    @store_method
    def lease_book(self) -> LeaseBook:
        """See :meth:`melt.ports.Leases.lease_book`. Instances' leases of their melts lie there too and are left out."""
        leases: dict[Shard, Lease] = {}
        members: dict[str, Member] = {}
        for raw in self._c.leases.find({}, {"turns": 0, "sessions": 0}):
            key = str(raw["_id"])
            if key.startswith(_SWEEP):
                leases[Shard(key)] = _read_lease(raw)
            elif key.startswith(_MEMBER):
                holder = key.removeprefix(_MEMBER)
                shards = frozenset(Shard(shard) for shard in raw.get("shards", ()))
                members[holder] = Member(holder=holder, shards=shards, renewals=int(raw["renewals"]))
        return LeaseBook(leases=leases, members=members)

    @store_method
    def announce(self, holder: str, shards: Iterable[Shard]) -> None:
        """See :meth:`melt.ports.Leases.announce`; the sessions are for whoever has to end our transactions."""
        names = sorted(str(shard) for shard in shards)
        now = self._now()
        chosen = {"_id": f"{_MEMBER}{holder}"}

        def work(session: ClientSession) -> None:
            # Read in here, so that the session of this very transaction is among them.
            fresh = {"shards": names, "sessions": self._sessions.known(), "at": now}
            update = {"$inc": {"renewals": 1}, "$set": fresh}
            self._c.leases.update_one(chosen, update, upsert=True, session=session)

        self._run(work)

    @store_method
    def leave(self, holder: str) -> None:
        """See :meth:`melt.ports.Leases.leave`."""
        self._run(lambda session: self._c.leases.delete_one({"_id": f"{_MEMBER}{holder}"}, session=session))

    @store_method
    def take_lease(self, shard: Shard, holder: str, *, seen: Lease | None, why: TakenBecause) -> Fence | None:
        """See :meth:`melt.ports.Leases.take_lease`."""
        if seen is not None and seen.holder is not None:
            self._end_sessions_of(seen.holder, but_not=holder)
        mark = new_mark()
        now = self._now()
        return self._run(lambda session: self._take(session, shard, holder, seen, why, mark, now))

    def _take(
        self,
        session: ClientSession,
        shard: Shard,
        holder: str,
        seen: Lease | None,
        why: TakenBecause,
        mark: str,
        now: datetime,
    ) -> Fence | None:
        fence = Fence(shard=shard, holder=holder, epoch=1 if seen is None else seen.epoch + 1)
        raw = self._c.leases.find_one({"_id": str(shard)}, session=session)
        if raw is not None and raw.get("operation") == mark:
            return fence  # our own commit, whose answer was lost
        if (None if raw is None else _read_lease(raw)) != seen:
            return None
        before = None if seen is None else seen.holder
        turn = {"at": now, "epoch": fence.epoch, "holder": holder, "from": before, "why": str(why)}
        if seen is None:
            fresh: Document = {"_id": str(shard), "holder": holder, "epoch": fence.epoch, "renewals": 0, "writes": 0}
            fresh |= {"at": now, "operation": mark, "turns": [turn]}
            collided = False
            try:
                self._c.leases.insert_one(fresh, session=session)
            except DuplicateKeyError:
                collided = True
            if collided:
                raise Retry
            return fence
        present = {"_id": str(shard), "holder": seen.holder, "epoch": seen.epoch, "renewals": seen.renewals}
        update = {
            "$set": {"holder": holder, "epoch": fence.epoch, "at": now, "operation": mark},
            "$inc": {"renewals": 1},
            "$push": {"turns": {"$each": [turn], "$slice": -TURNS_MAX}},
        }
        return fence if self._c.leases.update_one(present, update, session=session).modified_count == 1 else None

    def _end_sessions_of(self, gone: str, *, but_not: str) -> None:
        """
        End what the holder before left open: a server keeps a dead client's transaction, and the lease in it, for a minute.

        One that was only stopped finds its transaction aborted when it goes on, and its lease gone.
        """
        if gone == but_not:
            return
        raw = self._c.leases.find_one({"_id": f"{_MEMBER}{gone}"}, {"sessions": 1})
        ended = self._sessions.end(self._client, (raw or {}).get("sessions", ()))
        if ended:
            _log.info("sessions of an instance that is gone were ended", instance=gone, sessions=ended)

    @store_method
    def renew_lease(self, fence: Fence) -> bool:
        """See :meth:`melt.ports.Leases.renew_lease`."""
        return self._change(fence, {"$inc": {"renewals": 1}, "$set": {"at": self._now()}})

    @store_method
    def release_lease(self, fence: Fence) -> bool:
        """See :meth:`melt.ports.Leases.release_lease`."""
        return self._change(fence, {"$inc": {"renewals": 1}, "$set": {"at": self._now(), "holder": None}})

    def _change(self, fence: Fence, update: Document) -> bool:
        held = {"_id": str(fence.shard), "holder": fence.holder, "epoch": fence.epoch}
        return self._run(lambda session: self._c.leases.update_one(held, update, session=session).modified_count == 1)

    @store_method
    def corrected_since(self, mint: MintAlias, since: datetime, limit: int) -> tuple[datetime, ...]:
        """See :meth:`melt.ports.Leases.corrected_since`: the records of what was corrected know it already."""
        chosen = {"state": str(DiscrepancyState.CORRECTED), "last_seen": {"$gte": since}, "mint": mint}
        found = self._c.discrepancies.find(chosen, {"closed_at": 1}).limit(max(1, min(limit, CORRECTED_MAX)))
        return tuple(record_time(raw["closed_at"]) for raw in found if raw.get("closed_at") is not None)


def _read_lease(raw: Document) -> Lease:
    return Lease(
        shard=Shard(str(raw["_id"])),
        holder=raw.get("holder"),
        epoch=int(raw["epoch"]),
        renewals=int(raw["renewals"]),
    )


def read_fence(raw: Any) -> Fence | None:
    """The fence of an audit entry; None where it has none."""
    if raw is None:
        return None
    return Fence(shard=Shard(raw["shard"]), holder=raw["holder"], epoch=int(raw["epoch"]))
