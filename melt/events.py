"""
CRITICAL events (DESIGN sections 3 and 4): logged, counted, spooled and sent on at once, kept in the database until resolved.

The database may be what has failed. So an event goes first into this process's memory and into its spool (a file), and
then into the database: at once where it answers, else with :meth:`CriticalEvents.flush`, which the watcher calls in each
round. A crash in between loses nothing: :meth:`CriticalEvents.load` reads the spool at the next start. What was resolved
while the database was away is opened and closed there in one go, with the times at which it really happened.

The spool's file of an event is removed when the event is over, wherever it was resolved.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeAlias

import structlog

from melt.errors import StoreError
from melt.model import EventType, RaisedEvent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from melt.errors import InvariantBroken
    from melt.model import CriticalEvent, MeltId, MintAlias
    from melt.ports import Clock, EventNotices, EventSpool, Store, StoreThreads, Telemetry

HELD_MAX: Final = 1_000
"""How many events this process keeps in memory and in its spool; past that the oldest go (they have been logged)."""
READ_MAX: Final = 1_000
DISTRUSTING: Final = (EventType.MINT_UNTRUSTED, EventType.SENTINEL_FAILED, EventType.MINT_STATE_REGRESSED)
"""Open about a mint, they say that its word is not believed (:mod:`melt.sentinels`)."""
REFRESH_S: Final = 5.0
"""How often the open events of the database are read, to see what others have raised and resolved."""

_log = structlog.get_logger("melt.events")

Key: TypeAlias = tuple[EventType, str]


class CriticalEvents:
    """
    Raises and resolves events. Never raises an error of its own: it is used where something has gone wrong.

    It also knows what is frozen: an open INVARIANT_BROKEN event about a wallet or a mint forbids new melts and
    corrections there until a person resolves it.
    """

    def __init__(
        self,
        store: Store,
        threads: StoreThreads,
        telemetry: Telemetry,
        *,
        clock: Clock,
        spool: EventSpool | None = None,
        notices: EventNotices | None = None,
    ) -> None:
        self._store = store
        self._threads = threads
        self._telemetry = telemetry
        self._clock = clock
        self._spool = spool
        self._notices = notices
        self._held: dict[Key, RaisedEvent] = {}
        self._over: dict[Key, str] = {}
        """Resolutions of events that this process has not raised, for when the store is back."""
        self._open_in_store: frozenset[Key] = frozenset()
        self._writing: set[Key] = set()
        self._read_at: float | None = None

    # --- raising ---

    async def open(
        self,
        event_type: EventType,
        subject: str,
        *,
        mint: MintAlias | None,
        detail: str,
        requires_manual_intervention: bool,
        evidence: Mapping[str, str | int | bool | None] | None = None,
        signatures: Sequence[str] = (),
        store_is_away: bool = False,
    ) -> None:
        """
        Open an event or see it again. One open event per type and subject.

        With ``store_is_away`` the store is not asked now: log, metric, notice and spool don't wait for its time-out.
        """
        key = (event_type, subject)
        before = self._held.get(key)
        known = before is not None and before.resolution is None
        event = RaisedEvent(
            type=event_type,
            subject=subject,
            mint=mint,
            detail=detail,
            opened_at=before.opened_at if before is not None and known else self._clock.now(),
            requires_manual_intervention=requires_manual_intervention,
            evidence=dict(evidence or {}),
            signatures=tuple(signatures) or (before.signatures if before is not None and known else ()),
        )
        self._hold(event)
        if not known:
            await self._keep(event)
        written = None if store_is_away else await self._write_now(event)
        if written or (written is None and not known):
            self._tell(event)
        present = self._held.get(key)
        if written is not None and present is not None and present.resolution is not None:
            await self._settle_held(present)  # it was resolved while it was being written

    def _tell(self, event: RaisedEvent) -> None:
        self._telemetry.critical_event(event.type)
        _log.critical(
            "critical event",
            event_type=event.type.value,
            subject=event.subject,
            mint=event.mint,
            detail=event.detail,
            requires_manual_intervention=event.requires_manual_intervention,
            **{name: value for name, value in event.evidence.items() if name not in _LOGGED},
        )
        if self._notices is not None:
            self._notices.opened(event)

    async def invariant_broken(
        self, error: InvariantBroken, *, npub: str | None, mint: MintAlias | None, melt_id: MeltId | None = None
    ) -> None:
        """Freeze a wallet at a mint (or without ``npub`` the mint), and say what was seen."""
        await self.open(
            EventType.INVARIANT_BROKEN,
            wallet_subject(npub, mint) if npub is not None else f"mint:{mint}",
            mint=mint,
            detail=f"{error.detail}; nothing new is begun here until a person resolves this event",
            requires_manual_intervention=True,
            evidence={"melt_id": melt_id},
        )

    def frozen(self, npub: str | None, mint: MintAlias) -> str | None:
        """Why nothing may be begun or corrected for this wallet or mint; None: it may."""
        for subject in (f"mint:{mint}", *(() if npub is None else (wallet_subject(npub, mint),))):
            if self.is_open(EventType.INVARIANT_BROKEN, subject):
                return f"an invariant was found broken about {subject}"
        return None

    def distrusted(self, mint: MintAlias) -> str | None:
        """Why this mint's word is not believed now; None: it is."""
        for event_type in DISTRUSTING:
            if self.is_open(event_type, f"mint:{mint}"):
                return f"mint {mint} is not believed now ({event_type.value})"
        return None

    def is_open(self, event_type: EventType, subject: str) -> bool:
        """Whether such an event is open, as far as this process knows."""
        held = self._held.get((event_type, subject))
        return (event_type, subject) in self._open_in_store or (held is not None and held.resolution is None)

    def subjects(self, event_type: EventType) -> frozenset[str]:
        """What the open events of a type are about, as far as this process knows."""
        held = {key for key, event in self._held.items() if event.resolution is None}
        return frozenset(subject for found, subject in self._open_in_store | held if found is event_type)

    # --- resolving ---

    async def resolve(self, event_type: EventType, subject: str, *, reason: str) -> CriticalEvent | None:
        """Close the event if it is open; where the store is away, once it is back."""
        key = (event_type, subject)
        held = self._held.get(key)
        if held is not None and held.resolution is None:
            held = replace(held, resolution=reason, resolved_at=self._clock.now())
            self._hold(held)
        if held is not None and (not held.stored or key in self._writing):
            await self._keep(held)
            # Whoever writes it now closes it afterwards: closing it first would leave it open for good.
            return None if key in self._writing else await self._settle_held(held)
        try:
            closed = await self._threads(lambda: self._store.resolve_event(event_type, subject, reason=reason))
        except StoreError:
            if held is not None:
                await self._keep(held)
            elif len(self._over) < HELD_MAX:
                self._over[key] = reason
            return None
        await self._ended(key, closed)
        return closed

    async def _ended(self, key: Key, closed: CriticalEvent | None) -> None:
        """Forget it, and say how long it took where it was open."""
        self._open_in_store -= {key}
        self._over.pop(key, None)
        if self._held.pop(key, None) is not None and self._spool is not None:
            await self._spool.drop(*key)
        if closed is None:
            return
        seconds = closed.recovery_s or 0.0
        self._telemetry.critical_event_resolved(closed.type, seconds)
        _log.warning(
            "critical event resolved",
            event_type=closed.type.value,
            subject=closed.subject,
            reason=closed.resolution,
            recovery_s=round(seconds, 3),
        )
        if self._notices is not None:
            self._notices.resolved(closed)

    # --- the store, now or later ---

    async def load(self) -> None:
        """At start: what an earlier run of this instance left in its spool is open (or waits for the store) again."""
        if self._spool is None:
            return
        for event in await self._spool.kept():
            if (event.type, event.subject) not in self._held:
                self._hold(event)
                _log.warning(
                    "critical event found in the spool",
                    event_type=event.type.value,
                    subject=event.subject,
                    opened_at=event.opened_at.isoformat(),
                    stored=event.stored,
                    over=event.resolution is not None,
                )
                if not event.stored and event.resolution is None:
                    self._tell(event)

    async def flush(self) -> None:
        """Write what waited for the store, oldest first, and see what others resolved. Stops at the first failure."""
        for key in list(self._held):
            event = self._held.get(key)
            if event is None or key in self._writing:
                continue
            if event.stored and event.resolution is None:
                continue
            if await self._settle_held(event) is None and self._held.get(key) is event:
                return
        for (event_type, subject), reason in list(self._over.items()):
            if await self.resolve(event_type, subject, reason=reason) is None and (event_type, subject) in self._over:
                return
        now = self._clock.monotonic()
        if self._read_at is None or now - self._read_at >= REFRESH_S:
            await self._refresh(now)

    async def _refresh(self, now: float) -> None:
        stored = {key: event for key, event in self._held.items() if event.stored and event.resolution is None}
        try:
            found = await self._threads(lambda: self._store.events(open_only=True, limit=READ_MAX))
        except StoreError:
            return
        self._read_at = now
        self._open_in_store = frozenset((event.type, event.subject) for event in found)
        if len(found) >= READ_MAX:
            return  # not all of them were read: absence tells nothing
        for key, event in stored.items():
            if key not in self._open_in_store and self._held.get(key) is event:
                await self._ended(key, None)  # a person, or another instance, has resolved it

    async def _settle_held(self, event: RaisedEvent) -> CriticalEvent | None:
        """Bring the database to where this event is. None: it could not be asked, or there was nothing to close."""
        key = (event.type, event.subject)
        if not event.stored and await self._write_now(event) is None:
            return None
        present = self._held.get(key)
        if present is None or present.resolution is None:
            return None
        reason = present.resolution
        try:
            closed = await self._threads(lambda: self._store.resolve_event(*key, reason=reason))
        except StoreError:
            return None
        await self._ended(key, closed)
        return closed

    async def _write_now(self, event: RaisedEvent) -> bool | None:
        """Into the database: whether it was opened there by this, None where it could not be asked."""
        key = (event.type, event.subject)
        self._writing.add(key)
        try:
            _, opened = await self._threads(
                lambda: self._store.raise_event(
                    event.type,
                    event.subject,
                    mint=event.mint,
                    detail=event.detail,
                    requires_manual_intervention=event.requires_manual_intervention,
                    evidence=event.evidence,
                    opened_at=event.opened_at,
                )
            )
        except StoreError:
            return None
        finally:
            self._writing.discard(key)
        present = self._held.get(key)
        if present is not None and present.opened_at == event.opened_at:
            stored = replace(present, stored=True)
            self._held[key] = stored
            await self._keep(stored)
        return opened

    # --- what is held ---

    def _hold(self, event: RaisedEvent) -> None:
        self._held[event.type, event.subject] = event
        while len(self._held) > HELD_MAX:
            oldest = next((key for key, held in self._held.items() if held.stored), next(iter(self._held)))
            del self._held[oldest]

    async def _keep(self, event: RaisedEvent) -> None:
        if self._spool is not None:
            await self._spool.keep(event)


_LOGGED = frozenset({"event", "event_type", "subject", "mint", "detail", "requires_manual_intervention"})
"""Names of the log line's own fields, which evidence must not take."""


def wallet_subject(npub: str, mint: MintAlias | None) -> str:
    """The subject of an event about one user's wallet at one mint."""
    return f"wallet:{npub}@{mint}"
