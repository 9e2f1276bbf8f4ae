"""One daemon's engine, put together as :mod:`daemon.bootstrap` does, on the model's ports."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

from daemon.settle import SettleDesk, SettleRounds
from melt.beyond import Looked
from melt.caps import CapPolicy, Caps
from melt.corrections import Corrections
from melt.errors import MintError, StoreError
from melt.events import CriticalEvents
from melt.model import Actor, Keyset, KeysetId, MalformedToken, Melt, MintAlias, ResolveAs, Token, TokenStatus
from melt.ports import EventSpool, Mint
from melt.preflight import Preflight
from melt.reconcile import TOURED, Outcome, ReconcilePolicy, Reconciler
from melt.recovery import Patience, Recovery, RecoveryPolicy, resolve
from melt.saga import Engine, Forward, MeltPolicy, MeltRequest, Watcher, WatchPolicy
from melt.sentinels import Sentinels
from melt.settling import SettlePolicy
from tests.simulation.model_ecash import ModelOutputs
from tests.simulation.model_mint import ModelMint
from tests.simulation.model_store import ModelStore
from tests.simulation.ports import Life, MintLink, Nobody, Observations, SimClock, SimEntropy, SimThreads

T = TypeVar("T")
WATCH_STEP_S_MAX = 5.0
CALM_STEP_S_MAX = 14.0
"""Hours of virtual time pass in which nothing happens; less than a lease, which each step renews."""
EVERYTHING = (*TOURED, TokenStatus.SPENT, TokenStatus.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """The settings that a seed varies."""

    post_timeout_s: float = 8.0
    post_grace_s: float = 8.0
    confirm_s: float = 3.0
    swap_timeout_s: float = 4.0
    lease_s: float = 15.0
    swap_when_overpay_exceeds: int = 0
    pending_grace_s: float = 60.0
    confirm_after_s: float = 20.0
    settle: SettlePolicy = field(default_factory=SettlePolicy)
    cap_share: float = 0.25


@dataclass(frozen=True, slots=True)
class OthersHoldings:
    """Of :mod:`melt.beyond` what settling needs, which is who else holds a proof; signatures and double counts are others' tests."""

    holdings: ModelStore

    async def keysets(self, mint: Mint, _: object) -> tuple[Mapping[KeysetId, Keyset], bool]:
        """What the mint lists."""
        return await mint.keysets(), True

    async def sane(self, _: Mint, tokens: Sequence[Token], __: object) -> tuple[list[Token], list[MalformedToken]]:
        """All of them."""
        return list(tokens), []

    async def look(self, *_: object, **__: object) -> Looked:
        """Nothing."""
        return Looked()


class NoLanes:
    """A mint's lanes where only one looks at it at a time."""

    async def page(self, lane: object, work: Callable[[], Awaitable[None]], outcome: Outcome, **_: object) -> float:
        """Do it."""
        await work()
        return 0.0

    async def rest(self, *_: object) -> None:
        """There is nobody to wait for."""


class Died(Exception):
    """The instance was killed while it worked on a request: the socket's peer sees the connection break."""


class Instance:
    """A process that runs from now on."""

    def __init__(
        self,
        life: Life,
        *,
        store: ModelStore,
        mints: Mapping[MintAlias, tuple[ModelMint, str]],
        outputs: ModelOutputs,
        seen: Observations,
        clock: SimClock,
        rng: Random,
        tuning: Tuning,
        spool: EventSpool,
    ) -> None:
        self.life = life
        self._clock = clock
        self._store = store
        self._threads = threads = SimThreads(life, store, clock)
        entropy = SimEntropy(rng)
        nobody = Nobody()
        self.links = {alias: MintLink(life, mint, seen, alias=alias, url=url) for alias, (mint, url) in mints.items()}
        self.events = CriticalEvents(store, threads, nobody, clock=clock, spool=spool)
        sentinels = Sentinels(
            records=store, store=store, threads=threads, events=self.events, clock=clock, entropy=entropy
        )
        corrections = Corrections(store, threads, nobody)
        self.recovery = recovery = Recovery(
            store=store,
            threads=threads,
            mints=self.links,
            outputs=outputs,
            clock=clock,
            telemetry=nobody,
            events=self.events,
            policy=RecoveryPolicy(
                patience=Patience(post_grace_s=tuning.post_grace_s, confirm_s=tuning.confirm_s),
                swap_timeout_s=tuning.swap_timeout_s,
            ),
        )
        policy = MeltPolicy(
            post_timeout_s=tuning.post_timeout_s,
            swap_when_overpay_exceeds=tuning.swap_when_overpay_exceeds,
        )
        self.engine = Engine(
            store=store,
            threads=threads,
            mints=self.links,
            forward=Forward(
                store=store,
                threads=threads,
                outputs=outputs,
                clock=clock,
                entropy=entropy,
                telemetry=nobody,
                preflight=Preflight(corrections=corrections, sentinels=sentinels, clock=clock),
                recovery=recovery,
                policy=policy,
                holder=life.holder,
            ),
            clock=clock,
            entropy=entropy,
            telemetry=nobody,
            policy=policy,
        )
        self.watcher = Watcher(
            engine=self.engine,
            recovery=recovery,
            store=store,
            threads=threads,
            clock=clock,
            entropy=entropy,
            policy=WatchPolicy(confirm_s=tuning.confirm_s, lease_s=tuning.lease_s),
            holder=life.holder,
        )
        self.reconciler = Reconciler(
            store=store,
            threads=threads,
            corrections=corrections,
            recovery=recovery,
            events=self.events,
            sentinels=sentinels,
            clock=clock,
            entropy=entropy,
            telemetry=nobody,
            policy=ReconcilePolicy(
                pending_grace_s=tuning.pending_grace_s,
                confirm_after_s=tuning.confirm_after_s,
                shares=tuning.settle.waits,
            ),
            caps=Caps(CapPolicy(share_per_run=tuning.cap_share)),
            holder=life.holder,
            beyond=OthersHoldings(store),  # type: ignore[arg-type]
        )
        lanes: Any = NoLanes()
        self._settle_rounds = SettleRounds(
            desk=SettleDesk(store, store),
            threads=threads,
            mints=self.links,
            reconciler=self.reconciler,
            lanes=dict.fromkeys(self.links, lanes),
            clock=clock,
            policy=tuning.settle,
            page_documents=8,
            is_paused=lambda _: None,
            expected_documents=lambda _: 0,
        )
        self._look_s = tuning.settle.look_s
        self._idle_s = tuning.lease_s / 3
        self._watching = life.spawn(self._watch())
        self._settling = life.spawn(self._settle())

    async def _watch(self) -> None:
        """As the daemon's loop does."""
        await self.events.load()
        while not self.life.dead:
            self.engine.followed.clear()
            try:
                delay = await self.watcher.tick()
            except StoreError:
                delay = 1.0
            step_s = CALM_STEP_S_MAX if self.life.weather.calm else WATCH_STEP_S_MAX
            await self._clock.wait(self.engine.followed, min(delay, step_s) if delay < self._idle_s else step_s)

    async def _settle(self) -> None:
        """As the daemon's loops do, one a mint."""
        while not self.life.dead:
            await self._clock.sleep(self._look_s)
            for alias in self.links:
                await self._settle_rounds.round(alias, lambda: self.life.dead, lambda: None)

    async def melt(self, request: MeltRequest, wait_s: float) -> Melt:
        """A request over the socket. Raises Died where this instance is killed meanwhile."""
        return await self._or_die(self.engine.melt(request, wait_s=wait_s))

    async def decide(self, melt: Melt, outcome: ResolveAs) -> Melt:
        """A person resolves a HELD melt. Raises Died, MeltdError."""
        actor = Actor(name="operator", uid=0)
        work = resolve(self.recovery, melt, outcome, reason="seen", actor=actor, holder=self.life.holder)
        after = await self._or_die(work)
        self.watcher.hurry(after.id)
        return after

    async def sweep(self, alias: MintAlias) -> None:
        """One tour of a mint, everything in it. Raises Died."""
        try:
            await self._or_die(self._tour(alias))
        except (MintError, StoreError):
            return

    async def _tour(self, alias: MintAlias) -> None:
        link = self.links[alias]
        await link.keysets(refresh=True)
        outcome = Outcome()
        tour = self._store.tour(EVERYTHING, (link.url,), None)
        while page := await self._threads(lambda: tour.next_page(8)):
            await self.reconciler.page(link, page, outcome, dry_run=False, actor=Actor(name="sweep"))

    async def _or_die(self, work: Awaitable[T]) -> T:
        task = self.life.spawn(work)
        death = asyncio.ensure_future(self.life.died.wait())
        try:
            await asyncio.wait({task, death}, return_when=asyncio.FIRST_COMPLETED)
            if self.life.dead:
                raise Died
            return task.result()
        finally:
            death.cancel()

    async def stop(self, drain_s: float) -> None:
        """SIGTERM: drain, stop, and the process is gone."""
        self.life.weather.trace(f"{self.life.holder}: stops")
        await self.engine.drain(drain_s)
        self._watching.cancel()
        self._settling.cancel()
        await self.watcher.stop()
        self.life.die("at the end of its drain")
