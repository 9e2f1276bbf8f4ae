"""
The double count and what prevents it (I4, I5): on the real store, since it is about transactions.

Older code stored the proofs that a melt had consumed once more, in a ``melted`` document, and so counted them twice.
"""

from __future__ import annotations

import pytest

from melt.ecash import y_of
from melt.errors import DuplicateSecret, InvariantBroken, LostRace, StoreError
from melt.model import Actor, MeltState, NewProof, Owner, TokenId
from melt.store.ledger import Ledger
from tests.support.store import (
    MINT_URL,
    assert_no_secret_twice,
    assert_totals,
    fake_proof,
    insert_token,
    insert_wallet,
    make_melt,
    new_proof,
    npub,
    sums_by_status,
    token,
)

ACTOR = Actor(name="test")


@pytest.fixture
def owner(db, store):
    """A user with a wallet, as owner of new documents."""
    user = npub()
    return Owner(npub=user, wallet_id=str(insert_wallet(db, user)), mint_url=MINT_URL)


def execute(store, owner, sources, *, keep=(), change=(), transaction_id="tx_melt_1"):
    return store.execute_atomic_melt(
        source_token_ids=[TokenId(source) for source in sources],
        keep_proofs=keep,
        melt_change_proofs=change,
        transaction_id=transaction_id,
        owner=owner,
        actor=ACTOR,
    )


def assert_sound(db):
    assert_no_secret_twice(db)
    assert_totals(db)
    assert db["cashu_tokens"].count_documents({"transaction_type": "melted"}) == 0


def test_consumed_proofs_are_never_written_again(store, db, owner):
    """After a melt the consumed proofs lie where they lay, spent, and nowhere else."""
    source = insert_token(db, owner.npub, [64, 32])
    before = token(db, source)["proofs"]
    execute(store, owner, [source])
    assert token(db, source)["proofs"] == before
    assert db["cashu_tokens"].count_documents({}) == 1
    assert_sound(db)


def test_balances_before_and_after_a_melt_with_keep_and_change(store, db, owner):
    """96 in; 40 kept and 6 changed: 46 unspent remain and 96 count as spent once."""
    source = insert_token(db, owner.npub, [64, 32])
    assert sums_by_status(db, owner.npub) == {"unspent": 96}
    result = execute(store, owner, [source], keep=[new_proof(32), new_proof(8)], change=[new_proof(4), new_proof(2)])
    assert sums_by_status(db, owner.npub) == {"spent": 96, "unspent": 46}
    balances = {balance.status: balance.amount for balance in store.balances(owner.npub)}
    assert balances == {"spent": 96, "unspent": 46}
    assert (result.source_tokens_spent, result.keep_amount, result.melt_change_amount) == (1, 40, 6)
    assert result.operations == 3
    assert_sound(db)


@pytest.mark.parametrize(
    ("keep", "change", "suffixes"),
    [((8,), (), {"_keep"}), ((), (4,), {"_melt_change"}), ((8,), (4,), {"_keep", "_melt_change"}), ((), (), set())],
    ids=["keep", "change", "both", "neither"],
)
def test_keep_and_change_are_stored_as_change_with_their_parent(store, db, owner, keep, change, suffixes):
    """Each under its own transaction id, with the metadata that the wallet service expects."""
    source = insert_token(db, owner.npub, [16])
    result = execute(store, owner, [source], keep=list(map(new_proof, keep)), change=list(map(new_proof, change)))
    made = list(db["cashu_tokens"].find({"transaction_type": "change"}))
    assert {document["transaction_id"] for document in made} == {f"tx_melt_1{suffix}" for suffix in suffixes}
    for document in made:
        assert document["status"] == "unspent"
        assert document["spent_at"] is None
        assert document["metadata"]["source"] == "change"
        assert document["metadata"]["parent_transaction_id"] == "tx_melt_1"
        assert document["metadata"]["atomic_operation"] is True
        assert document["__v"] == 0
        assert all("_id" in proof and "r" in proof["dleq"] for proof in document["proofs"])
        assert str(document["wallet_id"]) == owner.wallet_id
    ids = {str(document["_id"]) for document in made}
    assert {result.keep_token_id, result.melt_change_token_id} - {None} == ids
    assert_sound(db)


def test_a_source_is_marked_spent_with_its_time(store, db, owner):
    """``spent_at`` is set exactly when the status is spent, and the version is bumped."""
    source = insert_token(db, owner.npub, [16])
    before = token(db, source)
    execute(store, owner, [source])
    after = token(db, source)
    assert after["status"] == "spent"
    assert after["spent_at"] is not None
    assert after["updatedAt"] >= before["updatedAt"]
    assert after["rev"] == 1
    assert {key: after[key] for key in ("proofs", "metadata", "transaction_id", "createdAt", "__v")} == {
        key: before[key] for key in ("proofs", "metadata", "transaction_id", "createdAt", "__v")
    }


def reused(proof: dict) -> NewProof:
    return NewProof(keyset_id=proof["id"], amount=proof["amount"], secret=proof["secret"], c=proof["C"])


@pytest.mark.parametrize("unique_proofs", ["on", "off"])
@pytest.mark.parametrize("where", ["source", "other"])
def test_a_secret_is_not_stored_a_second_time(make_store, db, unique_proofs, where):
    """With the unique index and without it; the refusal names no secret, and nothing was written."""
    store = make_store(unique_proofs=unique_proofs)
    assert store.unique_proofs_indexed is (unique_proofs == "on")
    user = npub()
    owner = Owner(npub=user, wallet_id=None, mint_url=MINT_URL)
    proof = fake_proof(8)
    ids = {"source": insert_token(db, user, [proof]), "other": insert_token(db, user, [16])}
    source = ids["source"] if where == "source" else ids["other"]
    with pytest.raises(DuplicateSecret) as caught:
        execute(store, owner, [source], change=[new_proof(1), reused(proof)])
    assert_error_tells_nothing(caught.value, [proof["secret"]])
    assert sums_by_status(db, user) == {"unspent": 24}
    assert db["meltd_audit"].count_documents({}) == 0
    assert_sound(db)


def test_one_new_proof_is_not_stored_in_keep_and_change_at_once(store, db, owner):
    """Neither in two documents of one melt."""
    source = insert_token(db, owner.npub, [16])
    twice = new_proof(4)
    with pytest.raises(DuplicateSecret):
        execute(store, owner, [source], keep=[twice], change=[twice])
    with pytest.raises(DuplicateSecret):
        execute(store, owner, [source], keep=[twice, twice])
    assert sums_by_status(db, owner.npub) == {"unspent": 16}
    assert db["cashu_tokens"].count_documents({}) == 1


@pytest.mark.parametrize("amount", [0, -1, 2**63])
def test_amounts_that_are_none_are_refused(store, db, owner, amount):
    """Zero, negative and beyond 64 bits: an invariant, and nothing written."""
    source = insert_token(db, owner.npub, [16])
    with pytest.raises(InvariantBroken):
        execute(store, owner, [source], change=[new_proof(amount)])
    assert sums_by_status(db, owner.npub) == {"unspent": 16}


def test_a_melt_that_fails_in_the_middle_leaves_nothing(store, db, owner, monkeypatch):
    """A crash after the sources were marked and keep was stored rolls everything back."""
    source = insert_token(db, owner.npub, [16, 8])
    before = token(db, source)

    class CrashError(Exception):
        pass

    def crash(self):
        assert self.writes == 2
        raise CrashError

    monkeypatch.setattr(Ledger, "finish", crash)
    with pytest.raises(CrashError):
        execute(store, owner, [source], keep=[new_proof(8)])
    monkeypatch.undo()
    assert token(db, source) == before
    assert db["cashu_tokens"].count_documents({}) == 1
    assert db["meltd_audit"].count_documents({}) == 0
    execute(store, owner, [source], keep=[new_proof(8)])
    assert sums_by_status(db, owner.npub) == {"spent": 24, "unspent": 8}


def test_a_repeated_melt_answers_the_same_and_writes_nothing(store, db, owner):
    """The transaction id is the operation: a second call, even with other proofs, changes nothing."""
    source = insert_token(db, owner.npub, [16, 8])
    first = execute(store, owner, [source], keep=[new_proof(8)], change=[new_proof(2)])
    before = list(db["cashu_tokens"].find().sort("_id"))
    assert execute(store, owner, [source], keep=[new_proof(8)], change=[new_proof(2)]) == first
    assert list(db["cashu_tokens"].find().sort("_id")) == before
    assert db["meltd_audit"].count_documents({}) == 3


@pytest.mark.parametrize("status", ["spent", "failed"])
def test_sources_in_a_final_status_are_refused(store, db, owner, status):
    """Nothing of the melt happens, the good source stays unspent."""
    good, final = insert_token(db, owner.npub, [16]), insert_token(db, owner.npub, [8], status=status)
    with pytest.raises(StoreError, match=status):
        execute(store, owner, [good, final])
    assert sums_by_status(db, owner.npub) == {"unspent": 16, status: 8}


def test_sources_of_another_user_or_mint_are_refused(store, db, owner):
    """One melt is of one user at one mint; a trailing slash is the same mint."""
    stranger = insert_token(db, npub(), [8])
    elsewhere = insert_token(db, owner.npub, [8], mint_url="http://other.example")
    for source in (stranger, elsewhere, "6b02d04d22245a15253e0000"):
        with pytest.raises((StoreError, LostRace)):
            execute(store, owner, [source])
    slashed = insert_token(db, owner.npub, [8], mint_url=MINT_URL + "/")
    assert execute(store, owner, [slashed]).source_tokens_spent == 1


def test_one_audit_entry_per_status_change_and_none_with_a_secret(store, db, owner):
    """I9 and I10: sources and new documents have an entry each; no secret, C or blinding factor is in any."""
    sources = [insert_token(db, owner.npub, [16, 8]), insert_token(db, owner.npub, [4])]
    execute(store, owner, sources, keep=[new_proof(8)], change=[new_proof(2)])
    entries = list(db["meltd_audit"].find())
    assert (
        sorted((entry["from_status"], entry["to_status"]) for entry in entries if entry["from_status"])
        == [("unspent", "spent")] * 2
    )
    assert [entry["to_status"] for entry in entries if entry["from_status"] is None] == ["unspent"] * 2
    text = repr(entries)
    for document in db["cashu_tokens"].find():
        for proof in document["proofs"]:
            assert proof["secret"] not in text
            assert proof["C"] not in text
            assert y_of(proof["secret"]) in text


def test_the_whole_path_of_a_melt_conserves_value(store, db, owner):
    """Reserve with a split, settle with change: before = after + paid + fees + shortfall, in one place each."""
    insert_token(db, owner.npub, [64, 32, 4])
    insert_token(db, owner.npub, [16])
    tokens = store.spendable(owner.npub, [MINT_URL], "sat")
    ys = [proof.y for held in tokens for proof in held.proofs if proof.amount in {32, 16}]
    melt = store.reserve(make_melt(tokens, ys, amount=40), blanks=("00c3c8469bdea580", 3), seed_id="seed")
    assert sums_by_status(db, owner.npub) == {"pending": 48, "unspent": 68}
    assert melt.keep_amount == 68
    assert melt.blanks.counter == 0
    melt = store.advance(melt, MeltState.MELTING)
    melt, result = store.settle(melt, [new_proof(4), new_proof(1)], shortfall=1, fees_paid=2, preimage="00" * 32)
    assert melt.state is MeltState.SETTLED
    assert sums_by_status(db, owner.npub) == {"spent": 48, "unspent": 73}
    assert 73 + melt.amount + melt.fees_paid + melt.shortfall == 116
    assert result.melt_change_amount == melt.change_amount == 5
    assert_sound(db)


def assert_error_tells_nothing(error: BaseException, secret_texts: list[str]) -> None:
    """I10: neither the error nor anything that it drags along holds a secret."""
    seen: BaseException | None = error
    while seen is not None:
        for secret in secret_texts:
            assert secret not in str(seen)
            assert secret not in repr(getattr(seen, "details", ""))
        seen = seen.__cause__ or seen.__context__
