"""meltd with a wall clock that is wrong: ``MELTD_TEST_CLOCK_AHEAD_S`` seconds ahead. Its monotonic clock is right."""

from __future__ import annotations

import os
from datetime import datetime, timedelta

from daemon import system
from daemon.__main__ import main

AHEAD_ENV = "MELTD_TEST_CLOCK_AHEAD_S"


def skew() -> None:
    """Every ``now`` of the process is so much later."""
    ahead = timedelta(seconds=float(os.environ.pop(AHEAD_ENV)))
    right = system.SystemClock.now

    def wrong(clock: system.SystemClock) -> datetime:
        return right(clock) + ahead

    system.SystemClock.now = wrong  # type: ignore[method-assign]


if __name__ == "__main__":
    skew()
    main()
