"""Who is told what happened, beside the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from melt.errors import Severity
    from melt.model import (
        CriticalEvent,
        DriftType,
        EventType,
        MeltState,
        MintAlias,
        RaisedEvent,
    )


class EventSpool(Protocol):
    """
    Keeps open CRITICAL events where a crash can't take them while the store is away. Never raises.

    ``keep`` returns once the event is on disk (or could not be written, which is logged).
    """

    async def keep(self, event: RaisedEvent, /) -> None: ...
    async def drop(self, event_type: EventType, subject: str, /) -> None: ...
    async def kept(self) -> tuple[RaisedEvent, ...]:
        """What an earlier run left, oldest first."""
        ...


class EventNotices(Protocol):
    """Tells somebody outside about CRITICAL events. Never raises, never waits."""

    def opened(self, event: RaisedEvent, /) -> None: ...
    def resolved(self, event: CriticalEvent, /) -> None: ...


class Telemetry(Protocol):
    """Who is told what happened, beside the log: the daemon turns it into metrics. Never raises."""

    def drift_found(self, drift: DriftType, severity: Severity, mint: MintAlias | None) -> None: ...
    def drift_alerting(self, drift: DriftType, severity: Severity, mint: MintAlias | None) -> None:
        """It was found and alerts at once: there is nothing that it has to settle for (I13)."""
        ...

    def drift_corrected(self, drift: DriftType, severity: Severity, mint: MintAlias | None) -> None: ...
    def critical_event(self, event_type: EventType) -> None: ...
    def critical_event_resolved(self, event_type: EventType, seconds: float) -> None:
        """``seconds`` from its opening to its end."""
        ...

    def melt_started(self, mint: MintAlias) -> None: ...
    def melt_ended(self, mint: MintAlias, outcome: str, seconds: float) -> None:
        """``outcome``: settled, released, held, pending (the caller's wait ended first) or refused."""
        ...

    def melt_refused(self, code: str) -> None: ...
    def melt_phase(self, mint: MintAlias, phase: str, seconds: float) -> None:
        """``phase``: quote, preflight, reserve, swap, pay, settle."""
        ...

    def recovered(self, mint: MintAlias, from_state: MeltState, to_state: MeltState) -> None: ...
    def amount_paid(self, mint: MintAlias, unit: str, amount: int, fees: int, shortfall: int) -> None: ...
    def swept_batch(self, mint: MintAlias, documents: int, proofs: int, seconds: float) -> None: ...
    def sweep_finished(self, mint: MintAlias, *, ok: bool, seconds: float) -> None: ...
    def mint_request(self, mint: MintAlias, endpoint: str, outcome: str, seconds: float) -> None:
        """``endpoint``: info, keysets, keys, melt_quote, melt_quote_state, melt, checkstate, swap, restore. ``outcome``: ok, rejected, error."""
        ...

    def store_call(self, method: str, outcome: str, seconds: float) -> None: ...
