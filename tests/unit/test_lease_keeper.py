"""Holding leases: renewed whatever the sweeps do, given up where a sweep hangs, lost when they could not be renewed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from daemon.lease import LeaseKeeper, LeasePolicy
from melt import fencing
from melt.ecash import y_of
from melt.errors import LeaseLost, StoreError, StoreUnavailable
from melt.model import Fence, MintAlias, TakenBecause, sweep_shard
from tests.simulation.model_store import ModelStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LEASE_S = 15.0
MAIN, OTHER = MintAlias("main"), MintAlias("other")
SHARD = sweep_shard(MAIN)


class ManualClock:
    """Time that the test moves."""

    def __init__(self) -> None:
        self.at = 0.0

    def now(self) -> datetime:
        return datetime(2026, 3, 1, tzinfo=UTC) + timedelta(seconds=self.at)

    def monotonic(self) -> float:
        return self.at

    async def sleep(self, seconds: float, /) -> None:
        self.at += seconds
        await asyncio.sleep(0)

    async def wait(self, event: asyncio.Event, seconds: float, /) -> bool:
        raise NotImplementedError


@dataclass
class Work:
    """What the keeper was asked to do."""

    taken_up: list[tuple[MintAlias, float | None]] = field(default_factory=list)
    hurried: list[MintAlias] = field(default_factory=list)
    hanging: set[MintAlias] = field(default_factory=set)
    broken: bool = False

    async def take_up(self, mint: MintAlias, *, lost_s_ago: float | None) -> None:
        if self.broken:
            raise StoreUnavailable("away")
        self.taken_up.append((mint, lost_s_ago))

    async def follow(self, mints: Sequence[MintAlias]) -> None: ...

    def hurry(self, mint: MintAlias) -> None:
        self.hurried.append(mint)

    def stalled(self) -> frozenset[MintAlias]:
        return frozenset(self.hanging)


@dataclass
class Counts:
    """The metrics."""

    held: dict[MintAlias, tuple[bool, int]] = field(default_factory=dict)
    taken: list[tuple[MintAlias, TakenBecause]] = field(default_factory=list)
    lost: list[MintAlias] = field(default_factory=list)

    def set_lease(self, mint: MintAlias, *, held: bool, epoch: int) -> None:
        self.held[mint] = (held, epoch)

    def lease_taken(self, mint: MintAlias, why: TakenBecause) -> None:
        self.taken.append((mint, why))

    def lease_lost(self, mint: MintAlias) -> None:
        self.lost.append(mint)


class Room:
    """A database and instances beside it, on one clock."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = ModelStore(clock=self.clock, y_of=y_of)
        self.away = False

    async def threads(self, work: Callable[[], Any], /) -> Any:
        if self.away:
            raise StoreUnavailable("away")
        return work()

    def instance(self, name: str, *mints: MintAlias) -> LeaseKeeper:
        return LeaseKeeper(
            leases=self.store,
            threads=self.threads,
            clock=self.clock,
            policy=LeasePolicy(lease_s=LEASE_S),
            holder=name,
            mints=mints or (MAIN,),
            work=Work(),
            metrics=Counts(),
        )

    async def turn(self, *keepers: LeaseKeeper, seconds: float) -> None:
        """Rounds of all of them, a second apart."""
        until = self.clock.at + seconds
        while self.clock.at < until:
            self.clock.at += 1.0
            for keeper in keepers:
                await keeper.run_once()


@pytest.fixture
def room() -> Room:
    return Room()


def holder(room: Room) -> tuple[str | None, int]:
    lease = room.store.lease_book().leases[SHARD]
    return lease.holder, lease.epoch


async def test_a_holder_keeps_its_lease_and_the_other_waits(room: Room) -> None:
    one, two = room.instance("one"), room.instance("two")
    await room.turn(one, two, seconds=5 * LEASE_S)
    assert holder(room) == ("one", 1)
    with two.tenure(MAIN) as tenure:
        assert tenure is None, "it may not sweep"
    assert two.status(MAIN) is not None
    assert one.metrics.held[MAIN] == (True, 1)  # type: ignore[attr-defined]
    assert two.metrics.held[MAIN] == (False, 1)  # type: ignore[attr-defined]


async def test_work_is_done_under_the_fence_and_told_when_the_lease_has_gone(room: Room) -> None:
    one, two = room.instance("one"), room.instance("two")
    await room.turn(one, two, seconds=2)
    with one.tenure(MAIN) as tenure:
        assert tenure is not None
        assert fencing.current() == Fence(shard=SHARD, holder="one", epoch=1)
        stop = tenure.stop_or(lambda: False)
        assert not stop()
        await room.turn(two, seconds=LEASE_S)  # "one" is stopped meanwhile
        assert stop(), "its own clock tells it, before it has asked anybody"
        await room.turn(two, seconds=LEASE_S)
        assert holder(room) == ("two", 2)
        with pytest.raises(LeaseLost):
            room.store.record([])
    assert fencing.current() is None
    await one.run_once()
    assert one.metrics.lost == [MAIN]  # type: ignore[attr-defined]
    with one.tenure(MAIN) as tenure:
        assert tenure is None


async def test_a_takeover_goes_on_from_where_the_last_holder_was_before_it_begins(room: Room) -> None:
    one, two = room.instance("one"), room.instance("two")
    await room.turn(one, two, seconds=2)
    await room.turn(two, seconds=2 * LEASE_S)
    work = two.work
    assert isinstance(work, Work)
    assert work.taken_up == [(MAIN, None)]
    assert work.hurried == [MAIN]
    assert two.metrics.taken == [(MAIN, TakenBecause.LAPSED)]  # type: ignore[attr-defined]


async def test_a_hanging_sweep_loses_its_lease_although_its_process_lives(room: Room) -> None:
    one, two = room.instance("one"), room.instance("two")
    await room.turn(one, two, seconds=2)
    assert isinstance(one.work, Work)
    one.work.hanging.add(MAIN)
    with one.tenure(MAIN) as tenure:
        assert tenure is not None
        await room.turn(one, two, seconds=3)
        assert tenure.stop_or(lambda: False)()
    assert holder(room) == ("two", 2)
    one.work.hanging.clear()
    await room.turn(one, two, seconds=LEASE_S)
    assert holder(room) == ("two", 2), "it is a candidate like any other"


async def test_a_stop_hands_over_once_the_page_is_done(room: Room) -> None:
    one, two = room.instance("one"), room.instance("two")
    await room.turn(one, two, seconds=2)
    with one.tenure(MAIN):
        handing = asyncio.create_task(one.hand_over(10.0))
        await asyncio.sleep(0)
        assert holder(room) == ("one", 1), "the tour still writes its page"
    await handing
    assert holder(room) == (None, 1)
    assert "one" not in room.store.lease_book().members
    await room.turn(one, two, seconds=1)
    assert holder(room) == ("two", 2)
    assert two.metrics.taken == [(MAIN, TakenBecause.RELEASED)]  # type: ignore[attr-defined]


async def test_a_newcomer_gets_a_shard_at_the_end_of_a_tour_and_not_in_its_middle(room: Room) -> None:
    one, two = room.instance("one", MAIN, OTHER), room.instance("two", MAIN, OTHER)
    await room.turn(one, seconds=2)
    with one.tenure(MAIN) as main, one.tenure(OTHER) as other:
        assert main is not None
        assert other is not None
        await room.turn(one, two, seconds=LEASE_S)
        assert {lease.holder for lease in room.store.lease_book().leases.values()} == {"one"}
    with one.tenure(OTHER) as other:
        assert other is None, "no new tour begins on what is to be given up"
    await room.turn(one, two, seconds=2)
    assert {lease.holder for lease in room.store.lease_book().leases.values()} == {"one", "two"}


async def test_without_the_store_leases_end_when_they_could_not_be_renewed_and_come_back_with_it(room: Room) -> None:
    one = room.instance("one")
    await room.turn(one, seconds=2)
    room.away = True
    for _ in range(int(LEASE_S) + 1):
        room.clock.at += 1.0
        with pytest.raises(StoreError):
            await one.run_once()
    with one.tenure(MAIN) as tenure:
        assert tenure is None
    room.away = False
    await one.run_once()
    with one.tenure(MAIN) as tenure:
        assert tenure is not None
    assert holder(room) == ("one", 2)


async def test_what_can_not_be_taken_up_is_taken_again(room: Room) -> None:
    one = room.instance("one")
    assert isinstance(one.work, Work)
    one.work.broken = True
    with pytest.raises(StoreUnavailable):
        await one.run_once()
    with one.tenure(MAIN) as tenure:
        assert tenure is None
    one.work.broken = False
    await room.turn(one, seconds=1)
    assert holder(room) == ("one", 2)
    assert one.work.hurried == [MAIN]
