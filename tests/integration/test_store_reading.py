"""Balances, tours and what can be spent, on the real store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from bson import ObjectId, json_util

from melt.model import MalformedToken, TokenId, TokenStatus
from tests.support.store import MINT_URL, fake_proof, insert_token, insert_wallet, npub

FIXTURES = Path(__file__).parent.parent / "fixtures"
UNSPENT = [TokenStatus.UNSPENT]


def sums(store, user):
    return {(row.mint_url, row.unit, row.status): row.amount for row in store.balances(user)}


def test_the_fixtures_give_the_balances_that_a_person_would_count(make_store, db):
    """Doubles, longs and a trailing slash included; the ``melted`` document counts for nothing."""
    for name in ("tokens", "wallets"):
        text = (FIXTURES / f"cashu_{name}.extended.json").read_text(encoding="utf-8")
        db[f"cashu_{name}"].insert_many(json_util.loads(text))
    store = make_store()
    assert store.unique_proofs_indexed is False
    user = "npub1" + "q" * 58
    assert sums(store, user) == {
        (MINT_URL, "sat", "unspent"): 64 + 32 + 16 + 4 + 2 + 1 + 32,
        (MINT_URL, "sat", "spent"): 8 + 128 + 256,
        (MINT_URL, "sat", "pending"): 0,
        (MINT_URL, "sat", "failed"): 0,
    }
    spendable = store.spendable(user, [MINT_URL], "sat")
    assert sum(token.amount for token in spendable) == 151
    assert store.npub_known(user)
    assert not store.npub_known(npub())
    assert store.mint_urls() == (MINT_URL, MINT_URL + "/")


def test_units_and_mints_are_never_mixed(store, db):
    """One row each; the unit is the wallet's."""
    user = npub()
    sat, msat = insert_wallet(db, user), insert_wallet(db, user, "http://b", unit="msat")
    insert_token(db, user, [8], wallet_id=sat)
    insert_token(db, user, [1000], wallet_id=msat, mint_url="http://b/")
    insert_token(db, user, [4])
    assert sums(store, user) == {(MINT_URL, "sat", "unspent"): 12, ("http://b", "msat", "unspent"): 1000}
    assert store.spendable(user, ["http://b"], "sat") == ()
    assert [token.amount for token in store.spendable(user, ["http://b"], "msat")] == [1000]


def test_a_duplicate_does_not_inflate_a_balance(make_store, db):
    """A proof in several documents counts once, where it is money and not history; nothing offers it twice."""
    user = npub()
    twice, kept, gone = fake_proof(8), fake_proof(32), fake_proof(64)
    insert_token(db, user, [twice])
    insert_token(db, user, [twice, 4])
    insert_token(db, user, [kept, gone], status="spent")
    insert_token(db, user, [kept], status="unspent", transaction_type="change")
    insert_token(db, user, [kept], status="failed")
    insert_token(db, user, [kept], status="unspent", transaction_type="melted")
    insert_token(db, user, [gone], status="spent")
    store = make_store()
    assert sums(store, user) == {
        (MINT_URL, "sat", "unspent"): 8 + 4 + 32,
        (MINT_URL, "sat", "spent"): 64,
        (MINT_URL, "sat", "failed"): 0,
    }
    offered = [proof.secret for token in store.spendable(user, [MINT_URL], "sat") for proof in token.proofs]
    assert len(offered) == len(set(offered))


def test_locked_proofs_are_counted_as_such(store, db):
    """NUT-10 secrets are part of the amount and told apart."""
    user = npub()
    insert_token(db, user, [fake_proof(8, secret='["P2PK",{"nonce":"1"}]'), 4])
    (row,) = store.balances(user)
    assert (row.amount, row.locked, row.proofs, row.documents) == (12, 8, 2, 1)


def test_junk_among_a_users_documents_breaks_nothing(store, db):
    """It is passed over in sums and offers, and a tour reports it."""
    user = npub()
    insert_token(db, user, [8])
    junk = {"proofs": [{"amount": "four", "secret": "x"}, 7]}
    db["cashu_tokens"].update_one({"_id": ObjectId(insert_token(db, user, [4]))}, {"$set": junk})
    insert_token(db, user, [2], status="lost")
    insert_token(db, user, [1], createdAt=datetime(1, 1, 1, tzinfo=UTC), rev="x")
    assert sums(store, user) == {(MINT_URL, "sat", "unspent"): 9}
    assert len(store.spendable(user, [MINT_URL], "sat")) == 2
    tour = store.tour(UNSPENT, [MINT_URL], None)
    page = tour.next_page(10)
    assert sum(isinstance(token, MalformedToken) for token in page) == 1
    assert len(page) == 3


def test_the_oldest_money_comes_first(store, db):
    """By creation, whichever field tells it."""
    user = npub()
    now = datetime.now(UTC)
    for days in (1, 3, 2):
        insert_token(db, user, [days], created_at=now - timedelta(days=days))
    assert [token.amount for token in store.spendable(user, [MINT_URL], "sat")] == [3, 2, 1]


def test_a_tour_passes_each_document_once_and_resumes_behind_its_position(store, db):
    """In pages, of all statuses asked for, from any position, over string ids and ObjectIds."""
    user = npub()
    hexlike = "6b02d04d22245a15253e0003"
    for raw_id in ("a-legacy", "b-legacy", hexlike):
        insert_token(db, user, [1])
        document = db["cashu_tokens"].find_one(sort=[("_id", -1)])
        db["cashu_tokens"].delete_one({"_id": document["_id"]})
        db["cashu_tokens"].insert_one({**document, "_id": raw_id})
    for status in ("unspent", "pending", "spent") * 4:
        insert_token(db, user, [1], status=status, mint_url=MINT_URL + "/")
    insert_token(db, npub(), [1], mint_url="http://other")
    statuses = [TokenStatus.UNSPENT, TokenStatus.PENDING]
    assert store.count_tokens(statuses, [MINT_URL]) == 11
    tour = store.tour(statuses, [MINT_URL], None)
    whole = []
    while page := tour.next_page(3):
        whole += [token.id for token in page]
    tour.close()
    assert len(set(whole)) == len(whole) == 11
    assert whole[:3] == [hexlike, "a-legacy", "b-legacy"]
    for position, after in enumerate(whole):
        rest = store.tour(statuses, [MINT_URL], TokenId(after)).next_page(100)
        assert [token.id for token in rest] == whole[position + 1 :]
    assert len(store.tour(statuses, [MINT_URL], None, npub=npub()).next_page(5)) == 0


def test_a_tour_goes_on_after_its_cursor_was_lost(store, db):
    """It opens another behind the last document, and passes none twice."""
    user = npub()
    ids = [insert_token(db, user, [1]) for _ in range(5)]
    tour = store.tour(UNSPENT, [MINT_URL], None)
    first = tour.next_page(2)
    tour.close()
    assert [token.id for token in (*first, *tour.next_page(9))] == ids


def test_tokens_come_in_the_order_asked_for(store, db):
    """Those that exist, once each."""
    user = npub()
    ids = [TokenId(insert_token(db, user, [1])) for _ in range(3)]
    asked = [ids[2], TokenId(str(ObjectId())), ids[0], ids[2]]
    assert [token.id for token in store.tokens(asked)] == [ids[2], ids[0]]


@pytest.mark.parametrize("amount", [2**53 + 1, 2**63 - 1])
def test_large_amounts_keep_every_sat(store, db, amount):
    """64-bit ints all the way."""
    user = npub()
    insert_token(db, user, [amount])
    assert sums(store, user) == {(MINT_URL, "sat", "unspent"): amount}
