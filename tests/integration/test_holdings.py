"""Who else holds a proof, asked of the real store: the double count, whoever made it (DESIGN section 5, DUPLICATE_PROOF)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from bson import ObjectId

from melt.model import Token, TokenId, TokenStatus
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

    ys = {proof.secret: proof.y for proof in proofs_of(store, page)}
    assert found.keys() == {ys[crowd["secret"]], ys[pair["secret"]]}
    assert {one.token_id for one in found[ys[pair["secret"]]]} == {page, other}
    assert len(found[ys[crowd["secret"]]]) == 6, "as many as a look about one proof takes in"


def test_what_seems_to_lie_twice_is_read_again_in_one_snapshot(
    db: Db, make_store: Callable[..., MongoStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plain read of a cluster may meet a proof that is just being moved in both its documents."""
    store = make_store()
    page = insert_token(db, npub(), [1, 2], mint_url=URL)
    proofs = proofs_of(store, page)
    read = store._holders
    torn: list[bool] = []

    def tearing(secrets: Sequence[str], session: Any) -> dict[str, list[Holder]]:
        found = read(secrets, session)
        torn.append(session is None)
        if session is None:
            found[proofs[0].secret].append(replace(found[proofs[0].secret][0], token_id=TokenId("on its way")))
        return found

    monkeypatch.setattr(store, "_holders", tearing)
    assert store.holders(proofs) == {}
    assert torn == [True, False]
