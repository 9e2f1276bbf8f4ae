"""
The neighbour alone, without meltd: that it pays, keeps, throws away and writes as the services do that meltd stands beside.

What it loses here it loses by itself; the tests of meltd beside it compare with that.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from bson import ObjectId

from tests.neighbour.ledger import Holding, holdings, lost, outstanding, redeem, twice_counted
from tests.neighbour.load import fund, plan, run_payments, users_of
from tests.neighbour.process import Gone, Refused
from tests.support.mint import TestWallet
from tests.support.store import npub, token

if TYPE_CHECKING:
    from collections.abc import Callable

    from pymongo.database import Database

    from tests.neighbour.process import Neighbour
    from tests.support.mint import MintProcess

    Documents = Database[dict[str, Any]]


def user_with(neighbour: Neighbour, *amounts: int) -> tuple[str, list[str]]:
    """A user with a minted document of each amount; their key and the documents' ids."""
    user = npub()
    return user, list(fund(neighbour, [user], shapes=[amounts])[user])


def invoice(mint: MintProcess, amount: int, **script: Any) -> str:
    return asyncio.run(mint.invoice(amount, **script)).invoice


def secrets_in(document: dict[str, Any]) -> set[str]:
    return {proof["secret"] for proof in document["proofs"]}


# --- payments ---


def test_it_pays_side_by_side_and_every_sat_is_accounted_for(
    neighbour: Neighbour, db: Documents, mint: MintProcess
) -> None:
    before = outstanding(mint)
    users = users_of(1, 3)
    fund(neighbour, users)
    funded = outstanding(mint) - before
    orders = plan(users, 10, seed=1, delays=(0, 2))

    outcomes = run_payments(neighbour, mint, orders, parallel=3)

    assert [outcome.error for outcome in outcomes] == [None] * 10
    assert [outcome.left for outcome in outcomes] == [1] * 10
    held = holdings(db, mint, users)
    assert lost(mint, held, before=before) == 0
    assert all(one.spent == one.pending == 0 for one in held.values())
    # A Lightning fee of a sat each, and at most three of input fees: the rest of the price is what was paid.
    paid = sum(order.amount for order in orders)
    assert paid + 10 <= funded - (outstanding(mint) - before) <= paid + 10 * 4
    assert {user: neighbour.balance(user) for user in users} == {user: one.unspent for user, one in held.items()}
    assert neighbour.invalid() == []
    assert twice_counted(db) == []
    assert redeem(db, mint, users) == {user: one.unspent for user, one in held.items()}


def test_the_same_load_leaves_each_user_the_same_sats(
    start_neighbour: Callable[..., Neighbour],
    mongo_client: Any,
    database_name: str,
    mint: MintProcess,
) -> None:
    users = users_of(2, 3)
    orders = plan(users, 9, seed=2, delays=(0, 0.3))
    runs = []
    for name in (database_name, f"{database_name}_again"):
        neighbour = start_neighbour(database=name)
        fund(neighbour, users)
        outcomes = run_payments(neighbour, mint, orders, parallel=3)
        runs.append(([one.comparable for one in outcomes], holdings(mongo_client[name], mint, users)))
    assert runs[0] == runs[1]


def test_proofs_that_the_swap_did_not_need_lie_in_the_spent_source_and_in_keep(
    neighbour: Neighbour, db: Documents, mint: MintProcess
) -> None:
    user, (source,) = user_with(neighbour, 1000)
    paying = neighbour.melt(user, invoice(mint, 100), hold={"before_swap": 20, "after_keep": 20})
    told = paying.result()

    assert list(paying.steps) == [
        "before_swap",
        "after_swap",
        "after_post",
        "after_check",
        "after_sources",
        "after_keep",
    ]
    spent, keep = token(db, source), token(db, told["keep_id"])
    both = [proof for proof in keep["proofs"] if proof["secret"] in secrets_in(spent)]
    assert (spent["status"], keep["status"]) == ("spent", "unspent")
    assert len(both) == told["kept_unchanged"] > 0
    assert set(asyncio.run(TestWallet(mint.url).states(both))) == {"UNSPENT"}
    assert twice_counted(db) == []
    for document in (keep, token(db, told["change_id"])):
        assert document["transaction_type"] == "change"
        assert document["metadata"]["parent_transaction_id"] == told["transaction_id"]
    assert keep["transaction_id"] == f"{told['transaction_id']}_keep"


def test_the_window_between_mint_and_database_stays_open_as_long_as_a_test_wants(
    neighbour: Neighbour, db: Documents, mint: MintProcess
) -> None:
    payers = [user_with(neighbour, 256) for _ in range(6)]
    other, _ = user_with(neighbour, 256)
    paying = [neighbour.melt(user, invoice(mint, 20), hold={"after_swap": True}) for user, _ in payers]
    wallet = TestWallet(mint.url)
    for operation in paying:
        operation.reached("after_swap")
    assert neighbour.melt(other, invoice(mint, 20, delay_s=0.5)).result()["paid"] == 20
    for operation, (_, (source,)) in zip(paying, payers, strict=True):
        document = token(db, source)
        assert document["status"] == "unspent"
        assert "SPENT" in asyncio.run(wallet.states(document["proofs"]))
        assert not operation.ended
    for operation in paying:
        operation.go("after_swap")
    assert [operation.result()["paid"] for operation in paying] == [20] * 6


def test_a_source_that_changed_in_between_makes_it_throw_keep_and_change_away(
    neighbour: Neighbour, db: Documents, mint: MintProcess
) -> None:
    before = outstanding(mint)
    user, (source,) = user_with(neighbour, 4096)
    paying = neighbour.melt(user, invoice(mint, 10), hold={"after_post": True})
    assert paying.reached("after_post")["paid"] is True
    db["cashu_tokens"].update_one({"_id": ObjectId(source)}, {"$set": {"status": "spent"}})
    paying.go("after_post")

    with pytest.raises(Refused) as refused:
        paying.result()

    assert refused.value.name == "CONCURRENT_OPERATION"
    assert lost(mint, holdings(db, mint, [user]), before=before) == refused.value.details["lost"] > 4000
    assert neighbour.balance(user) == 0


def test_killed_between_mint_and_database_it_leaves_an_unspent_source_that_the_mint_calls_spent(
    start_neighbour: Callable[..., Neighbour], db: Documents, mint: MintProcess
) -> None:
    before = outstanding(mint)
    killed = start_neighbour()
    user, (source,) = user_with(killed, 1024)
    paying = killed.melt(user, invoice(mint, 10), hold={"after_swap": True})
    paying.reached("after_swap")
    killed.kill()
    with pytest.raises(Gone):
        paying.result()

    held = holdings(db, mint, [user])
    assert token(db, source)["status"] == "unspent"
    assert held == {user: Holding(spent=1024)}
    assert lost(mint, held, before=before) > 1000

    again = start_neighbour()
    with pytest.raises(Refused) as refused:
        again.melt(user, invoice(mint, 10)).result()
    assert refused.value.name == "HIGH_SEVERITY_DISCREPANCIES"
    assert again.balance(user) == 1024


def test_two_copies_on_one_wallet_do_not_pay_from_the_same_document_twice(
    start_neighbour: Callable[..., Neighbour], db: Documents, mint: MintProcess
) -> None:
    before = outstanding(mint)
    one, other = start_neighbour(), start_neighbour()
    user, _ = user_with(one, 512)
    first = one.melt(user, invoice(mint, 10), hold={"before_swap": True})
    second = other.melt(user, invoice(mint, 10), hold={"before_swap": True})
    for operation in (first, second):
        operation.reached("before_swap")
    first.go("before_swap")
    assert first.result()["paid"] == 10
    second.go("before_swap")
    with pytest.raises(Refused) as refused:
        second.result()
    assert refused.value.name == "MINT_REJECTED"
    held = holdings(db, mint, [user])
    assert held[user].unspent == one.balance(user)
    assert lost(mint, held, before=before) == 0


def test_a_refused_payment_keeps_what_was_swapped_for_it(
    neighbour: Neighbour, db: Documents, mint: MintProcess
) -> None:
    before = outstanding(mint)
    user, _ = user_with(neighbour, 512)
    with pytest.raises(Refused) as refused:
        neighbour.melt(user, invoice(mint, 10, pay="FAILED")).result()
    assert refused.value.name == "PAYMENT_FAILED"
    held = holdings(db, mint, [user])
    assert held[user].unspent == neighbour.balance(user) > 500
    assert lost(mint, held, before=before) == 0


def test_more_than_it_has_is_refused_before_anything_is_swapped(neighbour: Neighbour, mint: MintProcess) -> None:
    user, _ = user_with(neighbour, 64)
    with pytest.raises(Refused) as refused:
        neighbour.melt(user, invoice(mint, 100)).result()
    assert refused.value.name == "INSUFFICIENT_FUNDS"
    assert neighbour.balance(user) == 64


# --- minting ---


def test_a_mint_is_pending_without_proofs_until_the_poller_fills_it(neighbour: Neighbour, db: Documents) -> None:
    user = npub()
    neighbour.create_wallet(user)
    asked = neighbour.request_mint(user, 21)
    awaited = token(db, asked["id"])
    assert (awaited["status"], awaited["proofs"], awaited["total_amount"]) == ("pending", [], 0)
    assert neighbour.invalid() == []

    assert neighbour.poll() == {"filled": [asked["id"]], "failed": []}

    filled = token(db, asked["id"])
    assert (filled["status"], filled["total_amount"], len(filled["proofs"])) == ("unspent", 21, 3)
    assert neighbour.balance(user) == 21


def test_a_mint_that_nobody_paid_in_time_is_failed(neighbour: Neighbour, db: Documents) -> None:
    user = npub()
    neighbour.create_wallet(user)
    made = neighbour.mint(user, 21, fail_after_s=0)
    assert made["status"] == token(db, made["id"])["status"] == "failed"
    assert neighbour.balance(user) == 0


@pytest.mark.parametrize("by", ["poller", "clean-up"])
def test_a_document_that_somebody_else_reserved_is_failed_by_its_age(
    neighbour: Neighbour, db: Documents, by: str
) -> None:
    _, (reserved,) = user_with(neighbour, 64)
    reservation = {"melt_id": "somebody's", "at": token(db, reserved)["createdAt"]}
    db["cashu_tokens"].update_one(
        {"_id": ObjectId(reserved)}, {"$set": {"status": "pending", "reservation": reservation}}
    )
    assert neighbour.poll() == {"filled": [], "failed": []}
    assert neighbour.cleanup(age_s=3600) == 0

    if by == "poller":
        assert neighbour.poll(fail_after_s=0) == {"filled": [], "failed": [reserved]}
    else:
        assert neighbour.cleanup(age_s=0) == 1

    after = token(db, reserved)
    assert (after["status"], after["reservation"], len(after["proofs"])) == ("failed", reservation, 1)


# --- tokens ---


@pytest.mark.parametrize(("style", "status"), [("old", "unspent"), ("new", "spent")])
def test_what_is_sent_is_stored_in_the_style_of_the_code_and_received_by_another(
    neighbour: Neighbour, db: Documents, mint: MintProcess, style: str, status: str
) -> None:
    before = outstanding(mint)
    sender, (source,) = user_with(neighbour, 300)
    recipient = npub()
    neighbour.create_wallet(recipient)

    sent = neighbour.send(sender, 33, style=style).result()

    assert token(db, source)["status"] == "spent"
    stored = token(db, sent["sent_id"])
    assert (stored["transaction_type"], stored["status"]) == ("sent", status)
    change = token(db, sent["change_id"])
    assert (change["transaction_type"], change["status"]) == ("change", "unspent")
    assert change["metadata"]["parent_transaction_id"] == sent["transaction_id"]
    handed_out = {sender: sent["proofs"]}
    worth = sum(proof["amount"] for proof in sent["proofs"])
    assert holdings(db, mint, [sender], handed_out=handed_out)[sender].unspent == change["total_amount"] + worth
    shown = {"old": change["total_amount"] + worth, "new": change["total_amount"]}[style]
    assert neighbour.balance(sender) == shown

    received = neighbour.receive(recipient, sent["token"]).result()

    assert received["amount"] == 33 == neighbour.balance(recipient)
    assert token(db, received["id"])["transaction_type"] == "received"
    held = holdings(db, mint, [sender, recipient], handed_out=handed_out)
    assert held[sender].unspent == change["total_amount"]
    assert held[sender].spent == worth
    assert lost(mint, held, before=before) == 0
    assert neighbour.invalid() == []


def test_what_old_code_sent_and_left_unspent_is_not_paid_with(neighbour: Neighbour, mint: MintProcess) -> None:
    user, _ = user_with(neighbour, 100)
    neighbour.send(user, 80, style="old").result()
    assert neighbour.balance(user) > 90
    with pytest.raises(Refused) as refused:
        neighbour.melt(user, invoice(mint, 50)).result()
    assert refused.value.name == "INSUFFICIENT_FUNDS"


# --- indexes ---


def test_its_indexes_have_mongooses_names_and_a_sync_drops_those_of_others(
    start_neighbour: Callable[..., Neighbour], db: Documents
) -> None:
    neighbour = start_neighbour(init=False, secret_index=True)
    made = neighbour.init()
    assert {"transaction_id_1", "npub_1_status_1", "npub_1_mint_url_1", "proofs.secret_1"} <= set(made["cashu_tokens"])
    information = db["cashu_tokens"].index_information()
    assert information["transaction_id_1"]["unique"] is True
    assert "unique" not in information["proofs.secret_1"]
    assert db["cashu_wallets"].index_information()["npub_1_mint_url_1"]["unique"] is True

    db["cashu_tokens"].create_index("mint_url", name="somebody_elses")
    assert neighbour.sync_indexes() == {"cashu_wallets": [], "cashu_tokens": ["somebody_elses"]}


def test_a_unique_index_on_secrets_breaks_what_it_stores_after_paying(
    neighbour: Neighbour, db: Documents, mint: MintProcess
) -> None:
    before = outstanding(mint)
    user, _ = user_with(neighbour, 1000)
    db["cashu_tokens"].create_index("proofs.secret", unique=True, name="unique_proofs")

    with pytest.raises(Refused) as refused:
        neighbour.melt(user, invoice(mint, 100)).result()

    assert refused.value.name == "E11000"
    assert not any(secret in str(refused.value) for one in db["cashu_tokens"].find() for secret in secrets_in(one))
    assert lost(mint, holdings(db, mint, [user]), before=before) > 800
