"""
What another writer may still need is left alone (I13): meltd beside the neighbour, which pays, waits and writes as ever.

``python -m tests.neighbour`` runs the same at full length.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from bson import json_util

from tests.neighbour.beside import ALL, by_rule, load, meltd, settle_records, wait_until
from tests.neighbour.ledger import holdings, lost, outstanding, twice_counted
from tests.neighbour.load import fund, plan
from tests.neighbour.process import Refused
from tests.support.daemon import DaemonProcess
from tests.support.mint import TestWallet
from tests.support.skewed import AHEAD_ENV
from tests.support.store import npub, token

if TYPE_CHECKING:
    from pathlib import Path

    from pymongo.database import Database

    from daemon.embedded import EmbeddedStore
    from tests.neighbour.process import Neighbour
    from tests.support.mint import MintProcess

    Documents = Database[dict[str, Any]]

MakeMeltd = Callable[..., DaemonProcess]


@pytest.fixture
def make_meltd(
    store_process: EmbeddedStore, mint: MintProcess, database_name: str, tmp_path: Path
) -> Iterator[MakeMeltd]:
    """Makes daemons over the neighbour's database; they stop at the end."""
    made: list[DaemonProcess] = []

    def make(correct_after_s: float | None, **settings: Any) -> DaemonProcess:
        settings = {"database": database_name, **settings}
        folder = tmp_path / f"meltd-{len(made)}"
        daemon = meltd(folder, mint=mint, mongo_uri=store_process.uri, correct_after_s=correct_after_s, **settings)
        made.append(daemon)
        return daemon

    yield make
    for daemon in made:
        daemon.__exit__()


def invoice(mint: MintProcess, amount: int, **script: Any) -> Any:
    return asyncio.run(mint.invoice(amount, **script))


def user_with(neighbour: Neighbour, *amounts: int) -> tuple[str, list[str]]:
    """A user with a minted document of each amount; their key and the documents' ids."""
    user = npub()
    return user, list(fund(neighbour, [user], shapes=[amounts])[user])


def look(daemon: DaemonProcess, npub: str | None = None) -> dict[str, Any]:
    """Everything is reconciled now, whatever its status."""
    return daemon.reconcile(statuses=ALL, **({} if npub is None else {"npub": npub}))


def digest(db: Documents) -> str:
    """Of the wallet's two collections, byte for byte."""
    told = [
        json_util.dumps(sorted(db[name].find({}), key=lambda raw: str(raw["_id"])))
        for name in ("cashu_tokens", "cashu_wallets")
    ]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def owner_dies_in_the_middle(neighbour: Neighbour, db: Documents, mint: MintProcess) -> tuple[str, str]:
    """The neighbour swaps a user's only document at the mint and is killed before it writes that down; user and document."""
    user, (source,) = user_with(neighbour, 64)
    paying = neighbour.melt(user, invoice(mint, 10).invoice, hold={"after_swap": True})
    paying.reached("after_swap")
    neighbour.kill()
    states = asyncio.run(TestWallet(mint.url).states(token(db, source)["proofs"]))
    assert "SPENT" in states
    return user, source


# --- the same sats with meltd and without ---


def test_users_who_pay_through_the_neighbour_have_the_same_sats_with_meltd_and_without(
    start_neighbour: Callable[..., Neighbour],
    make_meltd: MakeMeltd,
    mongo_client: Any,
    database_name: str,
    mint: MintProcess,
) -> None:
    """Tours each second, hints, reconciliations in a loop, meltd paying from other wallets: to the sat, counted at the mint."""
    orders = partial(plan, count=12, seed=8, delays=(0, 4))
    common: dict[str, Any] = {"seed": 8, "users": 6, "orders": orders, "parallel": 6}
    alone = load(
        start_neighbour(database=f"{database_name}_alone"), mongo_client[f"{database_name}_alone"], mint, **common
    )
    daemon = make_meltd(10)
    beside = load(start_neighbour(), mongo_client[database_name], mint, daemon=daemon, **common)

    assert beside.comparable == alone.comparable, beside.told
    assert [outcome.error for outcome in beside.outcomes] == [None] * 12
    assert (alone.lost, beside.lost) == (0, 0)
    assert beside.invalid == []
    assert beside.twice == []
    assert beside.by_rule == [], "no document of theirs was written by rule"


# --- A, C, G, H: what was seen of 0.1, by the neighbour's own doing ---


def test_a_payment_under_way_loses_nothing_to_whatever_looks_at_its_source(
    neighbour: Neighbour, make_meltd: MakeMeltd, db: Documents, mint: MintProcess
) -> None:
    """A: one user, one document of 4,096 sat, an invoice of 10 that takes a while; tour, hint, request and preflight look."""
    before = outstanding(mint)
    user, (source,) = user_with(neighbour, 4096)
    daemon = make_meltd(None)
    daemon.start()
    paying = neighbour.melt(user, invoice(mint, 10, delay_s=3).invoice, hold={"after_swap": True})
    paying.reached("after_swap")
    raw = token(db, source)

    record = wait_until(lambda: settle_records(db, source).get("DB_UNSPENT_MINT_SPENT"), daemon.log_tail)
    assert (record["state"], record["severity"]) == ("open", "HIGH")
    for _ in range(3):
        look(daemon, user)
    refused = daemon.melt(user, "main", invoice(mint, 12).invoice)
    assert (refused.status_code, refused.json()["code"]) == (409, "FUNDS_SETTLING"), refused.text
    assert refused.json()["discrepancies"] == [record["_id"]]
    assert refused.json()["blocked_amount"] == 4096
    assert 86_000 < refused.json()["settles_in_s"] <= 86_400
    paying.go("after_swap")
    told = paying.result()

    assert by_rule(db, [user]) == []
    assert told["lost"] == 0 if "lost" in told else True
    assert token(db, source)["status"] == "spent"
    assert token(db, source)["proofs"] == raw["proofs"]
    held = holdings(db, mint, [user])
    assert lost(mint, held, before=before) == 0
    assert 4096 - 10 - 5 <= held[user].unspent <= 4096 - 10
    # The record ends with its document's question, and pages nobody an hour later.
    look(daemon, user)
    wait_until(
        lambda: settle_records(db, source)["DB_UNSPENT_MINT_SPENT"]["state"] == "cleared", daemon.log_tail, within_s=90
    )


def test_a_document_that_was_sent_is_its_recipients_whatever_its_status_says(
    neighbour: Neighbour, make_meltd: MakeMeltd, db: Documents, mint: MintProcess
) -> None:
    """C: never spendable, chosen, released or reclaimed; redeemed, it is marked spent after its time, and no alert."""
    sender, _ = user_with(neighbour, 64)
    recipient = npub()
    neighbour.create_wallet(recipient)
    given = neighbour.send(sender, 32, style="old").result()
    (sent,) = list(db["cashu_tokens"].find({"npub": sender, "transaction_type": "sent"}))
    assert sent["status"] == "unspent"
    daemon = make_meltd(3, alert_after_s=0)
    daemon.start()

    (wallet,) = daemon.balances(sender)["wallets"]
    assert wallet["balances"]["sent"]["amount"] == sent["total_amount"]
    # What could be paid with now is the rest, less its own input fees.
    assert 0 < wallet["spendable"] <= wallet["balances"]["unspent"]["amount"] < 32
    refused = daemon.melt(sender, "main", invoice(mint, 40).invoice)
    assert refused.status_code == 402, refused.text
    before = dict(token(db, str(sent["_id"])))
    for _ in range(3):
        look(daemon, sender)
    assert token(db, str(sent["_id"])) == before

    neighbour.receive(recipient, given["token"]).result()
    record = wait_until(lambda: settle_records(db, str(sent["_id"])).get("SENT_TOKEN_REDEEMED"), daemon.log_tail)
    assert (record["severity"], record["alert_ms"]) == ("LOW", 0)
    assert set(settle_records(db, str(sent["_id"]))) == {"SENT_TOKEN_REDEEMED"}
    wait_until(lambda: token(db, str(sent["_id"]))["status"] == "spent", daemon.log_tail)
    assert token(db, str(sent["_id"]))["transaction_type"] == "sent"
    assert "sent" not in daemon.balances(sender)["wallets"][0]["balances"]
    assert neighbour.invalid() == []


def test_what_is_split_from_a_sent_document_stays_sent(
    neighbour: Neighbour, make_meltd: MakeMeltd, db: Documents, mint: MintProcess
) -> None:
    """A recipient who redeems a part: the rest is still theirs, under its parent."""
    sender, _ = user_with(neighbour, 64)
    neighbour.send(sender, 33, style="old").result()
    (sent,) = list(db["cashu_tokens"].find({"npub": sender, "transaction_type": "sent"}))
    part = [proof for proof in sent["proofs"] if proof["amount"] == 32]
    asyncio.run(TestWallet(mint.url).swap(part))
    daemon = make_meltd(2)
    daemon.start()

    wait_until(lambda: token(db, str(sent["_id"]))["status"] == "spent", daemon.log_tail)
    (rest,) = list(db["cashu_tokens"].find({"npub": sender, "transaction_type": "sent", "status": "unspent"}))
    assert rest["transaction_id"] == f"{sent['transaction_id']}_keep"
    assert rest["metadata"]["parent_transaction_id"] == sent["transaction_id"]
    assert rest["total_amount"] == sent["total_amount"] - 32
    assert neighbour.invalid() == []
    neighbour.save(str(rest["_id"]), proofs=True)


def test_a_split_never_comes_between_the_neighbours_last_look_and_its_write(
    neighbour: Neighbour, make_meltd: MakeMeltd, db: Documents, mint: MintProcess
) -> None:
    """G: of many proofs some were kept unchanged; a correction would split the document while its ``_keep`` is being saved."""
    before = outstanding(mint)
    user, (source,) = user_with(neighbour, 1000)
    daemon = make_meltd(None)
    daemon.start()
    paying = neighbour.melt(user, invoice(mint, 100).invoice, hold={"after_check": True})
    paying.reached("after_check")
    wait_until(lambda: settle_records(db, source).get("DB_UNSPENT_MINT_SPENT"), daemon.log_tail)
    for _ in range(3):
        look(daemon)
    assert db["cashu_tokens"].count_documents({"npub": user}) == 1, "nothing was split off"
    paying.go("after_check")
    told = paying.result()

    assert told["kept_unchanged"] > 0
    assert twice_counted(db) == []
    look(daemon)
    assert twice_counted(db) == []
    held = holdings(db, mint, [user])
    assert lost(mint, held, before=before) == 0
    assert neighbour.invalid() == []


def test_nothing_of_the_wallets_is_changed_before_anybody_could_look(
    neighbour: Neighbour, make_meltd: MakeMeltd, db: Documents, mint: MintProcess
) -> None:
    """H: a year of drift, the defaults, tours, rounds and requests: not one byte of the two collections."""
    user, (spent, pending, failed) = user_with(neighbour, 7, 8, 16)
    asyncio.run(TestWallet(mint.url).swap(token(db, spent)["proofs"]))
    db["cashu_tokens"].update_one({"_id": token(db, pending)["_id"]}, {"$set": {"status": "pending"}})
    db["cashu_tokens"].update_one({"_id": token(db, failed)["_id"]}, {"$set": {"status": "failed"}})
    before = digest(db)
    daemon = make_meltd(None)
    daemon.start()

    def types() -> set[str]:
        return {record["type"] for record in db["meltd_discrepancies"].find({})}

    expected = {"DB_UNSPENT_MINT_SPENT", "DB_PENDING_MINT_UNSPENT", "DB_FAILED_MINT_UNSPENT"}
    wait_until(lambda: expected <= types(), daemon.log_tail)
    for _ in range(4):
        report = look(daemon, user)
        assert report["corrected"] == 0
    assert report["planned"] == report["settling"] == 3
    time.sleep(3)  # some tours
    plan_made = daemon.post("/v1/plans", {"npub": user, "statuses": ALL}).json()
    assert (plan_made["plan"], plan_made["left_out"]) == (None, 3)
    assert digest(db) == before
    metrics = daemon.metrics()
    assert 'phase="settling",severity="HIGH",type="DB_UNSPENT_MINT_SPENT"} 1.0' in metrics


def test_now_on_a_plan_is_the_one_way_round(
    neighbour: Neighbour, make_meltd: MakeMeltd, db: Documents, mint: MintProcess
) -> None:
    """By a person, who approves it like any other."""
    _, (spent,) = user_with(neighbour, 7)
    asyncio.run(TestWallet(mint.url).swap(token(db, spent)["proofs"]))
    daemon = make_meltd(None)
    daemon.start()
    made = daemon.post("/v1/plans", {"now": True}).json()["plan"]
    assert (made["items"], made["now"]) == (1, True)
    assert daemon.post(f"/v1/plans/{made['id']}/approve", {"reason": "its owner is dead"}).status_code == 200
    applied = daemon.post(f"/v1/plans/{made['id']}/apply").json()
    assert (applied["state"], applied["done"]) == ("APPLIED", 1), applied
    assert token(db, spent)["status"] == "spent"


# --- when it is carried out ---


def test_a_document_whose_owner_died_is_corrected_once_after_its_time(
    start_neighbour: Callable[..., Neighbour], make_meltd: MakeMeltd, db: Documents, mint: MintProcess
) -> None:
    neighbour = start_neighbour()
    user, source = owner_dies_in_the_middle(neighbour, db, mint)
    daemon = make_meltd(4)
    daemon.start()
    wait_until(lambda: settle_records(db, source).get("DB_UNSPENT_MINT_SPENT"), daemon.log_tail)
    seen = time.monotonic()
    wait_until(lambda: token(db, source)["status"] == "spent", daemon.log_tail)
    assert time.monotonic() - seen >= 3.5, "not before its time"
    (entry,) = [one for one in by_rule(db, [user]) if one["token_id"] == source]
    assert (entry["from_status"], entry["to_status"]) == ("unspent", "spent")
    assert settle_records(db, source)["DB_UNSPENT_MINT_SPENT"]["state"] == "corrected"


def test_a_held_invoice_that_ends_just_before_the_time_is_not_touched_and_its_record_is_cleared(
    neighbour: Neighbour, make_meltd: MakeMeltd, db: Documents, mint: MintProcess
) -> None:
    before = outstanding(mint)
    user, (source,) = user_with(neighbour, 1000)
    daemon = make_meltd(8)
    daemon.start()
    paying = neighbour.melt(user, invoice(mint, 100).invoice, hold={"after_post": True})
    paying.reached("after_post")

    def nearly() -> bool:
        record = settle_records(db, source).get("DB_UNSPENT_MINT_SPENT")
        return record is not None and record["watched"]["ms"] >= 6_500

    wait_until(nearly, daemon.log_tail)
    paying.go("after_post")
    paying.result()
    wait_until(lambda: settle_records(db, source)["DB_UNSPENT_MINT_SPENT"]["state"] == "cleared", daemon.log_tail)
    assert by_rule(db, [user]) == []
    assert lost(mint, holdings(db, mint, [user]), before=before) == 0


def test_a_field_that_somebody_writes_every_moment_does_not_keep_a_correction_off(
    start_neighbour: Callable[..., Neighbour], make_meltd: MakeMeltd, db: Documents, mint: MintProcess
) -> None:
    _, source = owner_dies_in_the_middle(start_neighbour(), db, mint)
    other = start_neighbour()
    daemon = make_meltd(3)
    daemon.start()

    def touched_and_spent() -> bool:
        other.touch(source)
        return bool(token(db, source)["status"] == "spent")

    wait_until(touched_and_spent, daemon.log_tail)
    assert settle_records(db, source)["DB_UNSPENT_MINT_SPENT"]["occurrence"] == 1


def test_a_document_that_is_written_again_begins_its_time_anew(
    start_neighbour: Callable[..., Neighbour], make_meltd: MakeMeltd, db: Documents, mint: MintProcess
) -> None:
    """Its transaction id, say: whoever writes that is at work on it."""
    _, source = owner_dies_in_the_middle(start_neighbour(), db, mint)
    daemon = make_meltd(4)
    daemon.start()

    def record() -> dict[str, Any]:
        return settle_records(db, source).get("DB_UNSPENT_MINT_SPENT") or {"watched": {"ms": 0}, "occurrence": 0}

    wait_until(lambda: record()["watched"]["ms"] >= 2_500, daemon.log_tail)
    db["cashu_tokens"].update_one({"_id": token(db, source)["_id"]}, {"$set": {"transaction_id": "tx_another"}})
    wait_until(lambda: record()["occurrence"] == 2, daemon.log_tail)
    assert record()["watched"]["ms"] < 2_500
    assert token(db, source)["status"] == "unspent"
    wait_until(lambda: token(db, source)["status"] == "spent", daemon.log_tail)


# --- how time is counted ---


def test_a_clock_an_hour_ahead_and_two_daemons_settle_nothing_early(
    start_neighbour: Callable[..., Neighbour], make_meltd: MakeMeltd, db: Documents, mint: MintProcess
) -> None:
    _, source = owner_dies_in_the_middle(start_neighbour(), db, mint)
    right, ahead = make_meltd(8), make_meltd(8)
    ahead.module = "tests.support.skewed"
    ahead.environment_changes[AHEAD_ENV] = "3600"
    right.start()
    wait_until(lambda: settle_records(db, source).get("DB_UNSPENT_MINT_SPENT"), right.log_tail)
    seen = time.monotonic()
    ahead.start()
    while time.monotonic() - seen < 5:
        for daemon in (right, ahead):
            daemon.reconcile(statuses=ALL)
        assert token(db, source)["status"] == "unspent"
    assert (
        settle_records(db, source)["DB_UNSPENT_MINT_SPENT"]["watched"]["ms"] <= 1000 * (time.monotonic() - seen) + 500
    )
    wait_until(lambda: token(db, source)["status"] == "spent", right.log_tail)


def test_a_daemon_that_is_killed_again_and_again_settles_nothing_early(
    start_neighbour: Callable[..., Neighbour], make_meltd: MakeMeltd, db: Documents, mint: MintProcess
) -> None:
    """What it was not there to watch does not count; what it watched in each life does."""
    _, source = owner_dies_in_the_middle(start_neighbour(), db, mint)
    daemon = make_meltd(12)
    alive = 0.0
    for _ in range(4):
        began = time.monotonic()
        daemon.start()
        for _ in range(2):
            daemon.reconcile(statuses=ALL)
            time.sleep(0.7)
        daemon.kill()
        alive += time.monotonic() - began
        time.sleep(2)  # nobody watches
    watched = settle_records(db, source)["DB_UNSPENT_MINT_SPENT"]["watched"]["ms"]
    assert 2_000 < watched <= 1000 * alive
    daemon.start()
    if watched < 10_000:
        assert token(db, source)["status"] == "unspent"
    wait_until(lambda: token(db, source)["status"] == "spent", daemon.log_tail)


# --- meltd pays from the same wallet ---


def test_a_document_of_which_somebody_spends_a_part_is_left_out_whole(
    neighbour: Neighbour, make_meltd: MakeMeltd, db: Documents, mint: MintProcess
) -> None:
    """Two of three proofs are gone: paying with the third would split the document under the other writer's hands."""
    before = outstanding(mint)
    user, (partly, whole) = user_with(neighbour, 7, 64)
    taken = [proof for proof in token(db, partly)["proofs"] if proof["amount"] != 4]
    kept = sum(proof["amount"] for proof in asyncio.run(TestWallet(mint.url).swap(taken)))
    raw = token(db, partly)
    daemon = make_meltd(None)
    daemon.start()

    paid = daemon.melt(user, "main", invoice(mint, 30).invoice)
    assert paid.json()["state"] == "SETTLED", paid.text
    assert token(db, partly) == raw
    (wallet,) = daemon.balances(user)["wallets"]
    left = wallet["balances"]["unspent"]["amount"] - raw["total_amount"]
    refused = daemon.melt(user, "main", invoice(mint, left).invoice)
    assert (refused.status_code, refused.json()["code"]) in {(409, "FUNDS_SETTLING"), (402, "INSUFFICIENT_FUNDS")}
    assert token(db, partly) == raw
    held = holdings(db, mint, [user])
    # What was swapped away is in the hands of whoever did that.
    assert outstanding(mint) - before - held[user].unspent == kept
    assert token(db, whole)["status"] == "spent"


def test_the_neighbours_own_refusal_stays_its_own(
    neighbour: Neighbour, make_meltd: MakeMeltd, db: Documents, mint: MintProcess
) -> None:
    """Its check of the states at the mint blocks as ever; meltd has changed nothing that it would trip over."""
    user, (source,) = user_with(neighbour, 64)
    asyncio.run(TestWallet(mint.url).swap(token(db, source)["proofs"][:1]))
    daemon = make_meltd(None)
    daemon.start()
    look(daemon, user)
    with pytest.raises(Refused) as refused:
        neighbour.melt(user, invoice(mint, 10).invoice).result()
    assert refused.value.name == "HIGH_SEVERITY_DISCREPANCIES"
    assert token(db, source)["status"] == "unspent"
