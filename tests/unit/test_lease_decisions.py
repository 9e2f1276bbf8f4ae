"""Which leases an instance takes and gives up: the pure decision (daemon.lease.decide)."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from daemon.lease.decide import Candidate, Observed, StepKind, decide
from melt.model import Lease, LeaseBook, Member, MintAlias, Shard, TakenBecause, sweep_shard

LEASE_S = 15.0
A, B, C, D = (sweep_shard(MintAlias(name)) for name in "abcd")


@dataclass
class Room:
    """The leases' collection, and instances that look at it, each with a clock of its own."""

    leases: dict[Shard, Lease] = field(default_factory=dict)
    members: dict[str, Member] = field(default_factory=dict)

    @property
    def book(self) -> LeaseBook:
        return LeaseBook(leases=dict(self.leases), members=dict(self.members))


@dataclass
class Instance:
    room: Room
    name: str
    able: frozenset[Shard]
    held: dict[Shard, int] = field(default_factory=dict)
    known: dict[Shard, int] = field(default_factory=dict)
    seen: Observed = field(default_factory=Observed)

    def turn(self, now: float) -> None:
        """One round: renew, announce, look, act."""
        for shard, epoch in list(self.held.items()):
            lease = self.room.leases[shard]
            if (lease.holder, lease.epoch) == (self.name, epoch):
                self.room.leases[shard] = replace(lease, renewals=lease.renewals + 1)
            else:
                del self.held[shard]
        before = self.room.members.get(self.name)
        renewals = 1 if before is None else before.renewals + 1
        self.room.members[self.name] = Member(holder=self.name, shards=self.able, renewals=renewals)
        self.seen.see(self.room.book, self.able, now=now)
        me = Candidate(holder=self.name, able=self.able, held=self.held, known_epochs=self.known)
        for step in decide(me, self.seen, lease_s=LEASE_S, now=now):
            lease = self.room.leases.get(step.shard)
            assert lease == step.seen, "it decides on what is there"
            if step.kind is StepKind.TAKE:
                epoch = 1 if lease is None else lease.epoch + 1
                self.room.leases[step.shard] = Lease(
                    shard=step.shard, holder=self.name, epoch=epoch, renewals=0 if lease is None else lease.renewals + 1
                )
                self.held[step.shard] = self.known[step.shard] = epoch
            else:
                assert lease is not None
                self.room.leases[step.shard] = replace(lease, holder=None, renewals=lease.renewals + 1)
                del self.held[step.shard]


def turns(instances: list[Instance], *, start: float, seconds: float) -> float:
    now = start
    while now < start + seconds:
        for one in instances:
            one.turn(now)
        now += 1.0
    return now


def holders(room: Room) -> dict[Shard, str | None]:
    return {shard: lease.holder for shard, lease in room.leases.items()}


def test_alone_it_takes_all_at_its_first_look() -> None:
    room = Room()
    one = Instance(room, "one", frozenset({A, B, C}))
    one.turn(0.0)
    assert holders(room) == {A: "one", B: "one", C: "one"}


def test_a_lease_is_waited_for_a_whole_lease_on_the_watchers_own_clock() -> None:
    room = Room(leases={A: Lease(shard=A, holder="gone", epoch=7, renewals=40)})
    one = Instance(room, "one", frozenset({A}))
    turns([one], start=1000.0, seconds=LEASE_S)
    assert holders(room) == {A: "gone"}
    one.turn(1000.0 + LEASE_S)
    assert room.leases[A].holder == "one"
    assert room.leases[A].epoch == 8


def test_each_renewal_begins_the_wait_anew() -> None:
    room = Room(leases={A: Lease(shard=A, holder="slow", epoch=7, renewals=40)})
    one = Instance(room, "one", frozenset({A}))
    now = 0.0
    for renewals in range(41, 45):
        now = turns([one], start=now, seconds=LEASE_S - 1)
        room.leases[A] = replace(room.leases[A], renewals=renewals)
    turns([one], start=now, seconds=LEASE_S)
    assert holders(room) == {A: "slow"}


def test_its_own_lease_of_an_earlier_life_is_taken_at_once_and_a_namesakes_is_not() -> None:
    room = Room(leases={A: Lease(shard=A, holder="one", epoch=7, renewals=40)})
    one = Instance(room, "one", frozenset({A}))
    one.seen.see(room.book, one.able, now=0.0)
    me = Candidate(holder="one", able=one.able, held={}, known_epochs={})
    (step,) = decide(me, one.seen, lease_s=LEASE_S, now=0.0)
    assert step.why is TakenBecause.RESTARTED

    namesake = replace(me, known_epochs={A: 6})  # we had 6, and now somebody of our name has 7
    assert decide(namesake, one.seen, lease_s=LEASE_S, now=0.0) == ()


def test_what_was_given_up_is_taken_at_the_next_look() -> None:
    room = Room(leases={A: Lease(shard=A, holder=None, epoch=7, renewals=40)})
    one = Instance(room, "one", frozenset({A}))
    one.turn(0.0)
    assert room.leases[A].holder == "one"
    assert room.leases[A].epoch == 8


def test_a_newcomer_gets_its_share_and_then_nothing_moves_any_more() -> None:
    room = Room()
    shards = frozenset({A, B, C, D})
    one, two = Instance(room, "one", shards), Instance(room, "two", shards)
    now = turns([one], start=0.0, seconds=3)
    now = turns([one, two], start=now, seconds=6)
    assert sorted(holders(room).values(), key=str) == ["one", "one", "two", "two"]
    settled = {shard: lease.epoch for shard, lease in room.leases.items()}
    turns([one, two], start=now, seconds=3 * LEASE_S)
    assert {shard: lease.epoch for shard, lease in room.leases.items()} == settled


def test_a_mint_that_nobody_else_has_configured_is_never_given_away_nor_taken() -> None:
    room = Room()
    one, two = Instance(room, "one", frozenset({A, B, C})), Instance(room, "two", frozenset({A}))
    now = turns([one], start=0.0, seconds=2)
    now = turns([one, two], start=now, seconds=3 * LEASE_S)
    assert holders(room) == {A: "two", B: "one", C: "one"}
    turns([two], start=now, seconds=3 * LEASE_S)  # "one" has died
    assert holders(room) == {A: "two", B: "one", C: "one"}


def test_what_a_dead_instance_held_is_shared_by_the_others_and_never_left() -> None:
    room = Room()
    shards = frozenset({A, B, C, D})
    three = [Instance(room, name, shards) for name in ("one", "two", "three")]
    now = turns(three, start=0.0, seconds=2 * LEASE_S)
    dead = three.pop(0)
    assert dead.held
    now = turns(three, start=now, seconds=LEASE_S + 2)
    assert None not in holders(room).values()
    assert sorted(holders(room).values(), key=str) == ["three", "three", "two", "two"]


def test_whatever_dies_and_comes_nothing_stays_free_and_loads_come_to_differ_by_one_at_most() -> None:
    for seed in range(60):
        chance = random.Random(seed)
        room = Room()
        shards = frozenset(sweep_shard(MintAlias(f"m{n}")) for n in range(chance.randint(1, 9)))
        alive: list[Instance] = []
        now = 0.0
        for born in range(8):
            if len(alive) > 1 and chance.random() < 0.5:
                alive.remove(chance.choice(alive))
            else:
                alive.append(Instance(room, f"i{born}", shards))
            now = turns(alive, start=now, seconds=chance.choice([1, 4, 20]))
        turns(alive, start=now, seconds=4 * LEASE_S)
        found = holders(room)
        names = {one.name for one in alive}
        assert set(found) == shards
        assert set(found.values()) <= names, f"seed {seed}: {found}"
        loads = [sum(1 for holder in found.values() if holder == name) for name in names]
        assert max(loads) - min(loads) <= 1, f"seed {seed}: {loads}"
