"""Choosing what a mint is asked to watch (NUT-17), on the real store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from bson import ObjectId

from melt.ecash import y_of
from tests.support.store import MINT_URL, insert_token, npub


def chosen(store, proofs_max, url=MINT_URL):
    return [document.token_id for document in store.worth_watching(url, proofs_max=proofs_max)]


def made(db, *amounts, age_days, **more):
    """A document whose id says when it was made, as Mongoose's do."""
    at = datetime.now(UTC) - timedelta(days=age_days)
    # from_datetime leaves all but the time zero, which two documents of one second would share.
    raw = ObjectId(ObjectId.from_datetime(at).binary[:4] + ObjectId().binary[4:])
    return insert_token(db, npub(), amounts, _id=raw, **more)


def test_the_largest_and_the_newest_unspent_documents_are_chosen_by_turns(store, db):
    small_old = made(db, 1, age_days=30)
    large_old = made(db, 4096, age_days=20)
    middle = made(db, 64, age_days=10)
    newest = made(db, 2, age_days=1)
    assert chosen(store, 2) == [large_old, newest]
    assert chosen(store, 3) == [large_old, newest, middle]
    assert set(chosen(store, 100)) == {small_old, large_old, middle, newest}


def test_proofs_are_counted_and_a_document_that_does_not_fit_is_passed_over(store, db):
    many = made(db, *[1024] * 6, age_days=9)
    two = made(db, 8, 8, age_days=8)
    assert chosen(store, 8) == [many, two]
    assert chosen(store, 7) == [many]
    assert chosen(store, 5) == [two]
    assert chosen(store, 0) == []


def test_ys_are_those_of_the_documents_proofs(store, db):
    token_id = made(db, 8, 16, age_days=1)
    (document,) = store.worth_watching(MINT_URL, proofs_max=10)
    raw = db["cashu_tokens"].find_one({"_id": ObjectId(token_id)})
    assert document.ys == tuple(y_of(proof["secret"]) for proof in raw["proofs"])


def test_only_readable_unspent_money_at_this_mint_is_chosen(store, db):
    slashed = made(db, 8, age_days=1, mint_url=f"{MINT_URL}/")
    made(db, 512, age_days=1, status="spent")
    made(db, 512, age_days=1, status="pending")
    made(db, 512, age_days=1, mint_url="https://another.example")
    made(db, 512, age_days=1, transaction_type="melted")
    junk = made(db, 512, age_days=1)
    db["cashu_tokens"].update_one({"_id": ObjectId(junk)}, {"$set": {"proofs": "junk"}})
    made(db, age_days=1)
    lying = made(db, 4, age_days=300, total_amount="many")
    assert chosen(store, 10) == [slashed, lying]
    assert chosen(store, 10, "https://nobody.example") == []
