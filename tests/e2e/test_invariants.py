"""Invariants that hold in production: a damaged wallet is frozen with a CRITICAL event, and everybody else goes on."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from bson import ObjectId

from tests.support.store import assert_no_secret_twice

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e.conftest import System


FENCE_FEE = 1
"""Of the swap that makes a release final, in sat."""


def events_of(system: System) -> list[dict[str, Any]]:
    return [e for e in system.daemon.get("/v1/events").json()["events"] if e["type"] == "INVARIANT_BROKEN"]


def resolve(system: System, event: dict[str, Any]) -> None:
    answer = system.daemon.post(f"/v1/events/{event['id']}/resolve", {"reason": "repaired by hand"})
    assert answer.status_code == 200, answer.text


def test_reserved_proofs_that_vanish_are_put_back_and_nobody_is_frozen(system: System) -> None:
    owner, neighbour = system.user(), system.user()
    system.fund(owner, 500)
    system.fund(owner, 500)
    system.fund(neighbour, 300)
    invoice = system.invoice(100, pay="PENDING", status="PENDING")
    melt = system.daemon.melt(owner, "main", invoice.invoice, wait=1).json()
    assert melt["state"] == "PENDING", melt
    reserved = next(d for d in system.documents(owner) if d.get("reservation"))
    system.db["cashu_tokens"].update_one(
        {"_id": reserved["_id"]}, {"$set": {"proofs": [], "total_amount": 0}}
    )  # another service's bug
    asyncio.run(system.mint.resolve(invoice.payment_hash, "FAILED"))

    system.daemon.wait_state(melt["id"], "RELEASED", within_s=60)

    assert events_of(system) == []
    assert sum(d["total_amount"] for d in system.documents(owner) if d["status"] == "unspent") == 1000 - FENCE_FEE
    (record,) = system.db["meltd_discrepancies"].find({"type": "RESERVED_TOKEN_CHANGED"})
    assert record["token_id"] == str(reserved["_id"])
    assert system.daemon.melt(owner, "main", system.invoice(50).invoice).json()["state"] == "SETTLED"
    assert system.daemon.melt(neighbour, "main", system.invoice(50).invoice).json()["state"] == "SETTLED"
    assert all(loop["restarts"] == 0 for loop in system.daemon.get("/v1/status").json()["loops"])
    assert_no_secret_twice(system.db)


def test_a_frozen_wallet_is_not_corrected(system: System) -> None:
    owner = system.user()
    now = datetime.now(UTC)
    system.db["meltd_events"].insert_one(
        {
            "_id": str(ObjectId()),
            "identity": f"INVARIANT_BROKEN:wallet:{owner}@main",
            "type": "INVARIANT_BROKEN",
            "subject": f"wallet:{owner}@main",
            "mint": "main",
            "detail": "found by another instance",
            "open": True,
            "opened_at": now,
            "last_seen": now,
            "resolved_at": None,
            "sightings": 1,
            "requires_manual_intervention": True,
            "evidence": {},
        }
    )
    _until(lambda: system.daemon.melt(owner, "main", system.invoice(5).invoice).status_code == 500)
    stolen = asyncio.run(system.wallet.mint(64, amounts=[64]))
    source = system.insert(owner, stolen)
    asyncio.run(system.wallet.spend(stolen))

    report = system.daemon.reconcile(npub=owner)

    assert (report["planned"], report["corrected"]) == (1, 0)
    assert [d["status"] for d in system.documents(owner)] == ["unspent"]
    (event,) = [e for e in events_of(system) if owner in e["subject"]]
    resolve(system, event)
    assert system.daemon.reconcile(npub=owner)["corrected"] == 1
    assert [(str(d["_id"]), d["status"]) for d in system.documents(owner)] == [(source, "spent")]


def test_a_journal_entry_that_can_not_be_read_stops_nobody_and_is_critical(system: System) -> None:
    damaged, owner = system.user(), system.user()
    system.fund(damaged, 300)
    system.fund(owner, 300)
    broken = system.invoice(100, pay="PENDING", status="PENDING")
    whole = system.invoice(100, pay="PENDING", status="PENDING")
    melt = system.daemon.melt(damaged, "main", broken.invoice, wait=1).json()
    other = system.daemon.melt(owner, "main", whole.invoice, wait=1).json()
    entry = system.db["meltd_melts"].find_one({"_id": melt["id"]})
    assert entry is not None
    system.db["meltd_melts"].update_one({"_id": melt["id"]}, {"$unset": {"holder": ""}})

    _until(lambda: any(e["subject"] == f"wallet:{damaged}@main" for e in events_of(system)))
    asyncio.run(system.mint.resolve(whole.payment_hash, "SETTLED"))
    system.daemon.wait_state(other["id"], "SETTLED", within_s=60)

    system.db["meltd_melts"].update_one({"_id": melt["id"]}, {"$set": {"holder": entry["holder"]}})
    asyncio.run(system.mint.resolve(broken.payment_hash, "SETTLED"))
    system.daemon.wait_state(melt["id"], "SETTLED", within_s=60)
    for event in events_of(system):
        resolve(system, event)


def _until(condition: Callable[[], bool], within_s: float = 45.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)
