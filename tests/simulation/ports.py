"""
What the engine sees of the world: its ports, with the network, the store's failures and its own death in between.

Every call passes boundaries, one before and one after its effect. At each the instance may die: its call then never
returns, as after a kill -9, while what it has set going (a request at a mint, a commit at the store) goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

from melt.errors import MintRejected, MintUnreachable, StateRegressed, StoreUnavailable
from melt.mint.sorting import NOT_SENT, sort_melt, sort_swap
from melt.mint.transport import Answer
from melt.model import (
    Ambiguous,
    BlindedMessage,
    EventType,
    Keyset,
    KeysetId,
    MeltAnswer,
    MeltQuote,
    MintAlias,
    MintInfo,
    MintReport,
    MintState,
    Paid,
    Proof,
    ProofState,
    QuoteId,
    QuoteState,
    RaisedEvent,
    Refused,
    Restored,
    Signed,
    StillPending,
    SwapAnswer,
    Y,
)
from tests.simulation.model_mint import DENOMINATIONS, Gone, ModelMint, No

if TYPE_CHECKING:
    from melt.settling import Stopwatch
    from tests.simulation.model_store import ModelStore

T = TypeVar("T")
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
CACHED_S = 300.0


class Nobody:
    """Telemetry that nobody reads."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return _nothing


def _nothing(*_: object, **__: object) -> None:
    pass


class SimEntropy:
    """Implements :class:`melt.ports.Entropy`."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def token(self, n: int, /) -> str:
        return self._rng.randbytes(n).hex()

    def uniform(self, low: float, high: float, /) -> float:
        return self._rng.uniform(low, high)


class SimSpool:
    """Implements :class:`melt.ports.EventSpool`: an instance's own disk, which outlives its crashes."""

    def __init__(self) -> None:
        self._kept: dict[tuple[EventType, str], RaisedEvent] = {}

    async def keep(self, event: RaisedEvent, /) -> None:
        self._kept[event.type, event.subject] = event

    async def drop(self, event_type: EventType, subject: str, /) -> None:
        self._kept.pop((event_type, subject), None)

    async def kept(self) -> tuple[RaisedEvent, ...]:
        return tuple(self._kept.values())


class SimClock:
    """Implements :class:`melt.ports.Clock` in the loop's virtual time; the wall clock may be ahead of it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, ahead_s: float = 0.0) -> None:
        self._loop = loop
        self._ahead = timedelta(seconds=ahead_s)

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self._loop.time()) + self._ahead

    def monotonic(self) -> float:
        return self._loop.time()

    async def sleep(self, seconds: float, /) -> None:
        await asyncio.sleep(seconds)

    async def wait(self, event: asyncio.Event, seconds: float, /) -> bool:
        if event.is_set():
            return True
        try:
            async with asyncio.timeout(max(seconds, 0.0)):
                await event.wait()
        except TimeoutError:
            return False
        return True


@dataclass(slots=True)
class Weather:
    """How bad things are just now; shared by all, changed by the world."""

    rng: Random
    trace: Callable[[str], None]
    net: float = 0.0
    """Chance that a request to a mint meets a fault."""
    store: float = 0.0
    """Chance that a call of the store fails."""
    store_down: bool = False
    crash: float = 0.0
    """Chance that an instance dies at a boundary."""
    calm: bool = False
    """Faults have stopped for good."""


@dataclass(slots=True)
class Life:
    """One run of one instance, from its start to its death."""

    holder: str
    weather: Weather
    name: str = ""
    """Of this run, of which a holder has many."""
    dead: bool = False
    died: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: list[asyncio.Task[Any]] = field(default_factory=list)

    def die(self, why: str) -> None:
        """kill -9."""
        if not self.dead:
            self.dead = True
            self.died.set()
            self.weather.trace(f"{self.holder}: killed {why}")

    async def boundary(self, where: str) -> None:
        """Pass, or die here; the dead never return."""
        weather = self.weather
        if not self.dead and weather.crash and weather.rng.random() < weather.crash:
            self.die(where)
        if self.dead:
            await asyncio.get_running_loop().create_future()

    async def alive(self) -> None:
        """Go on, unless dead."""
        if self.dead:
            await asyncio.get_running_loop().create_future()

    def spawn(self, work: Awaitable[T]) -> asyncio.Task[T]:
        """A task of this instance."""
        task: asyncio.Task[T] = asyncio.ensure_future(work)  # type: ignore[assignment]
        self.tasks.append(task)
        return task


class _Unheard:
    """A stopwatch whose process does not hear of its commits, and so notes none."""

    def __init__(self, stopwatch: Stopwatch) -> None:
        self.added_ms = stopwatch.added_ms
        self.noted = _nothing


class SimThreads:
    """
    Implements :class:`melt.ports.StoreThreads`: the store's latency and failures, and whose calls these are.

    A call may fail before anything happened or after it was committed; the caller can't tell which. A call that is
    under way when its caller dies or is cancelled is done nevertheless, or is not.
    """

    def __init__(self, life: Life, store: ModelStore, clock: SimClock) -> None:
        self._life = life
        self._store = store
        self._clock = clock
        self._stopwatch = store.new_stopwatch(life.holder, life.name)

    async def __call__(self, work: Callable[[], T], /) -> T:
        life, rng = self._life, self._life.weather.rng
        await life.boundary("before a store call")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        delay = rng.uniform(0.0005, 0.004)
        if rng.random() < 0.01:
            delay = rng.uniform(0.1, 2.0)
        loop.call_later(delay, self._run, work, done)
        try:
            result = await done
        except asyncio.CancelledError:
            raise
        except Exception:
            await life.boundary("after a store call that failed")
            raise
        await life.boundary("after a store call")
        return result

    def _run(self, work: Callable[[], Any], done: asyncio.Future[Any]) -> None:
        weather = self._life.weather
        rng = weather.rng
        if self._life.dead and rng.random() < 0.5:
            return
        fails = weather.store_down or (weather.store and rng.random() < weather.store)
        after = fails and rng.random() < (0.2 if weather.store_down else 0.5)
        result: Any = None
        error: Exception | None = None
        if not fails or after:
            watch: Any = _Unheard(self._stopwatch) if fails else self._stopwatch
            self._store.called_by(watch, self._clock)
            try:
                result = work()
            except Exception as raised:  # noqa: BLE001 - the caller gets it, as from a thread
                error = raised
        if fails:
            if not done.cancelled():
                word = "after the commit" if after else "before anything"
                weather.trace(f"store: fails {self._life.holder} {word}")
            error = StoreUnavailable("the store does not answer")
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)


@dataclass(slots=True)
class Posted:
    """What the world remembers of the melt POSTs of one quote, as the engine sent them."""

    sent: int = 0
    under_way: int = 0
    """Copies on the network or in the mint's hands."""
    first_s: float = 0.0
    unpaid_seen_s: list[float] = field(default_factory=list)
    """When the mint told the engine UNPAID, after a POST."""


@dataclass(slots=True)
class Observations:
    """What has passed between engine and mints."""

    posts: dict[QuoteId, Posted] = field(default_factory=dict)
    on_post: Callable[[ModelMint, QuoteId, Sequence[Proof], Sequence[BlindedMessage]], None] = _nothing
    on_swap: Callable[[ModelMint, Sequence[Proof], Sequence[BlindedMessage]], None] = _nothing
    on_refused: Callable[[ModelMint, Sequence[Proof]], None] = _nothing
    server_tasks: list[asyncio.Task[Any]] = field(default_factory=list)


class MintLink:
    """Implements :class:`melt.ports.Mint`: one instance's client of one mint, with the network in between."""

    def __init__(self, life: Life, mint: ModelMint, seen: Observations, *, alias: MintAlias, url: str) -> None:
        self._life = life
        self._mint = mint
        self._seen = seen
        self._alias = alias
        self._url = url
        self._keysets: tuple[float, Mapping[KeysetId, Keyset]] | None = None
        self._keys: dict[KeysetId, Mapping[int, str]] = {}

    @property
    def alias(self) -> MintAlias:
        return self._alias

    @property
    def url(self) -> str:
        return self._url

    # --- reads ---

    async def _read(self, what: str, serve: Callable[[], T]) -> T:
        life, weather, rng = self._life, self._life.weather, self._life.weather.rng
        await life.boundary(f"before {what}")
        fault = rng.random() if weather.net else 1.0
        await asyncio.sleep(rng.uniform(0.002, 0.02))
        await life.alive()
        if not self._mint.up:
            raise MintUnreachable(f"no connection for {what}")
        if fault < weather.net:
            if fault < weather.net / 2:
                await asyncio.sleep(rng.choice((0.0, 0.1, 3.0)))
                raise MintUnreachable(f"no answer to {what}")
            if fault < weather.net * 0.75:
                self._served(what, serve)  # done, and its answer lost
                raise MintUnreachable(f"lost the answer to {what}")
            await asyncio.sleep(rng.uniform(0.0, 2.0))
        answer = self._served(what, serve)
        if rng.random() < 0.4:
            await asyncio.sleep(rng.uniform(0.002, 0.02))
        await life.boundary(f"after {what}")
        return answer

    def _served(self, what: str, serve: Callable[[], T]) -> T:
        try:
            return serve()
        except No as no:
            raise MintRejected(f"refused {what}", mint_code=no.code) from None

    def report(self) -> MintReport:
        return MintReport()

    async def info(self) -> MintInfo:
        return MintInfo(name=self._mint.name, version="model", nuts=frozenset(range(13)), max_array_length=1000)

    async def keysets(self, *, refresh: bool = False) -> Mapping[KeysetId, Keyset]:
        now_s = asyncio.get_running_loop().time()
        if refresh or self._keysets is None or now_s - self._keysets[0] >= CACHED_S:
            self._keysets = (now_s, await self._read("keysets", lambda: dict(self._mint.keysets)))
        return self._keysets[1]

    async def keysets_with(self, wanted: Collection[KeysetId]) -> Mapping[KeysetId, Keyset]:
        listed = await self.keysets()
        return listed if all(one in listed for one in wanted) else await self.keysets(refresh=True)

    async def keys(self, keyset_id: KeysetId) -> Mapping[int, str]:
        if keyset_id not in self._keys:
            mint = self._mint
            found = await self._read("keys", lambda: {a: mint.key(keyset_id, a) for a in DENOMINATIONS})
            self._keys[keyset_id] = found
        return self._keys[keyset_id]

    async def melt_quote(self, invoice: str, unit: str) -> MeltQuote:
        _, payment_hash, amount = invoice.split(":")
        return await self._read("melt_quote", lambda: self._mint.quote(invoice, payment_hash, int(amount)))

    async def melt_quote_state(self, quote_id: QuoteId) -> MeltQuote:
        quote = await self._read("melt_quote_state", lambda: self._mint.get(quote_id))
        posted = self._seen.posts.get(quote_id)
        if posted is not None and quote.state is QuoteState.UNPAID:
            posted.unpaid_seen_s.append(asyncio.get_running_loop().time())
        return quote

    async def check_states(self, ys: Sequence[Y], *, spent: Sequence[Y] | None = None) -> tuple[ProofState, ...]:
        if not ys and spent is None:
            return ()
        answered = await self._read("checkstate", lambda: self._mint.check([*ys, *(spent or ())]))
        alive = tuple(one.y for one in answered[len(ys) :] if one.state is not MintState.SPENT)
        if alive:
            raise StateRegressed("proofs that were SPENT are not", alive)
        return answered[: len(ys)]

    async def restore(self, outputs: Sequence[BlindedMessage]) -> tuple[Restored, ...]:
        return await self._read("restore", lambda: self._mint.restore(outputs))

    # --- the two requests that move money ---

    async def melt(
        self, quote_id: QuoteId, inputs: Sequence[Proof], outputs: Sequence[BlindedMessage], *, timeout_s: float
    ) -> MeltAnswer:
        await self._life.boundary("before the melt POST")
        posted = self._seen.posts.setdefault(quote_id, Posted())
        posted.sent += 1
        posted.first_s = asyncio.get_running_loop().time()
        self._seen.on_post(self._mint, quote_id, inputs, outputs)
        self._life.weather.trace(f"{self._life.holder}: POST melt {quote_id} with {sum(p.amount for p in inputs)}")
        sent = await self._exchange(
            "melt", lambda: self._mint.melt(quote_id, inputs, outputs), timeout_s=timeout_s, posted=posted
        )
        answer: MeltAnswer
        match sent:
            case MeltQuote(state=QuoteState.PAID):
                answer = Paid(quote=sent)
            case MeltQuote():
                answer = StillPending()
            case Answer():
                answer = sort_melt(sent, quote_id)
            case _:
                answer = sent
        self._life.weather.trace(f"{self._life.holder}: POST melt {quote_id} answered {_said(answer)}")
        if isinstance(answer, Refused):
            self._seen.on_refused(self._mint, inputs)
        await self._life.boundary("after the melt POST")
        return answer

    async def swap(self, inputs: Sequence[Proof], outputs: Sequence[BlindedMessage], *, timeout_s: float) -> SwapAnswer:
        await self._life.boundary("before a swap")
        holder, mint = self._life.holder, self._mint
        self._seen.on_swap(mint, inputs, outputs)
        self._life.weather.trace(f"{holder}: POST swap of {sum(p.amount for p in inputs)}")

        async def serve() -> Signed:
            return Signed(signatures=mint.swap(inputs, outputs, f"a swap of {holder}"))

        sent = await self._exchange("swap", serve, timeout_s=timeout_s)
        answer: SwapAnswer = sort_swap(sent, tuple(outputs)) if isinstance(sent, Answer) else sent
        self._life.weather.trace(f"{holder}: POST swap answered {_said(answer)}")
        await self._life.boundary("after a swap")
        return answer

    async def _exchange(
        self, what: str, serve: Callable[[], Awaitable[Any]], *, timeout_s: float, posted: Posted | None = None
    ) -> Any:
        """One request that moves money: what comes back, or Refused(NOT_SENT), or Ambiguous."""
        weather, rng, mint = self._life.weather, self._life.weather.rng, self._mint
        await asyncio.sleep(rng.uniform(0.002, 0.02))
        await self._life.alive()
        fault = rng.random() < weather.net
        kind = rng.choice(_FAULTS) if fault else "none"
        if kind != "none":
            weather.trace(f"network: {what} of {self._life.holder}: {kind}")
        if not mint.up or kind == "no connection":
            return Refused(mint_code=NOT_SENT, payment_tried=False)
        if kind == "429":
            return Answer(status=429, body=b'{"detail":"Rate limit exceeded."}', retry_after_s=None)
        if kind == "lost request":
            await asyncio.sleep(rng.choice((0.0, 0.5, timeout_s)))
            return Ambiguous(reason="lost")
        late = 0.0
        if kind == "late request":
            late = rng.choice((rng.uniform(0, timeout_s), timeout_s + rng.uniform(0.1, 90.0)))
        delivered = self._deliver(serve, late, posted)
        if kind == "duplicate":
            self._deliver(serve, rng.uniform(0.0, 1.5), posted)
        if kind in {"lost answer", "502"}:
            await asyncio.sleep(rng.choice((0.0, 0.05, 1.0, timeout_s)))
            return (
                Ambiguous(reason="lost")
                if kind == "lost answer"
                else Answer(status=502, body=b"<html>", retry_after_s=None)
            )
        delay = rng.uniform(0.0, 3.0) if kind == "slow answer" else 0.0
        done, _ = await asyncio.wait({delivered}, timeout=timeout_s)
        if not done:
            return Ambiguous(reason="timeout")
        await asyncio.sleep(delay)
        return delivered.result()

    def _deliver(self, serve: Callable[[], Awaitable[Any]], delay: float, posted: Posted | None) -> asyncio.Task[Any]:
        """The request on its way; nothing that happens to its sender stops it."""
        mint = self._mint

        async def travel() -> Any:
            try:
                await asyncio.sleep(delay)
                if not mint.up:
                    return Ambiguous(reason="reset")
                try:
                    return await serve()
                except No as no:
                    return no.answer
                except Gone:
                    return Ambiguous(reason="reset")
            finally:
                if posted is not None:
                    posted.under_way -= 1

        if posted is not None:
            posted.under_way += 1
        task = asyncio.ensure_future(travel())
        self._seen.server_tasks.append(task)
        return task


_FAULTS = (
    "no connection",
    "429",
    "502",
    "lost request",
    "lost answer",
    "lost answer",
    "late request",
    "late request",
    "duplicate",
    "slow answer",
)


def _said(answer: object) -> str:
    match answer:
        case Refused(mint_code=code, payment_tried=tried):
            return f"no ({code}{', payment failed' if tried else ''})"
        case Ambiguous(reason=reason, mint_code=code):
            return f"ambiguous ({reason}{'' if code is None else f', {code}'})"
        case _:
            return type(answer).__name__


__all__ = [
    "EPOCH",
    "Life",
    "MintLink",
    "MintState",
    "Nobody",
    "Observations",
    "SimClock",
    "SimEntropy",
    "SimSpool",
    "SimThreads",
    "Weather",
]
