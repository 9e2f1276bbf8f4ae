"""
Metrics and health over TCP (DESIGN section 6): ``/metrics``, ``/healthz`` and ``/readyz``.

``/healthz``: the loops turn. ``/readyz``: the store can be used and its schema stands; a mint that is down makes
the daemon *degraded*, which is still ready. Neither shows an id or an amount of a user.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Final

import structlog
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from daemon.api.peers import protocol
from daemon.api.serving import AsgiServer, config_of
from daemon.ports import Check
from melt.errors import ConfigError

if TYPE_CHECKING:
    from starlette.requests import Request

    from daemon.ports import MetricsPage, Readiness

log = structlog.get_logger("meltd.health")

READY_TIMEOUT_S: Final = 5.0
READY_CACHE_S: Final = 1.0
CONNECTIONS_MAX: Final = 64
REQUEST_TIMEOUT_S: Final = 10.0


class Health:
    """The three pages."""

    def __init__(self, metrics: MetricsPage, stalled: Callable[[], Sequence[str]], readiness: Readiness) -> None:
        self._metrics = metrics
        self._stalled = stalled
        self._readiness = readiness
        self._lock = asyncio.Lock()
        self._asked_at = -READY_CACHE_S
        self._checks: Sequence[Check] = ()

    def app(self) -> Starlette:
        """As an ASGI application."""
        pages = {"/metrics": self.metrics, "/healthz": self.healthz, "/readyz": self.readyz}
        return Starlette(routes=[Route(path, page, methods=["GET"]) for path, page in pages.items()])

    async def metrics(self, _: Request) -> Response:
        """Prometheus's text format."""
        body, content_type = self._metrics.render()
        return Response(body, headers={"Content-Type": content_type})

    async def healthz(self, _: Request) -> Response:
        """200 while every supervised loop turns, else 503 with the names of those that do not."""
        stalled = list(self._stalled())
        body = {"status": "stalled" if stalled else "ok", "stalled": stalled}
        return JSONResponse(body, 503 if stalled else 200)

    async def readyz(self, _: Request) -> Response:
        """200 ready or degraded, 503 unready."""
        checks = await self._ask()
        unready = any(check.required and not check.ok for check in checks)
        degraded = any(not check.ok for check in checks)
        body = {
            "status": "unready" if unready else "degraded" if degraded else "ready",
            "checks": [
                {"name": check.name, "ok": check.ok, "required": check.required, "detail": check.detail}
                for check in checks
            ],
        }
        return JSONResponse(body, 503 if unready else 200)

    async def _ask(self) -> Sequence[Check]:
        """The checks, asked at most once a second however many ask."""
        async with self._lock:
            if monotonic() - self._asked_at >= READY_CACHE_S:
                try:
                    async with asyncio.timeout(READY_TIMEOUT_S):
                        self._checks = await self._readiness()
                except Exception as error:  # noqa: BLE001 - whatever fails in a check, the answer is "unready"
                    log.warning("readiness can't be determined", error=type(error).__name__)
                    detail = "no answer in time" if isinstance(error, TimeoutError) else "the check failed"
                    self._checks = (Check(name="readiness", ok=False, required=True, detail=detail),)
                self._asked_at = monotonic()
            return self._checks


class HealthServer(AsgiServer):
    """The pages on their TCP port."""

    def __init__(self, health: Health, host: str, port: int) -> None:
        listener = _listen(host, port)
        address = listener.getsockname()
        self.port: int = address[1]
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]
        self.url = f"http://{shown}:{self.port}"
        kind = protocol(connections_max=CONNECTIONS_MAX, request_timeout_s=REQUEST_TIMEOUT_S)
        super().__init__(config_of(health.app(), http=kind), listener, "health")


def _listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket. Raises :class:`melt.errors.ConfigError` when the address can't be had."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind | socket.SOCK_CLOEXEC, proto)
    except OSError as error:
        raise ConfigError(f"http.host {host!r} is no address of this machine: {error.strerror or error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(CONNECTIONS_MAX)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise ConfigError(f"can't listen on {host}:{port} (http.host, http.port): {error.strerror or error}") from error
    return listener
