"""Reconciliation on the real mint and store: found, corrected by rule, written down, and never made worse (DESIGN section 5)."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from bson import ObjectId, json_util

from melt.ecash import y_of
from tests.support.front_mint import FrontMint, keysets_rules
from tests.support.mint import MintProcess, free_port
from tests.support.store import KEYSET, assert_no_secret_twice, assert_totals, fake_proof, insert_token, token

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e.conftest import System

FIXTURES = Path(__file__).parents[1] / "fixtures" / "cashu_tokens.extended.json"
ALL = ["unspent", "pending", "spent", "failed"]
OLD = datetime.now(UTC) - timedelta(days=2)
CONFIRM_S = 0.6
WITHIN_S = 40.0


# --- arranging and waiting ---


def spend(system: System, proofs: list[dict[str, Any]]) -> None:
    asyncio.run(system.wallet.spend(proofs))


def proofs_of(system: System, token_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = token(system.db, token_id)["proofs"]
    return found


def reconcile(system: System, owner: str, **more: Any) -> dict[str, Any]:
    return system.daemon.reconcile(npub=owner, statuses=ALL, **more)


def reconcile_twice(system: System, owner: str) -> dict[str, Any]:
    """Two rounds, so far apart that the second confirms the first. The second's report."""
    reconcile(system, owner)
    time.sleep(CONFIRM_S)
    return reconcile(system, owner)


def until(what: Callable[[], Any], describe: Callable[[], object], within_s: float = WITHIN_S) -> Any:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        found = what()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(describe())


def sweep_of(system: System, alias: str = "main") -> dict[str, Any]:
    return system.db["meltd_sweeps"].find_one({"_id": alias}) or {}


def wait_tours(system: System, alias: str = "main", *, more: int = 1) -> dict[str, Any]:
    """Until ``more`` further tours of this mint have ended well."""
    ended = sweep_of(system, alias)
    wanted = ended.get("tour", 0) + more

    def done() -> bool:
        record = sweep_of(system, alias)
        finished = record.get("finished_at") is not None and record.get("error") is None
        return bool(record.get("tour", 0) >= wanted and finished)

    until(done, lambda: f"{sweep_of(system, alias)}\n{system.daemon.log_tail()}")
    return sweep_of(system, alias)


def show_that_the_mint_remembers(system: System) -> None:
    """A document that both sides call spent: without one, no value is taken back from a mint (ADR 19)."""
    spend(system, proofs_of(system, system.fund(system.user(), 4, status="spent")))


def audit_of(system: System, token_id: str) -> list[dict[str, Any]]:
    return sorted(system.db["meltd_audit"].find({"token_id": token_id}), key=lambda entry: entry["at"])


def discrepancies_of(system: System, token_id: str) -> list[dict[str, Any]]:
    return list(system.db["meltd_discrepancies"].find({"token_id": token_id}))


def tokens_of(system: System, owner: str) -> dict[str, dict[str, Any]]:
    return {str(d["_id"]): d for d in system.documents(owner)}


def unspent(system: System, owner: str) -> int:
    return sum(int(d["total_amount"]) for d in system.documents(owner) if d["status"] == "unspent")


def open_events(system: System) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = system.daemon.get("/v1/events", open="true").json()["events"]
    return [event for event in events if event.get("resolved_at") is None]


def front_system(make_system: Callable[..., System], front: FrontMint, mint: MintProcess, **settings: Any) -> System:
    """A daemon that sees the mint through ``front``; documents carry the front's URL."""
    system = make_system(mint, start=False, settings=settings)
    system.daemon._mints["main"] = front.url
    system.daemon.start()
    return system


# --- the matrix, for real ---


def test_what_was_spent_elsewhere_is_marked_spent_at_once(system: System) -> None:
    owner = system.user()
    source = system.fund(owner, 96)
    spend(system, proofs_of(system, source))

    report = reconcile(system, owner)

    assert (report["corrected"], report["errors"]) == (1, [])
    document = token(system.db, source)
    assert (document["status"], document["rev"]) == ("spent", 1)
    assert document["spent_at"] is not None
    assert unspent(system, owner) == system.truth(owner) == 0
    (entry,) = audit_of(system, source)
    assert (entry["from_status"], entry["to_status"], entry["amount"]) == ("unspent", "spent", 96)
    assert entry["reason"] == "DB_UNSPENT_MINT_SPENT"
    (record,) = discrepancies_of(system, source)
    assert (record["_id"], record["state"], record["value"]) == (entry["discrepancy_id"], "corrected", 96)
    assert record["severity"] == "HIGH"


def test_a_document_of_which_some_proofs_are_gone_is_split(system: System) -> None:
    owner = system.user()
    source = system.fund(owner, 127)
    before = token(system.db, source)
    gone = before["proofs"][::2]
    spend(system, gone)

    reconcile(system, owner)

    documents = tokens_of(system, owner)
    spent = documents.pop(source)
    ((sibling_id, sibling),) = documents.items()
    assert [p["secret"] for p in spent["proofs"]] == [p["secret"] for p in gone]
    assert (spent["status"], sibling["status"]) == ("spent", "unspent")
    assert sibling["transaction_type"] == "change"
    assert sibling["transaction_id"] == f"{before['transaction_id']}_keep"
    assert sibling["metadata"]["parent_transaction_id"] == before["transaction_id"]
    kept = [p for p in before["proofs"] if p not in gone]
    assert sibling["proofs"] == kept, "moved as they were, with everything that they carried"
    assert unspent(system, owner) == system.truth(owner) == sum(p["amount"] for p in kept)
    assert_totals(system.db)
    assert_no_secret_twice(system.db)
    assert len(audit_of(system, source)) == len(audit_of(system, sibling_id)) == 1


@pytest.mark.parametrize("reserved", [False, True], ids=["left pending", "reserved by no melt"])
def test_a_forgotten_pending_document_is_released_after_two_sightings(system: System, *, reserved: bool) -> None:
    owner = system.user()
    more: dict[str, Any] = {"reservation": {"melt_id": "gone", "at": OLD}} if reserved else {}
    source = system.fund(owner, 31, status="pending", created_at=OLD, **more)

    first = reconcile(system, owner)
    assert (first["planned"], first["corrected"]) == (1, 0), "one sighting proves little (I6)"
    assert token(system.db, source)["status"] == "pending"
    assert discrepancies_of(system, source)[0]["state"] == "open"
    time.sleep(CONFIRM_S)
    assert reconcile(system, owner)["corrected"] == 1

    document = token(system.db, source)
    assert document["status"] == "unspent"
    assert "reservation" not in document
    (entry,) = audit_of(system, source)
    assert (entry["from_status"], entry["to_status"]) == ("pending", "unspent")
    assert unspent(system, owner) == system.truth(owner) == 31


def test_an_orphaned_document_of_which_some_is_gone_gives_nothing_back_at_the_first_sighting(system: System) -> None:
    owner = system.user()
    reservation = {"melt_id": "gone", "at": OLD}
    source = system.fund(owner, 7, status="pending", created_at=OLD, reservation=reservation)
    kept, *gone = proofs_of(system, source)
    spend(system, gone)

    reconcile(system, owner)
    documents = tokens_of(system, owner)
    spent = documents.pop(source)
    ((_, rest),) = documents.items()
    assert (spent["status"], rest["status"]) == ("spent", "pending")
    assert [p["secret"] for p in rest["proofs"]] == [kept["secret"]]
    assert "reservation" not in rest

    time.sleep(1.1)  # the rest was written just now, and has a grace time of its own
    reconcile_twice(system, owner)
    assert unspent(system, owner) == system.truth(owner) == kept["amount"]


def test_a_young_pending_document_is_left_alone(make_system: Callable[..., System], mint: MintProcess) -> None:
    system = make_system(mint, settings={"sweep.pending_grace_s": 3600})
    owner = system.user()
    source = system.fund(owner, 31, status="pending")
    reconcile_twice(system, owner)
    assert token(system.db, source)["status"] == "pending"
    (record,) = discrepancies_of(system, source)
    assert (record["action"], record["state"], record["sightings"]) == ("watch", "open", 2)


def test_a_pending_document_that_was_spent_is_marked(system: System) -> None:
    owner = system.user()
    source = system.fund(owner, 15, status="pending", created_at=OLD)
    spend(system, proofs_of(system, source))
    assert reconcile(system, owner)["corrected"] == 1
    assert token(system.db, source)["status"] == "spent"
    assert discrepancies_of(system, source)[0]["type"] == "DB_PENDING_MINT_SPENT"


@pytest.mark.parametrize("status", ["spent", "failed"])
def test_value_behind_a_final_document_comes_back_as_new_proofs(system: System, status: str) -> None:
    owner = system.user()
    show_that_the_mint_remembers(system)
    source = system.fund(owner, 100, status=status)
    before = token(system.db, source)

    reconcile(system, owner)
    assert tokens_of(system, owner).keys() == {source}, "one sighting proves little (I6)"
    time.sleep(CONFIRM_S)
    report = reconcile(system, owner)

    assert report["corrected"] == 1, report
    documents = tokens_of(system, owner)
    assert documents.pop(source) == before, f"{status} is final (I7)"
    ((made_id, made),) = documents.items()
    assert (made["status"], made["transaction_id"]) == ("unspent", f"{before['transaction_id']}_reclaimed")
    (entry,) = system.db["meltd_melts"].find({"npub": owner})
    assert (entry["kind"], entry["state"]) == ("reclaim", "SETTLED")
    assert made["total_amount"] == 100 - entry["swap_fee"] == system.truth(owner)
    assert [e["to_status"] for e in audit_of(system, made_id)] == ["unspent"]
    assert discrepancies_of(system, source)[0]["state"] == "corrected"
    assert_no_secret_twice(system.db)
    after = tokens_of(system, owner)
    again = reconcile_twice(system, owner)
    assert (again["found"], again["corrected"]) == ([], 0)
    assert tokens_of(system, owner) == after


@pytest.mark.parametrize("status", ["spent", "failed"])
def test_what_was_sent_is_recorded_as_unclaimed_and_never_taken_back(system: System, status: str) -> None:
    owner = system.user()
    source = system.fund(owner, 50, status=status, transaction_type="sent", metadata={"source": "p2p"})
    before = tokens_of(system, owner)
    for _ in range(3):
        report = reconcile(system, owner)
        assert [one["action"] for one in report["found"]] == ["record"]
        time.sleep(CONFIRM_S)
    assert tokens_of(system, owner) == before
    assert system.db["meltd_melts"].count_documents({"npub": owner}) == 0
    spend(system, proofs_of(system, source))  # the recipient redeems it, in spite of us


def test_a_copy_in_a_sent_document_keeps_a_reclaim_from_its_recipients_money(
    make_system: Callable[..., System], mint: MintProcess
) -> None:
    """Old code stored what it sent once more: the source is spent, its proofs are the recipient's to redeem."""
    system = make_system(mint, start=False)
    owner = system.user()
    source = system.fund(owner, 21, status="spent")
    system.insert(owner, proofs_of(system, source), status="spent", transaction_type="sent")
    system.daemon.start()
    for _ in range(3):
        assert reconcile(system, owner)["corrected"] == 0
        time.sleep(CONFIRM_S)
    assert system.truth(owner) == 21
    assert system.db["meltd_melts"].count_documents({}) == 0


def test_proofs_that_no_mint_signed_read_unspent_and_are_tried_once(system: System) -> None:
    """UNSPENT proves nothing by itself (I6): the mint refuses them, and each try would leave a journal entry."""
    owner = system.user()
    show_that_the_mint_remembers(system)
    keyset_id = asyncio.run(system.wallet.active_keyset())
    source = system.insert(owner, [fake_proof(8, keyset_id=keyset_id, C=y_of("a point"))], status="spent")
    system.insert(owner, [fake_proof(8, keyset_id=keyset_id, C="02" + "ff" * 32)], status="spent")
    before = tokens_of(system, owner)
    for _ in range(4):
        assert reconcile(system, owner)["corrected"] == 0
        time.sleep(CONFIRM_S)
    assert tokens_of(system, owner) == before
    (entry,) = system.db["meltd_melts"].find({"npub": owner})
    assert (entry["kind"], entry["state"], entry["error_code"]) == ("reclaim", "RELEASED", "PROOF_REFUSED")
    assert discrepancies_of(system, source)[0]["state"] == "open"


def test_a_live_melts_tokens_are_its_own(system: System) -> None:
    owner = system.user()
    system.fund(owner, 300)
    invoice = system.invoice(100, pay="PENDING", status="PENDING")
    melt = system.daemon.melt(owner, "main", invoice.invoice, wait=1).json()
    assert melt["state"] in {"MELTING", "PENDING"}, melt
    before = {i: d for i, d in tokens_of(system, owner).items() if d["status"] == "pending"}
    assert before

    for _ in range(3):
        report = reconcile(system, owner)
        assert (report["planned"], report["corrected"]) == (0, 0), report
        time.sleep(CONFIRM_S)
    after = tokens_of(system, owner)
    assert {i: after[i] for i in before} == before

    asyncio.run(system.mint.resolve(invoice.payment_hash, "SETTLED"))
    done = system.daemon.wait_state(melt["id"], "SETTLED")
    assert system.truth(owner) == 300 - 100 - done["fees_paid"] - done["input_fee"]
    assert system.payments(invoice.payment_hash) == 1


# --- plans ---


def plant(system: System, owner: str) -> dict[str, str]:
    """One document of each kind of drift that a rule corrects, one that it only records, and two without drift."""
    planted = {
        "whole": system.fund(owner, 40),
        "part": system.fund(owner, 63),
        "pending": system.fund(owner, 9, status="pending", created_at=OLD),
        "pending spent": system.fund(owner, 5, status="pending", created_at=OLD),
        "orphaned": system.fund(
            owner, 12, status="pending", created_at=OLD, reservation={"melt_id": "gone", "at": OLD}
        ),
        "spent": system.fund(owner, 70, status="spent"),
        "failed": system.fund(owner, 33, status="failed"),
        "sent": system.fund(owner, 21, status="spent", transaction_type="sent"),
        "fine": system.fund(owner, 64),
    }
    spend(system, proofs_of(system, planted["whole"]))
    spend(system, proofs_of(system, planted["part"])[1:4])
    spend(system, proofs_of(system, planted["pending spent"]))
    done = system.fund(owner, 8, status="spent")
    spend(system, proofs_of(system, done))
    return planted


def in_short(report: dict[str, Any]) -> set[tuple[Any, ...]]:
    return {(f["type"], f["severity"], f["action"], f["subject"], f["value"], tuple(f["ys"])) for f in report["found"]}


def test_a_dry_run_says_exactly_what_a_real_one_does(system: System) -> None:
    owner = system.user()
    planted = plant(system, owner)
    kept = ("cashu_tokens", "meltd_melts", "meltd_audit", "meltd_discrepancies", "meltd_counters", "meltd_events")
    before = {name: list(system.db[name].find({}).sort("_id", 1)) for name in kept}
    dry = reconcile(system, owner, dry_run=True)
    assert dry == {**dry, "dry_run": True, "corrected": 0, "errors": []}
    assert {name: list(system.db[name].find({}).sort("_id", 1)) for name in kept} == before, "nothing is written"
    assert dry["planned"] == 7
    assert {f["token_id"] for f in dry["found"]} == {i for n, i in planted.items() if n != "fine"}

    real = reconcile(system, owner)
    assert in_short(real) == in_short(dry)
    assert real["planned"] == dry["planned"]
    time.sleep(CONFIRM_S)
    second = reconcile(system, owner)
    assert real["corrected"] + second["corrected"] == dry["planned"]

    sighted = {n: token(system.db, i)["status"] for n, i in planted.items()}
    assert sighted == {
        "whole": "spent",
        "part": "spent",
        "pending": "unspent",
        "pending spent": "spent",
        "orphaned": "unspent",
        "spent": "spent",
        "failed": "failed",
        "sent": "spent",
        "fine": "unspent",
    }
    assert unspent(system, owner) == system.truth(owner) - 21, "all but what is the recipient's"
    for name, token_id in planted.items():
        states = [d["state"] for d in discrepancies_of(system, token_id)]
        assert states == {"fine": [], "sent": ["open"]}.get(name, ["corrected"]), name
        moved = token(system.db, token_id).get("rev") is not None
        assert len(audit_of(system, token_id)) == int(moved), f"one entry a change: {name}"
    assert_no_secret_twice(system.db)
    assert_totals(system.db)


def test_applying_twice_equals_once(system: System) -> None:
    owner = system.user()
    plant(system, owner)
    reconcile_twice(system, owner)
    names = ("cashu_tokens", "meltd_melts", "meltd_audit", "meltd_counters")
    once = {name: list(system.db[name].find({}).sort("_id", 1)) for name in names}
    again = reconcile_twice(system, owner)
    assert (again["planned"], again["corrected"]) == (0, 0)
    assert [f["action"] for f in again["found"]] == ["record"], "the one that is unclaimed"
    assert {name: list(system.db[name].find({}).sort("_id", 1)) for name in names} == once


def test_over_the_cap_drift_is_recorded_and_not_corrected(
    make_system: Callable[..., System], mint: MintProcess
) -> None:
    system = make_system(mint, settings={"sweep.corrections_max_value_per_cycle": 50})
    owner = system.user()
    small, large = system.fund(owner, 50), system.fund(owner, 51)
    spend(system, proofs_of(system, small) + proofs_of(system, large))
    report = reconcile(system, owner)
    assert (report["planned"], report["corrected"]) == (2, 1)
    assert any("corrections_max_value_per_cycle" in error for error in report["errors"])
    assert (token(system.db, small)["status"], token(system.db, large)["status"]) == ("spent", "unspent")
    assert discrepancies_of(system, large)[0]["state"] == "open"
    answer = system.daemon.melt(owner, "main", system.invoice(10).invoice)
    assert answer.json()["code"] in {"INSUFFICIENT_FUNDS", "MELT_BLOCKED_BY_RECONCILIATION"}, answer.text


def test_a_pause_finds_and_changes_nothing(make_system: Callable[..., System], mint: MintProcess) -> None:
    system = make_system(mint, settings={"sweep.interval_s": 1})
    owner = system.user()
    assert system.daemon.post("/v1/pause", {"reason": "looking into something"}).status_code == 200
    planted = plant(system, owner)
    before = tokens_of(system, owner)
    record = wait_tours(system, more=3)
    assert record["found"]["DB_UNSPENT_MINT_SPENT"] == 2
    assert record["corrected"] == {}
    assert tokens_of(system, owner) == before
    assert system.db["meltd_audit"].count_documents({}) == 0
    refused = system.daemon.melt(owner, "main", system.invoice(10).invoice)
    assert refused.json()["code"] == "PAUSED"

    assert system.daemon.post("/v1/resume", {}).status_code == 200
    until(
        lambda: (
            token(system.db, planted["whole"])["status"] == "spent"
            and token(system.db, planted["pending"])["status"] == "unspent"
        ),
        system.daemon.log_tail,
    )


# --- other mints, strange documents ---


@pytest.mark.parametrize("how", ["refuses", "hangs"])
def test_a_dead_mint_holds_up_nobody_else(make_system: Callable[..., System], mint: MintProcess, how: str) -> None:
    async def hang(*_: Any) -> None:
        await asyncio.sleep(600)

    rules: dict[str, Any] = dict.fromkeys(("/v1/info", "/v1/keysets", "/v1/checkstate"), hang)
    with FrontMint(rules=rules) as hanging:
        system = make_system(mint, start=False, settings={"sweep.interval_s": 1})
        dead = hanging.url if how == "hangs" else f"http://127.0.0.1:{free_port()}"
        # Its alias comes first: what is done once for all mints must not depend on it.
        system.daemon._mints["adead"] = dead
        owner = system.user()
        theirs = insert_token(system.db, owner, [8], mint_url=dead, status="pending", created_at=OLD)
        source = system.fund(owner, 32)
        stray = insert_token(system.db, owner, [4], mint_url="http://127.0.0.1:1/stray")
        spend(system, proofs_of(system, source))
        system.daemon.start()

        until(lambda: token(system.db, source)["status"] == "spent", system.daemon.log_tail)
        wait_tours(system)
        assert token(system.db, theirs)["status"] == "pending"
        assert sweep_of(system, "adead").get("finished_at") is None
        assert system.daemon.get("/v1/status").json()["unconfigured_mint_documents"] == 1
        assert token(system.db, stray)["status"] == "unspent"
        invoice = system.invoice(5)
        system.fund(owner, 64)
        assert system.daemon.melt(owner, "main", invoice.invoice).json()["state"] == "SETTLED"


def test_a_mint_that_nobody_configured_is_reported_and_never_contacted(
    make_system: Callable[..., System], mint: MintProcess
) -> None:
    with FrontMint(rules=keysets_rules(KEYSET)) as stranger:
        system = make_system(mint, start=False, settings={"sweep.interval_s": 1})
        owner = system.user()
        theirs = [insert_token(system.db, owner, [8], mint_url=stranger.url, status=s) for s in ("unspent", "pending")]
        system.daemon.start()
        wait_tours(system, more=2)
        reconcile(system, owner)
        (record,) = system.db["meltd_discrepancies"].find({"type": "MINT_UNCONFIGURED"})
        assert (record["severity"], record["action"], record["evidence"]["documents"]) == ("LOW", "record", 2)
        assert system.daemon.get("/v1/status").json()["unconfigured_mint_documents"] == 2
        assert stranger.asked == []
        assert {token(system.db, t)["status"] for t in theirs} == {"unspent", "pending"}
        refused = system.daemon.post("/v1/reconcile", {"npub": owner, "mint": "stranger"})
        assert refused.json()["code"] == "MINT_UNKNOWN"


BROKEN: dict[str, dict[str, Any]] = {
    "proofs is text": {"proofs": "none"},
    "a proof is text": {"proofs": ["x"]},
    "amount is text": {"proofs": [fake_proof(4) | {"amount": "four"}]},
    "amount is negative": {"proofs": [fake_proof(4) | {"amount": -4}]},
    "amount is half": {"proofs": [fake_proof(4) | {"amount": 0.5}]},
    "no secret": {"proofs": [{"id": KEYSET, "amount": 4, "C": "02" + "ab" * 32}]},
    "secret is a number": {"proofs": [fake_proof(4) | {"secret": 5}]},
    "secret twice": {"proofs": [fake_proof(4, secret="twice"), fake_proof(4, secret="twice")]},
    "no npub": {"npub": None},
    "npub is a number": {"npub": 7},
    "proofs missing": {"proofs": None},
    "id is text": {"_id": "a legacy id", "proofs": ["x"]},
}


def test_documents_that_nobody_can_read_are_reported_and_the_sweep_goes_on(
    make_system: Callable[..., System], mint: MintProcess
) -> None:
    system = make_system(mint, start=False, settings={"sweep.interval_s": 1, "sweep.page_documents": 3})
    owner = system.user()
    legacy = json_util.loads(FIXTURES.read_text())
    for document in legacy:
        document["mint_url"] = system.mint.url + ("/" if document["mint_url"].endswith("/") else "")
    unknown = {"amount": 4, "id": "00ffffffffffffff", "secret": secrets.token_hex(8), "C": "02" + "ab" * 32}
    broken = {
        name: {
            "_id": ObjectId(),
            "npub": owner,
            "mint_url": system.mint.url,
            "status": "unspent",
            "transaction_id": f"tx_{name}",
            **more,
        }
        for name, more in BROKEN.items()
    }
    # The fixture holds one secret twice, as old code left it: a collection of somebody else's, so no unique index.
    system.db["cashu_tokens"].insert_many([*legacy, *broken.values()])
    odd = system.insert(owner, [unknown], total_amount=5)
    source = system.fund(owner, 32)
    spend(system, proofs_of(system, source))
    before = {d["_id"]: d for d in system.db["cashu_tokens"].find({}) if str(d["_id"]) != source}
    system.daemon.start()

    until(lambda: token(system.db, source)["status"] == "spent", system.daemon.log_tail)
    record = wait_tours(system, more=2)
    reported = {d["token_id"]: d for d in system.db["meltd_discrepancies"].find({"type": "MALFORMED_TOKEN"})}
    assert reported.keys() == {str(d["_id"]) for d in broken.values()}
    assert {d["severity"] for d in reported.values()} == {"MEDIUM"}
    assert record["documents"] == record["total_documents"]
    assert {d["type"] for d in discrepancies_of(system, odd)} == {"AMOUNT_MISMATCH", "UNKNOWN_KEYSET"}
    (melted,) = [d for d in legacy if d["transaction_type"] == "melted"]
    assert [d["severity"] for d in discrepancies_of(system, str(melted["_id"])) if "LEGACY" in d["type"]] == ["LOW"]
    # No mint has heard of the fixture's proofs, so all of them read UNSPENT: only what is ours to reclaim is tried,
    # and a mint that refuses the swap leaves everything as it was.
    now = {d["_id"]: d for d in system.db["cashu_tokens"].find({"_id": {"$in": list(before)}})}
    assert now == before
    log = system.daemon.log_path.read_text()
    assert not [line for line in log.splitlines() if '"exception"' in line or "Traceback" in line], log[-3000:]
    held = {
        p["secret"] for d in before.values() for p in d.get("proofs") or () if isinstance(p, dict) and "secret" in p
    }
    assert not [secret for secret in held if isinstance(secret, str) and len(secret) > 8 and secret in log]


# --- mints that lie ---


def all_of(state: str) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    return lambda states: [one | {"state": state} for one in states]


@pytest.mark.parametrize("lie", ["SPENT", "PENDING", "UNSPENT", "truncated", "other Ys"])
def test_a_mint_that_lies_changes_nothing_and_raises_one_event(
    make_system: Callable[..., System], mint: MintProcess, lie: str
) -> None:
    with FrontMint(upstream=mint.url) as front:
        system = front_system(make_system, front, mint, **{"sweep.interval_s": 3600})
        owner = system.user()
        system.fund(owner, 200, mint_url=front.url)
        paid = system.daemon.melt(owner, "main", system.invoice(20).invoice).json()
        assert paid["state"] == "SETTLED", paid  # from now on there are Ys that the mint once called SPENT
        planted = {
            "fine": system.fund(owner, 40, mint_url=front.url),
            "pending": system.fund(owner, 9, status="pending", created_at=OLD, mint_url=front.url),
            "spent": system.fund(owner, 8, status="spent", mint_url=front.url),
        }
        spend(system, proofs_of(system, planted["spent"]))
        before = system.dump()

        lies = {
            "truncated": lambda states: states[:-1],
            "other Ys": lambda states: [one | {"Y": y_of(one["Y"])} for one in states],
        }
        front.lie = lies.get(lie) or all_of(lie)
        for _ in range(3):
            report = reconcile(system, owner)
            assert report["corrected"] == 0
            assert any("CRITICAL_MINT_UNTRUSTED" in error for error in report["errors"]), report
            time.sleep(CONFIRM_S)
        assert system.dump() == before
        (event,) = open_events(system)
        seen = "MINT_STATE_REGRESSED" if lie == "UNSPENT" else "SENTINEL_FAILED"
        assert (event["type"], event["mint"]) == (seen, "main")
        assert event["sightings"] >= 3

        front.lie = None
        assert reconcile(system, owner)["errors"] == []
        assert open_events(system) == [], "sane again: the event closes itself"
        assert token(system.db, planted["fine"])["status"] == "unspent"


def test_the_sentinel_holds_where_the_page_is_the_settled_melts_own_document(
    make_system: Callable[..., System], mint: MintProcess
) -> None:
    """The known SPENT proof lies in the very page that is asked about: it must still be seen to have come alive."""
    with FrontMint(upstream=mint.url) as front:
        system = front_system(make_system, front, mint)
        owner = system.user()
        source = system.fund(owner, 128, amounts=[128], mint_url=front.url)
        assert system.daemon.melt(owner, "main", system.invoice(20).invoice).json()["state"] == "SETTLED"
        assert token(system.db, source)["status"] == "spent"
        front.lie = all_of("UNSPENT")
        for _ in range(3):
            report = system.daemon.reconcile(npub=owner, statuses=["spent"])
            assert any("CRITICAL_MINT_UNTRUSTED" in error for error in report["errors"]), report
            time.sleep(CONFIRM_S)
        assert system.db["meltd_melts"].count_documents({"kind": "reclaim"}) == 0
        assert [event["type"] for event in open_events(system)] == ["MINT_STATE_REGRESSED"]


def test_every_question_about_states_holds_a_sentinel(make_system: Callable[..., System], mint: MintProcess) -> None:
    """Also where the page's proofs fill the batches exactly: an all-SPENT mint is then seen by the random Y alone."""
    with FrontMint(upstream=mint.url) as front:
        system = front_system(make_system, front, mint, **{"mints.main.checkstate_batch": 10})
        owner = system.user()
        source = system.fund(owner, 9, amounts=[1] * 9, mint_url=front.url)
        ours = {str(y_of(p["secret"])) for p in proofs_of(system, source)}
        before = len(front.states_asked())
        reconcile(system, owner)
        asked = front.states_asked()[before:]
        assert asked
        for batch in asked:
            assert len(batch) == 10
            assert set(batch) - ours, "a Y that was never issued"
        front.lie = all_of("SPENT")
        assert reconcile(system, owner)["corrected"] == 0
        assert unspent(system, owner) == 9


# --- resumption ---


def test_a_tour_that_was_killed_goes_on_where_it_was(make_system: Callable[..., System], mint: MintProcess) -> None:
    documents, page = 40, 4
    with FrontMint(upstream=mint.url) as front:
        system = make_system(mint, start=False, settings={"sweep.page_documents": page})
        system.daemon._mints["main"] = front.url
        owner = system.user()
        ids = [
            insert_token(
                system.db,
                owner,
                [fake_proof(1, keyset_id=asyncio.run(system.wallet.active_keyset()))],
                mint_url=front.url,
            )
            for _ in range(documents)
        ]
        ys = [str(y_of(proofs_of(system, token_id)[0]["secret"])) for token_id in ids]
        front.states_delay_s = 0.3
        system.daemon.start()
        until(lambda: sweep_of(system).get("documents", 0) >= 3 * page, system.daemon.log_tail)
        system.daemon.kill()
        stopped = sweep_of(system)
        assert stopped["finished_at"] is None
        done = ids.index(stopped["position"]) + 1
        assert done == stopped["documents"] < documents

        front.states_delay_s = 0.0
        before = len(front.states_asked())
        system.daemon.start()
        until(lambda: sweep_of(system).get("finished_at"), system.daemon.log_tail)
        ended = sweep_of(system)
        assert (ended["tour"], ended["documents"], ended["total_documents"]) == (stopped["tour"], documents, documents)
        assert ended["position"] is None
        again = {y for batch in front.states_asked()[before:] for y in batch} & set(ys)
        assert again == set(ys[done:]), "what was done is not asked again, and nothing is left out"
        assert system.daemon.get("/v1/status").json()["mints"][0]["sweep"]["documents"] == documents


def test_the_log_of_sweeps_is_json_and_names_no_secret(system: System) -> None:
    owner = system.user()
    planted = plant(system, owner)
    held = [p[key] for i in planted.values() for p in proofs_of(system, i) for key in ("secret", "C")]
    reconcile_twice(system, owner)
    lines = system.daemon.log_lines()
    corrected = [line for line in lines if line["event"] == "drift corrected" and line["npub"] == owner]
    assert len(corrected) == 7
    text = json.dumps(lines)
    assert not [secret for secret in held if secret in text]
    assert re.search(r'"drift": "DB_UNSPENT_MINT_SPENT"', text)
