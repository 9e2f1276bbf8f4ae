"""Leases of the model store: the semantics of :class:`melt.store.leases.LeaseStore` in memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from melt import fencing
from melt.errors import LeaseLost
from melt.model import DiscrepancyState, Fence, Lease, LeaseBook, Member, MintAlias, Shard, TakenBecause
from tests.simulation.model_ledger import Tables


class ModelLeases:
    """Implements :class:`melt.ports.Leases`."""

    tables: Tables

    def require_fence(self) -> Fence | None:
        """The fence that the caller is under; LeaseLost where its lease has gone."""
        fence = fencing.current()
        if fence is not None and self._held(fence) is None:
            raise LeaseLost(f"the lease {fence.shard} of epoch {fence.epoch} is held no longer")
        return fence

    def _held(self, fence: Fence) -> Lease | None:
        lease = self.tables.shards.get(fence.shard)
        return lease if lease is not None and (lease.holder, lease.epoch) == (fence.holder, fence.epoch) else None

    def lease_book(self) -> LeaseBook:
        return LeaseBook(leases=dict(self.tables.shards), members=dict(self.tables.members))

    def announce(self, holder: str, shards: Iterable[Shard]) -> None:
        before = self.tables.members.get(holder)
        renewals = 1 if before is None else before.renewals + 1
        self.tables.members[holder] = Member(holder=holder, shards=frozenset(shards), renewals=renewals)

    def leave(self, holder: str) -> None:
        self.tables.members.pop(holder, None)

    def take_lease(self, shard: Shard, holder: str, *, seen: Lease | None, why: TakenBecause) -> Fence | None:
        if self.tables.shards.get(shard) != seen:
            return None
        if seen is None:
            taken = Lease(shard=shard, holder=holder, epoch=1, renewals=0)
        else:
            taken = replace(seen, holder=holder, epoch=seen.epoch + 1, renewals=seen.renewals + 1)
        self.tables.shards[shard] = taken
        return Fence(shard=shard, holder=holder, epoch=taken.epoch)

    def renew_lease(self, fence: Fence) -> bool:
        lease = self._held(fence)
        if lease is not None:
            self.tables.shards[fence.shard] = replace(lease, renewals=lease.renewals + 1)
        return lease is not None

    def release_lease(self, fence: Fence) -> bool:
        lease = self._held(fence)
        if lease is not None:
            self.tables.shards[fence.shard] = replace(lease, holder=None, renewals=lease.renewals + 1)
        return lease is not None

    def corrected_since(self, mint: MintAlias, since: datetime, limit: int) -> tuple[datetime, ...]:
        found = [
            record.closed_at
            for record in self.tables.discrepancies.values()
            if record.state is DiscrepancyState.CORRECTED and record.mint == mint and record.last_seen >= since
        ]
        return tuple(closed for closed in found if closed is not None)[:limit]
