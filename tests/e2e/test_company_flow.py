"""
A service beside meltd that writes what meltd has reserved, on the real mint, store and daemon (DESIGN section 4).

`python -m tests.company` has the whole table; here is what a user and an operator see of it.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.store import assert_no_secret_twice

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e.conftest import System
    from tests.support.mint import MintProcess


@pytest.fixture
def system(make_system: Callable[..., System], mint: MintProcess) -> System:
    return make_system(mint, settings={"melt.stuck_after_s": 2})


def hanging(system: System, owner: str) -> tuple[dict[str, Any], Any]:
    """A payment that its payee holds."""
    invoice = system.invoice(100, pay="PENDING", status="PENDING")
    melt = system.daemon.melt(owner, "main", invoice.invoice, wait=0).json()
    system.daemon.wait_state(melt["id"], "PENDING")
    return melt, invoice


def open_events(system: System, melt: dict[str, Any]) -> list[str]:
    events = system.daemon.get("/v1/events").json()["events"]
    return [event["type"] for event in events if event["subject"] == f"melt:{melt['id']}"]


@pytest.mark.parametrize(("ends", "state"), [("SETTLED", "SETTLED"), ("FAILED", "RELEASED")])
def test_a_poller_that_fails_pending_documents_keeps_no_payment_from_its_end(
    system: System, ends: str, state: str
) -> None:
    """The change is collected, the value is there, and the story says in plain words who did what."""
    owner = system.user()
    system.fund(owner, 300)
    melt, invoice = hanging(system, owner)
    failed = {"status": "failed", "updatedAt": datetime.now(UTC)}
    changed = system.db["cashu_tokens"].update_many({"npub": owner, "status": "pending"}, {"$set": failed})
    assert changed.modified_count >= 1

    asyncio.run(system.mint.resolve(invoice.payment_hash, ends))
    system.daemon.wait_state(melt["id"], state, within_s=60)

    body = system.daemon.get(f"/v1/melts/{melt['id']}").json()
    left = body["paid_amount"] + body["fees_paid"] + (body["input_fee"] if ends == "SETTLED" else 0) + body["swap_fee"]
    unspent = sum(d["total_amount"] for d in system.documents(owner) if d["status"] == "unspent")
    assert unspent == system.truth(owner) == 300 - left
    assert not [d for d in system.documents(owner) if d["status"] in {"pending", "failed"} or d.get("reservation")]
    assert "marked failed" in body["altered"][0]["what"]
    record = system.db["meltd_discrepancies"].find_one({"type": "RESERVED_TOKEN_CHANGED", "npub": owner})
    assert record is not None
    assert record["state"] == "corrected"
    story = _cli(system, "explain", melt["id"]).stdout
    assert "another writer had changed document" in story
    assert "it was marked failed" in story
    assert "marked failed" in _cli(system, "melts", "show", melt["id"]).stdout
    assert system.db["meltd_events"].count_documents({"type": "INVARIANT_BROKEN"}) == 0
    assert_no_secret_twice(system.db)


def test_a_reserved_document_that_is_deleted_comes_back_when_nothing_was_paid(system: System) -> None:
    owner = system.user()
    system.fund(owner, 300)
    melt, invoice = hanging(system, owner)
    system.db["cashu_tokens"].delete_many({"npub": owner, "status": "pending"})
    assert system.truth(owner) < 300

    asyncio.run(system.mint.resolve(invoice.payment_hash, "FAILED"))
    system.daemon.wait_state(melt["id"], "RELEASED", within_s=60)

    body = system.daemon.get(f"/v1/melts/{melt['id']}").json()
    assert system.truth(owner) == 300 - body["swap_fee"]
    assert sum(d["total_amount"] for d in system.documents(owner) if d["status"] == "unspent") == system.truth(owner)
    assert "deleted" in body["altered"][0]["what"]


def test_a_payment_that_hangs_is_told_of_and_asked_about_seldom(system: System) -> None:
    """And the event closes with it."""
    owner = system.user()
    system.fund(owner, 300)
    melt, invoice = hanging(system, owner)

    _until(lambda: open_events(system, melt) == ["MELT_STUCK"])

    (event,) = [e for e in system.daemon.get("/v1/events").json()["events"] if e["subject"] == f"melt:{melt['id']}"]
    assert event["requires_manual_intervention"] is False
    assert "does not get on" in event["detail"]
    observed = system.daemon.post(
        f"/v1/melts/{melt['id']}/resolve", {"action": "observe", "reason": "I know the payee"}
    )
    assert observed.status_code == 202, observed.text
    refused = system.daemon.post(f"/v1/melts/{melt['id']}/resolve", {"action": "released", "reason": "too slow"})
    assert (refused.status_code, refused.json()["code"]) == (409, "WRONG_STATE")
    asyncio.run(system.mint.resolve(invoice.payment_hash, "SETTLED"))
    system.daemon.wait_state(melt["id"], "SETTLED", within_s=90)
    _until(lambda: open_events(system, melt) == [])


def _cli(system: System, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "daemon", *arguments, "--socket", system.daemon.socket]
    env = {**system.daemon.environment(), "COLUMNS": "300"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, env=env, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    return done


def _until(condition: Callable[[], bool], within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)
