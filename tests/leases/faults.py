"""Faults on whoever holds a lease: SIGKILL, and SIGSTOP with SIGCONT; and how long it took until somebody else went on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tests.leases.lab import Lab, Reign, until

SETTLE_S: Final = 120.0
"""A store may keep the transaction of a killed client, and what it has locked, for a minute; nothing here is about speed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """``away_leases``: for how many leases the victim is gone before it is started again or goes on."""

    kind: str
    away_leases: float

    @property
    def long(self) -> bool:
        """Whether the other daemon must have taken over before the victim is back."""
        return self.away_leases >= 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What a fault came to. ``seconds`` by shard from the fault to the next epoch; empty where none was needed."""

    fault: Fault
    victim: str
    seconds: dict[str, float]
    by_other: int
    refused: int

    @property
    def slowest_s(self) -> float | None:
        """The slowest shard."""
        return max(self.seconds.values(), default=None)


def random_faults(lab: Lab, number: int) -> list[Fault]:
    """Mostly long enough for a takeover; some so short that the victim may come back to its own lease."""
    return [
        Fault(
            kind=lab.chance.choice(("kill -9", "SIGSTOP")),
            away_leases=lab.chance.choice((0.0, 0.4, 1.6, 2.0, 2.0, 2.5, 3.0)),
        )
        for _ in range(number)
    ]


def inflict(
    lab: Lab, faults: Sequence[Fault], *, rest_s: tuple[float, float] = (0.2, 5.0), say: bool = False
) -> list[Done]:
    """One after the other, each on a daemon that holds something at that moment."""
    done: list[Done] = []
    for number, fault in enumerate(faults, 1):
        time.sleep(lab.chance.uniform(*rest_s))
        victims = until(
            lambda: [name for name in lab.daemons if lab.held_by(name)],
            "nobody holds a lease",
            SETTLE_S,
        )
        victim = lab.chance.choice(victims)
        done.append(_inflict(lab, fault, victim))
        if say:
            _say(number, done[-1], lab)
    return done


def _inflict(lab: Lab, fault: Fault, victim: str) -> Done:
    refused, lost = lab.refused(), lab.losses()
    before = lab.held_by(victim)
    at = time.monotonic()
    if fault.kind == "SIGSTOP":
        lab.stop(victim)
    else:
        lab.daemons[victim].kill()
    taken: dict[str, Reign] = {}
    if fault.long:
        until(lambda: _all_taken(lab, before, taken), lambda: _who(lab, before, taken), SETTLE_S)
    left = at + fault.away_leases * lab.lease_s - time.monotonic()
    time.sleep(max(0.0, left))
    if fault.kind == "SIGSTOP":
        lab.go_on(victim)
    else:
        lab.daemons[victim].start()
    gone = lab.holder_of(victim)
    until(lambda: _all_held(lab, before), lambda: _who(lab, before, taken), SETTLE_S)
    if fault.kind == "SIGSTOP" and fault.long:
        until(lambda: lab.losses() > lost, lambda: _who(lab, before, taken), SETTLE_S)
    _all_taken(lab, before, taken)
    return Done(
        fault=fault,
        victim=victim,
        seconds={shard: reign.at - at for shard, reign in taken.items()},
        by_other=sum(reign.holder != gone for reign in taken.values()),
        refused=lab.refused() - refused,
    )


def _all_taken(lab: Lab, before: dict[str, Reign], taken: dict[str, Reign]) -> bool:
    """Whether each shard that the victim held has a further epoch; the first one counts."""
    for reign in list(lab.recorder.reigns):
        held = before.get(reign.shard)
        if held is not None and reign.epoch > held.epoch and reign.holder is not None:
            taken.setdefault(reign.shard, reign)
    return taken.keys() == before.keys()


def _all_held(lab: Lab, before: dict[str, Reign]) -> bool:
    now = lab.recorder.now_holding()
    return all(now[shard].holder is not None for shard in before)


def _who(lab: Lab, before: dict[str, Reign], taken: dict[str, Reign]) -> str:
    logs = "\n".join(f"--- {name}\n{daemon.log_tail()}" for name, daemon in lab.daemons.items())
    return f"held {before}, taken {taken}\n{logs}"


def _say(number: int, done: Done, lab: Lab) -> None:
    slowest = "-" if done.slowest_s is None else f"{done.slowest_s:.2f}"
    print(
        f"{number:>3}  {done.fault.kind:<8} {done.fault.away_leases * lab.lease_s:>5.1f} s  {done.victim:<4} "
        f"{len(done.seconds):>6} {done.by_other:>9}  {slowest:>7}  {done.refused:>7}  {len(lab.planter.planted):>7}",
        flush=True,
    )
