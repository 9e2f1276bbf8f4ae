"""CRITICAL events over the real store: none is lost while it is away, each is closed once with its time to recover."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from daemon.metrics import Metrics
from daemon.spool import Spool
from melt.errors import InvariantBroken, StoreUnavailable
from melt.events import CriticalEvents
from melt.model import CriticalEvent, EventType, MeltId, MintAlias, RaisedEvent
from melt.store import MongoStore, Threads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

T = TypeVar("T")
LOST = EventType.DB_FAILURE_AFTER_MINT_SUCCESS
MAIN = MintAlias("main")
NPUB = "npub1" + "q" * 58


@dataclass
class Doorway:
    """The pool of threads, with a door to the store that can be shut."""

    threads: Threads
    shut: bool = False
    asked: int = 0

    async def __call__(self, work: Callable[[], T], /) -> T:
        self.asked += 1
        if self.shut:
            raise StoreUnavailable("shut")
        return await self.threads(work)


@dataclass
class Notices:
    told: list[tuple[str, str]] = field(default_factory=list)

    def opened(self, event: RaisedEvent, /) -> None:
        self.told.append(("opened", event.subject))

    def resolved(self, event: CriticalEvent, /) -> None:
        self.told.append(("resolved", event.subject))


@dataclass
class World:
    """Two or more runs of an instance over one store and one spool folder."""

    store: MongoStore
    door: Doorway
    folder: Path
    metrics: Metrics = field(default_factory=lambda: Metrics(version="0"))
    notices: Notices = field(default_factory=Notices)
    clock: Any = None

    def events(self, folder: Path | None = None) -> CriticalEvents:
        return CriticalEvents(
            self.store,
            self.door,
            self.metrics,
            clock=self.clock,
            spool=Spool(folder or self.folder),
            notices=self.notices,
        )

    def stored(self, *, open_only: bool = False) -> tuple[CriticalEvent, ...]:
        return self.store.events(open_only=open_only, limit=100)

    def files(self) -> int:
        return len(list(self.folder.glob("*"))) if self.folder.exists() else 0

    def count(self, name: str, event_type: EventType = LOST) -> float:
        return self.metrics.registry.get_sample_value(f"meltd_{name}", {"type": event_type.value}) or 0.0


class Clock:
    """A clock that tests turn."""

    def __init__(self) -> None:
        self.at = datetime.now(UTC).replace(microsecond=0)

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.at.timestamp()

    def pass_s(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


@pytest.fixture
async def world(make_store: Callable[..., MongoStore], tmp_path: Path) -> AsyncIterator[World]:
    clock = Clock()
    threads = Threads(2)
    yield World(store=make_store(clock=clock), door=Doorway(threads), folder=tmp_path / "spool", clock=clock)
    await threads.aclose()


async def lost(events: CriticalEvents, subject: str = "melt:m", *, away: bool = True) -> None:
    await events.open(
        LOST,
        subject,
        mint=MAIN,
        detail="the mint has paid",
        requires_manual_intervention=False,
        evidence={"quote_id": "q"},
        signatures=["00ad:64:02ab:e:s"],
        store_is_away=away,
    )


async def test_an_event_raised_while_the_store_is_away_is_told_at_once_and_written_later(world: World) -> None:
    events = world.events()
    world.door.shut = True

    await lost(events)

    assert world.door.asked == 0, "neither log nor metric waits for a store that is known to be away"
    assert world.count("critical_events_total") == 1
    assert world.notices.told == [("opened", "melt:m")]
    assert world.files() == 1
    opened_at = world.clock.now()
    world.clock.pass_s(90)
    await events.flush()
    assert world.stored() == ()
    world.door.shut = False
    await events.flush()
    (event,) = world.stored(open_only=True)
    assert event.opened_at == opened_at, "as of the time when it happened"
    assert world.count("critical_events_total") == 1
    assert world.files() == 1, "it is open, so its file stays"


async def test_an_event_that_is_over_before_the_store_knew_it_is_opened_and_closed_there(world: World) -> None:
    events = world.events()
    world.door.shut = True
    await lost(events)
    world.clock.pass_s(42)
    await events.resolve(LOST, "melt:m", reason="the melt has settled")
    assert world.files() == 1
    world.door.shut = False

    await events.flush()

    (event,) = world.stored()
    assert (event.resolution, event.recovery_s) == ("the melt has settled", 42.0)
    assert world.files() == 0
    assert world.notices.told == [("opened", "melt:m"), ("resolved", "melt:m")]
    assert world.count("critical_event_recovery_seconds_count") == 1
    assert world.count("critical_event_recovery_seconds_sum") == 42


async def test_a_crash_with_the_store_away_loses_no_event(world: World) -> None:
    world.door.shut = True
    before = world.events()
    await lost(before, "melt:open")
    await lost(before, "melt:over")
    await before.resolve(LOST, "melt:over", reason="the melt has settled")
    opened_at = world.clock.now()
    world.clock.pass_s(3600)
    world.door.shut = False

    after = world.events()
    await after.load()
    await after.flush()

    by_subject = {event.subject: event for event in world.stored()}
    assert by_subject["melt:open"].resolved_at is None
    assert by_subject["melt:open"].opened_at == opened_at
    assert by_subject["melt:over"].resolution == "the melt has settled"
    assert world.files() == 1


async def test_an_event_that_the_store_has_is_not_raised_again_at_the_next_start(world: World) -> None:
    await lost(world.events(), away=False)
    assert world.count("critical_events_total") == 1

    after = world.events()
    await after.load()
    await after.flush()

    (event,) = world.stored()
    assert event.sightings == 1
    assert world.count("critical_events_total") == 1
    assert world.notices.told == [("opened", "melt:m")]


async def test_what_somebody_else_resolved_leaves_the_spool_and_stays_resolved(world: World) -> None:
    events = world.events()
    await lost(events, away=False)
    assert world.store.resolve_event(LOST, "melt:m", reason="seen by a person") is not None
    world.clock.pass_s(10)

    await events.flush()

    assert world.files() == 0
    assert world.stored(open_only=True) == ()
    after = world.events()
    await after.load()
    await after.flush()
    assert world.stored(open_only=True) == ()


async def test_an_event_that_comes_back_after_its_end_is_a_new_one(world: World) -> None:
    events = world.events()
    await lost(events, away=False)
    await events.resolve(LOST, "melt:m", reason="over")
    await lost(events, away=False)

    assert [event.resolved_at is None for event in world.stored()].count(True) == 1
    assert len(world.stored()) == 2
    assert world.count("critical_events_total") == 2


async def test_seeing_an_open_event_again_tells_nobody_again(world: World) -> None:
    events = world.events()
    for _ in range(3):
        await lost(events, away=False)
    for _ in range(2):
        await lost(events)
    await events.flush()

    (event,) = world.stored()
    assert event.sightings == 4
    assert world.count("critical_events_total") == 1
    assert world.notices.told == [("opened", "melt:m")]


async def test_a_resolution_of_another_runs_event_waits_for_the_store(world: World, tmp_path: Path) -> None:
    await lost(world.events(), away=False)
    stranger = world.events(tmp_path / "another")
    world.door.shut = True
    assert await stranger.resolve(LOST, "melt:m", reason="taken over and settled") is None
    world.door.shut = False

    await stranger.flush()

    assert world.stored(open_only=True) == ()
    assert world.stored()[0].resolution == "taken over and settled"


async def test_what_is_held_in_memory_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("melt.events.HELD_MAX", 3)
    events = world.events()
    world.door.shut = True
    for number in range(6):
        await lost(events, f"melt:{number}")
    world.door.shut = False
    await events.flush()

    assert len(world.stored()) == 3


async def test_a_broken_invariant_freezes_its_wallet_until_a_person_lifts_it(world: World) -> None:
    events = world.events()
    error = InvariantBroken("proofs are gone")
    await events.invariant_broken(error, npub=NPUB, mint=MAIN, melt_id=MeltId("m"))

    assert events.frozen(NPUB, MAIN) is not None
    assert events.frozen(NPUB, MintAlias("other")) is None
    assert events.frozen("npub1" + "p" * 58, MAIN) is None
    another = world.events(world.folder.with_name("another"))
    await another.flush()
    assert another.frozen(NPUB, MAIN) is not None, "every instance sees it"
    again = world.events()
    await again.load()
    assert again.frozen(NPUB, MAIN) is not None, "and so does the next run, before it has asked the store"

    (event,) = world.stored()
    assert world.store.resolve_event(event.type, event.subject, reason="repaired") is not None
    world.clock.pass_s(10)
    for instance in (events, another, again):
        await instance.flush()
        assert instance.frozen(NPUB, MAIN) is None


async def test_a_broken_invariant_without_a_wallet_freezes_the_mint(world: World) -> None:
    events = world.events()
    await events.invariant_broken(InvariantBroken("a page makes no sense"), npub=None, mint=MAIN)
    assert events.frozen(NPUB, MAIN) is not None
    assert events.frozen(None, MAIN) is not None
    assert events.frozen(None, MintAlias("other")) is None
