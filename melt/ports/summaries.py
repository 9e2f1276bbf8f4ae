"""The database as the daily summaries ask for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from melt.model import Activity, DaySummary, Holding, KeysetId, MintAlias


class HoldingsWalk(Protocol):
    """Everybody's holdings at one mint, user by user; used by one thread at a time."""

    def next_users(self, users_max: int) -> tuple[Holding, ...]:
        """All holdings of the next users, of so many at most; empty at the end."""
        ...

    def close(self) -> None: ...


class SummaryStore(Protocol):
    """Reads what a day's summary is made of, and keeps the summaries. Raises StoreError and no other."""

    def holdings(
        self, mint_urls: Sequence[str], *, npub: str | None = None, keyset_units: Mapping[KeysetId, str] | None = None
    ) -> HoldingsWalk:
        """
        Unspent and pending documents at these URLs (as stored), of all users or of one.

        The unit of a proof is its keyset's where ``keyset_units`` has it, else the wallet's.
        """
        ...

    def activity(
        self, mint: MintAlias, since: datetime, until: datetime, *, npub: str | None = None
    ) -> Mapping[tuple[str, str], Activity]:
        """By (npub, unit), what ended at ``since`` or later and before ``until``; drift of no user has npub ""."""
        ...

    def save_summaries(self, rows: Sequence[DaySummary]) -> None:
        """Write or replace, at most 100; one for each day, mint, unit and user."""
        ...

    def summaries(
        self, *, mint: MintAlias | None, npub: str | None, day: str | None, limit: int
    ) -> tuple[DaySummary, ...]:
        """Newest day first: the mints' own rows, or with ``npub`` that user's."""
        ...
