"""A token's status: which moves there are, what they write, and that two movers don't both win (DESIGN section 3)."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from melt.audit import status_change
from melt.errors import DuplicateMelt, InvariantBroken, LostRace, StoreError
from melt.model import (
    MELT_MOVES,
    TERMINAL,
    TOKEN_MOVES,
    Actor,
    MeltId,
    MeltState,
    TokenId,
    TokenStatus,
    TransactionType,
)
from tests.support.store import (
    MINT_URL,
    SystemClock,
    assert_no_secret_twice,
    assert_totals,
    fake_proof,
    insert_token,
    insert_wallet,
    make_melt,
    npub,
    sums_by_status,
    token,
)

KEYSET = "00c3c8469bdea580"
SEED = "0123456789abcdef"
ACTOR = Actor(name="test")


def chain(db, token_id):
    """The status changes of a document, oldest first, from its audit entries."""
    entries = db["meltd_audit"].find({"token_id": token_id}).sort("at", 1)
    return [(entry["from_status"], entry["to_status"]) for entry in entries]


def test_the_values_are_the_ones_that_the_wallet_service_stores():
    """The enums are the wire format of the collection."""
    assert [status.value for status in TokenStatus] == ["pending", "unspent", "spent", "failed"]
    assert [kind.value for kind in TransactionType] == ["received", "sent", "minted", "change", "melted"]


@pytest.mark.parametrize("from_status", list(TokenStatus))
@pytest.mark.parametrize("to_status", list(TokenStatus))
def test_a_move_is_allowed_exactly_where_the_table_says(from_status, to_status):
    """pending -> unspent, spent, failed; unspent -> pending, spent; spent and failed are final (I7)."""
    allowed = {
        ("pending", "unspent"),
        ("pending", "spent"),
        ("pending", "failed"),
        ("unspent", "pending"),
        ("unspent", "spent"),
    }

    def change():
        return status_change(
            operation_id="op",
            at=SystemClock().now(),
            token_id=TokenId("t"),
            npub="n",
            mint_url="m",
            from_status=from_status,
            to_status=to_status,
            amount=1,
            ys=(),
            reason="test",
            actor=ACTOR,
        )

    assert (to_status in TOKEN_MOVES[from_status]) is ((from_status, to_status) in allowed)
    if (from_status, to_status) in allowed:
        assert change().id == "op/t"
    else:
        with pytest.raises(InvariantBroken):
            change()


@pytest.mark.parametrize(("status", "moved"), [("pending", 1), ("unspent", 1), ("spent", 0)])
def test_marking_spent_moves_what_may_move(store, db, status, moved):
    """Whole documents; those already spent stay as they are; an operation twice equals once."""
    user = npub()
    token_id = insert_token(db, user, [8], status=status)
    before = token(db, token_id)
    for expected in (moved, 0):
        operation = {"operation_id": "op-1", "reason": "test", "actor": ACTOR}
        assert store.mark_tokens_spent([TokenId(token_id)], **operation) == expected
    after = token(db, token_id)
    assert after["status"] == "spent"
    assert after["spent_at"] is not None
    assert chain(db, token_id) == ([(status, "spent")] if moved else [])
    if not moved:
        assert after == before


def test_a_failed_token_is_not_marked_spent(store, db):
    """And the others of the same call are not either: all or nothing."""
    user = npub()
    failed, good = insert_token(db, user, [8], status="failed"), insert_token(db, user, [4])
    with pytest.raises(StoreError, match="failed"):
        store.mark_tokens_spent([TokenId(good), TokenId(failed)], operation_id="op", reason="test", actor=ACTOR)
    assert sums_by_status(db, user) == {"failed": 8, "unspent": 4}


def test_reserving_splits_the_rest_off_unharmed(store, db):
    """The chosen proofs stay, the others move raw: ids, DLEQ, witness and unknown fields with them."""
    user = npub()
    wallet = insert_wallet(db, user)
    odd = fake_proof(4, dleq=True, witness='{"signatures":[]}', note="of the service's own")
    source = insert_token(db, user, [fake_proof(8), odd, fake_proof(2.0)], wallet_id=wallet)
    before = token(db, source)
    (held,) = store.spendable(user, [MINT_URL], "sat")
    melt = store.reserve(make_melt([held], [held.proofs[0].y]), blanks=None, seed_id=SEED)
    after = token(db, source)
    assert after["proofs"] == before["proofs"][:1]
    assert (after["status"], after["total_amount"], after["rev"], after["__v"]) == ("pending", 8, 1, 1)
    assert after["reservation"]["melt_id"] == melt.id
    (kept_id,) = melt.keep_token_ids
    kept = token(db, kept_id)
    assert kept["proofs"] == before["proofs"][1:]
    assert (kept["status"], kept["total_amount"], kept["transaction_type"]) == ("unspent", 6, "change")
    assert kept["transaction_id"] == f"{melt.transaction_id}_keep"
    assert kept["metadata"]["parent_transaction_id"] == melt.transaction_id
    assert kept["wallet_id"] == wallet
    assert melt.keep_amount == 6
    assert store.melt(melt.id) == melt
    assert chain(db, source) == [("unspent", "pending")]
    assert chain(db, kept_id) == [(None, "unspent")]
    assert_no_secret_twice(db)


def test_the_rests_of_one_wallet_become_one_document(store, db):
    """However many documents were touched; another wallet's rest is a document of its own."""
    user = npub()
    first, second = insert_wallet(db, user), insert_wallet(db, user, MINT_URL + "/")
    for wallet in (first, first, second):
        insert_token(db, user, [8, 4], wallet_id=wallet)
    tokens = store.spendable(user, [MINT_URL], "sat")
    ys = [proof.y for held in tokens for proof in held.proofs if proof.amount == 8]
    melt = store.reserve(make_melt(tokens, ys), blanks=None, seed_id=SEED)
    kept = [token(db, token_id) for token_id in melt.keep_token_ids]
    assert sorted((document["transaction_id"], document["total_amount"]) for document in kept) == [
        (f"{melt.transaction_id}_keep", 8),
        (f"{melt.transaction_id}_keep_2", 4),
    ]
    assert {document["wallet_id"] for document in kept} == {first, second}


def reserved(store, db, amounts=((8, 4), (2,)), **changes):
    """A melt that has reserved all of a new user's money."""
    user = npub()
    for held in amounts:
        insert_token(db, user, held)
    tokens = store.spendable(user, [MINT_URL], "sat")
    return store.reserve(make_melt(tokens, **changes), blanks=None, seed_id=SEED)


def test_a_release_gives_everything_back(store, db):
    """Unspent again, without reservation; the journal keeps the reason and gives up its claims."""
    melt = reserved(store, db)
    released = store.release(melt, spent=(), error_code="PAYMENT_FAILED", error_detail="no route")
    assert released.state is MeltState.RELEASED
    assert released.ended_at is not None
    assert store.melt(melt.id) == released
    assert sums_by_status(db, melt.npub) == {"unspent": 14}
    assert all("reservation" not in document for document in db["cashu_tokens"].find())
    assert store.melt_by_payment_hash(melt.payment_hash) is None
    assert store.melt_by_key(melt.idempotency_key) == released
    for token_id in released.source_token_ids:
        assert chain(db, token_id) == [("unspent", "pending"), ("pending", "unspent")]
    again = make_melt(store.spendable(melt.npub, [MINT_URL], "sat"), payment_hash=melt.payment_hash)
    assert store.reserve(again, blanks=None, seed_id=SEED).state is MeltState.RESERVED


def test_a_release_marks_spent_what_the_mint_consumed(store, db):
    """A document with proofs of both kinds is split: the spent ones stay, the others come back."""
    melt = reserved(store, db, ((8, 4), (2,), (1,)))
    by_amount = {ref.amount: ref for ref in melt.inputs}
    spent = [by_amount[4].y, by_amount[1].y]
    store.release(melt, spent=spent, error_code="X", error_detail="")
    assert sums_by_status(db, melt.npub) == {"unspent": 10, "spent": 5}
    mixed = token(db, by_amount[8].token_id)
    assert (mixed["status"], mixed["total_amount"]) == ("spent", 4)
    sibling = db["cashu_tokens"].find_one({"transaction_id": f"{mixed['transaction_id']}_keep"})
    assert (sibling["status"], sibling["total_amount"]) == ("unspent", 8)
    assert sibling["metadata"]["parent_transaction_id"] == mixed["transaction_id"]
    assert_no_secret_twice(db)
    assert_totals(db)


@pytest.mark.parametrize("damage", ["status", "type", "proof", "gone"])
def test_a_document_that_moved_on_loses_the_reservation(store, db, damage):
    """Spent, handed out, emptied or deleted between selection and T1: nothing at all is written."""
    user = npub()
    first, second = insert_token(db, user, [8]), insert_token(db, user, [4])
    tokens = store.spendable(user, [MINT_URL], "sat")
    chosen = {"transaction_id": token(db, second)["transaction_id"]}
    if damage == "gone":
        db["cashu_tokens"].delete_one(chosen)
    else:
        change = {"status": {"status": "pending"}, "type": {"transaction_type": "sent"}}
        db["cashu_tokens"].update_one(chosen, {"$set": change.get(damage, {"proofs": [fake_proof(4)]})})
    with pytest.raises(LostRace):
        store.reserve(make_melt(tokens), blanks=(KEYSET, 2), seed_id=SEED)
    assert token(db, first)["status"] == "unspent"
    assert db["meltd_melts"].count_documents({}) == 0
    assert db["meltd_counters"].count_documents({}) == 0
    assert db["meltd_audit"].count_documents({}) == 0


def test_the_same_key_or_payment_hash_is_refused_with_the_earlier_melt(store, db):
    """I1, and the refusal names the melt that has it."""
    melt = reserved(store, db)
    user = npub()
    insert_token(db, user, [8])
    tokens = store.spendable(user, [MINT_URL], "sat")
    for taken in ({"idempotency_key": melt.idempotency_key}, {"payment_hash": melt.payment_hash}):
        with pytest.raises(DuplicateMelt) as caught:
            store.reserve(make_melt(tokens, **taken), blanks=None, seed_id=SEED)
        assert caught.value.melt_id == melt.id
    assert sums_by_status(db, user) == {"unspent": 8}


@pytest.mark.parametrize("from_state", list(MeltState))
@pytest.mark.parametrize("to_state", list(MeltState))
def test_the_journal_moves_only_as_the_table_says(store, db, from_state, to_state):
    """A move to an end goes through the method that ends the reservations too."""
    melt = reserved(store, db, ((8,),))
    db["meltd_melts"].update_one({"_id": melt.id}, {"$set": {"state": str(from_state)}})
    melt = store.melt(melt.id)
    assert melt.state is from_state
    allowed = to_state is from_state or (to_state in MELT_MOVES[from_state] and to_state not in TERMINAL)
    if allowed:
        moved = store.advance(melt, to_state, post_code=3)
        assert (moved.state, moved.rev, moved.post_code) == (to_state, melt.rev + 1, 3)
        assert store.melt(melt.id) == moved
    else:
        with pytest.raises(InvariantBroken):
            store.advance(melt, to_state)
        assert store.melt(melt.id) == melt


def test_a_stale_entry_moves_nothing(store, db):
    """The revision is in the filter, so that the second of two movers loses."""
    melt = reserved(store, db)
    store.advance(melt, MeltState.MELTING)
    for stale in (
        lambda: store.advance(melt, MeltState.MELTING),
        lambda: store.release(melt, spent=(), error_code="X", error_detail=""),
    ):
        with pytest.raises(LostRace):
            stale()
    assert sums_by_status(db, melt.npub) == {"pending": 14}
    assert store.melt(melt.id).state is MeltState.MELTING


def test_a_stale_revision_of_the_same_state_moves_nothing(store, db):
    """Two recoveries that hold the same entry: the first one's note is not overwritten by the second."""
    melt = reserved(store, db)
    noted = store.advance(melt, melt.state, post_code=1)
    with pytest.raises(LostRace):
        store.advance(melt, melt.state, post_code=7)
    assert store.melt(melt.id) == noted


def race(number, work):
    """Run ``work(index)`` in threads that start together; results, or the errors that they raised."""
    barrier = threading.Barrier(number)

    def run(index):
        barrier.wait()
        try:
            return work(index)
        except Exception as error:  # noqa: BLE001 - the errors are what is asserted on
            return error

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(run, range(number)))


def test_of_eight_melts_over_the_same_documents_one_wins(make_store, db):
    """The others lose cleanly, and the money is reserved once."""
    stores = [make_store() for _ in range(4)]
    user = npub()
    insert_token(db, user, [8, 4])
    insert_token(db, user, [2])
    tokens = stores[0].spendable(user, [MINT_URL], "sat")
    ys = [proof.y for held in tokens for proof in held.proofs if proof.amount != 4]

    def reserve(index):
        return stores[index % 4].reserve(make_melt(tokens, ys), blanks=(KEYSET, 2), seed_id=SEED)

    results = race(8, reserve)
    lost = [result for result in results if isinstance(result, Exception)]
    assert len(lost) == 7
    assert {type(error) for error in lost} == {LostRace}
    assert sums_by_status(db, user) == {"pending": 10, "unspent": 4}
    assert db["meltd_melts"].count_documents({}) == 1
    assert_no_secret_twice(db)


def test_of_eight_identical_requests_one_becomes_a_melt(make_store, db):
    """The same idempotency key and payment hash over different money: one entry, seven refusals."""
    store = make_store()
    user = npub()
    for _ in range(8):
        insert_token(db, user, [8])
    tokens = store.spendable(user, [MINT_URL], "sat")
    same = {"idempotency_key": "k", "payment_hash": "ab" * 32}
    results = race(8, lambda index: store.reserve(make_melt([tokens[index]], **same), blanks=None, seed_id=SEED))
    lost = [result for result in results if isinstance(result, Exception)]
    assert [type(error) for error in lost] == [DuplicateMelt] * 7
    (winner,) = [result for result in results if not isinstance(result, Exception)]
    assert {error.melt_id for error in lost} == {winner.id}
    assert sums_by_status(db, user) == {"pending": 8, "unspent": 56}


def test_counters_never_repeat(make_store, db):
    """Melts of different users at the same time take ranges that don't meet, without a hole."""
    store = make_store()
    tokens = []
    for _ in range(8):
        user = npub()
        insert_token(db, user, [8])
        tokens += store.spendable(user, [MINT_URL], "sat")
    results = race(8, lambda index: store.reserve(make_melt([tokens[index]]), blanks=(KEYSET, 3), seed_id=SEED))
    taken = sorted(counter for melt in results for counter in range(melt.blanks.counter, melt.blanks.counter + 3))
    assert taken == list(range(24))
    assert db["meltd_counters"].find_one({"_id": f"{SEED}:{KEYSET}"})["next"] == 24


def test_of_a_settle_and_a_release_one_happens(make_store, db):
    """Both from the same revision: the journal and the tokens agree on which."""
    stores = [make_store() for _ in range(2)]
    melt = stores[0].advance(stores[0].advance(reserved(stores[0], db), MeltState.MELTING), MeltState.PENDING)

    def end(index):
        if index:
            return stores[1].settle(melt, (), shortfall=0, fees_paid=1, preimage=None)
        return stores[0].release(melt, spent=(), error_code="X", error_detail="")

    results = race(2, end)
    assert sum(isinstance(result, LostRace) for result in results) == 1
    state = stores[0].melt(melt.id).state
    expected = {"spent": 14} if state is MeltState.SETTLED else {"unspent": 14}
    assert sums_by_status(db, melt.npub) == expected


def test_a_live_reservation_is_not_marked_spent_by_others(store, db):
    """The melt's own recovery decides about its inputs."""
    melt = reserved(store, db, ((8,),))
    with pytest.raises(LostRace):
        store.mark_tokens_spent(melt.source_token_ids, operation_id="op", reason="test", actor=ACTOR)
    assert store.live_melt_ids([melt.id, MeltId("none")]) == {melt.id}
    assert sums_by_status(db, melt.npub) == {"pending": 8}


def test_a_reservation_that_no_open_melt_holds_keeps_nobody_from_the_document(store, db):
    """Another writer may bring a document back with what an ended melt had left in it."""
    user = npub()
    one = insert_token(db, user, [8], reservation={"melt_id": "over", "at": None})
    tokens = store.spendable(user, [MINT_URL], "sat")
    melt = store.reserve(make_melt(tokens), blanks=None, seed_id=SEED)
    assert token(db, one)["reservation"]["melt_id"] == melt.id
    other = npub()
    two = insert_token(db, other, [4], reservation={"melt_id": str(melt.id), "at": None})
    with pytest.raises(LostRace):
        store.reserve(make_melt(store.spendable(other, [MINT_URL], "sat")), blanks=None, seed_id=SEED)
    assert token(db, two)["status"] == "unspent"
