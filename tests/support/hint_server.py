"""A websocket server that behaves as a test says, in the test's own event loop, and a subscriber that remembers."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from websockets.legacy.server import WebSocketServerProtocol, serve

from melt.errors import MintUnreachable
from melt.mint import Subscriber, SubscriptionLimits
from melt.model import Hint, HintKind, MintAlias, MintInfo
from tests.support.mint_client import SystemEntropy
from tests.support.store import SystemClock

Behaviour = Callable[["Connection"], Awaitable[None]]

QUICK: dict[str, Any] = {
    "backoff_s": 0.02,
    "backoff_s_max": 0.2,
    "sends_burst": 1000,
    "answer_timeout_s": 0.3,
    "connect_timeout_s": 0.5,
    "unsupported_s": 0.3,
    "renew_s": 0.0,
}


class SkippingClock(SystemClock):
    """The real time, but for sleeping: that is counted and takes none."""

    def __init__(self) -> None:
        self.skipped = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.skipped

    async def sleep(self, seconds: float, /) -> None:
        self.skipped += seconds
        await asyncio.sleep(0)


class Remembering:
    """Implements HintTelemetry: keeps what it is told."""

    def __init__(self) -> None:
        self.connected: list[bool] = []
        self.reconnected = 0
        self.received: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()

    def hints_connected(self, mint: MintAlias, *, connected: bool) -> None:
        self.connected.append(connected)

    def hints_reconnected(self, mint: MintAlias) -> None:
        self.reconnected += 1

    def hint_received(self, mint: MintAlias, kind: HintKind) -> None:
        self.received[kind] += 1

    def hint_dropped(self, mint: MintAlias, reason: str) -> None:
        self.dropped[reason] += 1


class InfoMint:
    """The part of a mint that a subscriber uses."""

    def __init__(self, url: str, *, offers: frozenset[str] = frozenset(HintKind)) -> None:
        self.alias = MintAlias("main")
        self.url = url
        self.offers = offers
        self.reachable = True
        self.asked = 0

    async def info(self) -> MintInfo:
        self.asked += 1
        if not self.reachable:
            raise MintUnreachable("scripted")
        return MintInfo(name="", version="", nuts=frozenset(), max_array_length=1000, subscribable=self.offers)


class Connection:
    """One connection as the server sees it."""

    def __init__(self, socket: WebSocketServerProtocol) -> None:
        self.socket = socket
        self.requests: list[dict[str, Any]] = []

    @property
    def subscribed(self) -> list[dict[str, Any]]:
        return [one["params"] for one in self.requests if one["method"] == "subscribe"]

    async def receive(self) -> dict[str, Any]:
        request = json.loads(await self.socket.recv())
        self.requests.append(request)
        return request

    async def ok(self, request: dict[str, Any]) -> None:
        result = {"status": "OK", "subId": request["params"]["subId"]}
        await self.send({"jsonrpc": "2.0", "result": result, "id": request["id"]})

    async def refuse(self, request: dict[str, Any]) -> None:
        await self.send({"jsonrpc": "2.0", "error": {"code": -32603, "message": "no"}, "id": request["id"]})

    async def send(self, body: Any) -> None:
        await self.socket.send(body if isinstance(body, str | bytes) else json.dumps(body))

    async def push(self, subscription: dict[str, Any], key: str, state: str) -> None:
        """A notification about one key of a subscription."""
        name = "Y" if subscription["kind"] == "proof_state" else "quote"
        payload = {name: key, "state": state}
        await self.send(
            {"jsonrpc": "2.0", "method": "subscribe", "params": {"subId": subscription["subId"], "payload": payload}}
        )

    async def accept(self) -> dict[str, Any]:
        """Take the next subscribe, answer OK and replay its first states; the subscription."""
        while True:
            request = await self.receive()
            if request["method"] == "subscribe":
                break
            await self.refuse(request)
        await self.ok(request)
        asked = request["params"]
        for key in asked["filters"]:
            await self.push(asked, key, "UNSPENT" if asked["kind"] == "proof_state" else "UNPAID")
        return asked

    async def rest(self) -> None:
        """Go on answering until the other side goes."""
        while True:
            await self.accept()


class HintServer:
    """Each connection does what ``behaviours`` says in turn; the last one goes for all further ones."""

    def __init__(self, *behaviours: Behaviour, path: str = "/v1/ws") -> None:
        self.behaviours = list(behaviours)
        self.path = path
        self.connections: list[Connection] = []
        self.paths: list[str] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _serve(self, socket: WebSocketServerProtocol) -> None:
        connection = Connection(socket)
        self.connections.append(connection)
        self.paths.append(socket.path)
        await self.behaviours[min(len(self.connections), len(self.behaviours)) - 1](connection)

    @asynccontextmanager
    async def running(self, **options: Any) -> AsyncIterator[HintServer]:
        async with serve(self._serve, "127.0.0.1", self.port or None, close_timeout=0.2, **options) as server:
            self.port = next(iter(server.sockets)).getsockname()[1]
            yield self


class Listening:
    """A subscriber that runs, with what it has told."""

    def __init__(self, mint: Any, *, limits: dict[str, Any] | None = None, clock: SystemClock | None = None) -> None:
        self.telemetry = Remembering()
        self.hints: list[Hint] = []
        self.mint = mint
        self.subscriber = Subscriber(
            mint,
            clock=clock or SystemClock(),
            entropy=SystemEntropy(),
            telemetry=self.telemetry,
            limits=SubscriptionLimits(**{**QUICK, **(limits or {})}),
        )

    @property
    def told(self) -> list[tuple[str, str]]:
        return [(hint.key, hint.state.value) for hint in self.hints]

    @asynccontextmanager
    async def running(self, *ys: str, quotes: tuple[str, ...] = ()) -> AsyncIterator[Listening]:
        self.subscriber.watch({HintKind.PROOF_STATE: ys, HintKind.MELT_QUOTE: quotes})
        task = asyncio.create_task(self.subscriber.run(self.hints.append))
        try:
            yield self
            assert not task.done(), task.exception()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def until(told: Callable[[], Any], *, within_s: float = 20.0) -> Any:
    """Poll with a deadline."""
    async with asyncio.timeout(within_s):
        while not (found := told()):  # noqa: ASYNC110 - a condition, not an event
            await asyncio.sleep(0.01)
    return found
