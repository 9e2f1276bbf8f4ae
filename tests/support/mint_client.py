"""HttpMint with what it needs around it: a real clock, real randomness and a telemetry that only remembers."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from melt.ecash import y_of
from melt.mint import HttpMint, MintLimits
from melt.model import Dleq, KeysetId, MintAlias, Proof


class WallClock:
    """The machine's time."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float, /) -> None:
        await asyncio.sleep(seconds)


class SystemEntropy:
    """The machine's randomness."""

    def token(self, n: int, /) -> str:
        return secrets.token_hex(n)

    def uniform(self, low: float, high: float, /) -> float:
        return random.uniform(low, high)


class RememberingTelemetry:
    """Keeps what it is told of mint requests, ignores the rest."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []

    def mint_request(self, mint: str, endpoint: str, outcome: str, seconds: float) -> None:
        assert seconds >= 0
        self.requests.append((endpoint, outcome))

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


@asynccontextmanager
async def http_mint(url: str, **limits: Any) -> AsyncIterator[HttpMint]:
    """A client of ``url``; its telemetry is ``client._telemetry``."""
    client = HttpMint(
        MintAlias("test"),
        url,
        telemetry=RememberingTelemetry(),
        clock=WallClock(),
        entropy=SystemEntropy(),
        limits=MintLimits(**limits),
    )
    try:
        yield client
    finally:
        await client.aclose()


def as_proof(given: dict[str, Any]) -> Proof:
    """A proof as the store reads it from the wallet's shape."""
    dleq = given.get("dleq")
    return Proof(
        keyset_id=KeysetId(given["id"]),
        amount=given["amount"],
        secret=given["secret"],
        c=given["C"],
        y=y_of(given["secret"]),
        witness=given.get("witness"),
        dleq=None if dleq is None else Dleq(**dleq),
    )
