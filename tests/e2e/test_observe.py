"""Look first: a database that somebody else writes is only observed until a person says yes; and back again."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from bson import json_util

from tests.support.store import fake_proof

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e.conftest import System
    from tests.support.mint import MintProcess

ROOT = Path(__file__).parents[2]
LOOKING = {
    "mode": "",
    "sweep.interval_s": 1,
    "sweep.warm_interval_s": 1,
    "sweep.look_s": 1,
    "sweep.spent_sample_share": 1.0,
    "restore.interval_s": 2,
    "subscriptions.enabled": "true",
}
"""No choice is made for the operator, and a day's worth of rounds goes by in seconds."""


def fingerprint(system: System) -> str:
    """Every byte of the wallet's two collections, and every index in them."""
    told = []
    for name in ("cashu_tokens", "cashu_wallets"):
        documents = sorted(json_util.dumps(raw, sort_keys=True) for raw in system.db[name].find({}))
        told.append([name, documents, sorted(map(str, system.db[name].list_indexes()))])
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def command(system: System, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``meltd`` as a person types it, without a terminal."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(system.daemon.folder), "PYTHONPATH": str(ROOT)}
    environment |= {"MELTD_SOCKET": system.daemon.socket}
    return subprocess.run(
        [sys.executable, "-m", "daemon", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def eventually(told: Callable[[], Any], *, within_s: float = 40.0) -> Any:
    deadline = time.monotonic() + within_s
    while not (found := told()):
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.1)
    return found


@dataclass
class Planted:
    """Drift of each kind that a rule acts on, and what is nobody's drift; ids by what they are."""

    users: dict[str, str]
    ids: dict[str, str]


def plant(system: System) -> Planted:
    users: dict[str, str] = {}
    ids: dict[str, str] = {}

    def fund(name: str, amount: int, **more: Any) -> None:
        users[name] = system.user()
        ids[name] = system.fund(users[name], amount, **more)

    fund("clean", 64)
    fund("gone", 32)
    fund("half", 48, amounts=[32, 16])
    fund("lost", 16, status="spent")
    fund("failed", 8, status="failed")
    fund("pending", 4, status="pending")
    fund("sent", 2, transaction_type="sent")
    fund("paid", 128)
    spend(system, ids["gone"])
    spend(system, ids["half"], first=1)
    spend(system, ids["sent"])
    # What a wallet leaves that keeps a proof unchanged: no drift, whichever document one looks at.
    kept = document(system, ids["paid"])["proofs"]
    system.db["cashu_tokens"].update_one({"_id": document(system, ids["paid"])["_id"]}, {"$set": {"status": "spent"}})
    ids["kept"] = system.insert(users["paid"], kept, transaction_type="change", transaction_id="x_keep")
    # Counted twice, and a user whose spent document is unspent again.
    users["twice"] = system.user()
    twice = asyncio.run(system.wallet.mint(1))
    ids["twice"] = system.insert(users["twice"], twice)
    ids["again"] = system.insert(users["twice"], twice)
    from datetime import UTC, datetime

    users["rolled"] = system.user()
    ids["rolled"] = system.fund(users["rolled"], 256, spent_at=datetime.now(UTC))
    return Planted(users=users, ids=ids)


def document(system: System, token_id: str) -> dict[str, Any]:
    return next(raw for raw in system.db["cashu_tokens"].find({}) if str(raw["_id"]) == token_id)


def spend(system: System, token_id: str, first: int | None = None) -> None:
    """Somebody swaps proofs of a document at the mint and says nothing."""
    asyncio.run(system.wallet.spend(document(system, token_id)["proofs"][:first]))


@pytest.fixture
def looking(make_system: Callable[..., System], mint: MintProcess) -> tuple[System, Planted]:
    system = make_system(mint, settings=LOOKING, start=False)
    planted = plant(system)
    system.daemon.start()
    return system, planted


def test_nothing_of_the_wallets_is_changed_before_a_yes_whatever_is_asked(looking: tuple[System, Planted]) -> None:
    """A day's worth of tours over planted drift, and everything that a caller can ask for."""
    system, planted = looking
    before = fingerprint(system)
    daemon = system.daemon
    status = daemon.get("/v1/status").json()
    assert (status["mode"], "nobody has chosen" in status["mode_reason"]) == ("observe", True)

    owner = planted.users["clean"]
    refused = daemon.melt(owner, "main", system.invoice(8).invoice)
    assert (refused.status_code, refused.json()["code"]) == (503, "OBSERVING")
    report = daemon.reconcile()
    assert (report["dry_run"], report["corrected"], report["actions_performed"]) == (True, 0, [])
    assert report["planned"] >= 3
    assert report["blocked"] is True
    assert "observes" in report["observing"]
    daemon.reconcile(statuses=["spent", "failed"])
    repair = daemon.post("/v1/repairs", {"type": "all", "dry_run": False, "reason": "x"}).json()
    assert (repair["dry_run"], repair["applied"], repair["duplicates"]) == (True, 0, 1)
    daemon.post("/v1/restore", {})
    made = daemon.post("/v1/plans", {"reason": "look"}).json()
    if made.get("plan"):
        plan_id = made["plan"]["id"]
        daemon.post(f"/v1/plans/{plan_id}/approve", {"reason": "x"})
        assert daemon.post(f"/v1/plans/{plan_id}/apply", {}).json()["code"] == "OBSERVING"
    assert daemon.post("/v1/survey", {}).status_code == 200
    assert command(system, "adopt", "--dry-run").returncode == 0

    def toured() -> bool:
        sweep = daemon.get("/v1/status").json()["mints"][0]["sweep"]
        return sweep is not None and sweep["tour"] >= 8

    eventually(toured)
    found = daemon.get("/v1/discrepancies").json()["discrepancies"]
    assert {"DB_UNSPENT_MINT_SPENT", "DB_PENDING_MINT_UNSPENT"} <= {one["type"] for one in found}
    assert fingerprint(system) == before
    assert system.db["meltd_melts"].count_documents({}) == 0
    assert daemon.stop() == 0
    daemon.start()
    assert daemon.get("/v1/status").json()["mode"] == "observe", "asked by nobody, it waits on"
    assert fingerprint(system) == before


def test_what_correct_does_is_what_the_survey_said(looking: tuple[System, Planted]) -> None:
    """Item by item: documents, proofs, actions and value; then the first change comes, and not before."""
    system, planted = looking
    before = fingerprint(system)
    daemon, ids = system.daemon, planted.ids
    survey = daemon.post("/v1/survey", {}).json()
    assert survey["errors"] == []
    assert survey["complete"] is True
    assert (survey["documents"], survey["users"]) == (12, len(planted.users))
    said = {(one["token_id"], one["action"], one["value"], tuple(sorted(one["ys"]))) for one in survey["changes"]}
    actions = {one["token_id"]: one["action"] for one in survey["changes"]}
    assert actions == {
        ids["gone"]: "mark_spent",
        ids["half"]: "mark_spent",
        ids["lost"]: "reclaim",
        ids["failed"]: "reclaim",
        ids["pending"]: "release",
        ids["sent"]: "mark_spent",
    }
    assert survey["sent_as_unspent"] == {"sat": 2}
    patterns = {one["pattern"]: one["proofs"] for one in survey["copies"]}
    assert patterns == {"kept": 1, "counted_twice": 1}
    assert survey["others"]["rolled_back"] == 1
    assert survey["others"]["somebody_rolls_back"] is True
    wanted = [one for one in survey["indexes"] if one["state"] == "missing"]
    assert any(one["on_a_yes"] for one in wanted)
    assert all(one["seconds"] > 0 for one in wanted)
    assert fingerprint(system) == before

    done = command(system, "adopt", "--reason", "looked at on Monday", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["adopted"]["mode"] == "correct"
    daemon.stop()
    daemon.start()  # an embedded store makes its indexes at start alone
    assert all(one["on_a_yes"] or one["state"] == "stands" for one in daemon.get("/v1/mode").json()["indexes"])

    def corrected() -> bool:
        daemon.reconcile(statuses=["unspent", "pending", "spent", "failed"])
        return not daemon.post("/v1/survey", {}).json()["changes"]

    eventually(corrected)
    performed = set()
    for entry in system.db["meltd_audit"].find({}):
        if entry["reason"] in {"correction_split", "reclaimed"}:
            continue
        action = "release" if entry["to_status"] == "unspent" else "mark_spent"
        performed.add((entry["token_id"], action, entry["amount"], tuple(sorted(entry["ys"]))))
    for entry in system.db["meltd_melts"].find({"kind": "reclaim"}):
        inputs = entry["inputs"]
        ys = tuple(sorted(ref["y"] for ref in inputs))
        performed.add((entry["source_token_ids"][0], "reclaim", sum(ref["amount"] for ref in inputs), ys))
    assert performed == said
    for owner in planted.users.values():
        rows = [row for wallet in daemon.balances(owner)["wallets"] for row in wallet["balances"].items()]
        assert rows


def test_a_setting_decides_where_nobody_has_chosen_and_the_more_careful_holds(
    make_system: Callable[..., System], mint: MintProcess
) -> None:
    system = make_system(mint, settings=LOOKING | {"mode": "observe"}, start=False)
    owner = system.user()
    system.fund(owner, 64)
    daemon = system.daemon.start()
    assert daemon.get("/v1/mode").json()["mode"] == "observe"
    refused = daemon.post("/v1/mode", {"mode": "correct", "reason": "x"})
    assert refused.json()["code"] == "WRONG_STATE", "the setting holds"
    daemon.stop()
    daemon.environment_changes["MELTD_MODE"] = "correct"
    daemon.start()
    told = daemon.get("/v1/mode").json()
    assert (told["mode"], told["chosen"]) == ("correct", True), "a container's setting is a person's word"
    assert daemon.post("/v1/mode", {"mode": "observe", "reason": "moving"}).json()["mode"] == "observe"
    daemon.stop()
    daemon.start()
    assert daemon.get("/v1/mode").json()["mode"] == "observe", "what a person chose later is more careful"
    assert daemon.post("/v1/mode", {"mode": "correct", "reason": "moved"}).json()["mode"] == "correct"
    assert daemon.melt(owner, "main", system.invoice(8).invoice).status_code == 200
    daemon.stop()
    system.db["meltd_mode"].delete_many({})
    daemon.environment_changes["MELTD_MODE"] = ""
    daemon.start()
    told = daemon.get("/v1/mode").json()
    assert (told["mode"], told["chosen"]) == ("correct", True)
    assert "journal" in told["reason"]


def test_back_to_observe_waits_for_open_entries_or_is_refused(
    make_system: Callable[..., System], mint: MintProcess
) -> None:
    system = make_system(mint, settings={"mode": "correct"})
    owner = system.user()
    system.fund(owner, 64)
    daemon = system.daemon
    slow = system.invoice(8, delay_s=4)
    open_melt = daemon.melt(owner, "main", slow.invoice, wait=0)
    assert open_melt.status_code == 202
    refused = daemon.post("/v1/mode", {"mode": "observe", "reason": "moving"})
    assert refused.json()["code"] == "WRONG_STATE"
    assert daemon.get("/v1/mode").json()["mode"] == "correct"
    told = daemon.post("/v1/mode", {"mode": "observe", "reason": "moving", "end_open": True}).json()
    assert told["mode"] == "observe"
    assert daemon.get(f"/v1/melts/{open_melt.json()['id']}").json()["state"] == "SETTLED"
    assert daemon.melt(owner, "main", system.invoice(8).invoice).json()["code"] == "OBSERVING"
    assert system.payments(slow.payment_hash) == 1


def test_an_empty_database_is_corrected_and_one_that_is_filled_before_anything_happened_is_not(
    make_system: Callable[..., System], mint: MintProcess
) -> None:
    """Who starts first must not decide: as long as meltd has done nothing there, somebody else's documents are looked at."""
    system = make_system(mint, settings=LOOKING)
    told = system.daemon.get("/v1/mode").json()
    assert (told["mode"], told["chosen"]) == ("correct", False)
    system.insert(system.user(), [fake_proof(8)])
    system.daemon.stop()
    system.daemon.start()
    assert system.daemon.get("/v1/mode").json()["mode"] == "observe"
