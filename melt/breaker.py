"""
A circuit breaker per mint (DESIGN section 4): while a mint gives no usable answer, new melts are refused at once.

::

    CLOSED -- N unusable answers in a row --> OPEN -- after a pause --> HALF_OPEN: one melt may try
      ^                                         ^                          |
      |             any usable answer           |     unusable again       |
      +-----------------------------------------+--------------------------+   the next pause is longer

It is told of every request to the mint, whoever made it, so the watcher's slow looks and the sweep close it too. It stops
nobody but new melts: what is open at the mint is followed in any case.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from melt.ports import Clock, Entropy


class Circuit(StrEnum):
    """State of a breaker."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerPolicy:
    """
    ``failures_max`` unusable answers in a row open it, for ``pause_s`` at first and twice as long each time that the
    probe fails, ``pause_s_max`` at most. Half open, a probe has ``probe_s`` before the next one may try.
    """

    failures_max: int = 5
    pause_s: float = 5.0
    pause_s_max: float = 120.0
    probe_s: float = 30.0


class Breaker:
    """One mint's breaker. Not thread-safe: it belongs to the event loop."""

    def __init__(
        self,
        policy: BreakerPolicy,
        *,
        clock: Clock,
        entropy: Entropy,
        on_change: Callable[[Circuit], None] = lambda _: None,
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._entropy = entropy
        self._on_change = on_change
        self._failures = 0
        self._pause_s = policy.pause_s
        self._until = 0.0
        self.state = Circuit.CLOSED

    @property
    def is_closed(self) -> bool:
        """Whether the mint is thought to be well."""
        return self.state is Circuit.CLOSED

    @property
    def pause_left_s(self) -> float:
        """Seconds until a melt may try; 0 where one may now."""
        return 0.0 if self.is_closed else max(0.0, self._until - self._clock.monotonic())

    def admit(self) -> float | None:
        """
        Whether a new melt may ask the mint now: None, or after how many seconds to come back.

        Once the pause is over the first caller is let through as the probe, and the others wait for what it finds.
        """
        if self.state is Circuit.CLOSED:
            return None
        left = self._until - self._clock.monotonic()
        if left > 0:
            return left
        self._until = self._clock.monotonic() + self._policy.probe_s
        self._become(Circuit.HALF_OPEN)
        return None

    def record(self, *, usable: bool) -> None:
        """A request to the mint has ended. An answer that is a refusal is usable: the mint is there."""
        if usable:
            self._failures = 0
            self._pause_s = self._policy.pause_s
            self._become(Circuit.CLOSED)
            return
        self._failures += 1
        if self.state is Circuit.HALF_OPEN:
            self._pause_s = min(self._policy.pause_s_max, self._pause_s * 2)
            self._open()
        elif self.state is Circuit.CLOSED and self._failures >= self._policy.failures_max:
            self._open()

    def _open(self) -> None:
        self._until = self._clock.monotonic() + self._pause_s * self._entropy.uniform(0.8, 1.2)
        self._become(Circuit.OPEN)

    def _become(self, state: Circuit) -> None:
        if state is not self.state:
            self.state = state
            self._on_change(state)
