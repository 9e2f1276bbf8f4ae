"""
The CRITICAL path over real parts (DESIGN section 4): the mint has paid and the database is gone, or it went before that.

A store of the test's own is killed and started again on the same port and folder; a receiver takes the webhook.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from pymongo import MongoClient

from daemon.embedded import EmbeddedStore
from tests.e2e.conftest import QUICK, System
from tests.support.daemon import DaemonProcess
from tests.support.mint import MintProcess, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LOST = "DB_FAILURE_AFTER_MINT_SUCCESS"
PATIENT_S = 60.0


class Receiver:
    """Takes webhooks, and keeps them."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        taken = self.taken

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                taken.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def told(self, what: str) -> list[dict[str, Any]]:
        return [one for one in self.taken if one["what"] == what]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class World(System):
    """A system whose store can be killed."""

    store: EmbeddedStore
    receiver: Receiver

    def held_secrets(self) -> set[str]:
        return {
            proof[key] for d in self.db["cashu_tokens"].find({}) for proof in d["proofs"] for key in ("secret", "C")
        }

    def spooled(self) -> list[Path]:
        folder = self.daemon.data / "spool"
        return sorted(folder.glob("*.json")) if folder.exists() else []

    def lose_the_store_after_payment(self, owner: str, invoice: Any) -> dict[str, Any]:
        """Kill the store while the payment runs; the caller's answer."""
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(self.daemon.melt, owner, "main", invoice.invoice, wait=60)
            self.paying(invoice.payment_hash)
            self.store.kill()
            result = answer.result()
        assert self.payments(invoice.payment_hash) == 1
        body: dict[str, Any] = result.json()
        assert result.status_code == 500, body
        return body


@pytest.fixture
def world(mint: MintProcess, tmp_path: Path) -> Iterator[World]:
    store = EmbeddedStore(tmp_path / "store", cache_size="256M", port=free_port())
    receiver = Receiver()
    name = f"critical_{secrets.token_hex(6)}"
    with store, contextlib.closing(receiver):
        client: MongoClient[dict[str, Any]] = MongoClient(store.uri, tz_aware=True, serverSelectionTimeoutMS=20_000)
        daemon = DaemonProcess(
            tmp_path / "daemon",
            mints={"main": mint.url},
            mongo_uri=store.uri,
            database=name,
            settings={**QUICK, "webhook.url": receiver.url, "store.transaction_deadline_s": 2},
        )
        system = World(mint=mint, db=client[name], daemon=daemon)
        system.store, system.receiver = store, receiver
        try:
            with daemon:
                yield system
        finally:
            client.close()


def test_paid_and_the_store_gone_is_told_on_every_way_and_settled_when_it_is_back(world: World) -> None:
    owner = world.user()
    world.fund(owner, 500)
    held = world.held_secrets()
    invoice = world.invoice(100, delay_s=1.5)

    problem = world.lose_the_store_after_payment(owner, invoice)

    assert problem["code"] == "CRITICAL_DB_FAILURE_AFTER_MINT_SUCCESS"
    assert problem["severity"] == "CRITICAL"
    assert problem["requires_manual_intervention"] is False
    assert all(problem[name] for name in ("melt_id", "quote_id", "transaction_id"))
    _until(lambda: bool(world.receiver.told("opened")))
    (notice,) = world.receiver.told("opened")
    assert (notice["type"], notice["subject"]) == (LOST, f"melt:{problem['melt_id']}")
    assert notice["evidence"]["quote_id"] == problem["quote_id"]
    assert f'meltd_critical_events_total{{type="{LOST}"}} 1.0' in world.daemon.metrics()
    logged = [line for line in world.daemon.log_lines() if line.get("event_type") == LOST]
    assert [line["level"] for line in logged] == ["critical"]
    (file,) = world.spooled()
    assert (stat.S_IMODE(file.stat().st_mode), stat.S_IMODE(file.parent.stat().st_mode)) == (0o600, 0o700)
    spooled = json.loads(file.read_text())
    assert spooled["evidence"]["transaction_id"] == problem["transaction_id"]
    assert spooled["evidence"]["outputs"] > 0
    assert spooled["signatures"], "the mint's change was at hand"

    world.store.start()
    settled = world.daemon.wait_state(problem["melt_id"], "SETTLED", within_s=PATIENT_S)

    assert settled["change_amount"] > 0
    assert world.truth(owner) == 500 - 100 - settled["fees_paid"] - settled["input_fee"]
    _until(lambda: not world.spooled())
    _until(lambda: bool(world.receiver.told("resolved")))
    (event,) = world.db["meltd_events"].find({"type": LOST})
    assert event["open"] is False
    assert event["recovery_s"] > 0
    assert world.receiver.told("resolved")[0]["recovery_s"] == event["recovery_s"]
    assert f'meltd_critical_event_recovery_seconds_count{{type="{LOST}"}} 1.0' in world.daemon.metrics()
    assert any(
        line.get("event") == "critical event resolved" and line.get("recovery_s", 0) > 0
        for line in world.daemon.log_lines()
    )
    assert world.payments(invoice.payment_hash) == 1
    secrets_now = held | world.held_secrets()
    everything = json.dumps([world.receiver.taken, spooled]) + world.daemon.log_path.read_text() + str(event)
    assert not [secret for secret in secrets_now if secret in everything]


def test_a_kill_while_the_store_is_gone_loses_neither_the_payment_nor_the_event(world: World) -> None:
    owner = world.user()
    world.fund(owner, 500)
    invoice = world.invoice(100, delay_s=1.5)
    problem = world.lose_the_store_after_payment(owner, invoice)
    _until(lambda: bool(world.spooled()))
    opened_at = json.loads(world.spooled()[0].read_text())["opened_at"]

    world.daemon.kill()
    world.store.start()
    world.daemon.start()

    settled = world.daemon.wait_state(problem["melt_id"], "SETTLED", within_s=PATIENT_S)
    assert world.truth(owner) == 500 - 100 - settled["fees_paid"] - settled["input_fee"]
    _until(lambda: not world.spooled())
    (event,) = world.db["meltd_events"].find({"type": LOST})
    assert event["open"] is False
    assert abs(event["opened_at"].timestamp() - _timestamp(opened_at)) < 1, "it opened before the crash"
    assert world.payments(invoice.payment_hash) == 1


def test_a_store_that_is_gone_before_the_post_is_a_refusal_and_nothing_is_sent(world: World) -> None:
    owner = world.user()
    world.fund(owner, 500)
    invoice = world.invoice(100)
    world.store.kill()

    answer = world.daemon.melt(owner, "main", invoice.invoice)

    assert (answer.status_code, answer.json()["code"]) == (503, "STORE_UNAVAILABLE"), answer.text
    assert answer.headers["retry-after"]
    assert world.payments(invoice.payment_hash) == 0
    assert not world.spooled(), "nothing is lost, so nothing is CRITICAL"
    world.store.start()
    _until(lambda: world.daemon.get("/v1/melts").status_code == 200)
    assert world.daemon.get("/v1/melts").json()["melts"] == []
    assert world.daemon.melt(owner, "main", invoice.invoice).json()["state"] == "SETTLED"
    assert world.payments(invoice.payment_hash) == 1


def _timestamp(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _until(condition: Callable[[], bool], within_s: float = PATIENT_S) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
