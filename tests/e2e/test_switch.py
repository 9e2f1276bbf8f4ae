"""Back to observe under load: two daemons, many melts in flight, kill -9; no write after it, no entry left behind."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from bson import json_util

from tests.e2e.conftest import QUICK
from tests.support.daemon import DaemonProcess

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e.conftest import System
    from tests.support.mint import MintProcess

MELTS = int(os.environ.get("MELTD_TEST_MELTS", "200"))
USERS = 10


def tokens_bytes(system: System) -> str:
    told = sorted(json_util.dumps(raw, sort_keys=True) for raw in system.db["cashu_tokens"].find({}))
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


# httpx leaks the socket of a connection that a killed daemon does not take.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_the_mode_is_switched_under_melts_in_flight_by_two_daemons_and_a_kill(
    make_system: Callable[..., System], mint: MintProcess, store_process: Any, tmp_path: Any
) -> None:
    system = make_system(
        mint, settings={"mode": "correct", "lease_s": 3, "melt.in_flight_max": 500, "melt.in_flight_per_mint_max": 300}
    )
    users = [system.user() for _ in range(USERS)]
    for owner in users:
        for _ in range(MELTS // USERS // 5):
            system.fund(owner, 40, amounts=[8] * 5)
    other = DaemonProcess(
        tmp_path / "second",
        mints={"main": mint.url},
        mongo_uri=store_process.uri,
        database=system.daemon._database,
        settings=QUICK
        | {"mode": "correct", "lease_s": 3, "melt.in_flight_max": 500, "melt.in_flight_per_mint_max": 300},
    )
    # One seed for one database.
    other.data.mkdir(parents=True)
    (other.data / "seed").write_bytes((system.daemon.data / "seed").read_bytes())
    (other.data / "seed").chmod(0o600)
    daemons = [system.daemon, other]
    before = sum(system.truth(owner) for owner in users)
    hashes: list[str] = []
    with other, ThreadPoolExecutor(16) as pool, ThreadPoolExecutor(1) as person:

        def pay(at: int) -> str:
            invoice = asyncio.run(mint.invoice(5, delay_s=(0, 0.3, 1)[at % 3]))
            hashes.append(invoice.payment_hash)
            with suppress(httpx.HTTPError):
                answer = daemons[at % 2].melt(
                    users[at % USERS], "main", invoice.invoice, key=secrets.token_hex(8), wait=5
                )
                return str(answer.json().get("code") or answer.json().get("state"))
            return "no answer"

        told = [pool.submit(pay, at) for at in range(MELTS)]
        deadline = time.monotonic() + 60
        while system.db["meltd_melts"].count_documents({}) < min(20, MELTS // 4):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        switching = person.submit(
            other.post, "/v1/mode", {"mode": "observe", "reason": "moving the service", "end_open": True}
        )
        time.sleep(0.3)
        system.daemon.kill()
        with suppress(httpx.HTTPError):
            switching.result()
        system.daemon.start()
        deadline = time.monotonic() + 90
        while system.db["meltd_mode"].find_one({"_id": "mode"})["mode"] != "observe":
            assert time.monotonic() < deadline, system.daemon.log_tail()
            time.sleep(0.05)
        at_the_switch = tokens_bytes(system)
        assert system.db["meltd_melts"].count_documents({"state": {"$nin": ["SETTLED", "RELEASED"]}}) == 0
        outcomes = [one.result() for one in told]
        for daemon in daemons:
            answer = daemon.melt(users[0], "main", asyncio.run(mint.invoice(5)).invoice)
            assert answer.json()["code"] == "OBSERVING", answer.text
            daemon.reconcile()
        assert tokens_bytes(system) == at_the_switch, "no write after the switch"
    assert "OBSERVING" in outcomes
    paid = list(system.db["meltd_melts"].find({"state": "SETTLED"}))
    payments = asyncio.run(mint.payments())
    assert sum(payments[one].paid for one in hashes if one in payments) == len(paid), (
        "each payment is in the journal, once"
    )
    spent = sum(
        one["amount"] + one["fees_paid"] + one["input_fee"] + one["swap_fee"] + one["shortfall"] for one in paid
    )
    fees = sum(one["swap_fee"] for one in system.db["meltd_melts"].find({"state": "RELEASED"}))
    assert sum(system.truth(owner) for owner in users) == before - spent - fees, "to the sat"
    assert system.db["cashu_tokens"].count_documents({"status": "pending"}) == 0
