"""
The subscriptions of one mint (NUT-17): a websocket that says when something moves, so that meltd looks sooner.

Implements :class:`melt.ports.HintSource`; the only module that imports websockets. What a mint pushes is a hint and
never evidence, so all that can go wrong here costs time and nothing else: polling goes on whatever happens.

Facts that it is built on (ADR 16): subscribing replays the present states, each as a message of its own; filters are
counted per kind and connection, and unsubscribing gives none back, so a connection that is full is replaced by a new one;
a client that sends nothing for ten minutes is closed, and pings don't count; messages of a client may be rationed to 20 a
minute. A change between two connections is not lost: the replay tells it.

Nothing is believed of the other side: no redirect is followed, no proxy of the environment used, nothing decompressed;
messages are bounded in size, number and pace, and what does not fit the protocol is counted and dropped.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, assert_never
from urllib.parse import urlsplit, urlunsplit

import structlog
from websockets.exceptions import ConnectionClosed, InvalidStatusCode, SecurityError, WebSocketException
from websockets.legacy.client import Connect, WebSocketClientProtocol

from melt.bucket import Bucket
from melt.errors import MintError
from melt.mint import wire
from melt.model import Hint, HintDrop, HintKind, HintLink, HintState, HintStatus, MintState, QuoteState
from melt.ports import Clock, Entropy, HintTelemetry, Mint

_log = structlog.get_logger("melt.hints")

# The library logs whole frames at DEBUG, and a melt quote's holds the preimage (I10).
_SILENT: Final = logging.getLogger("melt.mint.websocket")
_SILENT.propagate = False
_SILENT.setLevel(logging.CRITICAL + 1)
_SILENT.addHandler(logging.NullHandler())

_SCHEMES: Final = {"http": "ws", "https": "wss"}
_KEY_NAMES: Final = {HintKind.PROOF_STATE: "Y", HintKind.MELT_QUOTE: "quote"}
_FIRST_STATES: Final[dict[HintKind, HintState]] = {
    HintKind.PROOF_STATE: MintState.UNSPENT,
    HintKind.MELT_QUOTE: QuoteState.UNPAID,
}
"""What is taken for known before the mint has said anything: a replay that tells the same is no change."""
BYTES_PER_UNIT: Final = 2048
"""A message of this size costs the reader twice what an empty one does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionLimits:
    """
    Bounds of one mint's subscriptions; seconds, bytes and counts (I11).

    ``filters_max`` per kind and connection; ``renew_s`` is the least age at which a full connection is replaced.
    ``keepalive_s`` after our last message another one is sent. ``send_every_s`` rations our own messages after
    ``sends_burst`` of them; ``units_per_s`` and ``units_burst`` what is read. ``backoff_s`` doubles up to
    ``backoff_s_max`` with each connection that lived less than ``healthy_s``. ``unsupported_s``: how long a mint
    without subscriptions is left alone.
    """

    filters_max: int = 1000
    filters_per_message: int = 250
    message_bytes_max: int = 256 << 10
    queue_max: int = 16
    connect_timeout_s: float = 10.0
    answer_timeout_s: float = 20.0
    keepalive_s: float = 240.0
    ping_s: float = 30.0
    sends_burst: int = 8
    send_every_s: float = 6.0
    units_burst: int = 4000
    units_per_s: float = 500.0
    backoff_s: float = 1.0
    backoff_s_max: float = 300.0
    healthy_s: float = 60.0
    renew_s: float = 60.0
    unsupported_s: float = 3600.0


class _End(StrEnum):
    """Why a connection ended, or was not made."""

    LOST = "lost"
    FULL = "full"
    UNSUPPORTED = "unsupported"


@dataclass(slots=True)
class _Talk:
    """What has been said on one connection. ``unanswered``: id of a subscribe to when its answer is due."""

    kinds: frozenset[HintKind]
    opened_at: float
    sent_at: float
    ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    filters: dict[str, tuple[HintKind, frozenset[str]]] = field(default_factory=dict)
    asked: dict[HintKind, set[str]] = field(default_factory=lambda: {kind: set() for kind in HintKind})
    unanswered: dict[int, float] = field(default_factory=dict)


class _NoRedirects(Connect):
    """The address is the operator's: where a mint would rather have us go is none of our business."""

    MAX_REDIRECTS_ALLOWED = 1  # the first connection counts as one


class Subscriber:
    """Implements :class:`melt.ports.HintSource` for the mint that ``mint`` speaks to."""

    def __init__(
        self,
        mint: Mint,
        *,
        clock: Clock,
        entropy: Entropy,
        telemetry: HintTelemetry,
        limits: SubscriptionLimits | None = None,
    ) -> None:
        self._mint = mint
        self._url = websocket_url(mint.url)
        self._clock = clock
        self._entropy = entropy
        self._telemetry = telemetry
        self._limits = limits if limits is not None else SubscriptionLimits()
        self._sending = Bucket(clock=clock, per_s=1 / self._limits.send_every_s, burst=self._limits.sends_burst)
        self._reading = Bucket(clock=clock, per_s=self._limits.units_per_s, burst=self._limits.units_burst)
        self._wanted: dict[HintKind, dict[str, None]] = {kind: {} for kind in HintKind}
        self._states: dict[tuple[HintKind, str], HintState] = {}
        self._changed = asyncio.Event()
        self._link = HintLink.OFF
        self._talk: _Talk | None = None
        self._counts: Counter[str] = Counter()
        self._last_hint: Any = None

    # --- what others ask ---

    def watch(self, wanted: Mapping[HintKind, Sequence[str]], /) -> None:
        """See :meth:`melt.ports.HintSource.watch`; what is over ``filters_max`` of a kind is not watched."""
        for kind in HintKind:
            keys = dict.fromkeys(wanted.get(kind, ()))
            self._wanted[kind] = dict(itertools.islice(keys.items(), self._limits.filters_max))
        self._states = {(kind, key): state for (kind, key), state in self._states.items() if key in self._wanted[kind]}
        self._changed.set()

    def status(self) -> HintStatus:
        """For the status page."""
        talk = self._talk
        watched = 0 if talk is None else sum(len(talk.asked[kind] & self._wanted[kind].keys()) for kind in HintKind)
        return HintStatus(
            link=self._link,
            watched=watched if self._link is HintLink.CONNECTED else 0,
            hints=self._counts["hints"],
            dropped=self._counts["dropped"],
            reconnects=self._counts["reconnects"],
            last_hint=self._last_hint,
        )

    async def run(self, on_hint: Callable[[Hint], None], /) -> None:
        """See :meth:`melt.ports.HintSource.run`."""
        failures = 0
        try:
            while True:
                await self._something_to_watch()
                self._link = HintLink.CONNECTING
                began = self._clock.monotonic()
                end = await self._attempt(on_hint)
                self._telemetry.hints_connected(self._mint.alias, connected=False)
                failures, delay = self._pause(end, failures, lived_s=self._clock.monotonic() - began)
                _log.debug("subscriptions ended", mint=self._mint.alias, why=end.value, again_in_s=round(delay, 1))
                await self._clock.sleep(delay)
        finally:
            self._link = HintLink.OFF
            self._telemetry.hints_connected(self._mint.alias, connected=False)

    # --- connecting ---

    async def _something_to_watch(self) -> None:
        while not any(self._wanted.values()):
            self._link = HintLink.IDLE
            self._changed.clear()
            await self._changed.wait()

    def _pause(self, end: _End, failures: int, *, lived_s: float) -> tuple[int, float]:
        """How many connections in a row have failed now, and how long to wait before the next one."""
        limits = self._limits
        match end:
            case _End.FULL:
                return 0, 0.0
            case _End.UNSUPPORTED:
                self._link = HintLink.UNSUPPORTED
                return 0, limits.unsupported_s * self._entropy.uniform(0.9, 1.1)
            case _End.LOST:
                self._link = HintLink.CONNECTING
                failures = 1 if lived_s >= limits.healthy_s else failures + 1
                delay = min(limits.backoff_s_max, limits.backoff_s * 2 ** min(failures - 1, 16))
                return failures, delay * self._entropy.uniform(0.5, 1.0)
            case _:  # pragma: no cover
                assert_never(end)

    async def _attempt(self, on_hint: Callable[[Hint], None]) -> _End:
        """One connection from its handshake to its end. Raises nothing for what a mint does."""
        try:
            info = await self._mint.info()
        except MintError:
            return _End.LOST
        kinds = frozenset(kind for kind in HintKind if kind.value in info.subscribable)
        if not kinds:
            return _End.UNSUPPORTED
        limits = self._limits
        try:
            async with _NoRedirects(
                self._url,
                logger=_SILENT,
                compression=None,
                user_agent_header="meltd",
                open_timeout=limits.connect_timeout_s,
                close_timeout=1,
                ping_interval=limits.ping_s,
                ping_timeout=limits.ping_s,
                max_size=limits.message_bytes_max,
                max_queue=limits.queue_max,
            ) as socket:
                return await self._converse(socket, kinds, on_hint)
        except InvalidStatusCode as error:
            # A server that is starting or overloaded says 5xx or 429; anything else is a no.
            busy = error.status_code >= 500 or error.status_code == 429
            return _End.LOST if busy else _End.UNSUPPORTED
        except SecurityError:
            return _End.UNSUPPORTED
        except (WebSocketException, OSError, TimeoutError, EOFError, ValueError):
            return _End.LOST

    async def _converse(
        self, socket: WebSocketClientProtocol, kinds: frozenset[HintKind], on_hint: Callable[[Hint], None]
    ) -> _End:
        now = self._clock.monotonic()
        self._talk = talk = _Talk(kinds=kinds, opened_at=now, sent_at=now)
        self._counts["connections"] += 1
        if self._counts["connections"] > 1:
            self._counts["reconnects"] += 1
            self._telemetry.hints_reconnected(self._mint.alias)
        both = (
            asyncio.create_task(self._listen(socket, talk, on_hint), name=f"hints-listen-{self._mint.alias}"),
            asyncio.create_task(self._speak(socket, talk), name=f"hints-speak-{self._mint.alias}"),
        )
        try:
            done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            return next(iter(done)).result()
        finally:
            self._talk = None
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    # --- speaking ---

    async def _speak(self, socket: WebSocketClientProtocol, talk: _Talk) -> _End:
        """Subscribe what is wanted and not asked yet, and keep the connection alive."""
        limits = self._limits
        try:
            while True:
                self._changed.clear()
                now = self._clock.monotonic()
                if any(due <= now for due in talk.unanswered.values()):
                    return _End.LOST
                kind, keys, is_full = self._missing(talk)
                if kind is not None:
                    await self._subscribe(socket, talk, kind, keys)
                    continue
                if is_full and now - talk.opened_at >= limits.renew_s:
                    return _End.FULL
                if now - talk.sent_at >= limits.keepalive_s:
                    # Any message counts; this one asks for nothing, and is answered with an error at most.
                    await self._send(socket, talk, "unsubscribe", {"subId": self._entropy.token(8)})
                    continue
                due = [talk.sent_at + limits.keepalive_s, *talk.unanswered.values()]
                if is_full:
                    due.append(talk.opened_at + limits.renew_s)
                await self._clock.wait(self._changed, max(0.01, min(due) - now))
        except ConnectionClosed:
            return _End.LOST

    def _missing(self, talk: _Talk) -> tuple[HintKind | None, tuple[str, ...], bool]:
        """The next filters to subscribe (None: nothing now), and whether some wait for a new connection."""
        is_full = False
        for kind in HintKind:
            if kind not in talk.kinds:
                continue
            missing = [key for key in self._wanted[kind] if key not in talk.asked[kind]]
            room = self._limits.filters_max - len(talk.asked[kind])
            if missing and room > 0:
                return kind, tuple(missing[: min(room, self._limits.filters_per_message)]), is_full
            is_full = is_full or bool(missing)
        return None, (), is_full

    async def _subscribe(
        self, socket: WebSocketClientProtocol, talk: _Talk, kind: HintKind, keys: tuple[str, ...]
    ) -> None:
        name = self._entropy.token(8)
        talk.filters[name] = (kind, frozenset(keys))
        talk.asked[kind].update(keys)
        asked = {"kind": kind.value, "subId": name, "filters": list(keys)}
        await self._send(socket, talk, "subscribe", asked)

    async def _send(self, socket: WebSocketClientProtocol, talk: _Talk, method: str, params: Mapping[str, Any]) -> None:
        await self._clock.sleep(self._sending.take())
        number = next(talk.ids)
        if method == "subscribe":
            talk.unanswered[number] = self._clock.monotonic() + self._limits.answer_timeout_s
        body = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        async with asyncio.timeout(self._limits.answer_timeout_s):
            await socket.send(json.dumps(body, separators=(",", ":")))
        talk.sent_at = self._clock.monotonic()

    # --- listening ---

    async def _listen(self, socket: WebSocketClientProtocol, talk: _Talk, on_hint: Callable[[Hint], None]) -> _End:
        try:
            async for message in socket:
                # A reader that waits lets the mint wait: its messages pile up at its own end.
                await self._clock.sleep(self._reading.take(1 + len(message) / BYTES_PER_UNIT))
                if not self._take(message, talk, on_hint):
                    return _End.LOST
        except ConnectionClosed:
            pass
        return _End.LOST

    def _take(self, message: str | bytes, talk: _Talk, on_hint: Callable[[Hint], None]) -> bool:
        """Take one message; False where the mint refused a subscription."""
        if isinstance(message, bytes):
            self._drop(HintDrop.MALFORMED)
            return True
        try:
            body = wire.load(message.encode())
            if body.get("method") == "subscribe":
                hint = self._notified(body.get("params"), talk)
                if hint is not None:
                    self._tell(hint, on_hint)
                return True
            return self._answered(body, talk)
        except wire.BadAnswer:
            self._drop(HintDrop.MALFORMED)
            return True

    def _answered(self, body: Mapping[str, Any], talk: _Talk) -> bool:
        number = body.get("id")
        if type(number) is not int or ("result" in body) == ("error" in body):
            raise wire.BadAnswer("neither a notification nor an answer")
        if talk.unanswered.pop(number, None) is None:
            return True  # to a keepalive, or an error about nothing in particular
        if "error" in body:
            return False
        if self._link is not HintLink.CONNECTED:
            self._link = HintLink.CONNECTED
            self._telemetry.hints_connected(self._mint.alias, connected=True)
            _log.info("subscribed to hints", mint=self._mint.alias)
        return True

    def _notified(self, params: Any, talk: _Talk) -> Hint | None:
        """The change that a notification tells, or None. Only what is subscribed here is listened to."""
        payload = params.get("payload") if isinstance(params, dict) else None
        name = params.get("subId") if isinstance(params, dict) else None
        if not isinstance(payload, dict) or not isinstance(name, str):
            raise wire.BadAnswer("a notification without a payload")
        if name not in talk.filters:
            self._drop(HintDrop.UNASKED)
            return None
        kind, keys = talk.filters[name]
        key, word = payload.get(_KEY_NAMES[kind]), payload.get("state")
        if not isinstance(key, str) or not isinstance(word, str):
            raise wire.BadAnswer("a payload without a key and a state")
        if key not in keys:
            self._drop(HintDrop.UNASKED)
            return None
        state = _state(kind, word)
        if key not in self._wanted[kind] or self._states.get((kind, key), _FIRST_STATES[kind]) is state:
            return None
        self._states[kind, key] = state
        return Hint(kind=kind, key=key, state=state)

    def _tell(self, hint: Hint, on_hint: Callable[[Hint], None]) -> None:
        self._counts["hints"] += 1
        self._last_hint = self._clock.now()
        self._telemetry.hint_received(self._mint.alias, hint.kind)
        on_hint(hint)

    def _drop(self, reason: HintDrop) -> None:
        self._counts["dropped"] += 1
        self._telemetry.hint_dropped(self._mint.alias, reason)


def websocket_url(mint_url: str) -> str:
    """The address of a mint's subscriptions, from the operator's URL of the mint and nothing else."""
    parts = urlsplit(mint_url)
    return urlunsplit((_SCHEMES[parts.scheme], parts.netloc, f"{parts.path.rstrip('/')}/v1/ws", "", ""))


def _state(kind: HintKind, word: str) -> HintState:
    try:
        return MintState(word) if kind is HintKind.PROOF_STATE else QuoteState(word)
    except ValueError:
        raise wire.BadAnswer("an unknown state") from None
