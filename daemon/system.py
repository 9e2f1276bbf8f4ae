"""Time and randomness as the operating system gives them: the engine's ``Clock`` and ``Entropy`` in production."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time
from datetime import UTC, datetime


class SystemClock:
    """Wall clock for records, monotonic clock for waiting."""

    def now(self) -> datetime:
        """Aware, UTC; to the millisecond, which is what the database keeps."""
        now = datetime.now(UTC)
        return now.replace(microsecond=now.microsecond // 1000 * 1000)

    def monotonic(self) -> float:
        """Seconds on a clock that is never set."""
        return time.monotonic()

    async def sleep(self, seconds: float, /) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

    async def wait(self, event: asyncio.Event, seconds: float, /) -> bool:
        """Wait until ``event`` is set, ``seconds`` at most; whether it was."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()
        return event.is_set()


class SystemEntropy:
    """Unpredictable ids; jitter that need not be."""

    def token(self, n: int, /) -> str:
        """``n`` random bytes as hex."""
        return secrets.token_hex(n)

    def uniform(self, low: float, high: float, /) -> float:
        """A float for jitter."""
        return random.uniform(low, high)  # noqa: S311 - jitter
