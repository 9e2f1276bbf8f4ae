"""
Indexes, kept proofs and the repair beside the neighbour, by its own doing: its payments keep proofs unchanged, its program makes
indexes and drops those that it does not know.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from melt.store.indexes import UNIQUE_COUNTED_INDEX
from tests.neighbour.beside import ALL, meltd, wait_until
from tests.neighbour.ledger import holdings, twice_counted
from tests.neighbour.load import Order, fund, run_payments, users_of
from tests.support.daemon import DaemonProcess
from tests.support.store import token

if TYPE_CHECKING:
    from pathlib import Path

    from pymongo.database import Database

    from daemon.embedded import EmbeddedStore
    from tests.neighbour.process import Neighbour
    from tests.support.mint import MintProcess

    Documents = Database[dict[str, Any]]
    MakeMeltd = Callable[..., DaemonProcess]

MONGOOSE = {"transaction_id_1", "npub_1_status_1", "npub_1_mint_url_1"}
OURS = {"meltd_npub_status_mint", "meltd_status_id", "meltd_status_amount", "meltd_reservation"}


@pytest.fixture
def make_meltd(
    store_process: EmbeddedStore, mint: MintProcess, database_name: str, tmp_path: Path
) -> Iterator[MakeMeltd]:
    """Makes daemons over the neighbour's database; they stop at the end."""
    made: list[DaemonProcess] = []

    def make(correct_after_s: float | None = 3, **settings: Any) -> DaemonProcess:
        folder = tmp_path / f"meltd-{len(made)}"
        daemon = meltd(
            folder,
            mint=mint,
            mongo_uri=store_process.uri,
            database=database_name,
            correct_after_s=correct_after_s,
            **settings,
        )
        made.append(daemon)
        return daemon

    yield make
    for daemon in made:
        daemon.__exit__()


def names(db: Documents) -> set[str]:
    return set(db["cashu_tokens"].index_information())


def unspent(daemon: DaemonProcess, user: str) -> int:
    """What meltd shows as unspent."""
    wallets = daemon.balances(user)["wallets"]
    return sum(wallet["balances"].get("unspent", {}).get("amount", 0) for wallet in wallets)


def pays_and_keeps(neighbour: Neighbour, mint: MintProcess, users: tuple[str, ...], payments: int) -> int:
    """So many small payments out of documents of many proofs, and how many proofs they have kept unchanged."""
    orders = [Order(npub=users[at % len(users)], amount=3, delay_s=0) for at in range(payments)]
    outcomes = run_payments(neighbour, mint, orders, parallel=4)
    assert [outcome.error for outcome in outcomes] == [None] * payments
    assert [outcome.left for outcome in outcomes] == [1] * payments
    return sum(int(outcome.told["kept_unchanged"]) for outcome in outcomes)


def test_forty_payments_that_keep_proofs_pass_every_index_and_count_right(
    neighbour: Neighbour, make_meltd: MakeMeltd, db: Documents, mint: MintProcess
) -> None:
    """B and F: with each index that meltd wants and the unique one on a yes; the kept copy hides no money and blocks nothing."""
    users = users_of(9, 4)
    fund(neighbour, users, shapes=[(511, 255)])
    daemon = make_meltd()
    daemon.start()
    assert UNIQUE_COUNTED_INDEX not in names(db), "nobody has asked for it"
    told = daemon.post("/v1/adoption", {"reason": "the order of its writes was looked at"}).json()
    assert told["duplicates"] in {None, 0}
    daemon.stop()
    daemon.start()
    assert daemon.get("/v1/adoption").json()["indexed"] is True
    assert {UNIQUE_COUNTED_INDEX, "proofs.secret_1"} | MONGOOSE | OURS <= names(db)

    assert pays_and_keeps(neighbour, mint, users, 40) > 0

    report = daemon.reconcile(statuses=ALL)
    assert report["errors"] == []
    assert {one["type"] for one in report["found"]} <= {"KEYSET_EXPIRING"}
    held = holdings(db, mint, users)
    for user in users:
        assert unspent(daemon, user) == neighbour.balance(user) == held[user].unspent
    assert neighbour.invalid() == []
    assert twice_counted(db) == []
    state = daemon.get("/v1/adoption", count="true").json()
    assert (state["indexed"], state["duplicates"], state["keeps_before_source"]) == (True, 0, 0)
    survey = daemon.post("/v1/survey", {}).json()
    assert {one["pattern"] for one in survey["copies"]} <= {"kept", "history"}
    paid = daemon.melt(users[0], "main", asyncio.run(mint.invoice(5)).invoice)
    assert (paid.status_code, paid.json()["state"]) == (200, "SETTLED"), "nothing is blocked by a kept copy"


def test_a_document_that_meltd_has_repaired_is_saved_again_by_mongoose(
    neighbour: Neighbour, make_meltd: MakeMeltd, db: Documents, mint: MintProcess
) -> None:
    """F: its kept copies are left alone; of what counts twice no document is emptied, and its validators take each of them."""
    (user,) = users = users_of(10, 1)
    fund(neighbour, users, shapes=[(255,)])
    assert pays_and_keeps(neighbour, mint, users, 2) > 0
    live = db["cashu_tokens"].find_one({"npub": user, "status": "unspent"})
    assert live is not None
    whole = {**live, "transaction_id": "copy_of_all", "rev": 0}
    part = {**live, "transaction_id": "copy_of_some", "proofs": [*live["proofs"][:1]], "total_amount": 0}
    part["total_amount"] = part["proofs"][0]["amount"]
    for document in (whole, part):
        document.pop("_id")
        db["cashu_tokens"].insert_one(document)
    daemon = make_meltd(0)
    daemon.start()
    before = {raw["_id"]: raw for raw in db["cashu_tokens"].find({"npub": user, "status": "spent"})}
    done = daemon.post("/v1/repairs", {"type": "all", "dry_run": False, "reason": "counted twice"}).json()
    assert done["applied"] > 0
    assert {raw["_id"]: raw for raw in db["cashu_tokens"].find({"_id": {"$in": list(before)}})} == before
    assert twice_counted(db) == []
    assert unspent(daemon, user) == neighbour.balance(user) == holdings(db, mint, users)[user].unspent
    assert neighbour.invalid() == []
    for raw in db["cashu_tokens"].find({"npub": user}):
        assert raw["proofs"], "none is emptied"
        neighbour.save(str(raw["_id"]), proofs=True)
        assert token(db, str(raw["_id"]))["total_amount"] == sum(proof["amount"] for proof in raw["proofs"])
    again = daemon.post("/v1/repairs", {"type": "all"}).json()
    assert (again["planned"], again["duplicates"]) == (0, 0)


@pytest.mark.parametrize("first", ["neighbour", "meltd", "both at once"])
def test_whoever_starts_first_both_start_and_go_on(
    first: str, start_neighbour: Callable[..., Neighbour], make_meltd: MakeMeltd, db: Documents, mint: MintProcess
) -> None:
    """Mongoose meets its own index under its own name, and meltd uses what serves it; also one of a person's own."""
    daemon = make_meltd()
    if first == "meltd":
        daemon.start()
        neighbour = start_neighbour(secret_index=True)
    elif first == "neighbour":
        neighbour = start_neighbour(secret_index=True)
        db["cashu_tokens"].create_index([("npub", 1), ("status", 1), ("mint_url", 1)], name="a_persons_own")
        daemon.start()
    else:
        neighbour = start_neighbour(init=False, secret_index=True)
        starting = threading.Thread(target=daemon.start)
        starting.start()
        neighbour.init()
        starting.join(60)
    assert daemon.get("/v1/status").json()["store_ok"] is True
    assert {"proofs.secret_1"} | MONGOOSE <= names(db)
    wanted = {one["purpose"]: one for one in daemon.get("/v1/mode").json()["indexes"] if not one["on_a_yes"]}
    assert {one["state"] for one in wanted.values()} <= {"stands", "shared"}
    users = users_of(11, 2)
    fund(neighbour, users, shapes=[(127,)])
    pays_and_keeps(neighbour, mint, users, 4)
    assert neighbour.init(), "its start goes well once more"
    assert daemon.melt(users[0], "main", asyncio.run(mint.invoice(5)).invoice).json()["state"] == "SETTLED"


def test_sync_indexes_in_the_middle_takes_meltds_indexes_and_nothing_else(
    neighbour: Neighbour, make_meltd: MakeMeltd, db: Documents, mint: MintProcess
) -> None:
    """It is noticed within a tour and told; payments go on; the next start of an embedded store makes them again."""
    users = users_of(12, 2)
    fund(neighbour, users, shapes=[(127,)])
    daemon = make_meltd()
    daemon.start()
    assert names(db) >= OURS
    dropped = set(neighbour.sync_indexes()["cashu_tokens"])
    assert dropped >= OURS
    wait_until(
        lambda: {one["name"] for one in daemon.get("/v1/mode").json()["indexes"] if one["state"] == "missing"} >= OURS,
        daemon.log_tail,
    )
    lost = [line for line in daemon.log_lines() if "have disappeared" in line["event"]]
    assert lost
    assert set(lost[0]["indexes"]) >= OURS
    pays_and_keeps(neighbour, mint, users, 4)
    assert daemon.melt(users[0], "main", asyncio.run(mint.invoice(5)).invoice).json()["state"] == "SETTLED"
    assert names(db).isdisjoint(OURS), "none is made under traffic"
    daemon.stop()
    daemon.start()
    assert names(db) >= OURS
