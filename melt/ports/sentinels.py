"""What the guards ask of the records (DESIGN section 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from melt.model import MintAlias, SpentMemory, Y


class SpentRecords(Protocol):
    """The part of the database that knows what mints have called SPENT. Raises :class:`melt.errors.StoreError`."""

    def spent_memory(self, mint: MintAlias, mint_url: str, limit: int) -> SpentMemory:
        """What the sentinels of a mint are made of; at most ``limit`` known Ys."""
        ...

    def once_spent(self, ys: Sequence[Y]) -> Mapping[Y, datetime]:
        """Those of ``ys`` that a mint itself has called SPENT, or taken as inputs, and when that was last recorded."""
        ...
