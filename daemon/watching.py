"""Metrics that draw conclusions: how each mint is, as the status page, readiness and its circuit breaker want to know."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from daemon.metrics import Metrics
from daemon.operations import MintHealth
from melt.breaker import Circuit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from daemon.pace import Pace
    from melt.breaker import Breaker
    from melt.model import MintAlias
    from melt.ports import Clock

_log = structlog.get_logger("meltd")


class WatchingMetrics(Metrics):
    """Metrics that also remember how each mint's last request went, for the status page and readiness."""

    def __init__(self, *, version: str, clock: Clock, mints: Sequence[MintAlias]) -> None:
        super().__init__(version=version)
        self._clock = clock
        self.health = {alias: MintHealth() for alias in mints}
        self.breakers: dict[MintAlias, Breaker] = {}
        self.paces: dict[MintAlias, Pace] = {}

    def mint_request(self, mint: MintAlias, endpoint: str, outcome: str, seconds: float) -> None:
        """Any answer, a refusal too, shows that the mint is up."""
        super().mint_request(mint, endpoint, outcome, seconds)
        pace = self.paces.get(mint)
        if pace is not None and endpoint == "checkstate" and outcome == "ok":
            pace.answered(seconds)
        health = self.health.get(mint)
        if health is None:
            return
        health.up = outcome != "error"
        if health.up:
            health.last_ok, health.error = self._clock.now(), None
        else:
            health.error = f"the last {endpoint} request got no usable answer"
        self.set_mint_up(mint, health.up)
        breaker = self.breakers.get(mint)
        if breaker is not None:
            breaker.record(usable=health.up)

    def circuit_changed(self, mint: MintAlias, state: Circuit) -> None:
        """Shown as a metric and in the log: while it is not closed, new melts at this mint are refused."""
        self.set_mint_circuit(mint, refusing=state is not Circuit.CLOSED)
        _log.warning("mint's circuit breaker", mint=mint, circuit=state.value)
