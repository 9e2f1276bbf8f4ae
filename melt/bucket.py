"""A token bucket: so many at once, then so many a second (I11)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from melt.ports import Clock


class Bucket:
    """
    Holds at most ``burst`` units and gains ``per_s`` a second.

    :meth:`take` never refuses: it says how long to wait first. With one taker that does wait, it holds the bound.
    """

    def __init__(self, *, clock: Clock, per_s: float, burst: float) -> None:
        if per_s <= 0 or burst < 1:
            raise ValueError("a bucket gains something and holds at least one unit")
        self._clock = clock
        self._per_s = per_s
        self._burst = burst
        self._level = burst
        self._at = clock.monotonic()

    def take(self, units: float = 1.0) -> float:
        """Take ``units``; returns after how many seconds the taker may go on, 0 for at once."""
        now = self._clock.monotonic()
        self._level = min(self._burst, self._level + (now - self._at) * self._per_s) - units
        self._at = now
        return max(0.0, -self._level / self._per_s)
