"""What the API asks about days that were."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from melt.model import DaySummary, MintAlias


class SummaryReads(Protocol):
    """Daily summaries. Raises :class:`melt.errors.MeltdError`."""

    async def summaries(
        self, *, mint: MintAlias | None, npub: str | None, day: str | None, limit: int
    ) -> tuple[DaySummary, ...]:
        """The mints' rows, newest day first; with ``npub`` that user's, today's among them."""
        ...
