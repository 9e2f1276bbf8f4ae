"""A tiny HTTP server that says whatever a test wants a mint to say, down to the byte."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Say:
    """An answer. ``body`` is sent as it is when bytes, as JSON otherwise."""

    status: int = 200
    body: Any = b""
    headers: dict[str, str] = field(default_factory=dict)

    def encode(self) -> bytes:
        body = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body))} | self.headers
        lines = [f"HTTP/1.1 {self.status} Scripted", *(f"{name}: {value}" for name, value in headers.items() if value)]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


Raw = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Rule = Say | Raw | Callable[[Asked], Say]


class ScriptedMint:
    """Answers by path; a path without a rule is 404. ``asked`` keeps what came."""

    def __init__(self, rules: dict[str, Rule] | None = None) -> None:
        self.rules: dict[str, Rule] = {"/v1/info": Say(body={"name": "scripted", "version": "x/1", "nuts": {}})}
        self.rules.update(rules or {})
        self.asked: list[Asked] = []
        self.arrived = asyncio.Event()
        self.connections = 0
        self.in_flight = 0
        self.in_flight_most = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def asked_of(self, path: str) -> list[Asked]:
        return [one for one in self.asked if one.path == path]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            while await self._serve(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in head[1:] if line)}
        text = await reader.readexactly(int(headers.get("content-length", "0")))
        asked = Asked(method=method, path=path, headers=headers, body=json.loads(text) if text else None)
        self.asked.append(asked)
        self.arrived.set()
        rule = self.rules.get(path, Say(status=404, body={"detail": "Not Found"}))
        self.in_flight += 1
        self.in_flight_most = max(self.in_flight, self.in_flight_most)
        try:
            if isinstance(rule, Say):
                writer.write(rule.encode())
            elif asyncio.iscoroutinefunction(rule):
                await rule(reader, writer)
                await writer.drain()
                return False
            else:
                await asyncio.sleep(0)
                writer.write(rule(asked).encode())
            await writer.drain()
        finally:
            self.in_flight -= 1
        return True
