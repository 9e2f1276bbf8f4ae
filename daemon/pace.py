"""
How fast the sweep asks a mint (DESIGN section 5, Sweep). Pure: told what happened, it says how long to rest.

The sweep takes a *duty*, a share of the mint's time: after a page that took ``t`` seconds it rests ``t (1 - duty) / duty``.
The duty goes up a step with each page that found drift or while the detection lag is above its target, goes down a small
step while the lag is below half of it, and is halved when the mint answers 429 or not at all, and when a page's NUT-07
requests took much longer than they use to. So a sweep settles at the slowest pace that keeps the lag within its
target, and gives way at once to a mint that suffers.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from melt.ports import Entropy

LATENCIES_KEPT: Final = 64
LATENCIES_FEWEST: Final = 16
"""Before so many batches were timed, none is called slow."""
REQUESTS_OF_PAGE_MAX: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PacePolicy:
    """
    Bounds and steps. ``duty_*`` are shares of the mint's time, ``lag_target_s`` and pauses are seconds.

    ``free_pages``: so many pages at the start of a tour are not followed by a rest, so that a small database is done at
    once. ``slow_factor`` and ``slow_from_s``: a page's requests are slow when their median is above both this multiple
    of the usual one and this many seconds.
    """

    duty_min: float = 0.1
    duty_max: float = 0.9
    duty_start: float = 0.5
    step_up: float = 0.05
    step_down: float = 0.01
    lag_target_s: float = 600.0
    free_pages: int = 3
    pause_s_max: float = 30.0
    slow_factor: float = 3.0
    slow_from_s: float = 0.1
    backoff_s_first: float = 1.0
    retry_s_first: float = 15.0
    backoff_s_max: float = 300.0
    jitter: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.duty_min <= self.duty_max <= 1:
            raise ValueError("0 < duty_min <= duty_max <= 1")


class Pace:
    """The pace at one mint. Not for several tasks at once, but for the lanes that take turns."""

    def __init__(self, policy: PacePolicy, entropy: Entropy) -> None:
        self.policy = policy
        self._entropy = entropy
        self._duty = min(max(policy.duty_start, policy.duty_min), policy.duty_max)
        self._usual: deque[float] = deque(maxlen=LATENCIES_KEPT)
        self._of_page: deque[float] = deque(maxlen=REQUESTS_OF_PAGE_MAX)
        self._failures = 0
        self._failed_tours = 0

    @property
    def duty(self) -> float:
        """The share of the mint's time that the sweep takes now."""
        return self._duty

    def answered(self, seconds: float) -> None:
        """One NUT-07 request was answered; all are of one size, so their times compare."""
        self._of_page.append(seconds)

    def page_done(self, *, seconds: float, drift: bool, lag_s: float, pages: int) -> float:
        """
        How long to rest after a page that took ``seconds``. ``pages`` is how many this run has done, this one included.

        ``lag_s`` is the detection lag at this mint; ``drift`` whether the page found any.
        """
        self._failures = 0
        policy = self.policy
        if self._was_slow():
            self._halve()
        elif drift or lag_s > policy.lag_target_s:
            self._duty = min(policy.duty_max, self._duty + policy.step_up)
        elif lag_s < policy.lag_target_s / 2:
            self._duty = max(policy.duty_min, self._duty - policy.step_down)
        if pages <= policy.free_pages:
            return 0.0
        rest = seconds * (1 - self._duty) / self._duty
        return min(policy.pause_s_max, self._jittered(rest))

    def refused(self, retry_after_s: float | None) -> float:
        """How long to leave the mint alone after a 429 or an answer that can't be used; longer each time in a row."""
        self._halve()
        policy = self.policy
        first = policy.backoff_s_first if retry_after_s is None else max(retry_after_s, policy.backoff_s_first)
        self._failures += 1
        return self._jittered(min(policy.backoff_s_max, first * 2.0 ** min(self._failures - 1, 16)))

    def tour_ended(self, *, ok: bool) -> float | None:
        """After a tour that ended with an error: in how many seconds to take it up again, longer each time in a row."""
        if ok:
            self._failed_tours = 0
            return None
        policy = self.policy
        self._failed_tours += 1
        return self._jittered(min(policy.backoff_s_max, policy.retry_s_first * 2.0 ** min(self._failed_tours - 1, 16)))

    def _was_slow(self) -> bool:
        page = list(self._of_page)
        self._of_page.clear()
        if not page:
            return False
        policy = self.policy
        took = median(page)
        known = len(self._usual) >= LATENCIES_FEWEST
        slow = known and took > max(policy.slow_from_s, policy.slow_factor * median(self._usual))
        self._usual.extend(page[-LATENCIES_FEWEST:])
        return slow

    def _halve(self) -> None:
        self._duty = max(self.policy.duty_min, self._duty / 2)

    def _jittered(self, seconds: float) -> float:
        """Never shorter: a mint's Retry-After is kept."""
        return seconds * self._entropy.uniform(1.0, 1.0 + 2 * self.policy.jitter)
