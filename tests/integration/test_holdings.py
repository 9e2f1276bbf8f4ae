"""Who else holds a proof, asked of the real store: the double count, whoever made it (DESIGN section 5, DUPLICATE_PROOF)."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from bson import ObjectId

from melt.model import Token, TokenStatus
from melt.store import holdings
from tests.support.store import fake_proof, insert_token, npub

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from melt.model import Holder, Proof
    from melt.store import MongoStore

URL = "http://mint.example"
Db = "Database[dict[str, Any]]"


def proofs_of(store: MongoStore, *ids: str) -> list[Proof]:
    return [proof for token in store.tokens(list(ids)) if isinstance(token, Token) for proof in token.proofs]


def told(held: Sequence[Holder]) -> set[tuple[str, str | None, TokenStatus | None, bool]]:
    return {(one.token_id, one.npub, one.status, one.is_melted) for one in held}


def test_a_proof_in_two_documents_is_told_with_all_who_hold_it(db: Db, make_store: Callable[..., MongoStore]) -> None:
    """Same user or another, another spelling of the mint, any status, junk too; by Y and never by secret."""
    shared, alone = fake_proof(8), fake_proof(4)
    first, second = npub(), npub()
    ids = [
        insert_token(db, first, [shared, alone], mint_url=URL),
        insert_token(db, first, [shared], mint_url=f"{URL}/", status="spent"),
        insert_token(db, second, [fake_proof(1), shared], mint_url="http://other", status="pending"),
        insert_token(db, second, [shared], mint_url=URL, status="unspent", transaction_type="melted"),
        insert_token(db, second, [shared], mint_url=URL, status="odd", npub=7),
    ]
    store = make_store()
    assert store.unique_proofs_indexed is False

    found = store.holders(proofs_of(store, ids[0]))

    (y,) = found
    assert y == proofs_of(store, ids[1])[0].y
    assert told(found[y]) == {
        (ids[0], first, TokenStatus.UNSPENT, False),
        (ids[1], first, TokenStatus.SPENT, False),
        (ids[2], second, TokenStatus.PENDING, False),
        (ids[3], second, TokenStatus.UNSPENT, True),
        (ids[4], None, None, False),
    }
    assert shared["secret"] not in repr(found)


def test_where_every_proof_lies_once_nothing_is_told(db: Db, make_store: Callable[..., MongoStore]) -> None:
    ids = [insert_token(db, npub(), [1, 2, 4], mint_url=URL) for _ in range(3)]
    store = make_store()
    assert store.holders(proofs_of(store, *ids)) == {}
    assert store.holders([]) == {}


def test_a_look_that_is_cut_off_is_divided_so_that_no_duplicate_hides_behind_another(
    db: Db, make_store: Callable[..., MongoStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One proof in very many documents must not crowd out the others of its page (I11)."""
    monkeypatch.setattr(holdings, "HOLDERS_MAX", 5)
    crowd, pair = fake_proof(1), fake_proof(2)
    page = insert_token(db, npub(), [crowd, *range(1, 30), pair], mint_url=URL)
    for _ in range(60):
        insert_token(db, npub(), [crowd], mint_url=URL, _id=ObjectId())
    other = insert_token(db, npub(), [pair], mint_url=URL)
    store = make_store()

    found = store.holders(proofs_of(store, page))

    by_amount = {proof.y: proof.amount for proof in proofs_of(store, page)}
    assert sorted(len(held) for y, held in found.items() if by_amount[y] == 2 and len(held) == 2) == [2]
    assert other in {one.token_id for held in found.values() for one in held}
    assert max(len(held) for held in found.values()) == 6, "as many as a look about one proof takes in"


def test_a_proof_on_its_way_from_one_document_to_another_is_no_duplicate(
    db: Db, make_store: Callable[..., MongoStore]
) -> None:
    """Proofs move in transactions while the look goes on: it sees each in one place."""
    store = make_store()
    owner, stop = npub(), threading.Event()
    moving = [fake_proof(1) for _ in range(20)]
    here = insert_token(db, owner, moving, mint_url=URL)
    there = insert_token(db, owner, [1], mint_url=URL)
    proofs = proofs_of(store, here)
    tokens = db["cashu_tokens"]

    def move(session: Any, source: str, target: str) -> None:
        found = tokens.find_one({"_id": ObjectId(source)}, session=session)
        assert found is not None
        part = [proof for proof in found["proofs"] if proof["secret"] in {one["secret"] for one in moving}]
        for token_id, change in (
            (source, {"$pull": {"proofs": {"secret": {"$in": [p["secret"] for p in part]}}}}),
            (target, {"$push": {"proofs": {"$each": part}}}),
        ):
            tokens.update_one({"_id": ObjectId(token_id)}, change, session=session)

    def keep_moving() -> None:
        source, target = here, there
        while not stop.is_set():
            with db.client.start_session() as session:
                session.with_transaction(lambda s, a=source, b=target: move(s, a, b))
            source, target = target, source

    mover = threading.Thread(target=keep_moving)
    mover.start()
    try:
        seen = [store.holders(proofs) for _ in range(60)]
    finally:
        stop.set()
        mover.join(20)
    assert seen == [{}] * 60
    assert sum(len(d["proofs"]) for d in tokens.find({"npub": owner})) == 21
