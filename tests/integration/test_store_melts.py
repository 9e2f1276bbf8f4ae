"""Swaps, fences, reclaims and ends of melts, on the real store (DESIGN section 4)."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from melt.ecash import y_of
from melt.errors import DuplicateSecret, InvariantBroken, LostRace
from melt.model import (
    DiscrepancyState,
    InputRef,
    JournalKind,
    MeltState,
    PostOutcome,
)
from tests.support.store import (
    KEYSET,
    MINT_URL,
    assert_no_secret_twice,
    assert_totals,
    insert_token,
    insert_wallet,
    make_melt,
    new_proof,
    npub,
    sums_by_status,
    token,
    warrant_of,
    written_off,
)

SEED = "seed"


@pytest.fixture
def melt(store, db):
    """A melt that has reserved 16 + 4, and left 8 as keep."""
    user = npub()
    wallet = insert_wallet(db, user)
    insert_token(db, user, [16, 8], wallet_id=wallet)
    insert_token(db, user, [4], wallet_id=wallet)
    tokens = store.spendable(user, [MINT_URL], "sat")
    ys = [proof.y for held in tokens for proof in held.proofs if proof.amount != 8]
    return store.reserve(make_melt(tokens, ys, amount=10), blanks=(KEYSET, 2), seed_id=SEED)


def plan(store, melt, to, amounts, *, keep, fee=0, fence=False):
    return store.plan_swap(
        melt,
        to,
        inputs=melt.inputs,
        amounts=amounts,
        keep=keep,
        fee=fee,
        keyset_id=KEYSET,
        seed_id=SEED,
        fence=fence,
    )


def test_a_swap_leaves_keep_and_a_reserved_document_to_pay_with(store, db, melt):
    """T2: sources spent, keep beside T1's keep, the pay proofs pending and the melt's new inputs."""
    melt = plan(store, melt, MeltState.SWAPPING, (4, 2, 1, 8, 4), keep=3, fee=1)
    assert melt.swap.outputs.counter == 2
    assert store.melt(melt.id) == melt
    keep, pay = [new_proof(amount) for amount in (4, 2, 1)], [new_proof(8), new_proof(4)]
    sources = [ref.token_id for ref in melt.inputs]
    ready = store.finish_swap(melt, keep_proofs=keep, pay_proofs=pay)
    assert ready.state is MeltState.READY
    assert ready.inputs_amount == 12
    assert {ref.y for ref in ready.inputs} == {y_of(proof.secret) for proof in pay}
    assert (ready.keep_amount, ready.swap_fee, len(ready.keep_token_ids)) == (15, 1, 2)
    assert sums_by_status(db, melt.npub) == {"spent": 20, "unspent": 15, "pending": 12}
    sent = token(db, ready.inputs[0].token_id)
    assert sent["reservation"]["melt_id"] == melt.id
    assert sent["transaction_id"] == f"{melt.transaction_id}_send"
    assert str(sent["wallet_id"]) == melt.wallet_id
    assert {token(db, source)["status"] for source in sources} == {"spent"}
    settled, result = store.settle(
        store.advance(ready, MeltState.MELTING, post=PostOutcome.IN_FLIGHT),
        [new_proof(1)],
        shortfall=0,
        fees_paid=1,
        preimage=None,
    )
    assert (settled.state, result.source_tokens_spent) == (MeltState.SETTLED, 1)
    assert sums_by_status(db, melt.npub) == {"spent": 32, "unspent": 16}
    assert_no_secret_twice(db)
    assert_totals(db)
    assert set(store.spent_memory("main", MINT_URL + "/", 10).known) == {ref.y for ref in settled.inputs}
    assert store.spent_memory("main", "http://other", 10).known == ()


def test_a_swap_that_does_not_add_up_is_an_invariant(store, melt):
    """I5, when it is planned and when it is finished."""
    with pytest.raises(InvariantBroken):
        plan(store, melt, MeltState.SWAPPING, (16, 8), keep=1)
    melt = plan(store, melt, MeltState.SWAPPING, (16, 4), keep=1)
    with pytest.raises(InvariantBroken):
        store.finish_swap(melt, keep_proofs=[new_proof(8)], pay_proofs=[new_proof(4)])


def test_a_fence_gives_the_value_back_in_new_proofs(store, db, melt):
    """The old proofs are spent, the new ones unspent, the melt released and its payment hash free again."""
    melt = store.advance(store.advance(melt, MeltState.MELTING), MeltState.PENDING, error_code="X")
    melt = plan(store, melt, MeltState.FENCING, (16, 2, 1), keep=3, fee=1, fence=True)
    fenced = [new_proof(16), new_proof(2), new_proof(1)]
    released = store.finish_fence(melt, fenced)
    assert released.state is MeltState.RELEASED
    assert released.error_code == "X"
    assert sums_by_status(db, melt.npub) == {"spent": 20, "unspent": 27}
    made = db["cashu_tokens"].find_one({"transaction_id": f"{melt.transaction_id}_fenced"})
    assert (made["status"], made["total_amount"]) == ("unspent", 19)
    assert store.melt_by_payment_hash(melt.payment_hash) is None
    assert store.finish_fence(melt, fenced) == released
    assert_no_secret_twice(db)


def test_a_fence_of_some_inputs_ends_the_others_as_spent(store, db, melt):
    """Those that somebody has spent are not fenced; nothing of the melt stays pending, nothing is split loose."""
    melt = store.advance(store.advance(melt, MeltState.MELTING), MeltState.PENDING)
    fenced = next(ref for ref in melt.inputs if ref.amount == 4)
    melt = store.plan_swap(
        melt,
        MeltState.FENCING,
        inputs=(fenced,),
        amounts=(4,),
        keep=1,
        fee=0,
        keyset_id=KEYSET,
        seed_id=SEED,
        fence=True,
    )
    assert store.finish_fence(melt, [new_proof(4)]).state is MeltState.RELEASED
    assert sums_by_status(db, melt.npub) == {"spent": 20, "unspent": 12}
    assert_no_secret_twice(db)


def test_every_end_may_be_repeated(store, db, melt):
    """A caller that never heard the answer asks again with the entry that it has, and gets the same."""
    melting = store.advance(melt, MeltState.MELTING)
    change = [new_proof(4)]
    first = store.settle(melting, change, shortfall=0, fees_paid=6, preimage="ab")
    count = db["meltd_audit"].count_documents({})
    assert store.settle(melting, change, shortfall=0, fees_paid=6, preimage="ab") == first
    assert db["meltd_audit"].count_documents({}) == count
    with pytest.raises(LostRace):
        store.advance(melting, MeltState.PENDING)


def test_a_settle_counts_what_others_have_marked_spent_already(store, db, melt):
    """The mint consumed the inputs whoever wrote it down first; the payment is settled all the same."""
    melting = store.advance(melt, MeltState.MELTING)
    for source in melt.source_token_ids:
        spent = {"status": "spent", "spent_at": melt.created_at}
        db["cashu_tokens"].update_one({"_id": token(db, source)["_id"]}, {"$set": spent})
    settled, result = store.settle(melting, (), shortfall=0, fees_paid=10, preimage=None)
    assert settled.state is MeltState.SETTLED
    assert result.source_tokens_spent == 0
    assert store.settle(melting, (), shortfall=0, fees_paid=10, preimage=None) == (settled, result)
    assert sums_by_status(db, melt.npub) == {"spent": 20, "unspent": 8}


def test_change_with_a_consumed_secret_settles_nothing(store, db, melt):
    """A mint that gives back an input as change would make meltd count it twice (I4)."""
    melting = store.advance(melt, MeltState.MELTING)
    source = token(db, melt.source_token_ids[0])["proofs"][0]
    reused = replace(new_proof(4), secret=source["secret"])
    with pytest.raises(DuplicateSecret):
        store.settle(melting, [reused], shortfall=0, fees_paid=6, preimage=None)
    assert store.melt(melt.id) == melting
    assert sums_by_status(db, melt.npub) == {"pending": 20, "unspent": 8}


def reclaim(store, db, user, token_id):
    (held,) = store.tokens([token_id])
    inputs = tuple(
        InputRef(token_id=held.id, y=proof.y, amount=proof.amount, keyset_id=proof.keyset_id) for proof in held.proofs
    )
    entry = make_melt(
        [held],
        kind=JournalKind.RECLAIM,
        inputs=inputs,
        idempotency_key=None,
        payment_hash=None,
        invoice=None,
        quote_id=None,
        amount=0,
        fee_reserve=0,
        transaction_id=f"tx_reclaim_{token_id}",
    )
    (record,) = store.record([written_off(held)])
    return entry, store.reserve(entry, blanks=None, seed_id=SEED, warrant=warrant_of(record, held))


def test_a_reclaim_brings_value_back_and_leaves_the_spent_document(store, db):
    """I7: the old document stays spent; the new one is unspent, and the discrepancy corrected, in one transaction."""
    user = npub()
    token_id = insert_token(db, user, [8, 2], status="spent")
    before = token(db, token_id)
    (record,) = store.record([written_off(store.tokens([token_id])[0])])
    _, entry = reclaim(store, db, user, token_id)
    assert token(db, token_id) == before
    entry = plan(store, entry, MeltState.SWAPPING, (8, 1), keep=2, fee=1)
    proofs = [new_proof(8), new_proof(1)]
    ended = store.finish_reclaim(entry, proofs)
    assert ended.state is MeltState.SETTLED
    assert token(db, token_id) == before
    made = db["cashu_tokens"].find_one({"transaction_id": f"tx_reclaim_{token_id}_reclaimed"})
    assert (made["status"], made["total_amount"], made["npub"]) == ("unspent", 9, user)
    (closed,) = store.discrepancies(states=(), types=(), severities=(), npub=user, limit=5)
    assert (closed.id, closed.state) == (record.id, DiscrepancyState.CORRECTED)
    assert store.finish_reclaim(entry, proofs) == ended


def test_a_proof_is_in_one_open_entry_at_most(store, db):
    """A second reclaim of the same value is refused while the first is open, and possible after it."""
    user = npub()
    token_id = insert_token(db, user, [8], status="spent")
    _, entry = reclaim(store, db, user, token_id)
    with pytest.raises(LostRace):
        reclaim(store, db, user, token_id)
    store.release(entry, spent=(), error_code="X", error_detail="")
    assert token(db, token_id)["status"] == "spent"
    _, again = reclaim(store, db, user, token_id)
    assert again.state is MeltState.RESERVED


def test_of_eight_reclaims_of_one_proof_one_is_opened(store, db):
    """Concurrent ones see no conflict in their snapshots: the unique index on what is held decides."""
    user = npub()
    token_id = insert_token(db, user, [8], status="spent")
    barrier = threading.Barrier(8)

    def attempt(_):
        barrier.wait()
        try:
            return reclaim(store, db, user, token_id)[1]
        except LostRace as error:
            return error

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(attempt, range(8)))
    assert sum(isinstance(result, LostRace) for result in results) == 7
    assert db["meltd_melts"].count_documents({}) == 1


@pytest.mark.parametrize("other", ["sent", "minted", "melted of another"])
def test_a_proof_that_another_document_holds_too_is_not_reclaimed(make_store, db, other):
    """Old code copied proofs, so the recipient of a ``sent`` document may hold them: it would be taken from there."""
    store = make_store(unique_proofs="off")
    user = npub()
    token_id = insert_token(db, user, [8, 2], status="spent")
    copied = token(db, token_id)["proofs"][1:]
    kind = other.split()[0]
    insert_token(db, npub() if kind == "melted" else user, copied, status="spent", transaction_type=kind)
    with pytest.raises(LostRace, match="holds one of the proofs too"):
        reclaim(store, db, user, token_id)
    assert db["meltd_melts"].count_documents({}) == 0


def test_a_users_own_melted_copy_does_not_hold_a_reclaim_up(make_store, db):
    store = make_store(unique_proofs="off")
    user = npub()
    token_id = insert_token(db, user, [8], status="spent")
    insert_token(db, user, token(db, token_id)["proofs"], status="spent", transaction_type="melted")
    assert reclaim(store, db, user, token_id)[1].is_open


def test_the_journal_is_listed_newest_first_and_counted(store, db, melt):
    """By user and state; open ones with their age."""
    assert store.open_melts() == (melt,)
    number, age = store.pending_since()
    assert number == 1
    assert age.total_seconds() >= 0
    assert store.list_melts(npub=melt.npub, states=[MeltState.RESERVED], limit=5) == (melt,)
    assert store.list_melts(npub=None, states=[MeltState.SETTLED], limit=5) == ()
    assert store.melt_by_key(melt.idempotency_key) == melt
    assert store.melt_by_payment_hash(melt.payment_hash) == melt
    store.release(melt, spent=(), error_code="X", error_detail="")
    assert store.open_melts() == ()
    assert store.pending_since()[0] == 0


def test_a_melt_over_a_strangers_token_reserves_nothing(store, db):
    """Another user's or another mint's document is never touched, whatever the inputs say; it may have been moved since."""
    user, stranger = npub(), npub()
    insert_token(db, stranger, [8])
    tokens = store.spendable(stranger, [MINT_URL], "sat")
    for wrong in ({"npub": user}, {"mint_url": "http://other"}):
        with pytest.raises(LostRace):
            store.reserve(make_melt(tokens, **wrong), blanks=None, seed_id=SEED)
    assert sums_by_status(db, stranger) == {"unspent": 8}
