"""The mode in the database: who decides it, and that no write of the wallet's collections comes after a switch (ADR 23)."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from bson import json_util

from melt.errors import Code, Observing, StoreError
from melt.model import Actor, JournalKind, MeltId, Owner, TokenStatus
from melt.model.mode import Mode
from tests.support.store import MINT_URL, insert_token, make_melt, new_proof, npub

if TYPE_CHECKING:
    from collections.abc import Callable

    from pymongo.database import Database

    from melt.model import Melt
    from melt.store import MongoStore

    Document = dict[str, Any]
    MakeStore = Callable[..., MongoStore]

ACTOR = Actor(name="test", uid=1000)


def wallet_bytes(db: Database[Document]) -> str:
    documents = sorted(json_util.dumps(raw, sort_keys=True) for raw in db["cashu_tokens"].find({}))
    indexes = sorted(map(str, db["cashu_tokens"].list_indexes()))
    return hashlib.sha256("\n".join([*documents, *indexes]).encode()).hexdigest()


def reserve(store: MongoStore, token_id: str) -> Melt:
    token = store.tokens([token_id])[0]
    return store.reserve(make_melt([token]), blanks=None, seed_id="s")


def settle(store: MongoStore, melt: Melt) -> None:
    melting = store.advance(melt, "MELTING") if melt.state == "RESERVED" else melt
    store.settle(melting, [], shortfall=0, fees_paid=melting.overpaid, preimage=None)


# --- who decides ---


def test_documents_that_meltd_did_not_make_are_looked_at_first(make_store: MakeStore, db: Database[Document]) -> None:
    insert_token(db, npub(), [8])
    before = wallet_bytes(db)
    store = make_store(mode=None)
    choice = store.mode()
    assert (choice.mode, choice.chosen) == (Mode.OBSERVE, False)
    assert make_store(mode=None).mode().mode is Mode.OBSERVE
    assert wallet_bytes(db) == before
    assert make_store(mode="correct").mode().chosen, "an explicit setting is a person's word where nobody has chosen"
    store.switch_to_observe(actor=ACTOR, reason="moving", end_open=False)
    assert make_store(mode="correct").mode().mode is Mode.OBSERVE, "what was chosen later is more careful"


def test_an_empty_database_is_corrected_until_somebody_fills_it_before_meltd_did_anything(
    make_store: MakeStore, db: Database[Document]
) -> None:
    assert make_store(mode=None).mode().mode is Mode.CORRECT
    token_id = insert_token(db, npub(), [8])
    assert make_store(mode=None).mode().mode is Mode.OBSERVE
    store = make_store(mode="correct")
    reserve(store, token_id)
    db["meltd_mode"].delete_many({})
    kept = make_store(mode=None).mode()
    assert (kept.mode, kept.chosen) == (Mode.CORRECT, True)
    assert "journal" in kept.reason


def test_a_setting_to_observe_is_no_choice_and_holds_all_the_same(
    make_store: MakeStore, db: Database[Document]
) -> None:
    token_id = insert_token(db, npub(), [8])
    store = make_store(mode="observe")
    assert not store.mode().chosen
    other = make_store(mode="correct")
    assert other.mode().mode is Mode.CORRECT
    before = wallet_bytes(db)
    with pytest.raises(Observing):
        reserve(store, token_id)
    assert wallet_bytes(db) == before
    reserve(other, token_id)


# --- the gate ---


def test_every_way_to_the_wallets_documents_is_shut(make_store: MakeStore, db: Database[Document]) -> None:
    user = npub()
    ids = [insert_token(db, user, [8]), insert_token(db, user, [4], status="spent")]
    store = make_store(mode="observe")
    before = wallet_bytes(db)
    owner = Owner(npub=user, wallet_id=None, mint_url=MINT_URL)
    spent = store.tokens([ids[1]])[0]
    back = make_melt(
        [spent], kind=JournalKind.RECLAIM, idempotency_key=None, payment_hash=None, amount=0, fee_reserve=0
    )
    ways: list[Callable[[], object]] = [
        lambda: reserve(store, ids[0]),
        lambda: store.reserve(back, blanks=None, seed_id="s"),
        lambda: store.mark_tokens_spent([ids[0]], operation_id="x", reason="t", actor=ACTOR),
        lambda: store.execute_atomic_melt(
            source_token_ids=[ids[0]],
            keep_proofs=(),
            melt_change_proofs=[new_proof(4)],
            transaction_id="tx",
            owner=owner,
            actor=ACTOR,
        ),
    ]
    for way in ways:
        with pytest.raises(Observing) as caught:
            way()
        assert caught.value.code is Code.OBSERVING
    assert wallet_bytes(db) == before
    assert db["meltd_melts"].count_documents({}) == 0
    assert db["meltd_audit"].count_documents({}) == 0


def test_gates_that_somebody_deletes_are_shut_and_the_next_start_makes_them_again(
    make_store: MakeStore, db: Database[Document]
) -> None:
    token_id = insert_token(db, npub(), [8])
    store = make_store()
    db["meltd_mode"].delete_many({"_id": {"$ne": "mode"}})
    with pytest.raises(Observing):
        reserve(store, token_id)
    reserve(make_store(), token_id)


def test_open_entries_end_and_nothing_new_begins_on_the_way_to_observe(
    make_store: MakeStore, db: Database[Document]
) -> None:
    user = npub()
    ids = [insert_token(db, user, [8]), insert_token(db, user, [16])]
    store = make_store()
    melt = reserve(store, ids[0])
    with pytest.raises(StoreError, match="1 entries") as refused:
        store.switch_to_observe(actor=ACTOR, reason="x", end_open=False)
    assert refused.value.code is Code.WRONG_STATE
    assert store.mode().mode is Mode.CORRECT
    assert store.switch_to_observe(actor=ACTOR, reason="moving", end_open=True).mode is Mode.ENDING
    assert store.finish_ending().mode is Mode.ENDING
    with pytest.raises(Observing):
        reserve(store, ids[1])
    settle(store, melt)
    ended = store.finish_ending()
    assert (ended.mode, ended.reason, ended.actor) == (Mode.OBSERVE, "moving", ACTOR)
    assert token_status(db, ids[0]) == TokenStatus.SPENT
    assert store.switch_to_correct(actor=ACTOR, reason="moved").mode is Mode.CORRECT
    reserve(store, ids[1])


def token_status(db: Database[Document], token_id: str) -> str:
    return next(raw["status"] for raw in db["cashu_tokens"].find({}) if str(raw["_id"]) == token_id)


def test_no_write_comes_after_a_switch_under_200_melts_by_two_processes(
    make_store: MakeStore, db: Database[Document]
) -> None:
    """
    Two stores reserve and settle as fast as they can while a third switches: whoever is not committed by then is refused, what
    is open is ended, and from the moment of the answer not one byte moves.
    """
    users = [npub() for _ in range(20)]
    ids = [insert_token(db, users[at % 20], [8, 2]) for at in range(200)]
    stores = [make_store(), make_store()]
    third = make_store()
    begun, refused = threading.Event(), threading.Event()

    def pay(at: int) -> str:
        store = stores[at % 2]
        try:
            melt = reserve(store, ids[at])
        except Observing:
            refused.set()
            return "refused"
        begun.set()
        settle(store, melt)
        return "paid"

    with ThreadPoolExecutor(8) as pool:
        outcomes = [pool.submit(pay, at) for at in range(200)]
        assert begun.wait(60)
        choice = third.switch_to_observe(actor=ACTOR, reason="moving", end_open=True)
        open_then = third.open_melts()
        while choice.mode is Mode.ENDING:
            choice = third.finish_ending()
        at_the_switch = wallet_bytes(db)
        assert third.open_melts() == (), "no entry is left behind"
        told = [outcome.result() for outcome in outcomes]
    assert wallet_bytes(db) == at_the_switch, "no write after the switch"
    assert refused.is_set()
    assert {"paid", "refused"} == set(told), f"{len(open_then)} were open"
    paid = told.count("paid")
    assert db["cashu_tokens"].count_documents({"status": "spent"}) == paid
    assert db["cashu_tokens"].count_documents({"status": "unspent"}) == 200 - paid
    assert db["meltd_melts"].count_documents({"state": "SETTLED"}) == paid == db["meltd_melts"].count_documents({})


def test_a_transaction_that_passed_before_the_switch_is_not_committed_after_it(
    make_store: MakeStore, db: Database[Document]
) -> None:
    """Its snapshot may be older than the switch: to read the mode in it would let it through."""
    token_id = insert_token(db, npub(), [8])
    store, other = make_store(), make_store()
    switched: list[Mode] = []
    tries: list[int] = []
    real = store._reserve_inputs

    def late(session: Any, melt: Melt) -> Melt:
        tries.append(1)
        if len(tries) == 1:
            # Its snapshot is taken: it has looked for its own id and the claims already.
            switched.append(other.switch_to_observe(actor=ACTOR, reason="x", end_open=False).mode)
        return real(session, melt)

    store._reserve_inputs = late  # type: ignore[method-assign]
    with pytest.raises(Observing):
        reserve(store, token_id)
    assert switched == [Mode.OBSERVE]
    assert token_status(db, token_id) == TokenStatus.UNSPENT
    assert store.melt(MeltId("x")) is None
    assert db["meltd_melts"].count_documents({}) == 0
