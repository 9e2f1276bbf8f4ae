"""What a day looked like at one mint, in all or for one user; what is owed against what is honoured. Pure data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from melt.model.words import MintAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class Solvency:
    """
    One mint and unit as a whole tour found it: ``owed`` is what unspent and pending documents count, ``honoured`` the
    part of it that the mint did not call SPENT. The difference is money that users see and that is gone.
    """

    mint: MintAlias
    unit: str
    owed: int
    honoured: int
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What the documents of one user count at a mint, in one unit and status."""

    npub: str
    unit: str
    status: str
    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """
    What happened for one user at a mint in one unit within a day. Amounts in the unit.

    ``input_fees`` are the mint's (NUT-02), of payments and of swaps alike; ``lightning_fees`` the node's. ``unaccounted``
    went with inputs that are gone, and nobody knows whether it paid anything. ``found`` and ``mended`` are discrepancies by type; ``in_question`` is the value of those that are open now.
    """

    melts: int = 0
    paid: int = 0
    lightning_fees: int = 0
    input_fees: int = 0
    shortfall: int = 0
    unaccounted: int = 0
    reclaimed: int = 0
    in_question: int = 0
    found: Mapping[str, int] = field(default_factory=dict)
    mended: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DaySummary:
    """
    One day (UTC, ``2026-11-25``) at one mint in one unit: of everybody, or with ``npub`` of one user.

    ``liabilities`` is by status, as the database had it at ``made_at``. ``verified`` is what the mint honoured of what
    was owed when the last whole tour looked, at ``verified_at``; for a user it is what is owed less ``in_question``.
    ``is_final``: made after the day had ended.
    """

    day: str
    mint: MintAlias
    unit: str
    npub: str | None
    made_at: datetime
    is_final: bool
    liabilities: Mapping[str, int]
    activity: Activity
    verified: int | None = None
    verified_at: datetime | None = None

    @property
    def owed(self) -> int:
        """What the database counts as somebody's money."""
        return sum(self.liabilities.values())
