"""The real API on a real Unix socket, with the scripted engine behind it."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from daemon.api import ApiOptions, UnixServer, bind, build_api
from melt.model import MintAlias
from tests.support.scripted import MINT_URL, ScriptedOperations, ScriptedRestores, ScriptedService
from tests.support.scripted_modes import ScriptedChecks, ScriptedModes
from tests.support.scripted_plans import ScriptedCases, ScriptedDesk
from tests.support.scripted_repairs import ScriptedRepairs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


@dataclass
class RunningApi:
    """What a test talks to and looks into."""

    path: Path
    service: ScriptedService
    operations: ScriptedOperations
    repairs: ScriptedRepairs
    server: UnixServer
    http: httpx.AsyncClient
    restores: ScriptedRestores
    modes: ScriptedModes
    checks: ScriptedChecks
    flags: dict[str, bool] = field(default_factory=dict)

    async def raw(self, data: bytes, *, more: bytes = b"", end: bool = False) -> bytes:
        """Send bytes, then read until the server closes; fails after a deadline."""
        reader, writer = await asyncio.open_unix_connection(str(self.path))
        try:
            with contextlib.suppress(ConnectionError):
                writer.write(data + more)
                await writer.drain()
                if end:
                    writer.write_eof()
            async with asyncio.timeout(20):
                return await read_all(reader)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


async def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Return once ``condition`` holds; fails after a deadline."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the condition is not ours to signal
            await asyncio.sleep(0.01)


async def read_all(reader: asyncio.StreamReader) -> bytes:
    """All bytes until the end, a reset counting as an end."""
    parts = []
    with contextlib.suppress(ConnectionError):
        while part := await reader.read(65_536):
            parts.append(part)
    return b"".join(parts)


@contextlib.asynccontextmanager
async def running_api(
    *, idle_timeout_s: float = 10.0, connections_max: int = 64, **options: Any
) -> AsyncIterator[RunningApi]:
    """Serve until the block ends. ``options`` are those of :class:`ApiOptions`."""
    service, operations = ScriptedService(), ScriptedOperations()
    repairs, restores = ScriptedRepairs(), ScriptedRestores()
    modes, checks = ScriptedModes(), ScriptedChecks()
    flags = {"draining": False}
    given = {
        "mints": {MintAlias("main"): MINT_URL},
        "draining": lambda: flags["draining"],
        "version": "0.1.0",
    } | options
    with tempfile.TemporaryDirectory(prefix="meltd-") as folder:  # short: a socket path has 107 bytes
        bound = bind(Path(folder) / "s.sock")
        app = build_api(
            service,
            operations,
            ApiOptions(**given),
            summaries=operations,
            restores=restores,
            repairs=repairs,
            plans=ScriptedDesk(operations),
            cases=ScriptedCases(operations),
            modes=modes,
            checks=checks,
        )
        server = UnixServer(app, bound, connections_max=connections_max, request_timeout_s=idle_timeout_s)
        await server.start()
        transport = httpx.AsyncHTTPTransport(uds=str(bound.path))
        async with httpx.AsyncClient(transport=transport, base_url="http://meltd", timeout=30) as http:
            try:
                yield RunningApi(
                    path=bound.path,
                    service=service,
                    operations=operations,
                    repairs=repairs,
                    restores=restores,
                    modes=modes,
                    checks=checks,
                    server=server,
                    http=http,
                    flags=flags,
                )
            finally:
                if service.hold is not None:
                    service.hold.set()
                await http.aclose()
                await server.stop(2.0)
