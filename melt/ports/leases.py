"""Leases as a daemon asks the database for them (DESIGN section 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from melt.model import Fence, Lease, LeaseBook, MintAlias, Shard, TakenBecause


class Leases(Protocol):
    """
    ``meltd_leases``. Every method raises :class:`melt.errors.StoreError` and no other.

    The other methods of a store that a tour calls (``record``, ``clear_unseen``, ``correct``, ``reserve``,
    ``save_sweep``) write only while the lease of :func:`melt.fencing.current` stands, and else raise
    :class:`melt.errors.LeaseLost` and write nothing.
    """

    def lease_book(self) -> LeaseBook:
        """All leases of shards and all members."""
        ...

    def announce(self, holder: str, shards: Iterable[Shard]) -> None:
        """Say that this instance lives and which shards it can do; bumps its ``renewals``."""
        ...

    def leave(self, holder: str) -> None:
        """The opposite, at a clean stop."""
        ...

    def take_lease(self, shard: Shard, holder: str, *, seen: Lease | None, why: TakenBecause) -> Fence | None:
        """
        Take a lease that still is as it was ``seen`` (None: not there); None where it is not any more.

        Transactions that the holder before left open are ended, so that what they hold can be written.
        """
        ...

    def renew_lease(self, fence: Fence) -> bool:
        """Bump its ``renewals``. False: it has gone to somebody else."""
        ...

    def release_lease(self, fence: Fence) -> bool:
        """Give it up; its epoch stays. False: it had gone already."""
        ...

    def corrected_since(self, mint: MintAlias, since: datetime, limit: int) -> tuple[datetime, ...]:
        """When corrections were made at a mint, by whomever, for the cap of an hour; at most ``limit``."""
        ...
