"""
The watcher: takes every open journal entry to its end, whoever left it (DESIGN section 4).

It re-reads the journal, decides which entries are due, and steps each through :class:`melt.recovery.Recovery`. One mint's
entries are worked on by one task, so that a mint that hangs holds up nobody else. An entry of another instance is taken
over once that instance's lease has not been renewed for a whole lease on this process's own monotonic clock.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from melt.errors import InvariantBroken, LostRace, MeltdError, MintError
from melt.model import EventType, MeltId, MeltState
from melt.recovery.decide import by_another_clock
from melt.saga.standing import Standing, StandPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from melt.breaker import Breaker
    from melt.model import Melt, MintAlias
    from melt.ports import Clock, Entropy, Store, StoreThreads
    from melt.recovery import Recovery
    from melt.saga.engine import Engine

_log = structlog.get_logger("melt.watcher")

_ENDS_WITH_ITS_MELT: Final = (
    EventType.DB_FAILURE_AFTER_MINT_SUCCESS,
    EventType.MELT_STUCK,
    EventType.QUOTE_PAID_INPUTS_UNSPENT,
    EventType.QUOTE_UNPAID_INPUTS_SPENT,
)


LOOKS_COUNTED_MAX: Final = 64
"""Looks that a delay grows with: past that it has reached its bound, and the power would overflow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchPolicy:
    """
    Pace of following, in seconds. An entry that does not move is looked at ever more seldom, up to the maximum.

    ``look_min_s``: the least time between two looks at one entry, whatever asks for them. One that is stuck
    (:mod:`melt.saga.standing`) or HELD is looked at ever more seldom up to ``stuck_delay_max_s``.
    """

    first_delay_s: float = 0.5
    factor: float = 1.6
    delay_max_s: float = 30.0
    look_min_s: float = 1.0
    held_delay_s: float = 60.0
    stuck_delay_max_s: float = 600.0
    standing: StandPolicy = field(default_factory=StandPolicy)
    confirm_s: float = 5.0
    lease_s: float = 15.0


@dataclass(slots=True)
class _Due:
    at: float
    looks: int = 0
    looked_at: float = float("-inf")


class Watcher:
    """Follows open entries. :meth:`tick` is called by a loop of the daemon; it never raises for a mint's doing."""

    def __init__(
        self,
        *,
        engine: Engine,
        recovery: Recovery,
        store: Store,
        threads: StoreThreads,
        clock: Clock,
        entropy: Entropy,
        policy: WatchPolicy,
        holder: str,
        breakers: Mapping[MintAlias, Breaker] | None = None,
        on_open: Callable[[Sequence[Melt]], None] | None = None,
    ) -> None:
        self._engine = engine
        self._recovery = recovery
        self._store = store
        self._threads = threads
        self._clock = clock
        self._entropy = entropy
        self._policy = policy
        self._holder = holder
        self._breakers = breakers or {}
        self._on_open = on_open
        self._due: dict[MeltId, _Due] = {}
        self._tasks: dict[MintAlias, asyncio.Task[None]] = {}
        self._renewals: dict[str, tuple[int, float]] = {}
        self._stranded: set[MeltId] = set()
        self._standing = Standing(policy.standing)

    async def tick(self) -> float:
        """
        One round: renew our lease, read the journal, start the work that is due.

        Returns after how many seconds the next round is due. Raises StoreError when the journal can't be read.
        """
        await self._threads(lambda: self._store.renew_instance(self._holder))
        entries = await self._threads(self._store.open_melts)
        if self._on_open is not None:
            self._on_open(entries)
        await self._recovery.events.flush()
        now = self._clock.monotonic()
        open_ids = {melt.id for melt in entries}
        self._due = {melt_id: due for melt_id, due in self._due.items() if melt_id in open_ids}
        self._standing.keep(open_ids)
        for melt_id in self._stranded - open_ids:
            self._stranded.discard(melt_id)
            await self._recovery.events.resolve(
                EventType.MELT_HELD, f"melt:{melt_id}", reason="its instance came back and finished it"
            )
        await self._close_survived(open_ids)
        for melt_id in self._engine.expected_ends() - open_ids:
            if not self._engine.is_active(melt_id):
                self._engine.note_end(melt_id)  # ended by another instance, or released by a person
        mine = await self._ours(entries, now)
        by_mint: dict[MintAlias, list[Melt]] = defaultdict(list)
        for melt in mine:
            due = self._due.setdefault(melt.id, _Due(at=now))
            if due.at <= now:
                by_mint[melt.mint].append(melt)
        for mint, melts in by_mint.items():
            if mint not in self._tasks:
                task = asyncio.create_task(self._follow(mint, melts), name=f"follow-{mint}")
                self._tasks[mint] = task
        waiting = [due.at - now for due in self._due.values() if due.at > now]
        return max(0.05, min(waiting, default=self._policy.lease_s / 3))

    async def _close_survived(self, open_ids: set[MeltId]) -> None:
        """
        Close the events of melts that have ended: nobody follows those any more.

        T3 may have been committed and only its answer lost, or a melt been ended by somebody else while it was told
        that it is HELD. The entry is read again, since the event may be younger than the list of open entries.
        """
        events = self._recovery.events
        for event_type in _ENDS_WITH_ITS_MELT:
            for subject in sorted(events.subjects(event_type)):
                melt_id = MeltId(subject.removeprefix("melt:"))
                if melt_id in open_ids:
                    continue
                found = await self._threads(partial(self._store.melt, melt_id))
                if found is not None and not found.is_open:
                    await events.resolve(event_type, subject, reason=f"the melt has ended: {found.state.value}")

    def hurry(self, melt_id: MeltId) -> None:
        """Look at an entry in the next round, whatever its pace was: a person has just decided about it."""
        self._due.pop(melt_id, None)
        self._standing.forget(melt_id)

    def nudge(self, melt_id: MeltId) -> None:
        """
        Look at an entry in a round that begins now: a mint has hinted (NUT-17) that something about it moved.

        Its pace stays as it was, and so does every rule about what may be asked and decided: a hint is no evidence.
        """
        due = self._due.get(melt_id)
        if due is not None:
            # A new object: a look that is under way sets the time of the old one.
            soonest = max(self._clock.monotonic(), due.looked_at + self._policy.look_min_s)
            self._due[melt_id] = _Due(at=soonest, looks=due.looks, looked_at=due.looked_at)
        self._engine.followed.set()

    async def _ours(self, entries: Sequence[Melt], now: float) -> list[Melt]:
        """Entries that this instance should work on: its own, and those of instances that have gone."""
        if any(melt.holder != self._holder for melt in entries):
            renewals = await self._threads(self._store.instances)
            for holder in {melt.holder for melt in entries}:
                seen = renewals.get(holder, -1)
                if self._renewals.get(holder, (None, 0.0))[0] != seen:
                    self._renewals[holder] = (seen, now)
        lapsed = [m for m in entries if m.holder != self._holder and self._has_lapsed(m, now)]
        stranded = [melt for melt in lapsed if not self._has_our_seed(melt)]
        for melt in stranded:
            await self._report_stranded(melt)
        own = [m for m in entries if m.holder == self._holder and not self._engine.is_active(m.id)]
        return own + [melt for melt in lapsed if self._has_our_seed(melt)]

    def _has_our_seed(self, melt: Melt) -> bool:
        """Whether we can derive the outputs that the entry's plans name: instances that share work share the seed."""
        plans = [melt.blanks, *(swap.outputs for swap in (melt.swap, melt.fence) if swap is not None)]
        return all(plan is None or plan.seed_id == self._recovery.outputs.seed_id for plan in plans)

    async def _report_stranded(self, melt: Melt) -> None:
        if melt.id in self._stranded:
            return
        self._stranded.add(melt.id)
        await self._recovery.events.open(
            EventType.MELT_HELD,
            f"melt:{melt.id}",
            mint=melt.mint,
            detail="an instance that is gone left this melt, and it had another seed: start that instance again, or give "
            "all instances the same seed",
            requires_manual_intervention=True,
            evidence={"instance": melt.holder, "state": melt.state.value, "seed_id": self._recovery.outputs.seed_id},
        )

    def _has_lapsed(self, melt: Melt, now: float) -> bool:
        _, since = self._renewals.get(melt.holder, (None, now))
        return now - since >= self._policy.lease_s

    async def _follow(self, mint: MintAlias, melts: Sequence[Melt]) -> None:
        try:
            for melt in melts:
                await self._look(melt)
        finally:
            self._tasks.pop(mint, None)
            self._engine.followed.set()

    async def _look(self, melt: Melt) -> None:
        structlog.contextvars.bind_contextvars(melt_id=melt.id)
        due = self._due.setdefault(melt.id, _Due(at=0.0))
        got_on = self._standing.arrived(melt, self._clock.monotonic())  # by another hand, since the last look
        after = melt
        refused: BaseException | None = None
        try:
            if melt.holder != self._holder:
                melt = await self._take_over(melt)
            after = await self._recovery.step(melt)
        except MintError as error:
            refused = error
            _log.info("the mint can't be asked about an open melt", mint=melt.mint, code=error.code.value)
        except LostRace as error:
            refused = error
        except InvariantBroken as error:
            refused = error
            await self._recovery.events.invariant_broken(error, npub=melt.npub, mint=melt.mint, melt_id=melt.id)
        except MeltdError as error:
            refused = error
            _log.error("an open melt could not be taken further", code=error.code.value, detail=error.detail)
        except Exception as error:  # noqa: BLE001 - one entry's trouble must not stop the others
            refused = error
            _log.exception("an open melt could not be taken further", mint=melt.mint)
        if not after.is_open:
            self._engine.report_end(after, (self._clock.now() - after.created_at).total_seconds())
            await self._recovery.events.resolve(EventType.MELT_HELD, f"melt:{melt.id}", reason="the melt has ended")
            return
        moved = after.rev != melt.rev
        await self._tell_of_standing(after, refused, got_on=got_on)
        now = self._clock.monotonic()
        due.looks = after.refusals or (0 if moved else due.looks + 1)
        due.at, due.looked_at = now + self._delay(after, due.looks, moved=moved), now
        nudged = self._due.get(melt.id)
        if nudged is not None and nudged is not due:  # while we looked: it keeps the least distance all the same
            nudged.at, nudged.looked_at = max(nudged.at, now + self._policy.look_min_s), now

    async def _tell_of_standing(self, melt: Melt, refused: BaseException | None, *, got_on: bool) -> None:
        """The event of an entry that does not get on, at each look; resolved when it gets on after all."""
        now, subject = self._clock.monotonic(), f"melt:{melt.id}"
        if self._standing.arrived(melt, now) or got_on:
            await self._recovery.events.resolve(
                EventType.MELT_STUCK, subject, reason=f"it has got on: {melt.state.value}"
            )
        stuck = self._standing.looked(melt, now, refused, self._recovery.waits.get(melt.id))
        if stuck is None:
            return
        await self._recovery.events.open(
            EventType.MELT_STUCK,
            subject,
            mint=melt.mint,
            detail=f"the entry is {melt.state.value} and does not get on: {stuck.reason}; it is looked at ever more seldom, and "
            f"`meltd melts resolve {melt.id}` shows what can be decided",
            requires_manual_intervention=stuck.needs_person,
            evidence={
                "state": melt.state.value,
                "refusals": stuck.refusals,
                "stood_s": round(stuck.stood_s),
                "quote_id": melt.quote_id,
                "inputs_amount": melt.inputs_amount,
                "unit": melt.unit,
            },
        )

    async def _take_over(self, melt: Melt) -> Melt:
        changes = by_another_clock(melt, self._clock.now())
        taken = await self._threads(lambda: self._store.advance(melt, melt.state, holder=self._holder, **changes))
        _log.warning("taken over from an instance that is gone", from_instance=melt.holder, state=melt.state.value)
        return taken

    def _delay(self, melt: Melt, looks: int, *, moved: bool) -> float:
        policy = self._policy
        if melt.state is MeltState.HELD:
            return min(policy.stuck_delay_max_s, policy.held_delay_s * policy.factor ** min(looks, LOOKS_COUNTED_MAX))
        if stuck_looks := self._standing.looks(melt.id):
            backed_off = policy.delay_max_s * policy.factor ** min(stuck_looks, LOOKS_COUNTED_MAX)
            return min(policy.stuck_delay_max_s, backed_off) * self._entropy.uniform(0.8, 1.0)
        if moved and melt.state in {MeltState.FENCING, MeltState.SWAPPING} and not melt.refusals:
            return 0.0
        if melt.clear_since is not None or melt.contradiction_since is not None:
            return max(policy.look_min_s, policy.confirm_s)
        breaker = self._breakers.get(melt.mint)
        pause = 0.0 if breaker is None else breaker.pause_left_s  # a mint that is down is not asked faster than that
        grown = policy.first_delay_s * policy.factor ** min(looks, LOOKS_COUNTED_MAX)
        delay = min(policy.delay_max_s, max(pause, grown))
        return max(policy.look_min_s, delay * self._entropy.uniform(0.8, 1.2))

    async def stop(self) -> None:
        """Cancel what is under way; every step is journaled, so the next start goes on from there."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
