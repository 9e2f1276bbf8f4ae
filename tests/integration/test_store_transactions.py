"""Transactions under faults, the schema, errors without secrets, the pool of threads (STORE rules, I3, I10, I11)."""

from __future__ import annotations

import asyncio
import secrets
import threading
import traceback
from dataclasses import fields

import pytest
from bson import ObjectId
from pymongo.client_session import ClientSession
from pymongo.errors import AutoReconnect, OperationFailure

from melt.errors import ConfigError, DuplicateSecret, LostRace, StoreError, StoreUnavailable
from melt.model import MeltState, TokenId
from melt.store import MongoStore, Threads
from melt.store.connect import Collections, database_of
from melt.store.indexes import UNIQUE_COUNTED_INDEX
from melt.store.transactions import Transactions
from tests.support.store import (
    MINT_URL,
    SystemClock,
    fake_proof,
    insert_token,
    make_melt,
    new_proof,
    npub,
    sums_by_status,
)

SEED = "seed"


def labelled(error, label):
    error._add_error_label(label)
    return error


def break_commits(monkeypatch, *failures, durable=True):
    """Make the first commits fail with these errors; with ``durable`` the server has committed nevertheless."""
    real = ClientSession.commit_transaction
    left = list(failures)
    calls = []

    def commit(self):
        calls.append(1)
        if not left:
            return real(self)
        failure = left.pop(0)
        if durable and len(calls) == 1:
            real(self)
        raise failure

    monkeypatch.setattr(ClientSession, "commit_transaction", commit)
    return calls


def unspent(store, db, amounts=(8, 4)):
    user = npub()
    insert_token(db, user, amounts)
    return user, store.spendable(user, [MINT_URL], "sat")


def test_an_unknown_commit_repeats_the_commit_alone(store, db, monkeypatch):
    """The callback ran once: one entry, one set of counters."""
    _, tokens = unspent(store, db)
    runs = []
    real = MongoStore._reserve
    monkeypatch.setattr(MongoStore, "_reserve", lambda *args: (runs.append(1), real(*args))[1])
    break_commits(monkeypatch, labelled(AutoReconnect("lost"), "UnknownTransactionCommitResult"))
    melt = store.reserve(make_melt(tokens), blanks=("00c3c8469bdea580", 2), seed_id=SEED)
    assert len(runs) == 1
    assert store.melt(melt.id) == melt


@pytest.mark.parametrize("what", ["reserve", "advance", "plan_swap", "settle", "release", "execute"])
def test_a_callback_that_runs_again_after_a_durable_commit_does_nothing(store, db, monkeypatch, what):
    """The commit was durable, its answer lost, the session gone: the second run knows the first one's marks."""
    user, tokens = unspent(store, db)
    blanks = ("00c3c8469bdea580", 2)
    melt = None
    if what not in {"reserve", "execute"}:
        melt = store.reserve(make_melt(tokens), blanks=blanks, seed_id=SEED)
        if what == "settle":
            melt = store.advance(melt, MeltState.MELTING)
    break_commits(monkeypatch, labelled(OperationFailure("gone", 251), "TransientTransactionError"))
    expected = {"pending": 12}
    if what == "reserve":
        melt = store.reserve(make_melt(tokens), blanks=blanks, seed_id=SEED)
    elif what == "advance":
        melt = store.advance(melt, MeltState.MELTING)
    elif what == "plan_swap":
        melt = store.plan_swap(
            melt,
            MeltState.SWAPPING,
            inputs=melt.inputs,
            amounts=(8, 4),
            keep=1,
            fee=0,
            keyset_id=blanks[0],
            seed_id=SEED,
            fence=False,
        )
    elif what == "settle":
        melt, result = store.settle(melt, [new_proof(1)], shortfall=0, fees_paid=0, preimage=None)
        assert (result.source_tokens_spent, result.melt_change_amount, result.operations) == (1, 1, 2)
        expected = {"spent": 12, "unspent": 1}
    elif what == "release":
        melt = store.release(melt, spent=(), error_code="X", error_detail="")
        expected = {"unspent": 12}
    else:
        result = store.execute_atomic_melt(
            source_token_ids=[tokens[0].id],
            keep_proofs=[new_proof(4)],
            melt_change_proofs=[new_proof(1)],
            transaction_id="tx",
            owner=_owner(user),
            actor=make_melt(tokens).actor,
        )
        assert (result.source_tokens_spent, result.keep_amount, result.melt_change_amount) == (1, 4, 1)
        expected = {"spent": 12, "unspent": 5}
    assert sums_by_status(db, user) == expected
    if melt is not None:
        assert store.melt(melt.id) == melt
        taken = 4 if what == "plan_swap" else 2
        assert db["meltd_counters"].find_one()["next"] == taken


def _owner(user):
    from melt.model import Owner

    return Owner(npub=user, wallet_id=None, mint_url=MINT_URL)


def test_a_transaction_gives_up_at_its_deadline(make_store, db, monkeypatch):
    """A conflict that never ends becomes an error in bounded time, and nothing is written."""
    store = make_store(transaction_deadline_s=0.3)
    user, tokens = unspent(store, db)
    conflict = OperationFailure("conflict", 112)
    labelled(conflict, "TransientTransactionError")
    monkeypatch.setattr(MongoStore, "_reserve", lambda *args: (_ for _ in ()).throw(conflict))
    with pytest.raises(StoreUnavailable):
        store.reserve(make_melt(tokens), blanks=None, seed_id=SEED)
    assert sums_by_status(db, user) == {"unspent": 12}


def test_an_exception_in_a_callback_leaves_nothing_behind(make_store, db, mongo_client):
    """Raised after the first write, whatever it is."""
    make_store()
    runner = Transactions(mongo_client, deadline_s=5)

    def work(session):
        db["meltd_leases"].insert_one({"_id": "x", "renewals": 1, "at": SystemClock().now()}, session=session)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner.run(work)
    assert db["meltd_leases"].count_documents({}) == 0


def test_a_store_that_is_gone_is_unavailable_and_says_no_address(make_store):
    """In bounded time, in our own words, with a hint."""
    gone = "mongodb://127.0.0.1:9/?retryWrites=false"
    store = make_store(schema=False, uri=gone, server_selection_s=0.2, transaction_deadline_s=0.5)
    for call in (store.ping, lambda: store.melt("x"), lambda: store.renew_instance("x"), store.ensure_schema):
        with pytest.raises(StoreUnavailable) as caught:
            call()
        assert caught.value.hint
        assert "127.0.0.1" not in str(caught.value)


def test_no_error_of_the_driver_carries_a_secret_out(make_store, db):
    """A duplicate key's message quotes the key: neither message, cause, context nor traceback of ours does (I10)."""
    store = make_store(unique_proofs="on")
    user = npub()
    known = fake_proof(8)
    insert_token(db, user, [known])
    with pytest.raises(DuplicateSecret) as caught:
        store._run(lambda session: _insert_twice(store, session, known))
    text = "".join(traceback.format_exception(caught.value))
    assert known["secret"] not in text
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None


def _insert_twice(store, session, proof):
    from melt.model import Actor, TokenStatus
    from melt.store.ledger import Ledger, Loose

    ledger = Ledger(store._c, session, now=store._now(), operation_id="op", actor=Actor(name="t"), gate=lambda: None)
    loose = Loose(npub="n", wallet_id=None, mint_url="m", proofs=(proof,), ys=())
    ledger.store_loose([loose], name="tx_a", parent="tx", status=TokenStatus.UNSPENT, reason="t")


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("mongodb://h/wallet?replicaSet=r", "wallet"),
        ("mongodb://h/", "meltd"),
        ("mongodb://h", "meltd"),
        ("x", "meltd"),
    ],
)
def test_the_database_is_the_one_of_the_uri(uri, name):
    """Or the default."""
    assert database_of(uri) == name


def test_a_uri_that_cannot_be_used_is_refused_without_its_password():
    """A configuration error, without the driver's own message."""
    password = secrets.token_hex(8)
    with pytest.raises(ConfigError) as caught:
        MongoStore(f"mongodb://user:{password}@host:port/", clock=SystemClock())
    assert password not in "".join(traceback.format_exception(caught.value))


def test_a_server_without_transactions_is_refused(make_store, monkeypatch):
    """A standalone, or one too old to trust."""
    from pymongo.database import Database

    store = make_store(schema=False)
    real = Database.command
    answers = {}

    def command(self, name, *args, **kwargs):
        return real(self, name, *args, **kwargs) | answers.get(name, {})

    monkeypatch.setattr(Database, "command", command)
    answers["buildInfo"] = {"versionArray": [4, 2, 6, 0]}
    with pytest.raises(ConfigError, match=r"4\.2\.6"):
        store.ensure_schema()
    answers.clear()
    answers["hello"] = {"logicalSessionTimeoutMinutes": None}
    with pytest.raises(ConfigError, match="transactions"):
        store.ensure_schema()


def test_the_schema_is_made_once(make_store, db):
    """A second daemon finds everything there and makes nothing."""
    first = make_store()
    before = {name: list(db[name].list_indexes()) for name in sorted(db.list_collection_names())}
    assert len(before) == len(fields(Collections))
    second = make_store()
    assert {name: list(db[name].list_indexes()) for name in sorted(db.list_collection_names())} == before
    assert not first.unique_proofs_indexed, "a yes of its own is asked for"
    assert not second.unique_proofs_indexed
    with pytest.raises(OperationFailure):
        db["meltd_melts"].insert_one({"_id": "x", "state": "NONSENSE"})


def test_an_existing_collection_gets_no_unique_index_by_itself(make_store, db):
    """auto leaves it; on makes it where it can, and says how many counted duplicates forbid it where it can't."""
    user = npub()
    twice = fake_proof(8)
    extra = insert_token(db, user, [twice])
    insert_token(db, user, [twice])
    insert_token(db, user, [twice], status="spent")
    assert make_store().unique_proofs_indexed is False
    with pytest.raises(StoreError, match="1 proofs") as caught:
        make_store(unique_proofs="on")
    assert twice["secret"] not in "".join(traceback.format_exception(caught.value))
    db["cashu_tokens"].delete_one({"_id": ObjectId(extra)})
    assert make_store(unique_proofs="on").unique_proofs_indexed is True
    assert UNIQUE_COUNTED_INDEX in db["cashu_tokens"].index_information()
    insert_token(db, user, [], status="pending")
    insert_token(db, user, [], status="pending")


def test_two_daemons_may_start_at_once(make_store, db):
    """Both make the schema; neither fails."""
    stores = [make_store(schema=False) for _ in range(2)]
    failures = []

    def start(store):
        try:
            store.ensure_schema()
        except Exception as error:  # noqa: BLE001 - collected
            failures.append(error)

    threads = [threading.Thread(target=start, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(db.list_collection_names()) == len(fields(Collections))


class Heard:
    def __init__(self):
        self.calls = []

    def store_call(self, method, outcome, seconds):
        self.calls.append((method, outcome))


def test_telemetry_hears_of_each_call(make_store):
    """With its outcome."""
    heard = Heard()
    store = make_store(telemetry=heard)
    store.ping()
    with pytest.raises(LostRace):
        store.mark_tokens_spent([TokenId("x")], operation_id="o", reason="r", actor=make_actor())
    assert heard.calls[-2:] == [("ping", "ok"), ("mark_tokens_spent", "refused")]


def make_actor():
    from melt.model import Actor

    return Actor(name="t")


async def test_a_cancelled_waiter_does_not_stop_the_method():
    """What runs ends, and what waits for a thread runs too."""
    threads = Threads(workers=1)
    gate, done = threading.Event(), []
    first = asyncio.ensure_future(threads(lambda: (gate.wait(), done.append(1))))
    second = asyncio.ensure_future(threads(lambda: done.append(2)))
    await asyncio.sleep(0)
    for waiter in (first, second):
        waiter.cancel()
    for waiter in (first, second):
        with pytest.raises(asyncio.CancelledError):
            await waiter
    gate.set()
    await threads.aclose()
    assert done == [1, 2]
    assert threads.in_flight == 0


async def test_the_pool_is_bounded_and_passes_errors_on():
    """More than it may hold is refused, not queued."""
    threads = Threads(workers=1, queue_max=1)
    gate = threading.Event()
    waiting = asyncio.ensure_future(threads(gate.wait))
    await asyncio.sleep(0)
    with pytest.raises(StoreUnavailable):
        await threads(lambda: 1)
    gate.set()
    assert await waiting
    with pytest.raises(ZeroDivisionError):
        await threads(lambda: 1 // 0)
    await threads.aclose()
    with pytest.raises(StoreUnavailable):
        await threads(lambda: 1)
