"""Discrepancies, corrections, events, sweeps, instances, on the real store."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from bson import ObjectId

from melt.errors import Severity
from melt.model import (
    Action,
    Actor,
    Correction,
    DiscrepancyState,
    DriftType,
    EventType,
    Finding,
    MintAlias,
    SweepRecord,
    TokenId,
    TokenStatus,
)
from tests.support.store import (
    MINT_URL,
    SystemClock,
    assert_no_secret_twice,
    assert_totals,
    insert_token,
    make_melt,
    npub,
    sums_by_status,
    token,
    warrant_of,
)

ACTOR = Actor(name="sweep")


def finding(token_id, ys=(), drift=DriftType.DB_UNSPENT_MINT_SPENT, **changes):
    return Finding(
        **{
            "type": drift,
            "severity": Severity.HIGH,
            "action": Action.MARK_SPENT,
            "subject": f"token:{token_id}",
            "npub": "n",
            "mint": MintAlias("m"),
            "unit": "sat",
            "value": 8,
            "token_id": TokenId(token_id),
            "ys": tuple(ys),
            "evidence": {"mint_state": "SPENT"},
            **changes,
        }
    )


def correction(record, held, ys, to=TokenStatus.SPENT):
    return Correction(
        discrepancy_id=record.id,
        occurrence=record.occurrence,
        token_id=held.id,
        expected_status=held.status,
        expected_rev=held.rev,
        new_status=to,
        ys=tuple(ys),
        reason=record.type,
        actor=ACTOR,
        warrant=warrant_of(record, held),
    )


@pytest.fixture
def held(store, db):
    """A token of three proofs as the store reads it."""
    return store.tokens([TokenId(insert_token(db, npub(), [8, 4, 2]))])[0]


def test_a_record_is_opened_seen_again_corrected_and_opened_anew(store, db, held):
    """One record for ever; its occurrence counts how often it was opened."""
    ys = [held.proofs[0].y]
    (first,) = store.record([finding(held.id, ys)])
    assert (first.state, first.occurrence, first.sightings) == (DiscrepancyState.OPEN, 1, 1)
    assert first.id == f"DB_UNSPENT_MINT_SPENT:token:{held.id}"
    (again,) = store.record([finding(held.id, ys)])
    assert (again.state, again.occurrence, again.sightings) == (DiscrepancyState.OPEN, 1, 2)
    assert again.first_seen == first.first_seen
    assert store.correct(correction(again, held, ys))
    (closed,) = store.discrepancies(states=(), types=(), severities=(), npub=None, limit=10)
    assert closed.state is DiscrepancyState.CORRECTED
    assert closed.closed_at is not None
    (anew,) = store.record([finding(held.id, ys)])
    assert (anew.state, anew.occurrence, anew.sightings) == (DiscrepancyState.RECURRED, 2, 1)
    assert db["meltd_discrepancies"].count_documents({}) == 1
    turns = [turn["what"] for turn in db["meltd_discrepancies"].find_one()["history"]]
    assert turns == ["open", "corrected", "recurred"]


def test_an_acknowledged_record_stays_so_and_counts(store, db, held):
    """A person has seen it; it isn't opened under them, nor cleared."""
    (record,) = store.record([finding(held.id)])
    db["meltd_discrepancies"].update_one({"_id": record.id}, {"$set": {"state": "acknowledged"}})
    (again,) = store.record([finding(held.id)])
    assert (again.state, again.sightings) == (DiscrepancyState.ACKNOWLEDGED, 2)
    assert store.clear_unseen([record.subject], []) == 0


def test_the_history_of_a_record_is_bounded(store, db, held):
    """The last twenty turns."""
    for _ in range(15):
        (record,) = store.record([finding(held.id)])
        assert store.clear_unseen([record.subject], []) == 1
    assert len(db["meltd_discrepancies"].find_one()["history"]) == 20
    assert record.occurrence == 15


def test_what_is_not_seen_any_more_is_cleared(store, held):
    """Of the subjects that were looked at, and of those alone."""
    other = finding("other")
    kept, gone, elsewhere = store.record([finding(held.id), finding(held.id, drift=DriftType.UNKNOWN_KEYSET), other])
    assert store.clear_unseen([kept.subject], [kept.id]) == 1
    states = {
        record.id: record.state
        for record in store.discrepancies(states=(), types=(), severities=(), npub=None, limit=10)
    }
    assert states == {
        kept.id: DiscrepancyState.OPEN,
        gone.id: DiscrepancyState.CLEARED,
        elsewhere.id: DiscrepancyState.OPEN,
    }


def test_a_correction_moves_only_the_proofs_that_drifted(store, db, held):
    """The document is split; the rest keeps its status in a sibling with its parent; one audit entry each."""
    ys = [held.proofs[1].y]
    (record,) = store.record([finding(held.id, ys)])
    assert store.correct(correction(record, held, ys))
    assert sums_by_status(db, held.npub) == {"spent": 4, "unspent": 10}
    sibling = db["cashu_tokens"].find_one({"transaction_type": "change"})
    assert sibling["transaction_id"] == f"{held.transaction_id}_keep"
    assert sibling["metadata"]["parent_transaction_id"] == held.transaction_id
    entries = store.audit(token_id=None, melt_id=None, limit=10)
    assert {(entry.token_id, entry.from_status, entry.to_status, entry.amount) for entry in entries} == {
        (held.id, TokenStatus.UNSPENT, TokenStatus.SPENT, 4),
        (str(sibling["_id"]), None, TokenStatus.UNSPENT, 10),
    }
    assert {entry.discrepancy_id for entry in entries} == {record.id}
    assert store.audit_of_proof(held.proofs[1].y, 10)[0].token_id == held.id
    assert_no_secret_twice(db)
    assert_totals(db)


def test_a_split_finds_a_free_name(store, db, held):
    """``_keep`` and ``_keep_2`` are taken, so ``_keep_3`` it is."""
    for taken in ("_keep", "_keep_2"):
        insert_token(db, held.npub, [1], transaction_id=f"{held.transaction_id}{taken}")
    ys = [held.proofs[0].y]
    (record,) = store.record([finding(held.id, ys)])
    assert store.correct(correction(record, held, ys))
    sibling = db["cashu_tokens"].find_one({"transaction_type": "change"})
    assert sibling["transaction_id"] == f"{held.transaction_id}_keep_3"


@pytest.mark.parametrize("change", [{"status": "pending"}, {"rev": 7}, {"proofs": []}], ids=["status", "rev", "proofs"])
def test_a_document_that_moved_on_is_left_alone(store, db, held, change):
    """False, and neither the token nor the record is touched."""
    ys = [held.proofs[0].y]
    (record,) = store.record([finding(held.id, ys)])
    db["cashu_tokens"].update_one({"_id": ObjectId(held.id)}, {"$set": change})
    before = token(db, held.id)
    assert store.correct(correction(record, held, ys)) is False
    assert token(db, held.id) == before
    assert db["meltd_audit"].count_documents({}) == 0
    assert db["meltd_discrepancies"].find_one()["state"] == "open"


def test_a_correction_of_a_closed_or_later_occurrence_changes_nothing(store, db, held):
    """What was planned for one occurrence is not done to another."""
    ys = [held.proofs[0].y]
    (record,) = store.record([finding(held.id, ys)])
    store.clear_unseen([record.subject], [])
    assert store.correct(correction(record, held, ys)) is False
    store.record([finding(held.id, ys)])
    assert store.correct(correction(record, held, ys)) is False
    assert sums_by_status(db, held.npub) == {"unspent": 14}


def test_a_correction_never_touches_what_an_open_melt_holds(store, db):
    """Its recovery decides; once it has ended the same rule applies."""
    user = npub()
    insert_token(db, user, [8])
    melt = store.reserve(make_melt(store.spendable(user, [MINT_URL], "sat")), blanks=None, seed_id="s")
    (held,) = store.tokens(melt.source_token_ids)
    (record,) = store.record([finding(held.id, drift=DriftType.DB_PENDING_MINT_SPENT)])
    assert store.correct(correction(record, held, [held.proofs[0].y])) is False
    assert sums_by_status(db, user) == {"pending": 8}


def test_applying_a_correction_many_times_at_once_equals_once(make_store, db):
    """Eight appliers: all are content, one entry is written."""
    store = make_store()
    (held,) = store.tokens([TokenId(insert_token(db, npub(), [8, 4]))])
    ys = [held.proofs[0].y]
    (record,) = store.record([finding(held.id, ys)])
    barrier = threading.Barrier(8)

    def apply(_):
        barrier.wait()
        return store.correct(correction(record, held, ys))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(apply, range(8))) == [True] * 8
    assert sums_by_status(db, held.npub) == {"spent": 8, "unspent": 4}
    assert db["meltd_audit"].count_documents({"token_id": held.id}) == 1


def test_open_records_are_found_and_counted(store, held):
    """By document and severity; and per type, severity and mint."""
    low = finding("t2", drift=DriftType.UNKNOWN_KEYSET, severity=Severity.LOW, mint=None, npub="x")
    store.record([finding(held.id), low])
    found = store.open_discrepancies_of([held.id, TokenId("t2")], [Severity.HIGH])
    assert [record.token_id for record in found] == [held.id]
    assert store.count_open_discrepancies() == {
        ("DB_UNSPENT_MINT_SPENT", "HIGH", "m"): 1,
        ("UNKNOWN_KEYSET", "LOW", ""): 1,
    }
    chosen = {"states": [DiscrepancyState.OPEN], "types": [DriftType.UNKNOWN_KEYSET], "severities": [Severity.LOW]}
    assert len(store.discrepancies(**chosen, npub="x", limit=5)) == 1
    assert len(store.discrepancies(**chosen, npub="y", limit=5)) == 0


def test_an_event_is_open_once_until_it_is_resolved(make_store):
    """Eight raisers at once open one; resolved and raised again, there are two."""
    store = make_store()
    raised = {"mint": None, "detail": "d", "requires_manual_intervention": True, "evidence": {"n": 1}}
    barrier = threading.Barrier(8)

    def raise_it(_):
        barrier.wait()
        return store.raise_event(EventType.DRILL, "s", **raised)

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(raise_it, range(8)))
    assert sum(opened for _, opened in results) == 1
    (event,) = store.events(open_only=True, limit=5)
    assert event.sightings == 8
    assert event.evidence == {"n": 1}
    assert store.resolve_event(EventType.DRILL, "s", reason="seen")
    assert not store.resolve_event(EventType.DRILL, "s", reason="seen")
    assert store.events(open_only=True, limit=5) == ()
    assert store.raise_event(EventType.DRILL, "s", **raised)[1]
    assert len(store.events(open_only=False, limit=5)) == 2


def test_a_sweeps_progress_comes_back(store):
    """The last saved record of each mint."""
    now = datetime.now(UTC).replace(microsecond=0)
    record = SweepRecord(
        mint=MintAlias("m"),
        tour=3,
        position=TokenId("6b02d04d22245a15253e0003"),
        started_at=now,
        updated_at=now,
        finished_at=None,
        documents=5,
        proofs=9,
        total_documents=50,
        found={"UNKNOWN_KEYSET": 2},
        corrected={},
        error=None,
    )
    store.save_sweep(replace(record, documents=1))
    store.save_sweep(record)
    store.save_sweep(replace(record, mint=MintAlias("a")))
    assert store.sweeps() == (replace(record, mint=MintAlias("a")), record)


def test_instances_renew_themselves(store):
    """Each its own count."""
    for holder in ("a", "b", "a"):
        store.renew_instance(holder)
    assert store.instances() == {"a": 2, "b": 1}


def test_a_sighting_that_says_something_else_starts_the_confirmation_anew(make_store):
    class Ticking(SystemClock):
        ticks = 0

        def now(self):
            self.ticks += 1
            return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.ticks)

    store = make_store(clock=Ticking())
    first = store.record([finding("t", ["02aa"], action=Action.RELEASE)])[0]
    assert first.same_since == first.first_seen == first.last_seen
    again = store.record([finding("t", ["02aa"], action=Action.RELEASE)])[0]
    assert (again.same_since, again.sightings) == (first.first_seen, 2)
    assert again.last_seen > again.same_since
    for ys, action in ((["02aa"], Action.WATCH), (["02aa", "02bb"], Action.WATCH), (["02aa"], Action.RELEASE)):
        changed = store.record([finding("t", ys, action=action)])[0]
        assert changed.first_seen == first.first_seen
        assert changed.same_since == changed.last_seen
