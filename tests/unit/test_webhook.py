"""The webhook: delivered in order, tried again, given up within bounds; nothing waits for it and no token is logged."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from daemon.supervisor import LoopContext
from daemon.system import SystemEntropy
from daemon.webhook import Webhook
from melt.model import CriticalEvent, EventType, MintAlias, RaisedEvent
from tests.support.running_api import eventually
from tests.support.scripted_mint import Asked, Say, ScriptedMint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest

AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
PATH = "/hook/token-of-the-operator"


def raised(subject: str = "melt:m", **changes: object) -> RaisedEvent:
    fields: dict[str, object] = {
        "type": EventType.DB_FAILURE_AFTER_MINT_SUCCESS,
        "subject": subject,
        "mint": MintAlias("main"),
        "detail": "the mint has paid",
        "opened_at": AT,
        "requires_manual_intervention": False,
        "evidence": {"quote_id": "q", "long": "x" * 10_000},
        "signatures": ("00ad:64:02ab:e:s",),
    }
    return RaisedEvent(**{**fields, **changes})  # type: ignore[arg-type]


@dataclass
class Told:
    outcomes: list[bool] = field(default_factory=list)

    def webhook_delivered(self, *, ok: bool) -> None:
        self.outcomes.append(ok)


@contextlib.asynccontextmanager
async def running(
    server: ScriptedMint, told: Told, *, timeout_s: float = 5.0, url: str | None = None
) -> AsyncIterator[Webhook]:
    webhook = Webhook(
        url or f"{server.url}{PATH}",
        timeout_s=timeout_s,
        instance_id="i-1",
        metrics=told,
        entropy=SystemEntropy(),
        pause_first_s=0.01,
    )
    stopping = asyncio.Event()
    loop = asyncio.create_task(webhook.run(LoopContext("webhook", stopping)))
    try:
        yield webhook
    finally:
        stopping.set()
        await asyncio.wait_for(loop, 20)


async def test_an_opened_and_a_resolved_event_are_posted_in_order() -> None:
    told = Told()
    async with ScriptedMint({PATH: Say(status=204)}) as server, running(server, told) as webhook:
        webhook.opened(raised())
        webhook.resolved(
            CriticalEvent(
                id="e",
                type=EventType.DB_FAILURE_AFTER_MINT_SUCCESS,
                subject="melt:m",
                mint=MintAlias("main"),
                detail="the mint has paid",
                opened_at=AT,
                last_seen=AT,
                resolved_at=AT.replace(minute=2),
                sightings=1,
                requires_manual_intervention=False,
                resolution="the melt has settled",
            )
        )
        await eventually(lambda: len(told.outcomes) == 2)

        first, second = (asked.body for asked in server.asked_of(PATH))
        assert (first["what"], first["type"], first["subject"]) == (
            "opened",
            "DB_FAILURE_AFTER_MINT_SUCCESS",
            "melt:m",
        )
        assert first["evidence"]["quote_id"] == "q"
        assert len(first["evidence"]["long"]) == 500
        assert "signatures" not in first
        assert (second["what"], second["recovery_s"], second["reason"]) == ("resolved", 120.0, "the melt has settled")
        assert first["instance_id"] == "i-1"
        assert first["id"] != second["id"]
    assert told.outcomes == [True, True]


async def test_what_is_not_taken_is_tried_again_until_it_is() -> None:
    told, answers = Told(), iter([500, 429, 302])

    def answer(_: Asked) -> Say:
        return Say(status=next(answers, 200), headers={"Location": "http://127.0.0.1:1/"})

    async with ScriptedMint({PATH: answer}) as server, running(server, told) as webhook:
        webhook.opened(raised())
        await eventually(lambda: True in told.outcomes)
        assert len({asked.body["id"] for asked in server.asked_of(PATH)}) == 1
    assert told.outcomes == [False, False, False, True]
    assert webhook.queued == 0


async def test_after_so_many_attempts_a_notice_is_given_up_and_the_next_one_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("daemon.webhook.ATTEMPTS_MAX", 3)
    told = Told()

    def answer(asked: Asked) -> Say:
        return Say(status=500 if asked.body["subject"] == "bad" else 200)

    async with ScriptedMint({PATH: answer}) as server, running(server, told) as webhook:
        webhook.opened(raised("bad"))
        webhook.opened(raised("good"))
        await eventually(lambda: True in told.outcomes)
    assert told.outcomes == [False, False, False, True]


async def test_a_receiver_that_never_answers_costs_its_time_out_and_nobody_waits() -> None:
    told = Told()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(3600)

    async with (
        ScriptedMint({PATH: silent}) as server,
        running(server, told, timeout_s=0.05) as webhook,
    ):
        webhook.opened(raised())
        await eventually(lambda: bool(told.outcomes))
    assert True not in told.outcomes


async def test_the_queue_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.webhook.QUEUE_MAX", 2)
    told = Told()
    webhook = Webhook("http://127.0.0.1:1/", timeout_s=1, instance_id="i", metrics=told, entropy=SystemEntropy())
    for number in range(5):
        webhook.opened(raised(f"melt:{number}"))
    assert webhook.queued == 2
    assert told.outcomes == [False] * 3


async def test_the_token_in_the_address_is_in_no_log_line(capsys: pytest.CaptureFixture[str]) -> None:
    told = Told()
    async with ScriptedMint({PATH: Say(status=403)}) as server:
        async with running(server, told) as webhook:
            webhook.opened(raised())
            await eventually(lambda: bool(told.outcomes))
        async with running(server, told, url=f"http://127.0.0.1:1{PATH}") as webhook:
            webhook.opened(raised())
            await eventually(lambda: len(told.outcomes) > 2)
    output = capsys.readouterr()
    assert "token-of-the-operator" not in output.out + output.err
    assert "webhook took no notice" in output.out + output.err
