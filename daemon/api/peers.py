"""
Who is at the other end of the socket (OPS.md, "Socket and service").

The ASGI scope has no peer credentials, so :class:`PeerProtocol` asks the kernel (SO_PEERCRED) once per
connection and puts the answer into each request's scope. It also bounds what one connection may do: the time to
send a whole request, the size of its head, and how many connections there are.
"""

from __future__ import annotations

import json
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from daemon.api.problems import MEDIA_TYPE, RETRY_AFTER_S, document
from melt.errors import Code
from melt.model import Actor

if TYPE_CHECKING:
    import asyncio

    from starlette.types import ASGIApp, Receive, Scope, Send

SCOPE_KEY: Final = "meltd.peer"
ACTOR_NAME: Final = "socket"
_UCRED: Final = struct.Struct("3i")


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """The process that made the connection, as it was when it connected."""

    pid: int
    uid: int
    gid: int

    def actor(self) -> Actor:
        """How it stands in the audit."""
        return Actor(name=ACTOR_NAME, uid=self.uid, gid=self.gid, pid=self.pid)


def peer_of(connection: socket.socket) -> Peer | None:
    """SO_PEERCRED of a connected Unix socket; None where the kernel does not say."""
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    except OSError:
        return None
    pid, uid, gid = _UCRED.unpack(raw)
    return Peer(pid=pid, uid=uid, gid=gid) if uid >= 0 else None


def peer_in(scope: Scope) -> Peer | None:
    """The peer of a request."""
    peer = scope.get(SCOPE_KEY)
    return peer if isinstance(peer, Peer) else None


def actor_of(scope: Scope) -> Actor:
    """Who asks, as it stands in the records."""
    peer = peer_in(scope)
    return Actor(name=ACTOR_NAME) if peer is None else peer.actor()


class _WithPeer:
    """Puts the connection's peer into the scope of each of its requests."""

    def __init__(self, app: ASGIApp, peer: Peer | None) -> None:
        self.app = app
        self.peer = peer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app({**scope, SCOPE_KEY: self.peer}, receive, send)


class PeerProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol for our socket. Subclassed by :func:`protocol` with its bounds."""

    connections_max: int = 256
    request_timeout_s: float = 10.0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn narrows it too
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        self.app: Any = _WithPeer(self.app, None if connection is None else peer_of(connection))
        if len(self.connections) > self.connections_max:
            self._refuse(503, document(Code.CONCURRENT_OPERATION, "too many connections", status=503))
            return
        self._start_deadline()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_deadline()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """What h11 can't read as HTTP, or a head that is too large."""
        self._refuse(400, document(Code.INVALID_REQUEST, msg, status=400))

    def _watch(self) -> None:
        """The clock runs while a request is incomplete; a whole one stops it, keep-alive has uvicorn's own."""
        state = self.conn.their_state
        if state is h11.SEND_BODY or (state is h11.IDLE and self.conn.trailing_data[0]):
            if self._deadline is None:
                self._start_deadline()
        else:
            self._stop_deadline()

    def _start_deadline(self) -> None:
        self._deadline = self.loop.call_later(self.request_timeout_s, self._too_slow)

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        if self.transport.is_closing():
            return
        cycle: Any = self.cycle  # None before the first request, which uvicorn's annotation leaves out
        if cycle is not None and cycle.response_started and not cycle.response_complete:
            self.transport.close()
            return
        text = f"no whole request within {self.request_timeout_s:g} seconds"
        self._refuse(408, document(Code.INVALID_REQUEST, text, status=408))

    def _refuse(self, status: int, problem: dict[str, object]) -> None:
        body = json.dumps(problem).encode()
        retry = f"Retry-After: {RETRY_AFTER_S}\r\n" if status == 503 else ""
        head = (
            f"HTTP/1.1 {status} Refused\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: {len(body)}\r\n"
            f"{retry}Connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


def protocol(*, connections_max: int, request_timeout_s: float) -> type[PeerProtocol]:
    """The protocol class with these bounds, as uvicorn's configuration wants it."""
    return type(
        "BoundedPeerProtocol",
        (PeerProtocol,),
        {"connections_max": connections_max, "request_timeout_s": request_timeout_s},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowList:
    """Who may use the API. Both empty: whoever can open the socket, which its file mode decides."""

    uids: frozenset[int] = frozenset()
    gids: frozenset[int] = frozenset()

    def admits(self, peer: Peer | None) -> bool:
        """Whether this peer may go on. An unknown peer never passes a list."""
        if not self.uids and not self.gids:
            return True
        return peer is not None and (peer.uid in self.uids or peer.gid in self.gids)
