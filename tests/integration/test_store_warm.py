"""What the warm lane and the detection lag ask of the real store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from bson import ObjectId

from daemon.warm import first_id_of
from melt.model import Mark, MintAlias, Passage, SweepRecord, TokenId, TokenStatus
from melt.reconcile import TOURED
from tests.support.store import MINT_URL, insert_token, npub


def test_large_documents_are_those_of_the_mint_and_status_from_the_amount_on(store, db):
    owner = npub()
    wanted = {
        insert_token(db, owner, [64]),
        insert_token(db, owner, [64, 64], status="pending"),
        insert_token(db, owner, [128], mint_url=f"{MINT_URL}/"),
    }
    insert_token(db, owner, [32, 16, 8, 4, 2, 1])
    insert_token(db, owner, [128], status="spent")
    insert_token(db, owner, [128], mint_url="http://elsewhere")
    insert_token(db, owner, [128], total_amount="128")
    assert set(store.large_tokens(TOURED, (MINT_URL,), 64, 100)) == wanted
    assert len(store.large_tokens(TOURED, (MINT_URL,), 64, 2)) == 2
    assert store.large_tokens((TokenStatus.FAILED,), (MINT_URL,), 1, 100) == ()


def test_the_index_that_large_documents_are_found_by_is_made_at_the_start(store, db):
    assert [("status", 1), ("total_amount", 1)] in [
        list(info["key"].items()) for info in db["cashu_tokens"].list_indexes()
    ]


def test_new_documents_are_found_by_the_time_in_their_id(store, db):
    owner, now = npub(), datetime.now(UTC)
    ages = (7200, 901, 899, 5)
    ids = [insert_token(db, owner, [1], _id=ObjectId.from_datetime(now - timedelta(seconds=age))) for age in ages]
    tour = store.tour(TOURED, (MINT_URL,), first_id_of(now.timestamp() - 900))
    assert [item.id for item in tour.next_page(10)] == ids[2:]


def test_a_sweeps_passages_come_back(store):
    now = datetime.now(UTC).replace(microsecond=0)
    marks = tuple(Mark(position=TokenId(f"{number:024x}"), at=now + timedelta(seconds=number)) for number in range(3))
    record = SweepRecord(
        mint=MintAlias("m"), tour=2, position=marks[0].position, started_at=now, updated_at=now, finished_at=None,
        documents=5, proofs=9, total_documents=50, found={}, corrected={}, error=None, first_seen=now,
        passing=Passage(started_at=now, marks=marks[:1], stride=4, pages=2), passed=Passage(started_at=now, marks=marks),
    )  # fmt: skip
    store.save_sweep(record)
    assert store.sweeps() == (record,)


def test_a_record_of_an_earlier_version_is_read(store, db):
    now = datetime.now(UTC).replace(microsecond=0)
    db["meltd_sweeps"].insert_one(
        {"_id": "m", "tour": 3, "started_at": now, "updated_at": now, "documents": 1, "proofs": 2}
    )
    (record,) = store.sweeps()
    assert (record.tour, record.first_seen, record.passing, record.passed) == (3, None, None, None)
