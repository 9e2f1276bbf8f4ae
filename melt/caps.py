"""Caps on corrections (I12): over one, meltd detects and reports, and changes nothing."""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

HOUR_S: Final = 3600.0
SHARE_FROM_DOCUMENTS: Final = 10
"""Below so many documents a share says nothing."""
SHARE_FLOOR: Final = 5
"""So many documents may be corrected whatever their share, unless the share is 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CapPolicy:
    """How much may be corrected by rule: counts of documents, value per unit, share of the documents of a run."""

    count_per_run: int = 1000
    count_per_hour: int = 5000
    value_per_run: int = 10_000_000
    share_per_run: float = 0.25


@dataclass(slots=True)
class RunTotals:
    """What one run has corrected so far at one mint."""

    corrected: int = 0
    value: dict[str, int] = field(default_factory=lambda: defaultdict(int))


class Caps:
    """Holds the hour's total over all runs of this process."""

    def __init__(self, policy: CapPolicy) -> None:
        self._policy = policy
        self._recent: deque[float] = deque(maxlen=policy.count_per_hour + 1)

    def refuses(self, totals: RunTotals, *, value: int, unit: str, documents: int, now_s: float) -> str | None:
        """
        Why one more correction of ``value`` would be over a cap, or None.

        ``documents`` is how many documents the run is about; ``now_s`` a monotonic time.
        """
        policy = self._policy
        while self._recent and now_s - self._recent[0] > HOUR_S:
            self._recent.popleft()
        if totals.corrected + 1 > policy.count_per_run:
            return "corrections_max_count_per_cycle"
        if len(self._recent) + 1 > policy.count_per_hour:
            return "corrections_max_count_per_hour"
        if totals.value[unit] + value > policy.value_per_run:
            return "corrections_max_value_per_cycle"
        if self._is_too_large_a_share(totals.corrected + 1, documents):
            return "corrections_max_share_per_cycle"
        return None

    @property
    def hour_max(self) -> int:
        """So many corrections an hour; to know of more says nothing more."""
        return self._policy.count_per_hour

    def recall(self, times_s: Sequence[float]) -> None:
        """Count what another instance corrected in the last hour, too; ``times_s`` on this process's monotonic clock."""
        self._recent.extend(times_s)
        self._recent = deque(sorted(self._recent), maxlen=self._recent.maxlen)

    def refuses_page(self, *, marks: int, documents: int) -> str | None:
        """
        Why none of the ``marks`` documents of a page that read SPENT may be marked, or None.

        ``documents`` is how many of the page are counted as money. A mint that calls a large share of them SPENT at
        once is more likely wrong than its users busy, and up to the cap of a run it would be believed.
        """
        return "corrections_max_share_per_cycle" if self._is_too_large_a_share(marks, documents) else None

    def _is_too_large_a_share(self, corrected: int, documents: int) -> bool:
        share = self._policy.share_per_run
        allowed = share * documents
        return documents >= SHARE_FROM_DOCUMENTS and corrected > (max(SHARE_FLOOR, allowed) if share > 0 else 0)

    def count(self, totals: RunTotals, *, value: int, unit: str, now_s: float) -> None:
        """Note a correction that was made."""
        totals.corrected += 1
        totals.value[unit] += value
        self._recent.append(now_s)
