"""
Proxies that break things on purpose: one between daemon and mint that knows HTTP, one between daemon and store that
knows bytes.

Both run in one background thread with an event loop of their own and listen on the loopback. A :class:`MintProxy` acts by
endpoint, on the nth request that a :class:`Fault` matches; a :class:`StoreProxy` finds the commit of one transaction by
what that transaction wrote.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Self, TypeVar

T = TypeVar("T")

ANSWER_BYTES_MAX: Final = 16 << 20
HOLD_S_MAX: Final = 120.0
UPSTREAM_S_MAX: Final = 120.0
_CHUNK: Final = 64 << 10


class Act(StrEnum):
    """What is done to a request or to its answer."""

    LOSE_REQUEST = "lose the request"
    LOSE_ANSWER = "lose the answer"
    RESET = "reset while the mint works on it"
    DELAY_REQUEST = "delay the request"
    DELAY_ANSWER = "delay the answer"
    HOLD_REQUEST = "hold the request"
    HOLD_ANSWER = "hold the answer"
    TRUNCATE = "truncate the answer"
    RESET_ANSWER = "reset in the middle of the answer"
    DUPLICATE = "deliver the request twice at once"
    REPEAT = "deliver the request again and give the second answer"
    REWRITE = "another answer, the mint having acted"
    REFUSE = "another answer, the mint never asked"
    EDIT = "the answer with its JSON changed"


@dataclass(kw_only=True)
class Fault:
    """
    One fault. It acts on the ``nth`` matching request since it was added and on ``times - 1`` further ones.

    ``seen`` is set when it first acts. A held request or answer goes on when ``release`` is set. With ``after`` nothing
    counts before that fault has acted. ``edit`` changes the JSON of an answer that is EDITed.
    """

    endpoint: str
    act: Act
    nth: int = 1
    times: int = 1
    seconds: float = 0.0
    status: int = 400
    body: Any = None
    edit: Callable[[Any], Any] | None = None
    after: Fault | None = None
    seen: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)
    matched: int = 0

    def takes(self) -> bool:
        """Count a matching request; whether to act on it."""
        if self.after is not None and not self.after.seen.is_set():
            return False
        self.matched += 1
        return self.nth <= self.matched < self.nth + self.times


@dataclass(kw_only=True)
class Passed:
    """One request of the daemon as the proxy saw it. ``quote`` where it names one; times are monotonic seconds."""

    endpoint: str
    at: float
    quote: str | None = None
    ended_at: float | None = None
    status: int | None = None
    act: Act | None = None


class ProxyThread:
    """The event loop that proxies share; started on first use."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="proxies", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        done: Future[T] = asyncio.run_coroutine_threadsafe(work, self.loop)
        return done.result(30)

    def close(self) -> None:
        async def cancel() -> None:
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self.run(cancel())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


class _Proxy:
    """A listening socket and the tasks of its connections."""

    def __init__(self, thread: ProxyThread, target_port: int) -> None:
        self._thread = thread
        self.target_port = target_port
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server = thread.run(asyncio.start_server(self._connected, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError

    def close(self) -> None:
        async def close() -> None:
            self._server.close()
            for task in tuple(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._server.wait_closed()

        self._thread.run(close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _abort(writer: asyncio.StreamWriter) -> None:
    """RST instead of FIN."""
    peer: socket.socket | None = writer.get_extra_info("socket")
    if peer is not None:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def endpoint_of(method: str, path: str) -> str:
    """The name by which meltd and the faults call it."""
    parts = path.split("?", maxsplit=1)[0].strip("/").split("/")
    match parts[1:] if parts[:1] == ["v1"] else parts:
        case ["melt", "quote", "bolt11"]:
            return "melt_quote"
        case ["melt", "quote", "bolt11", _]:
            return "melt_quote_state"
        case ["melt", "bolt11"]:
            return "melt"
        case [("swap" | "checkstate" | "restore" | "keysets" | "keys" | "info") as name, *_]:
            return name
        case _:
            return f"{method} {path}"


class MintProxy(_Proxy):
    """
    Forwards to a mint on the loopback, one connection per request, and does what its faults say.

    What is held or delayed is delivered although the daemon has long gone: that is how a request arrives late.
    """

    def __init__(self, thread: ProxyThread, target_port: int) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self.passed: list[Passed] = []
        super().__init__(thread, target_port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def add(self, *faults: Fault) -> None:
        with self._lock:
            self._faults += faults

    def clear(self) -> None:
        """Forget faults and what has passed; what is held goes on."""
        with self._lock:
            for fault in self._faults:
                fault.release.set()
            self._faults.clear()
            self.passed = []

    def count(self, endpoint: str) -> int:
        return sum(1 for one in self.passed if one.endpoint == endpoint)

    def _fault_for(self, endpoint: str) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.endpoint == endpoint and fault.takes():
                    return fault
        return None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
        body = await reader.readexactly(int(length[1]) if length else 0)
        method, path, _ = head.split(b"\r\n")[0].decode().split(" ")
        endpoint = endpoint_of(method, path)
        fault = self._fault_for(endpoint)
        passed = Passed(endpoint=endpoint, at=time.monotonic(), quote=_quote_of(endpoint, path, body))
        passed.act = None if fault is None else fault.act
        self.passed.append(passed)
        if fault is not None:
            fault.seen.set()
        request = re.sub(rb"\r\nconnection: [^\r]*", b"", head, flags=re.IGNORECASE)
        request = request[:-2] + b"Connection: close\r\n\r\n" + body
        try:
            await self._deliver(request, writer, fault, passed)
        finally:
            passed.ended_at = time.monotonic()

    async def _deliver(self, request: bytes, writer: asyncio.StreamWriter, fault: Fault | None, passed: Passed) -> None:
        act = None if fault is None else fault.act
        match act:
            case Act.LOSE_REQUEST:
                _abort(writer)
                return
            case Act.REFUSE if fault is not None:
                await _say(writer, _answer(fault))
                return
            case Act.DELAY_REQUEST if fault is not None:
                await asyncio.sleep(fault.seconds)
            case Act.HOLD_REQUEST if fault is not None:
                await _held(fault)
            case Act.RESET:
                working = asyncio.ensure_future(self._ask(request))
                await asyncio.sleep(0.15)  # the request has arrived and is worked on
                _abort(writer)
                await working
                return
            case _:
                pass
        if act is Act.DUPLICATE:
            answer, _ = await asyncio.gather(self._ask(request), self._ask(request, after_s=0.005))
        else:
            answer = await self._ask(request)
        if act is Act.REPEAT:
            answer = await self._ask(request)
        passed.status = _status_of(answer)
        match act:
            case Act.LOSE_ANSWER:
                _abort(writer)
                return
            case Act.DELAY_ANSWER if fault is not None:
                await asyncio.sleep(fault.seconds)
            case Act.HOLD_ANSWER if fault is not None:
                await _held(fault)
            case Act.REWRITE if fault is not None:
                answer = _answer(fault)
            case Act.EDIT if fault is not None and fault.edit is not None:
                said = json.loads(answer[answer.index(b"\r\n\r\n") + 4 :])
                answer = _answer(Fault(endpoint="", act=Act.EDIT, status=passed.status or 200, body=fault.edit(said)))
            case Act.TRUNCATE:
                answer = answer[: _half(answer)]
            case Act.RESET_ANSWER:
                writer.write(answer[: _half(answer)])
                await writer.drain()
                await asyncio.sleep(0.05)
                _abort(writer)
                return
            case _:
                pass
        await _say(writer, answer)

    async def _ask(self, request: bytes, *, after_s: float = 0.0) -> bytes:
        """The mint's whole answer; ConnectionError where it gave none."""
        await asyncio.sleep(after_s)
        async with asyncio.timeout(UPSTREAM_S_MAX):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.target_port)
            try:
                writer.write(request)
                await writer.drain()
                answer = await reader.read(ANSWER_BYTES_MAX)
                while more := await reader.read(ANSWER_BYTES_MAX):
                    answer += more
            finally:
                writer.close()
        if not answer:
            raise ConnectionError("the mint gave no answer")
        return answer


async def _held(fault: Fault) -> None:
    deadline = time.monotonic() + HOLD_S_MAX
    while not fault.release.is_set() and time.monotonic() < deadline:  # noqa: ASYNC110 - the event is another thread's
        await asyncio.sleep(0.02)


async def _say(writer: asyncio.StreamWriter, answer: bytes) -> None:
    writer.write(answer)
    await writer.drain()


def _half(answer: bytes) -> int:
    """Past the head, into the body, so that the length that was announced is not reached."""
    head = answer.index(b"\r\n\r\n") + 4
    return head + (len(answer) - head) // 2


def _status_of(answer: bytes) -> int | None:
    try:
        return int(answer.split(b" ", 2)[1])
    except (IndexError, ValueError):
        return None


def _quote_of(endpoint: str, path: str, body: bytes) -> str | None:
    if endpoint == "melt_quote_state":
        return path.rsplit("/", 1)[1]
    if endpoint == "melt":
        try:
            return str(json.loads(body)["quote"])
        except (ValueError, KeyError, TypeError):
            return None
    return None


def _answer(fault: Fault) -> bytes:
    text = fault.body if isinstance(fault.body, bytes) else json.dumps(fault.body).encode()
    head = f"HTTP/1.1 {fault.status} X\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + text


# --- between daemon and store ---

_TXN = re.compile(rb"\x12txnNumber\x00(.{8})", re.DOTALL)
_LSID = re.compile(rb"\x03lsid\x00.{4}\x05id\x00\x10\x00\x00\x00\x04(.{16})", re.DOTALL)


@dataclass(kw_only=True)
class CommitFault:
    """
    Breaks the connection at the commit of the transaction that wrote ``marker``, a text such as ``SETTLED``.

    ``forward``: the commit reaches the store, and its answer is lost. Otherwise the commit itself is lost.
    """

    marker: str
    forward: bool
    times: int = 1
    seen: threading.Event = field(default_factory=threading.Event)
    done: int = 0
    transactions: set[tuple[bytes, bytes]] = field(default_factory=set)


class StoreProxy(_Proxy):
    """Forwards bytes both ways; breaks connections, takes no new ones, or is slow, as told."""

    def __init__(self, thread: ProxyThread, target_port: int) -> None:
        self._faults: list[CommitFault] = []
        self.delay_s = 0.0
        self.accepting = True
        self.cut_after: int | None = None
        """Bytes from the store after which every connection is cut; None: never."""
        super().__init__(thread, target_port)

    @property
    def uri(self) -> str:
        return f"mongodb://127.0.0.1:{self.port}/?retryWrites=false&maxIdleTimeMS=240000&directConnection=true"

    def add(self, *faults: CommitFault) -> None:
        self._faults += faults

    def clear(self) -> None:
        self._faults = []
        self.delay_s, self.accepting, self.cut_after = 0.0, True, None

    def drop_all(self) -> None:
        """Reset every connection that is open now."""

        async def drop() -> None:
            for writer in tuple(self._writers):
                _abort(writer)

        self._thread.run(drop())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.accepting:
            _abort(writer)
            return
        store_reader, store_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        swallow = asyncio.Event()
        up = asyncio.ensure_future(self._up(reader, store_writer, swallow))
        down = asyncio.ensure_future(self._down(store_reader, writer, swallow))
        try:
            await asyncio.wait([up, down], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (up, down):
                task.cancel()
            await asyncio.gather(up, down, return_exceptions=True)
            store_writer.close()
            _abort(writer)

    async def _up(
        self, reader: asyncio.StreamReader, store_writer: asyncio.StreamWriter, swallow: asyncio.Event
    ) -> None:
        while data := await reader.read(_CHUNK):
            if not self.accepting:
                return
            fault = self._note(data)
            if fault is not None:
                fault.seen.set()
                if not fault.forward:
                    return
                swallow.set()
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            store_writer.write(data)
            await store_writer.drain()

    async def _down(
        self, store_reader: asyncio.StreamReader, writer: asyncio.StreamWriter, swallow: asyncio.Event
    ) -> None:
        while data := await store_reader.read(_CHUNK):
            if swallow.is_set() or not self.accepting:
                return
            if self.cut_after is not None:
                part = data[: self.cut_after]
                self.cut_after -= len(part)
                if self.cut_after <= 0:
                    writer.write(part)
                    await writer.drain()
                    self.cut_after = None
                    return
            writer.write(data)
            await writer.drain()

    def _note(self, data: bytes) -> CommitFault | None:
        """Follow the transactions that faults wait for; the fault whose commit this is."""
        session, number = _LSID.search(data), _TXN.search(data)
        if not self._faults or session is None or number is None:
            return None
        key = (session[1], number[1])
        for fault in self._faults:
            if b"commitTransaction" in data[:200]:
                if key in fault.transactions and fault.done < fault.times:
                    fault.done += 1
                    return fault
            elif fault.marker.encode() in data:
                fault.transactions.add(key)
        return None
