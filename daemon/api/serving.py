"""Running an ASGI application with uvicorn inside our own process: no signals of its own, no socket of its own."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

import uvicorn

from daemon.api.peers import protocol

if TYPE_CHECKING:
    import socket
    from collections.abc import Generator

    from starlette.types import ASGIApp

    from daemon.api.unix_socket import BoundSocket

HEAD_BYTES_MAX: Final = 16_384
KEEP_ALIVE_S: Final = 15
_START_TIMEOUT_S: Final = 10.0


class QuietServer(uvicorn.Server):
    """uvicorn's server without its signal handlers: :mod:`daemon.supervisor` has them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class AsgiServer:
    """One application on one listening socket: :meth:`start`, then :meth:`stop` which lets requests finish."""

    def __init__(self, config: uvicorn.Config, listener: socket.socket, name: str) -> None:
        self._server = QuietServer(config)
        self._listener = listener
        self._name = name
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Serve in a task of its own; returns once connections are accepted."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._listener]), name=self._name)
        async with asyncio.timeout(_START_TIMEOUT_S):
            while not self._server.started:
                if self._task.done():
                    self._task.result()
                    raise RuntimeError(f"{self._name} ended before it started")
                await asyncio.sleep(0.005)

    async def stop(self, timeout_s: float) -> None:
        """Accept nothing more; requests under way have ``timeout_s`` seconds, then they are cut off."""
        task, self._task = self._task, None
        if task is None:
            return
        self._server.config.timeout_graceful_shutdown = max(1, round(timeout_s))
        self._server.should_exit = True
        _, pending = await asyncio.wait({task}, timeout=timeout_s + 3)
        if pending:
            self._server.force_exit = True
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._server.server_state.connections)

    async def ended(self) -> None:
        """Return when the server has ended, for whatever reason; raises what it raised."""
        if self._task is not None:
            await asyncio.shield(self._task)


def config_of(app: ASGIApp, *, http: str | type[asyncio.Protocol] = "h11") -> uvicorn.Config:
    """The configuration with the bounds that all our servers have."""
    return uvicorn.Config(
        app,
        http=http,  # type: ignore[arg-type]  # uvicorn's annotation leaves out what it accepts
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        h11_max_incomplete_event_size=HEAD_BYTES_MAX,
        timeout_graceful_shutdown=10,
    )


class UnixServer(AsgiServer):
    """The API on its socket, with peer credentials and bounds per connection."""

    def __init__(self, app: ASGIApp, bound: BoundSocket, *, connections_max: int, request_timeout_s: float) -> None:
        kind = protocol(connections_max=connections_max, request_timeout_s=request_timeout_s)
        super().__init__(config_of(app, http=kind), bound.socket, "api")
        self.bound = bound

    async def stop(self, timeout_s: float) -> None:
        await super().stop(timeout_s)
        self.bound.close()
