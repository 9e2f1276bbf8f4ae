"""
Holding leases: a loop of its own renews, takes and gives them up, whatever the sweeps do meanwhile (DESIGN section 5).

A tour runs inside :meth:`LeaseKeeper.tenure`: under the fence, so that the store refuses its writes once the lease has gone,
and with a way to learn that it has. That is only to stop early; what keeps two holders apart is the fence.

The lease of a sweep whose loop no longer turns is given up, although this loop could renew it for ever: another instance
may get on where this one hangs.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from daemon.lease.decide import Candidate, Observed, Step, StepKind, decide
from daemon.ports.leases import LeaseStatus
from melt import fencing
from melt.errors import StoreError
from melt.model import Fence, TakenBecause, sweep_shard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from melt.model import MintAlias, Shard
    from melt.ports import Clock, Leases, StoreThreads

_log = structlog.get_logger("meltd.lease")

RENEWALS_PER_LEASE: Final = 3
"""Two may fail before a lease lapses."""
LOOKS_PER_LEASE: Final = 10
LOOK_S_MAX: Final = 1.5
"""How often the others' leases are looked at, at least: one small read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasePolicy:
    """``lease_s``: after so long without a renewal a lease lapses. Instances that share work have the same."""

    lease_s: float

    @property
    def renew_s(self) -> float:
        """Between two renewals."""
        return self.lease_s / RENEWALS_PER_LEASE

    @property
    def look_s(self) -> float:
        """Between two looks at the others."""
        return min(LOOK_S_MAX, self.lease_s / LOOKS_PER_LEASE)


class LeaseMetrics(Protocol):
    """What the keeper counts."""

    def set_lease(self, mint: MintAlias, *, held: bool, epoch: int) -> None: ...
    def lease_taken(self, mint: MintAlias, why: TakenBecause) -> None: ...
    def lease_lost(self, mint: MintAlias) -> None: ...


class ShardWork(Protocol):
    """The work that the leases are about; each is awaited, and may raise StoreError."""

    async def take_up(self, mint: MintAlias, *, lost_s_ago: float | None) -> None:
        """Go on from where the last holder was; ``lost_s_ago``: when we held it last, None: not in this life."""
        ...

    async def follow(self, mints: Sequence[MintAlias]) -> None:
        """Read how far the holders of these have come, to show it."""
        ...

    def hurry(self, mint: MintAlias) -> None:
        """Begin now."""
        ...

    def stalled(self) -> frozenset[MintAlias]:
        """Those whose loop has stopped turning."""
        ...


@dataclass(slots=True, kw_only=True)
class _Held:
    """A lease of ours. ``renewed_at`` is when the last renewal that succeeded was begun (monotonic seconds)."""

    mint: MintAlias
    fence: Fence
    renewed_at: float
    working: int = 0
    leaving: bool = False
    gone: bool = False


@dataclass(slots=True, kw_only=True)
class Tenure:
    """A piece of work under a lease."""

    _held: _Held
    _lapsed: Callable[[], bool]

    def stop_or(self, stopping: Callable[[], bool]) -> Callable[[], bool]:
        """Whether to stop: the process wants to, or the lease has gone or was not renewed in time."""
        return lambda: stopping() or self._held.gone or self._lapsed()


@dataclass(slots=True, kw_only=True)
class LeaseKeeper:
    """The leases of this instance. :meth:`run_once` is called by a loop of the daemon."""

    leases: Leases
    threads: StoreThreads
    clock: Clock
    policy: LeasePolicy
    holder: str
    mints: Sequence[MintAlias]
    work: ShardWork
    metrics: LeaseMetrics
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the next round should come at once."""
    _held: dict[Shard, _Held] = field(default_factory=dict)
    _seen: Observed = field(default_factory=Observed)
    _epochs: dict[Shard, int] = field(default_factory=dict)
    _lost_at: dict[Shard, float] = field(default_factory=dict)
    _announced_at: float | None = None
    _closing: bool = False

    # --- what others ask ---

    @contextlib.contextmanager
    def tenure(self, mint: MintAlias) -> Iterator[Tenure | None]:
        """Work on a mint's shard, fenced; None where this instance may not begin any."""
        held = self._held.get(sweep_shard(mint))
        if held is None or held.gone or held.leaving or self._closing or self._has_lapsed(held):
            yield None
            return
        held.working += 1
        try:
            with fencing.under(held.fence):
                yield Tenure(_held=held, _lapsed=lambda: self._has_lapsed(held))
        finally:
            held.working -= 1
            self.changed.set()

    def status(self, mint: MintAlias) -> LeaseStatus | None:
        """Who holds a mint's shard, as it was read last; None before the first look."""
        shard = sweep_shard(mint)
        ours = self._held.get(shard)
        if ours is not None:
            return LeaseStatus(holder=self.holder, epoch=ours.fence.epoch, here=True)
        lease = self._seen.book.leases.get(shard)
        return None if lease is None else LeaseStatus(holder=lease.holder, epoch=lease.epoch, here=False)

    def _has_lapsed(self, held: _Held) -> bool:
        """By our own clock: whoever waits for it may have taken it by now."""
        return self.clock.monotonic() - held.renewed_at >= self.policy.lease_s

    # --- the loop ---

    async def run_once(self) -> float:
        """
        Renew, look, take and give up. Returns after how many seconds the next round is due.

        Raises StoreError; what could not be renewed in time is given up by then.
        """
        self.changed.clear()
        try:
            await self._renew()
            await self._announce()
            now = self.clock.monotonic()
            book = await self.threads(self.leases.lease_book)
            self._seen.see(book, self._able(), now=now)
            for step in decide(self._me(), self._seen, lease_s=self.policy.lease_s, now=now):
                await self._do(step)
            await self._give_up_what_is_left()
        except StoreError:
            self._drop_lapsed()
            raise
        finally:
            self._show()
        return self.policy.look_s

    def _able(self) -> frozenset[Shard]:
        """The shards that this instance can do now: one whose loop hangs is left to others."""
        return frozenset(sweep_shard(mint) for mint in {*self.mints} - self.work.stalled())

    def _me(self) -> Candidate:
        held = {shard: one.fence.epoch for shard, one in self._held.items()}
        able = self._able()
        return Candidate(holder=self.holder, able=able | held.keys(), held=held, known_epochs=self._epochs)

    async def _renew(self) -> None:
        stalled = self.work.stalled()
        for held in list(self._held.values()):
            if held.mint in stalled:
                _log.error("the sweep's loop does not turn: its lease is given up", mint=held.mint)
                await self._release(held)
                continue
            began = self.clock.monotonic()
            if began - held.renewed_at < self.policy.renew_s:
                continue
            if await self.threads(lambda one=held: self.leases.renew_lease(one.fence)):  # type: ignore[misc]
                held.renewed_at = began
            else:
                self._lose(held, "another instance took it over")

    async def _announce(self) -> None:
        now = self.clock.monotonic()
        if self._announced_at is not None and now - self._announced_at < self.policy.renew_s:
            return
        able = self._able()
        await self.threads(lambda: self.leases.announce(self.holder, able))
        self._announced_at = now
        await self.work.follow([mint for mint in self.mints if sweep_shard(mint) not in self._held])

    async def _do(self, step: Step) -> None:
        if step.kind is StepKind.GIVE_UP:
            self._held[step.shard].leaving = True
        elif step.why is not None and not self._closing:
            await self._take(step, step.why)

    async def _take(self, step: Step, why: TakenBecause) -> None:
        began = self.clock.monotonic()
        fence = await self.threads(lambda: self.leases.take_lease(step.shard, self.holder, seen=step.seen, why=why))
        if fence is None:
            return
        mint = next(mint for mint in self.mints if sweep_shard(mint) == step.shard)
        held = _Held(mint=mint, fence=fence, renewed_at=began)
        if self._closing:  # asked to stop while it was being taken
            await self._release(held)
            return
        self._say_taken(held, None if step.seen is None else step.seen.holder, why)
        self._epochs[step.shard] = fence.epoch
        self.metrics.lease_taken(mint, why)
        lost_at = self._lost_at.get(step.shard)
        await self.work.take_up(mint, lost_s_ago=None if lost_at is None else began - lost_at)
        self._held[step.shard] = held
        self.work.hurry(mint)

    def _say_taken(self, held: _Held, before: str | None, why: TakenBecause) -> None:
        tell = _log.warning if why is TakenBecause.LAPSED else _log.info
        tell(
            "lease taken",
            mint=held.mint,
            from_instance=before,
            to_instance=self.holder,
            epoch=held.fence.epoch,
            why=why.value,
        )

    async def _give_up_what_is_left(self) -> None:
        """Release what is a surplus, once no tour runs on it; what no longer is one is kept."""
        surplus = {
            step.shard
            for step in decide(self._me(), self._seen, lease_s=self.policy.lease_s, now=self.clock.monotonic())
            if step.kind is StepKind.GIVE_UP
        }
        for shard, held in list(self._held.items()):
            held.leaving = held.leaving and shard in surplus
            if held.leaving and not held.working:
                _log.info("a lease is given up for an instance that holds fewer", mint=held.mint)
                await self._release(held)

    async def _release(self, held: _Held) -> None:
        self._forget(held)
        await self.threads(lambda: self.leases.release_lease(held.fence))

    def _lose(self, held: _Held, why: str) -> None:
        self._forget(held)
        self.metrics.lease_lost(held.mint)
        _log.warning("lease lost", mint=held.mint, epoch=held.fence.epoch, why=why)

    def _forget(self, held: _Held) -> None:
        held.gone = True
        self._held.pop(held.fence.shard, None)
        self._lost_at[held.fence.shard] = self.clock.monotonic()

    def _drop_lapsed(self) -> None:
        for held in list(self._held.values()):
            if self._has_lapsed(held):
                self._lose(held, "it could not be renewed in time")

    def _show(self) -> None:
        for mint in self.mints:
            status = self.status(mint)
            if status is not None:
                self.metrics.set_lease(mint, held=status.here, epoch=status.epoch)

    # --- the end ---

    async def hand_over(self, deadline_s: float) -> None:
        """At a drain: once the tours have come to their next page, give everything up, so that others go on at once."""
        self._closing = True
        until = self.clock.monotonic() + deadline_s
        while any(held.working for held in self._held.values()) and self.clock.monotonic() < until:
            with contextlib.suppress(StoreError):  # then it lapses, as at a crash
                await self._renew()
            await self.clock.sleep(0.02)
        await self.close()

    async def close(self) -> None:
        """Give up what is held. A tour that still runs has its writes refused from here on."""
        self._closing = True
        if self._announced_at is None:  # never came so far
            return
        try:
            for held in list(self._held.values()):
                await self._release(held)
            await self.threads(lambda: self.leases.leave(self.holder))
        except StoreError as error:
            _log.warning("leases could not be given up; they lapse", code=error.code.value)


__all__ = ["LeaseKeeper", "LeaseMetrics", "LeasePolicy", "ShardWork", "Tenure"]
