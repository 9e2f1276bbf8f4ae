"""
Which leases to take and which to give up: pure (DESIGN section 5, several daemons).

No clock of another machine counts, nor any time in the database: what matters is for how long *this* process has seen a
lease or a member stay as it is, on its own monotonic clock (:class:`Observed`).

- A lease that is held lapses once it was seen unchanged for a whole lease.
- A free lease is taken at once, by the instance that holds least; one that holds more waits for half a lease longer, so
  that the others come first and yet nothing stays free when they don't.
- A lease is given up where another instance, which lives and has that mint configured, holds at least two fewer. So the
  numbers come to differ by one at most: with all mints configured everywhere nobody holds more than
  ``ceil(shards / live instances)``; and a mint that only one instance knows is never given away.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

from melt.model import LeaseBook, TakenBecause

if TYPE_CHECKING:
    from collections.abc import Mapping

    from melt.model import Lease, Shard

_Mark = tuple[str | None, int, int]
M = TypeVar("M")


class StepKind(StrEnum):
    """What to do with a lease."""

    TAKE = "take"
    GIVE_UP = "give_up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing to do. ``seen`` is the lease as it was decided on; ``why`` of a TAKE goes into the lease's document."""

    kind: StepKind
    shard: Shard
    seen: Lease | None
    why: TakenBecause | None = None


@dataclass(slots=True)
class Observed:
    """What this process has seen of the leases and members, and since when it looks like that (monotonic seconds)."""

    book: LeaseBook = field(default_factory=LeaseBook)
    _leases: dict[Shard, tuple[_Mark | None, float]] = field(default_factory=dict)
    _members: dict[str, tuple[int, float]] = field(default_factory=dict)

    def see(self, book: LeaseBook, shards: frozenset[Shard], *, now: float) -> None:
        """Take in what was read at ``now``; ``shards`` are those that may not be in the database yet."""
        marks: dict[Shard, _Mark | None] = dict.fromkeys(shards)
        marks.update({shard: (one.holder, one.epoch, one.renewals) for shard, one in book.leases.items()})
        self._leases = {shard: _since(self._leases.get(shard), mark, now) for shard, mark in marks.items()}
        self._members = {
            holder: _since(self._members.get(holder), one.renewals, now) for holder, one in book.members.items()
        }
        self.book = book

    def same_for_s(self, shard: Shard, *, now: float) -> float:
        """For how long a lease was seen unchanged; 0 for one that was never seen."""
        return now - self._leases[shard][1] if shard in self._leases else 0.0

    def silent_for_s(self, holder: str, *, now: float) -> float:
        """For how long a member was seen without a renewal; 0 for one that was never seen."""
        return now - self._members[holder][1] if holder in self._members else 0.0


def _since(before: tuple[M, float] | None, mark: M, now: float) -> tuple[M, float]:
    return before if before is not None and before[0] == mark else (mark, now)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """
    The instance that decides. ``able`` are the shards that it can do; ``held`` the epochs of the leases that it holds.

    ``known_epochs`` are the last epochs that it held in this life: a lease of its own name with another epoch belongs to
    a process that shares its id by mistake, and is waited for like anybody else's.
    """

    holder: str
    able: frozenset[Shard]
    held: Mapping[Shard, int]
    known_epochs: Mapping[Shard, int]


def decide(me: Candidate, seen: Observed, *, lease_s: float, now: float) -> tuple[Step, ...]:
    """What to do now, in order: at most one lease is given up at a time."""
    loads = _loads(me, seen, lease_s=lease_s, now=now)
    steps: list[Step] = []
    for shard in sorted(me.able - me.held.keys()):
        lease = seen.book.leases.get(shard)
        why, wait_s = _opening(me, lease, lease_s)
        if _others_with_at_most(loads, loads[me.holder][0] - 1, shard, but=me.holder):
            wait_s += lease_s / 2
        if seen.same_for_s(shard, now=now) >= wait_s:
            steps.append(Step(kind=StepKind.TAKE, shard=shard, seen=lease, why=why))
            loads[me.holder] = (loads[me.holder][0] + 1, me.able)
    surplus = [
        shard for shard in sorted(me.held) if _others_with_at_most(loads, loads[me.holder][0] - 2, shard, but=me.holder)
    ]
    if surplus:
        steps.append(Step(kind=StepKind.GIVE_UP, shard=surplus[-1], seen=seen.book.leases.get(surplus[-1])))
    return tuple(steps)


def _opening(me: Candidate, lease: Lease | None, lease_s: float) -> tuple[TakenBecause, float]:
    """Why a lease could be taken, and for how long it must have been seen unchanged."""
    if lease is None:
        return TakenBecause.FIRST, 0.0
    if lease.holder is None:
        return TakenBecause.RELEASED, 0.0
    if lease.holder == me.holder and me.known_epochs.get(lease.shard, lease.epoch) == lease.epoch:
        return TakenBecause.RESTARTED, 0.0
    return TakenBecause.LAPSED, lease_s


def _loads(me: Candidate, seen: Observed, *, lease_s: float, now: float) -> dict[str, tuple[int, frozenset[Shard]]]:
    """How many leases each live instance holds, and the shards that it can do."""
    held_by = [lease.holder for lease in seen.book.leases.values()]
    loads = {
        holder: (held_by.count(holder), member.shards)
        for holder, member in seen.book.members.items()
        if seen.silent_for_s(holder, now=now) < lease_s
    }
    loads[me.holder] = (len(me.held), me.able)
    return loads


def _others_with_at_most(
    loads: Mapping[str, tuple[int, frozenset[Shard]]], number: int, shard: Shard, *, but: str
) -> bool:
    return any(holder != but and load <= number and shard in able for holder, (load, able) in loads.items())
