"""
The summary of a day: what is owed, what happened, made from holdings and activity. Pure.

Amounts of two units never meet in one sum.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from melt.model import Activity, DaySummary

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from melt.model import Holding, MintAlias, Solvency

Key = tuple[str, str]
"""A user and a unit."""


def day_of(moment: datetime) -> str:
    """The day, in UTC, as ``2026-11-25``."""
    return moment.astimezone(UTC).date().isoformat()


def bounds(day: str) -> tuple[datetime, datetime]:
    """The first moment of a day and of the next. Raises ValueError for what is no day."""
    start = datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC)
    return start, start + timedelta(days=1)


_NUMBERS: Final = (
    "melts", "paid", "lightning_fees", "input_fees", "shortfall", "unaccounted", "reclaimed", "in_question",
)  # fmt: skip


def added(parts: Iterable[Activity]) -> Activity:
    """Everybody's activity in one; all of one unit."""
    found: dict[str, int] = defaultdict(int)
    mended: dict[str, int] = defaultdict(int)
    numbers: dict[str, int] = defaultdict(int)
    for part in parts:
        for name in _NUMBERS:
            numbers[name] += getattr(part, name)
        for sums, counts in ((found, part.found), (mended, part.mended)):
            for kind, count in counts.items():
                sums[kind] += count
    return Activity(**numbers, found=dict(found), mended=dict(mended))


class Tally:
    """Adds up a mint's day while holdings stream by, user by user, so that memory does not grow with the users."""

    def __init__(
        self, mint: MintAlias, day: str, activity: Mapping[Key, Activity], *, made_at: datetime, is_final: bool
    ) -> None:
        self._mint = mint
        self._day = day
        self._activity = activity
        self._made_at = made_at
        self._is_final = is_final
        self._sums: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        self._seen: set[Key] = set()

    def users(self, holdings: Sequence[Holding]) -> tuple[DaySummary, ...]:
        """The rows of whole users: all holdings of a user must be in one call."""
        by_user: dict[Key, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        for holding in holdings:
            by_user[holding.npub, holding.unit][holding.status] += holding.amount
            self._sums[holding.unit][holding.status] += holding.amount
        self._seen |= by_user.keys() & self._activity.keys()
        return tuple(self._row(npub, unit, sums) for (npub, unit), sums in by_user.items())

    def others(self) -> tuple[DaySummary, ...]:
        """The rows of users to whom something happened and who hold nothing any more."""
        return tuple(self._row(npub, unit, {}) for npub, unit in self._activity if (npub, unit) not in self._seen)

    def mint(self, solvency: Iterable[Solvency]) -> tuple[DaySummary, ...]:
        """The mint's own rows, one for each unit that anybody holds or used, once all users have passed."""
        known = {one.unit: one for one in solvency}
        units = sorted(self._sums.keys() | {unit for _, unit in self._activity} | known.keys())
        rows = []
        for unit in units:
            seen = known.get(unit)
            rows.append(
                DaySummary(
                    day=self._day,
                    mint=self._mint,
                    unit=unit,
                    npub=None,
                    made_at=self._made_at,
                    is_final=self._is_final,
                    liabilities=dict(self._sums[unit]),
                    activity=added(part for (_, its), part in self._activity.items() if its == unit),
                    verified=None if seen is None else seen.honoured,
                    verified_at=None if seen is None else seen.at,
                )
            )
        return tuple(rows)

    def _row(self, npub: str, unit: str, liabilities: Mapping[str, int]) -> DaySummary:
        activity = self._activity.get((npub, unit), Activity())
        return DaySummary(
            day=self._day,
            mint=self._mint,
            unit=unit,
            npub=npub,
            made_at=self._made_at,
            is_final=self._is_final,
            liabilities=dict(liabilities),
            activity=activity,
            verified=max(0, sum(liabilities.values()) - activity.in_question),
        )
