"""A person's word about a discrepancy, on the real store: kept for ever, by whom and why, and what it changes."""

from __future__ import annotations

import time

import pytest

from melt.corrections import confirmed
from melt.errors import MeltdError, Severity
from melt.model import Actor, DiscrepancyState, DriftType, TokenId
from tests.integration.test_store_findings import correction, finding
from tests.support.store import insert_token, npub, token

PERSON = Actor(name="socket", uid=1000, gid=100, pid=7)


@pytest.fixture
def held(store, db):
    return store.tokens([TokenId(insert_token(db, npub(), [8, 4, 2]))])[0]


def acknowledge(store, record, reason="known"):
    return store.acknowledge(record.id, reason=reason, actor=PERSON)


def test_an_acknowledgement_names_its_person_and_reason_and_holds_off_every_correction(store, db, held):
    ys = [held.proofs[0].y]
    (record,) = store.record([finding(held.id, ys)])
    known = acknowledge(store, record, "the user was refunded")
    assert known.state is DiscrepancyState.ACKNOWLEDGED
    assert [(turn.what, turn.by, turn.reason) for turn in known.history] == [
        ("open", None, None),
        ("acknowledged", PERSON, "the user was refunded"),
    ]
    (again,) = store.record([finding(held.id, ys)])
    assert (again.state, again.sightings) == (DiscrepancyState.ACKNOWLEDGED, 2)
    assert not store.correct(correction(again, held, ys))
    assert token(db, held.id)["status"] == "unspent"
    assert db["meltd_audit"].count_documents({}) == 0
    assert store.clear_unseen([record.subject], []) == 0
    assert store.count_open_discrepancies() == {}


def test_reopened_it_is_open_and_has_to_be_seen_anew_before_value_comes_back(store, held):
    release = {"drift": DriftType.DB_PENDING_MINT_UNSPENT, "action": "release"}
    store.record([finding(held.id, **release)])
    time.sleep(0.02)
    (record,) = store.record([finding(held.id, **release)])
    assert confirmed(record, confirm_after_s=0.01)
    acknowledge(store, record)
    back = store.reopen(record.id, reason="to be mended", actor=PERSON)
    assert back.state is DiscrepancyState.OPEN
    assert not confirmed(back, confirm_after_s=0)
    assert [turn.what for turn in back.history] == ["open", "acknowledged", "reopened"]
    with pytest.raises(MeltdError, match="this needs acknowledged"):
        store.reopen(record.id, reason="again", actor=PERSON)


def test_one_that_had_recurred_is_recurred_again(store, held):
    ys = [held.proofs[0].y]
    store.record([finding(held.id, ys)])
    store.clear_unseen([f"token:{held.id}"], [])
    (record,) = store.record([finding(held.id, ys)])
    assert (record.state, record.occurrence) == (DiscrepancyState.RECURRED, 2)
    acknowledge(store, record)
    assert store.reopen(record.id, reason="x", actor=PERSON).state is DiscrepancyState.RECURRED


def test_what_is_over_can_not_be_acknowledged_and_what_is_not_there_is_none(store, held):
    (record,) = store.record([finding(held.id)])
    store.clear_unseen([record.subject], [])
    with pytest.raises(MeltdError, match="is cleared") as refused:
        acknowledge(store, record)
    assert refused.value.code == "WRONG_STATE"
    assert store.acknowledge("nothing", reason="x", actor=PERSON) is None
    assert store.reopen("nothing", reason="x", actor=PERSON) is None
    assert store.discrepancy("nothing") is None


def test_a_persons_turn_outlives_the_last_twenty(store, held):
    (record,) = store.record([finding(held.id)])
    acknowledge(store, record, "long ago")
    store.reopen(record.id, reason="soon after", actor=PERSON)
    for _ in range(15):
        store.clear_unseen([record.subject], [])
        store.record([finding(held.id)])
    history = store.discrepancy(record.id).history
    assert len(history) == 22
    assert [turn.reason for turn in history if turn.by is not None] == ["long ago", "soon after"]
    assert [turn.at for turn in history] == sorted(turn.at for turn in history)


def test_what_the_mint_has_taken_keeps_a_document_from_melts_though_acknowledged(store, db):
    """A person's word brings no money back; drift of another kind is theirs to judge."""
    gone, double = (store.tokens([TokenId(insert_token(db, npub(), [8]))])[0] for _ in range(2))
    first, second = store.record(
        [finding(gone.id), finding(double.id, drift=DriftType.DUPLICATE_PROOF, action="record")]
    )
    both = [gone.id, double.id]
    assert {one.id for one in store.open_discrepancies_of(both, [Severity.HIGH])} == {first.id, second.id}
    acknowledge(store, first)
    acknowledge(store, second)
    assert [one.id for one in store.open_discrepancies_of(both, [Severity.HIGH])] == [first.id]


def test_figures_are_of_what_is_open_by_severity_and_unit(store, db):
    tokens = [TokenId(insert_token(db, npub(), [8])) for _ in range(4)]
    records = store.record(
        [
            finding(tokens[0], value=8),
            finding(tokens[1], value=5),
            finding(tokens[2], value=7, unit="msat"),
            finding(tokens[3], value=100, severity=Severity.LOW),
        ]
    )
    acknowledge(store, records[3])
    figures = store.open_figures()
    assert figures.value == {("HIGH", "sat"): 13, ("HIGH", "msat"): 7}
    assert figures.oldest == {"HIGH": min(record.first_seen for record in records[:3])}
    assert [one.id for one in store.discrepancies_of_token(tokens[3], 10)] == [records[3].id]
