"""The repair of the double count on the real mint and store: found, valued, planned, mended, kept out (ADR 13)."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from bson import ObjectId
from pymongo.errors import DuplicateKeyError

from melt.ecash import y_of
from tests.e2e.conftest import _system as new_system
from tests.support.daemon import ROOT
from tests.support.mint import free_port
from tests.support.store import assert_totals, token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pymongo import MongoClient

    from daemon.embedded import EmbeddedStore
    from tests.e2e.conftest import System
    from tests.support.mint import MintProcess

OLD = datetime.now(UTC) - timedelta(days=30)
OLDER = datetime.now(UTC) - timedelta(days=60)
REMOVED = "meltd_removed_proofs"


@pytest.fixture(scope="module")
def shared(
    store_process: EmbeddedStore,
    mongo_client: MongoClient[dict[str, Any]],
    mint: MintProcess,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[System]:
    """A daemon beside a collection that other services wrote before it: without a unique index, proofs can stand twice."""
    system = new_system(store_process, mongo_client, mint, tmp_path_factory.mktemp("daemon"), {})
    system.fund(system.user(), 1)
    with system.daemon:
        yield system


@pytest.fixture
def legacy(shared: System) -> System:
    """The shared daemon over an empty collection: a repair is about all of it."""
    for name in ("cashu_tokens", "meltd_audit", "meltd_discrepancies"):
        shared.db[name].delete_many({})
    return shared


@pytest.fixture
def own(make_system: Callable[..., System], mint: MintProcess) -> System:
    """A daemon of the test's own, to be started anew."""
    system = make_system(mint, start=False)
    system.fund(system.user(), 1)
    system.daemon.start()
    return system


def repair(system: System, kind: str = "all", **body: Any) -> dict[str, Any]:
    answer = post(system, kind, **body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def post(system: System, kind: str = "all", **body: Any) -> httpx.Response:
    if body.get("dry_run") is False:
        body.setdefault("reason", "found by support")
    return system.daemon.post("/v1/repairs", {"type": kind, **body})


def apply(system: System, kind: str = "all", **body: Any) -> dict[str, Any]:
    return repair(system, kind, dry_run=False, **body)


def proofs(system: System, *amounts: int) -> list[dict[str, Any]]:
    """Real ecash: a proof of each amount, in the order asked for."""
    made = asyncio.run(system.wallet.mint(sum(amounts), amounts=list(amounts)))
    return [next(p for p in made if p["amount"] == amount) for amount in amounts] if len(set(amounts)) > 1 else made


def spend(system: System, held: list[dict[str, Any]]) -> None:
    asyncio.run(system.wallet.spend(held))


def counted(system: System, owner: str) -> int:
    """What a service that adds up its documents would tell the user."""
    return sum(
        int(proof["amount"])
        for document in system.documents(owner)
        if document["status"] in {"unspent", "pending"}
        for proof in document["proofs"]
    )


def holders(system: System, proof: dict[str, Any]) -> list[str]:
    """Documents that hold a proof and are not history."""
    chosen = {"proofs.secret": proof["secret"], "status": {"$nin": ["spent", "failed"]}}
    return sorted(str(document["_id"]) for document in system.db["cashu_tokens"].find(chosen, {"_id": 1}))


def assert_nothing_counts_twice(system: System) -> None:
    """I4, counted here: at most one unspent or pending document of the user's own holds a proof."""
    live = {"status": {"$in": ["unspent", "pending"]}, "transaction_type": {"$nin": ["sent", "melted"]}}
    secrets = [proof["secret"] for document in system.db["cashu_tokens"].find(live) for proof in document["proofs"]]
    assert len(secrets) == len(set(secrets))


def audit_of(system: System, token_id: str) -> list[dict[str, Any]]:
    return sorted(system.db["meltd_audit"].find({"token_id": token_id}), key=lambda entry: entry["at"])


def everything(system: System) -> dict[str, list[dict[str, Any]]]:
    names = ("cashu_tokens", "meltd_audit", "meltd_discrepancies", "meltd_melts", "meltd_wishes")
    return {name: sorted(system.db[name].find({}), key=lambda d: str(d["_id"])) for name in names}


def value_of(report: dict[str, Any], owner: str) -> dict[str, Any]:
    (value,) = [user for user in report["users"] if user["npub"] == owner]
    return value


def record(system: System, token_id: str, kind: str) -> None:
    """A discrepancy as a sweep has opened it."""
    now = datetime.now(UTC)
    system.db["meltd_discrepancies"].insert_one(
        {
            "_id": f"{kind}:token:{token_id}", "type": kind, "severity": "HIGH", "action": "record", "state": "open",
            "subject": f"token:{token_id}", "token_id": token_id, "first_seen": now, "last_seen": now,
            "sightings": 3, "occurrence": 1, "ys": [], "history": [], "unit": "sat", "value": 1,
        }
    )  # fmt: skip


def record_state(system: System, token_id: str, kind: str) -> str | None:
    found = system.db["meltd_discrepancies"].find_one({"_id": f"{kind}:token:{token_id}"})
    return None if found is None else str(found["state"])


def corrected(system: System) -> float:
    """The metric of corrected duplicates."""
    name = 'discrepancies_corrected_total{mint="main",severity="HIGH",type="DUPLICATE_PROOF"} '
    (line,) = [line for line in system.daemon.metrics().splitlines() if name in line]
    return float(line.rpartition(" ")[2])


# --- one user ---


def test_three_holders_and_partial_overlap_end_with_each_proof_in_its_oldest_document(legacy: System) -> None:
    system, owner = legacy, legacy.user()
    a, b, c, d = proofs(system, 64, 32, 16, 8)
    oldest = system.insert(owner, [a, b], created_at=OLDER)
    middle = system.insert(owner, [a, c], created_at=OLD)
    youngest = system.insert(owner, [a, b, c], status="pending", transaction_type="received")
    clean = system.insert(owner, [d])
    for token_id in (oldest, middle, youngest):
        record(system, token_id, "DUPLICATE_PROOF")
    before, corrected_before = everything(system), corrected(system)

    dry = repair(system)
    assert everything(system) == before, "a dry run changes nothing"
    assert (dry["dry_run"], dry["planned"], dry["applied"], dry["duplicates"]) == (True, 2, 0, 3)
    value = value_of(dry, owner)
    assert value["counted"] == counted(system, owner) == 64 + 32 + 64 + 16 + 64 + 32 + 16 + 8
    assert value["honoured"] == system.truth(owner) == value["after"] == 120
    assert (value["inflation"], value["causes"]) == (value["counted"] - 120, {"duplicate": value["counted"] - 120})

    done = apply(system, plan=dry["plan"])
    assert (done["plan"], done["applied"], done["undone"], done["steps"]) == (dry["plan"], 2, {}, dry["steps"])
    assert counted(system, owner) == system.truth(owner) == value["after"]
    assert [holders(system, proof) for proof in (a, b, c, d)] == [[oldest], [oldest], [middle], [clean]]
    ended_as = token(system.db, youngest)
    assert (ended_as["status"], ended_as["total_amount"], REMOVED in ended_as) == ("spent", 112, False)
    assert [proof["secret"] for proof in ended_as["proofs"]] == [one["secret"] for one in (a, b, c)], "kept, as history"
    assert ended_as["spent_at"] is not None
    partly = token(system.db, middle)
    archived = {entry["proof"]["secret"]: entry["kept_in"] for entry in partly[REMOVED]}
    assert archived == {a["secret"]: oldest}, "nothing is deleted"
    assert (partly["status"], partly["total_amount"], partly["rev"], partly["__v"]) == ("unspent", 16, 1, 1)
    assert_nothing_counts_twice(system)
    assert_totals(system.db)

    (ended,) = audit_of(system, youngest)
    assert (ended["from_status"], ended["to_status"], ended["amount"]) == ("pending", "spent", 112)
    assert (ended["reason"], ended["note"]) == ("DUPLICATE_PROOF_REPAIRED", "found by support")
    assert ended["actor"]["uid"] is not None
    (kept_status,) = audit_of(system, middle)
    assert (kept_status["from_status"], kept_status["to_status"], kept_status["amount"]) == ("unspent", "unspent", 64)
    for token_id in (oldest, middle, youngest):
        assert record_state(system, token_id, "DUPLICATE_PROOF") == "corrected"
    assert corrected(system) == corrected_before + 2

    after = everything(system)
    again = apply(system)
    assert (again["planned"], again["applied"], again["duplicates"]) == (0, 0, 0)
    assert everything(system) == after, "a second run changes nothing"
    report = system.daemon.reconcile(npub=owner, statuses=["unspent", "pending", "spent", "failed"])
    assert (report["found"], report["errors"]) == ([], []), "what is history is no drift"


def test_proofs_that_are_spent_stay_where_that_is_written_and_count_nowhere_else(legacy: System) -> None:
    system, owner = legacy, legacy.user()
    a, b, rest = proofs(system, 64, 32, 8)
    spent = system.insert(owner, [a], status="spent")
    copy = system.insert(owner, [a, rest], created_at=OLDER)
    first = system.insert(owner, [b], created_at=OLD)
    second = system.insert(owner, [b])
    spend(system, [a, b])
    before = token(system.db, spent)

    dry = repair(system, "DUPLICATE_PROOF")
    value = value_of(dry, owner)
    assert (value["counted"], value["honoured"], value["after"]) == (136, 8, 104)
    assert value["causes"] == {"duplicate": 32, "spent": 96}
    apply(system, "DUPLICATE_PROOF")

    assert (holders(system, a), holders(system, b), holders(system, rest)) == ([copy], [first], [copy])
    assert token(system.db, spent) == before, "a copy in a spent document is history: nothing is repaired"
    assert token(system.db, second)["status"] == "spent"
    assert counted(system, owner) == value["after"]
    system.daemon.reconcile(npub=owner)
    assert counted(system, owner) == system.truth(owner) == 8, "the normal correction marks what is left"
    assert_nothing_counts_twice(system)


def test_what_was_handed_out_is_never_decided_by_rule_and_never_becomes_reclaimable(legacy: System) -> None:
    system, owner = legacy, legacy.user()
    a, b = proofs(system, 64, 32)
    counting = system.insert(owner, [a], created_at=OLDER)
    handed = system.insert(owner, [a], status="unspent", transaction_type="sent")
    source = system.insert(owner, [b], status="spent", transaction_type="received", created_at=OLDER)
    out = system.insert(owner, [b], status="spent", transaction_type="sent")

    done = apply(system, "DUPLICATE_PROOF", across_users=True)

    (left,) = [one for one in done["left"] if owner in one["npubs"]]
    assert (left["reason"], left["needs_person"], left["value"]) == ("HANDED_OUT", True, 64)
    assert holders(system, a) == sorted([counting, handed])
    assert record_state(system, counting, "DUPLICATE_PROOF") == "open"
    report = system.daemon.reconcile(npub=owner, statuses=["spent"])
    assert report["actions_performed"] == [], "the recipient's money is not taken back by a swap"
    assert [len(token(system.db, one)["proofs"]) for one in (source, out)] == [1, 1]


# --- several users ---


def test_two_users_documents_are_left_to_a_person_who_may_confirm_the_oldest_holder(legacy: System) -> None:
    system = legacy
    alice, bob = system.user(), system.user()
    a, own = proofs(system, 64, 8)
    first = system.insert(alice, [a], created_at=OLDER)
    second = system.insert(bob, [a, own], created_at=OLD)

    done = apply(system)
    assert (done["planned"], done["needs_person"]) == (0, 1)
    (left,) = done["left"]
    assert (left["reason"], left["proposed_keeper"]) == ("ACROSS_USERS", first)
    assert set(left["npubs"]) == {alice, bob}
    assert holders(system, a) == sorted([first, second])
    assert record_state(system, second, "DUPLICATE_PROOF") == "open"
    assert value_of(done, bob)["causes"] == {"across_users": 64}
    assert value_of(done, alice)["inflation"] == 0

    done = apply(system, across_users=True)
    assert (done["applied"], done["left_count"]) == (1, 0)
    assert holders(system, a) == [first]
    assert (counted(system, alice), counted(system, bob)) == (64, 8)
    assert (system.truth(alice), system.truth(bob)) == (64, 8)
    assert (
        record_state(system, second, "DUPLICATE_PROOF") == record_state(system, first, "DUPLICATE_PROOF") == "corrected"
    )


# --- melted documents ---


def test_melted_documents_lose_to_any_other_and_their_spent_proofs_stop_counting(legacy: System) -> None:
    system, owner = legacy, legacy.user()
    a, gone, money, mixed_gone, mixed = proofs(system, 64, 32, 16, 8, 4)
    copy = system.insert(owner, [a], transaction_type="melted", created_at=OLDER)
    own = system.insert(owner, [a], transaction_type="received")
    consumed = system.insert(owner, [gone], transaction_type="melted")
    alone = system.insert(owner, [money], transaction_type="melted", status="pending")
    both = system.insert(owner, [mixed_gone, mixed], transaction_type="melted")
    spend(system, [gone, mixed_gone])
    for token_id in (copy, consumed, alone):
        record(system, token_id, "LEGACY_MELTED_DOCUMENT")

    dry = repair(system, "LEGACY_MELTED_DOCUMENT")
    value = value_of(dry, owner)
    assert (value["counted"], value["honoured"], value["after"]) == (188, 84, 92)
    assert value["causes"] == {"melted": 104}
    done = apply(system, "LEGACY_MELTED_DOCUMENT")

    assert (done["planned"], done["applied"], done["melted_documents"]) == (2, 2, 4)
    assert counted(system, owner) == value["after"]
    assert holders(system, a) == [own]
    assert [token(system.db, one)["status"] for one in (copy, consumed, alone, both)] == [
        "spent", "spent", "pending", "unspent",
    ]  # fmt: skip
    assert token(system.db, consumed)["proofs"], "what is marked spent stays where it is"
    left = {one["token_ids"][0]: (one["reason"], one["value"]) for one in done["left"]}
    assert left == {alone: ("MELTED_UNSPENT", 16), both: ("MELTED_UNSPENT", 4)}, "money is left to a person"
    assert [record_state(system, one, "LEGACY_MELTED_DOCUMENT") for one in (copy, consumed, alone, both)] == [
        "corrected", "corrected", "open", "open",
    ]  # fmt: skip
    assert (audit_of(system, copy)[0]["reason"]) == "LEGACY_MELTED_DOCUMENT_REPAIRED"
    assert_nothing_counts_twice(system)
    after = everything(system)
    again = apply(system, "LEGACY_MELTED_DOCUMENT")
    assert again["planned"] == 0
    assert everything(system)["cashu_tokens"] == after["cashu_tokens"]


def test_a_repair_of_melted_documents_leaves_other_duplicates_to_their_own(legacy: System) -> None:
    system, owner = legacy, legacy.user()
    (a,) = proofs(system, 64)
    kept = system.insert(owner, [a], created_at=OLDER)
    other = system.insert(owner, [a], created_at=OLD)
    melted = system.insert(owner, [a], transaction_type="melted")
    record(system, other, "DUPLICATE_PROOF")

    apply(system, "LEGACY_MELTED_DOCUMENT")
    assert holders(system, a) == sorted([kept, other])
    assert token(system.db, melted)["status"] == "spent"
    assert record_state(system, other, "DUPLICATE_PROOF") == "open"
    apply(system, "DUPLICATE_PROOF")
    assert holders(system, a) == [kept]
    assert record_state(system, other, "DUPLICATE_PROOF") == "corrected"


# --- what is not touched ---


def test_documents_of_an_open_melt_are_left_alone_until_it_ends(legacy: System) -> None:
    system, owner = legacy, legacy.user()
    source = system.fund(owner, 128, amounts=[128])
    invoice = system.invoice(100, pay="PENDING", status="PENDING")
    melt = system.daemon.melt(owner, "main", invoice.invoice, wait=1).json()
    assert melt["state"] == "PENDING"
    held = token(system.db, source)
    copy = system.insert(owner, held["proofs"], created_at=OLDER)
    before = everything(system)["cashu_tokens"]

    done = apply(system)

    (left,) = done["left"]
    assert (left["reason"], left["needs_person"], done["planned"]) == ("RESERVED", False, 0)
    assert everything(system)["cashu_tokens"] == before
    asyncio.run(system.mint.resolve(invoice.payment_hash, "SETTLED", fee_sat=0))
    system.daemon.wait_state(melt["id"], "SETTLED")
    assert apply(system)["planned"] == 0, "one of the two is history by now"
    system.daemon.reconcile(npub=owner)
    assert holders(system, held["proofs"][0]) == [], "the normal correction marks what the mint calls SPENT"
    assert (token(system.db, source)["status"], token(system.db, copy)["status"]) == ("spent", "spent")
    assert counted(system, owner) == system.truth(owner)


def test_what_no_rule_can_judge_is_left_to_a_person(legacy: System) -> None:
    system, owner = legacy, legacy.user()
    a, b, c, d = proofs(system, 64, 32, 16, 8)
    junk = system.insert(owner, [a], status="weird")
    readable = system.insert(owner, [a])
    system.insert(owner, [b])
    system.insert(owner, [{**b, "amount": 64}])
    system.insert(owner, [c])
    system.insert(owner, [c], mint_url="http://127.0.0.1:1")
    system.insert(owner, [d], mint_url="http://127.0.0.1:1")
    system.insert(owner, [d], mint_url="http://127.0.0.1:1/")
    before = everything(system)["cashu_tokens"]

    done = apply(system)

    assert sorted(one["reason"] for one in done["left"]) == [
        "MINTS_DIFFER", "MINT_UNCONFIGURED", "PROOFS_DIFFER", "UNREADABLE",
    ]  # fmt: skip
    assert (done["planned"], done["needs_person"]) == (0, 4)
    assert everything(system)["cashu_tokens"] == before
    assert holders(system, a) == sorted([junk, readable])


def test_a_repair_is_refused_while_its_mint_is_paused_frozen_or_down(
    make_system: Callable[..., System], mint: MintProcess
) -> None:
    system = make_system(mint, start=False)
    owner = system.user()
    gone = f"http://127.0.0.1:{free_port()}"
    system.daemon._mints["gone"] = gone
    held = system.fund(owner, 64)
    system.insert(owner, token(system.db, held)["proofs"])
    system.insert(
        owner, [{**proof, "secret": "x" + proof["secret"]} for proof in token(system.db, held)["proofs"]], mint_url=gone
    )
    system.insert(
        owner, [{**proof, "secret": "x" + proof["secret"]} for proof in token(system.db, held)["proofs"]], mint_url=gone
    )
    system.daemon.start()
    before = everything(system)["cashu_tokens"]

    down = post(system, mint="gone", dry_run=False)
    assert (down.status_code, down.json()["code"]) == (503, "MINT_UNREACHABLE")
    system.daemon.post("/v1/pause", {"mint": "main", "reason": "moving"})
    paused = post(system, mint="main", dry_run=False)
    assert (paused.status_code, paused.json()["code"]) == (503, "PAUSED")
    assert repair(system, mint="main")["planned"] == 1, "looking goes on"
    system.daemon.post("/v1/resume", {"mint": "main"})
    system.db["meltd_events"].insert_one(
        {
            "_id": str(ObjectId()), "identity": "INVARIANT_BROKEN:mint:main", "type": "INVARIANT_BROKEN",
            "subject": "mint:main", "open": True, "opened_at": OLD, "last_seen": OLD, "sightings": 1, "mint": "main",
        }
    )  # fmt: skip
    system.daemon.kill()
    system.daemon.start()
    frozen = post(system, mint="main", dry_run=False)
    assert (frozen.status_code, frozen.json()["code"]) == (502, "CRITICAL_MINT_UNTRUSTED")
    assert everything(system)["cashu_tokens"] == before
    system.db["meltd_events"].update_many({}, {"$set": {"open": False, "resolved_at": OLD}})
    system.daemon.kill()
    system.daemon.start()
    both = apply(system)
    assert both["applied"] == 1, "a mint that is down stops no other"
    assert ["gone: MINT_UNREACHABLE" in text for text in both["errors"]] == [True]


def test_a_plan_is_carried_out_only_while_it_is_still_the_one_that_was_shown(legacy: System) -> None:
    system, owner = legacy, legacy.user()
    (a,) = proofs(system, 64)
    system.insert(owner, [a], created_at=OLDER)
    copy = system.insert(owner, [a])
    shown = repair(system)
    system.db["cashu_tokens"].update_one({"_id": ObjectId(copy)}, {"$set": {"status": "pending"}})

    refused = post(system, dry_run=False, plan=shown["plan"])

    assert (refused.status_code, refused.json()["code"]) == (409, "WRONG_STATE")
    assert len(holders(system, a)) == 2
    assert post(system, dry_run=False, reason=None).status_code == 400, "carrying out needs a reason"


# --- crashes ---


def test_a_repair_that_is_killed_in_the_middle_ends_the_same_when_it_is_run_again(
    make_system: Callable[..., System], mint: MintProcess
) -> None:
    system = make_system(
        mint,
        start=False,
        settings={"debug.failpoint": "store.apply_repairs.after_commit@2", "debug.break_payments_on_purpose": "true"},
    )
    owners = [system.user() for _ in range(3)]
    expected = {}
    for owner in owners:
        held = proofs(system, *[1] * 40)
        for proof in held:
            system.insert(owner, [proof], created_at=OLDER)
            system.insert(owner, [proof])
        expected[owner] = 40
    system.daemon.start()
    dry = repair(system)
    assert (dry["planned"], dry["inflation"]) == (120, {"main/sat": 120})
    with pytest.raises(httpx.HTTPError):
        apply(system)
    assert system.daemon.process.wait(20) == -signal.SIGKILL
    left = sum(1 for d in system.db["cashu_tokens"].find({"status": "unspent"}))
    assert 120 < left < 240, "some batches are done, and some are not"

    system.daemon._settings = {k: v for k, v in system.daemon._settings.items() if not k.startswith("debug")}
    system.daemon.start()
    done = apply(system)

    assert (done["applied"], done["planned"]) == (left - 120, left - 120)
    for owner, amount in expected.items():
        assert counted(system, owner) == system.truth(owner) == amount
        assert {d["createdAt"] < OLD for d in system.documents(owner) if d["status"] == "unspent"} == {True}
    entries = list(system.db["meltd_audit"].find({}))
    assert len(entries) == len({entry["token_id"] for entry in entries}) == 120, "each change was made once"
    assert_nothing_counts_twice(system)


# --- adoption ---


def test_after_the_repair_the_collection_is_adopted_and_the_index_made_at_the_next_start(own: System) -> None:
    system, owner = own, own.user()
    (a,) = proofs(system, 128)
    first = system.insert(owner, [a], created_at=OLDER)
    system.insert(owner, [a])

    refused = system.daemon.post("/v1/adoption", {"reason": "clean"})
    assert (refused.status_code, refused.json()["code"]) == (409, "PROOF_STATE_INCONSISTENCY")
    state = system.daemon.get("/v1/adoption", count="true").json()
    assert (state["indexed"], state["adopted_at"], state["duplicates"]) == (False, None, 1)
    done = command(system, "reconcile", "--repair", "duplicate_proof", "--apply", "--reason", "by hand", "--adopt")
    assert done.returncode == 0, done.stderr + done.stdout
    state = system.daemon.get("/v1/adoption", count="true").json()
    assert (state["indexed"], state["duplicates"], state["reason"]) == (False, 0, "by hand")
    assert "restart" in state["next_step"]

    system.daemon.stop()
    system.daemon.start()

    shown = command(system, "adopt", "--status", "--json")
    assert '"indexed": true' in shown.stdout
    with pytest.raises(DuplicateKeyError):
        system.insert(owner, [a])
    invoice = system.invoice(100)
    melt = system.daemon.melt(owner, "main", invoice.invoice).json()
    assert (melt["state"], system.payments(invoice.payment_hash)) == ("SETTLED", 1)
    assert counted(system, owner) == system.truth(owner) == 128 - 100 - melt["fees_paid"] - melt["input_fee"]
    assert holders(system, a) == []
    assert token(system.db, first)["status"] == "spent"


def test_duplicates_that_came_back_after_adoption_don_t_keep_the_daemon_from_starting(own: System) -> None:
    system, owner = own, own.user()
    assert system.daemon.post("/v1/adoption", {"reason": "clean"}).status_code == 200
    (a,) = proofs(system, 64)
    system.insert(owner, [a], created_at=OLDER)
    system.insert(owner, [a])

    system.daemon.stop()
    system.daemon.start()

    state = system.daemon.get("/v1/adoption", count="true").json()
    assert (state["indexed"], state["duplicates"]) == (False, 1)
    assert any(line.get("reason") == "duplicates forbid it" for line in system.daemon.log_lines())
    assert not any(a["secret"] in line for line in system.daemon.log_path.read_text().splitlines())
    apply(system)
    system.daemon.stop()
    system.daemon.start()
    assert system.daemon.get("/v1/adoption").json()["indexed"] is True


# --- the command ---


def command(system: System, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = system.daemon.environment() | {"MELTD_SOCKET": system.daemon.socket, "COLUMNS": "240"}
    return subprocess.run(
        [sys.executable, "-m", "daemon", *arguments],
        env=environment, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, check=False,
    )  # fmt: skip


def test_the_command_shows_the_plan_first_and_says_how_to_carry_it_out(legacy: System) -> None:
    system, owner = legacy, legacy.user()
    (a,) = proofs(system, 64)
    system.insert(owner, [a], created_at=OLDER)
    copy = system.insert(owner, [a])

    shown = command(system, "reconcile", "--repair", "DUPLICATE_PROOF")

    assert shown.returncode == 0, shown.stderr
    assert copy in shown.stdout
    assert "128" in shown.stdout
    assert "meltd reconcile --repair DUPLICATE_PROOF --apply --reason TEXT" in shown.stderr
    assert len(holders(system, a)) == 2
    assert a["secret"] not in shown.stdout + shown.stderr + str(repair(system))
    assert y_of(a["secret"]) in str(repair(system))
    assert command(system, "reconcile", "--repair", "DUPLICATE_PROOF", "--apply").returncode == 2, "it needs a reason"
    assert command(system, "reconcile", "--apply").returncode == 2
