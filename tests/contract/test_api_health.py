"""Metrics and health on a real TCP port."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx
import pytest

from daemon import health as module
from daemon.health import Health, HealthServer
from daemon.ports import Check
from melt.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence


@dataclass
class Inside:
    """What the pages ask."""

    stalled: list[str] = field(default_factory=list)
    checks: Sequence[Check] = (Check(name="store", ok=True, required=True),)
    asked: int = 0
    hang: bool = False
    failure: Exception | None = None

    def render(self) -> tuple[bytes, str]:
        return b"meltd_up 1\n", "text/plain; version=0.0.4; charset=utf-8"

    async def ready(self) -> Sequence[Check]:
        self.asked += 1
        if self.hang:
            await asyncio.Event().wait()
        if self.failure is not None:
            raise self.failure
        return self.checks


@contextlib.asynccontextmanager
async def serving(inside: Inside) -> AsyncIterator[httpx.AsyncClient]:
    server = HealthServer(Health(inside, lambda: inside.stalled, inside.ready), "127.0.0.1", 0)
    await server.start()
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        try:
            yield http
        finally:
            await http.aclose()
            await server.stop(1)


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READY_CACHE_S", 0.0)


async def test_metrics_are_rendered_with_their_content_type() -> None:
    async with serving(Inside()) as http:
        answer = await http.get("/metrics")
        assert (answer.status_code, answer.content) == (200, b"meltd_up 1\n")
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert "server" not in answer.headers


async def test_health_is_that_the_loops_turn() -> None:
    inside = Inside()
    async with serving(inside) as http:
        assert (await http.get("/healthz")).json() == {"status": "ok", "stalled": []}
        inside.stalled = ["sweep"]
        answer = await http.get("/healthz")
        assert (answer.status_code, answer.json()["stalled"]) == (503, ["sweep"])
        assert inside.asked == 0


async def test_a_mint_that_is_down_is_degraded_and_a_store_that_is_down_unready() -> None:
    inside = Inside()
    store, mint = Check(name="store", ok=True, required=True), Check(name="mint:main", ok=False, required=False)
    async with serving(inside) as http:
        assert (await http.get("/readyz")).json()["status"] == "ready"
        inside.checks = (store, mint)
        answer = await http.get("/readyz")
        assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
        inside.checks = (Check(name="store", ok=False, required=True, detail="no primary"), mint)
        answer = await http.get("/readyz")
        assert (answer.status_code, answer.json()["status"]) == (503, "unready")
        assert answer.json()["checks"][0]["detail"] == "no primary"


async def test_a_check_that_hangs_or_fails_is_unready_without_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READY_TIMEOUT_S", 0.05)
    inside = Inside(hang=True)
    async with serving(inside) as http:
        answer = await http.get("/readyz")
        assert (answer.status_code, answer.json()["checks"][0]["detail"]) == (503, "no answer in time")
        inside.hang, inside.failure = False, RuntimeError("mongodb://user:hunter2@db")
        answer = await http.get("/readyz")
        assert answer.status_code == 503
        assert "hunter2" not in answer.text


async def test_many_who_ask_at_once_ask_the_store_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READY_CACHE_S", 3600.0)
    inside = Inside()
    async with serving(inside) as http:
        answers = await asyncio.gather(*(http.get("/readyz") for _ in range(20)))
        assert {answer.status_code for answer in answers} == {200}
        assert inside.asked == 1


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/", 404), ("POST", "/metrics", 405), ("GET", "/v1/status", 404)]
)
async def test_there_is_nothing_else(method: str, path: str, status: int) -> None:
    async with serving(Inside()) as http:
        assert (await http.request(method, path)).status_code == status


async def test_a_port_that_is_taken_is_a_configuration_error() -> None:
    inside = Inside()
    health = Health(inside, lambda: (), inside.ready)
    first = HealthServer(health, "127.0.0.1", 0)
    await first.start()
    with pytest.raises(ConfigError, match=f"can't listen on 127.0.0.1:{first.port}"):
        HealthServer(health, "127.0.0.1", first.port)
    with pytest.raises(ConfigError, match="no address of this machine"):
        HealthServer(health, "no.such.host.invalid", 0)
    await first.stop(1)
