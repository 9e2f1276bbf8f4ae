"""An engine in this process, over the real mint and the real store, whose every step another writer may come between."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from daemon.metrics import Metrics
from daemon.system import SystemEntropy
from melt.corrections import Corrections
from melt.events import CriticalEvents
from melt.model import Actor, Ambiguous, MeltId, MeltState, MintAlias, QuoteState, Refused
from melt.preflight import Preflight
from melt.recovery import Patience, Recovery, RecoveryPolicy
from melt.saga import Engine, Forward, MeltPolicy, MeltRequest, StandPolicy, Watcher, WatchPolicy
from melt.sentinels import Sentinels

if TYPE_CHECKING:
    from melt.ecash import Seed
    from melt.mint import HttpMint
    from melt.model import Melt
    from melt.store import MongoStore, Threads

MAIN: Final = MintAlias("main")
FASTER: Final = 20.0
"""How many seconds of the engine pass in one of ours: its paces and budgets stay those of production."""
STUCK_AFTER_S: Final = 90.0
ACTOR: Final = Actor(name="test")


class FastClock:
    """Time that runs :data:`FASTER`."""

    def __init__(self) -> None:
        self._start = monotonic()
        self._began = datetime.now(UTC)

    def now(self) -> datetime:
        at = self._began + timedelta(seconds=self.monotonic())
        return at.replace(microsecond=at.microsecond // 1000 * 1000)

    def monotonic(self) -> float:
        return (monotonic() - self._start) * FASTER

    async def sleep(self, seconds: float, /) -> None:
        await asyncio.sleep(seconds / FASTER)

    async def wait(self, event: asyncio.Event, seconds: float, /) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds / FASTER):
                await event.wait()
        return event.is_set()


class Died(BaseException):
    """The process is gone: nothing of it runs on from here."""


@dataclass(kw_only=True)
class Between:
    """
    Where another writer comes between, once: ``deed`` is called at the first passage of ``point``.

    With ``kills`` the process dies there, right after it.
    """

    point: str
    deed: Callable[[], None]
    kills: bool = False
    happened: bool = False
    dead: bool = False
    passed: list[str] = field(default_factory=list)

    def at(self, point: str) -> None:
        """A step is passed."""
        if self.dead:
            raise Died
        self.passed.append(point)
        if point != self.point or self.happened:
            return
        self.happened = True
        self.deed()
        if self.kills:
            self.dead = True
            raise Died


class Store:
    """The real store, with somebody between its calls."""

    def __init__(self, real: MongoStore, between: Between) -> None:
        self._real = real
        self._between = between

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def reserve(self, melt: Melt, **more: Any) -> Melt:
        self._between.at("chosen")
        done = self._real.reserve(melt, **more)
        self._between.at("reserved")
        return done

    def plan_swap(self, melt: Melt, to: MeltState, **more: Any) -> Melt:
        done = self._real.plan_swap(melt, to, **more)
        self._between.at("fencing" if more["fence"] else "swapping")
        return done

    def finish_swap(self, melt: Melt, **more: Any) -> Melt:
        done = self._real.finish_swap(melt, **more)
        self._between.at("ready")
        return done

    def advance(self, /, melt: Melt, to: MeltState, **changes: object) -> Melt:
        done = self._real.advance(melt, to, **changes)
        if to is not melt.state and to in {MeltState.MELTING, MeltState.PENDING, MeltState.HELD}:
            self._between.at(to.value.lower())
        return done

    def settle(self, melt: Melt, *args: Any, **more: Any) -> Any:
        done = self._real.settle(melt, *args, **more)
        self._between.at("settled")
        return done


class Mint:
    """
    The real mint's client: counted, with somebody between request and answer, and with answers that get lost.

    ``posts``: what becomes of the melt POST: its answer comes, is lost, or the request is; or it is refused at once.
    ``denies``: the mint has lost track of the payment: its quote says UNPAID, and it brings no signatures back.
    """

    def __init__(self, real: HttpMint, between: Between, clock: FastClock, *, posts: str, denies: bool) -> None:
        self._real = real
        self._between = between
        self._clock = clock
        self._posts = posts
        self._denies = denies
        self.posted = 0
        self.asked: list[tuple[float, str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def _count(self, endpoint: str) -> None:
        if self._between.dead:
            raise Died
        self.asked.append((self._clock.monotonic(), endpoint))

    async def check_states(self, *args: Any, **more: Any) -> Any:
        self._count("checkstate")
        return await self._real.check_states(*args, **more)

    async def melt_quote_state(self, quote_id: Any) -> Any:
        self._count("melt_quote_state")
        quote = await self._real.melt_quote_state(quote_id)
        if not self._denies or quote.state is not QuoteState.PAID:
            return quote
        return type(quote)(
            id=quote.id,
            state=QuoteState.UNPAID,
            amount=quote.amount,
            fee_reserve=quote.fee_reserve,
            expiry=quote.expiry,
        )

    async def restore(self, outputs: Any) -> Any:
        self._count("restore")
        return () if self._denies else await self._real.restore(outputs)

    async def swap(self, inputs: Any, outputs: Any, **more: Any) -> Any:
        self._count("swap")
        answer = await self._real.swap(inputs, outputs, **more)
        await asyncio.to_thread(self._between.at, "fenced" if self.posted else "swapped")
        return answer

    async def melt(self, quote_id: Any, inputs: Any, outputs: Any, **more: Any) -> Any:
        self._count("melt")
        self.posted += 1
        if self._posts == "request lost":
            answer: Any = Ambiguous(reason="time-out")
        elif self._posts == "refused":
            answer = Refused(mint_code=11005, payment_tried=False)
        else:
            answer = await self._real.melt(quote_id, inputs, outputs, **more)
            if self._posts == "answer lost":
                answer = Ambiguous(reason="time-out")
        await asyncio.to_thread(self._between.at, "posted")
        return answer


class Life:
    """One process: engine and watcher of one instance, from now until :meth:`end`."""

    def __init__(
        self,
        store: Store,
        mint: Mint,
        *,
        threads: Threads,
        seed: Seed,
        clock: FastClock,
        holder: str,
        exact: bool,
    ) -> None:
        self._clock = clock
        self.store = store
        self.threads = threads
        entropy, metrics = SystemEntropy(), Metrics(version="0")
        metrics.declare([MAIN])
        anything: Any = store
        mints: Any = {MAIN: mint}
        self.events = CriticalEvents(anything, threads, metrics, clock=clock)
        self.recovery = recovery = Recovery(
            store=anything,
            threads=threads,
            mints=mints,
            outputs=seed,
            clock=clock,
            telemetry=metrics,
            events=self.events,
            policy=RecoveryPolicy(patience=Patience(post_grace_s=10, confirm_s=4), swap_timeout_s=30),
        )
        policy = MeltPolicy(swap_when_overpay_exceeds=1 if exact else 0, reserve_wait_s=2)
        sentinels = Sentinels(
            records=anything, store=anything, threads=threads, events=self.events, clock=clock, entropy=entropy
        )
        corrections = Corrections(anything, threads, metrics)
        self.engine = Engine(
            store=anything,
            threads=threads,
            mints=mints,
            forward=Forward(
                store=anything,
                threads=threads,
                outputs=seed,
                clock=clock,
                entropy=entropy,
                telemetry=metrics,
                preflight=Preflight(corrections=corrections, sentinels=sentinels, clock=clock),
                recovery=recovery,
                policy=policy,
                holder=holder,
            ),
            clock=clock,
            entropy=entropy,
            telemetry=metrics,
            policy=policy,
        )
        self.watcher = Watcher(
            engine=self.engine,
            recovery=recovery,
            store=anything,
            threads=threads,
            clock=clock,
            entropy=entropy,
            policy=WatchPolicy(confirm_s=4, lease_s=1e9, standing=StandPolicy(after_s=STUCK_AFTER_S)),
            holder=holder,
        )
        self._watching = asyncio.create_task(self._watch(), name=f"watch-{holder}")

    async def _watch(self) -> None:
        while True:
            self.engine.followed.clear()
            wait_s = await self.watcher.tick()
            await self._clock.wait(self.engine.followed, wait_s)

    async def pay(self, owner: str, invoice: str, key: str) -> Melt:
        """As the socket does, for a caller who does not wait."""
        asked = MeltRequest(idempotency_key=key, npub=owner, mint=MAIN, invoice=invoice, actor=ACTOR)
        return await self.engine.melt(asked, wait_s=0)

    async def entry(self, melt_id: MeltId) -> Melt:
        found = await self.threads(lambda: self.store.melt(melt_id))
        assert found is not None
        return found

    async def end(self) -> None:
        """Nothing of it runs on."""
        tasks = [self._watching, *(r.task for r in self.engine._running.values() if r.task is not None)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.watcher.stop()
