"""Old data on the real store: read, toured, moved and split as it lies there, and nothing of it lost (DESIGN section 3)."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import pytest

from melt.ecash import y_of
from melt.errors import Severity
from melt.model import Action as Act
from melt.model import (
    Actor,
    Correction,
    DriftType,
    Finding,
    MalformedToken,
    MintAlias,
    Token,
    TokenStatus,
)
from tests.support.legacy import AMOUNT, BROKEN, PLAIN, Legacy
from tests.support.store import fake_proof, insert_token, npub, warrant_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from pymongo.database import Database

    from melt.ports import Tour
    from melt.store import MongoStore

URL = "http://mint.example:3338"
TOURED = (TokenStatus.UNSPENT, TokenStatus.PENDING)


def pages(tour: Tour, size: int = 7) -> dict[str, Token | MalformedToken]:
    """Everything that a tour passes, each once."""
    found: list[Token | MalformedToken] = []
    while page := tour.next_page(size):
        found += page
    tour.close()
    assert len({one.id for one in found}) == len(found)
    return {one.id: one for one in found}


@pytest.fixture
def planted(db: Database[dict[str, Any]], make_store: Callable[..., MongoStore]) -> tuple[MongoStore, dict[str, Any]]:
    """Every case in a collection that somebody else made, and a store over it; the documents by case."""
    documents = {
        case.name: case.document(npub(), URL, [fake_proof(AMOUNT, dleq=True), fake_proof(AMOUNT, dleq=True)])
        for case in (*PLAIN, *BROKEN)
    }
    db["cashu_tokens"].insert_many(list(documents.values()))
    return make_store(), documents


def test_what_is_plain_is_read_and_what_is_not_says_why(planted: tuple[MongoStore, dict[str, Any]]) -> None:
    """Each document comes by in a tour or among the strays, as what it is and worth what it is."""
    store, documents = planted
    urls = [url for url in store.mint_urls() if url.lower().startswith(URL)]
    passed = pages(store.tour(TOURED, urls, None))
    strays = pages(store.strays(urls, homeless=True))
    assert not passed.keys() & strays.keys()
    by_y = {y: one for one in (passed | strays).values() for y in _ys(one)}
    by_id = passed | strays

    for case in (*PLAIN, *BROKEN):
        raw = documents[case.name]
        read = by_id.get(str(raw["_id"])) or next(by_y[y] for y in _raw_ys(raw) if y in by_y)
        if case.reason is None:
            assert isinstance(read, Token), case.name
            assert read.amount == case.value, case.name
            assert [proof.c for proof in read.proofs] == [p["C"].lower() for p in raw["proofs"]], case.name
            assert [proof.keyset_id for proof in read.proofs] == [p["id"].lower() for p in raw["proofs"]], case.name
            assert read.sum_mismatch is (case.drift == "AMOUNT_MISMATCH"), case.name
        else:
            assert isinstance(read, MalformedToken), case.name
            assert any(case.reason in reason for reason in read.reasons), (case.name, read.reasons)
            assert read.value == case.value, case.name
            assert bool(read.repeated) is (case.drift == "DUPLICATE_PROOF"), case.name


def test_dates_are_read_in_every_form(planted: tuple[MongoStore, dict[str, Any]]) -> None:
    """A pending document's age decides when it may be released, so a date that can be read must be."""
    store, documents = planted
    for name in ("as it should be", "created_at", "dates as text", "dates as milliseconds"):
        (read,) = store.tokens([str(documents[name]["_id"])])
        assert isinstance(read, Token)
        for moment in (read.created_at, read.updated_at):
            assert moment is not None, name
            assert moment.isoformat() == "2024-02-03T04:05:06+00:00", name


@pytest.mark.parametrize("case", PLAIN, ids=lambda case: case.name)
def test_a_split_keeps_what_was_stored_of_each_proof(
    db: Database[dict[str, Any]], make_store: Callable[..., MongoStore], case: Legacy
) -> None:
    """One proof is marked spent and the other moves to a sibling: both byte for byte as they were."""
    raw = case.document(npub(), URL, [fake_proof(AMOUNT, dleq=True), fake_proof(AMOUNT, dleq=True)])
    db["cashu_tokens"].insert_one(raw)
    store = make_store()
    (token,) = store.tokens([str(raw["_id"])])
    assert isinstance(token, Token)
    gone, kept = token.proofs
    (record,) = store.record([_finding(token, gone.y)])
    correction = Correction(
        discrepancy_id=record.id,
        occurrence=record.occurrence,
        token_id=token.id,
        expected_status=token.status,
        expected_rev=token.rev,
        new_status=TokenStatus.SPENT,
        ys=(gone.y,),
        reason=DriftType.DB_UNSPENT_MINT_SPENT,
        actor=Actor(name="test"),
        warrant=warrant_of(record, token),
    )

    assert store.correct(correction)

    (after,) = db["cashu_tokens"].find({"_id": raw["_id"]})
    (sibling,) = db["cashu_tokens"].find({"_id": {"$ne": raw["_id"]}})
    assert after["proofs"] == raw["proofs"][:1]
    assert sibling["proofs"] == raw["proofs"][1:]
    assert (after["status"], sibling["status"]) == ("spent", "unspent")
    assert (after["total_amount"], sibling["total_amount"]) == (AMOUNT, AMOUNT)
    unspent = [balance for balance in store.balances(raw["npub"]) if balance.status == "unspent"]
    assert [balance.amount for balance in unspent] == [AMOUNT]
    (read,) = store.tokens([str(sibling["_id"])])
    assert isinstance(read, Token)
    assert read.proofs == (kept,)


def test_a_text_amount_counts_in_a_balance(db: Database[dict[str, Any]], make_store: Callable[..., MongoStore]) -> None:
    owner = npub()
    insert_token(db, owner, [fake_proof(8) | {"amount": "8"}, fake_proof(4)], mint_url=URL)
    assert [balance.amount for balance in make_store().balances(owner)] == [12]


def test_a_tour_goes_on_behind_ids_of_any_type(
    db: Database[dict[str, Any]], make_store: Callable[..., MongoStore]
) -> None:
    """A cursor that is lost anywhere is opened again behind the last document, and none is left out."""
    ids = [5, 7.5, "a", "b", b"bytes", b"other bytes"]
    for number, raw_id in enumerate(ids):
        insert_token(db, npub(), [1], mint_url=URL, transaction_id=f"tx{number}", _id=raw_id)
    insert_token(db, npub(), [1], mint_url=URL)
    insert_token(db, npub(), [1], mint_url=URL)
    store = make_store()
    tour = store.tour(TOURED, [URL], None)
    passed = []
    while page := tour.next_page(1):
        passed += [one.id for one in page]
        tour.close()  # as if the server had dropped it
    assert len(passed) == len(set(passed)) == len(ids) + 2
    for position in passed:
        rest = pages(store.tour(TOURED, [URL], position))
        assert set(passed[passed.index(position) + 1 :]) <= rest.keys(), "resumed here, nothing behind it is left out"


def test_strays_of_a_mint_are_its_own_and_the_homeless_are_nobodys(
    db: Database[dict[str, Any]], make_store: Callable[..., MongoStore]
) -> None:
    """No document of a known status at a known URL is a stray, and what is over and done with is none either."""
    ours = insert_token(db, npub(), [1], mint_url=f"{URL}/", status="Unspent")
    theirs = insert_token(db, npub(), [1], mint_url="http://other", status="odd")
    homeless = insert_token(db, npub(), [1], mint_url=7)
    for status in ("unspent", "pending", "spent", "failed"):
        insert_token(db, npub(), [1], mint_url=URL, status=status)
    insert_token(db, npub(), [1], mint_url=None, status="spent")
    store = make_store()
    assert pages(store.strays([URL], homeless=False)).keys() == {ours}
    assert pages(store.strays([URL], homeless=True)).keys() == {ours, homeless}
    assert pages(store.strays(["http://other"], homeless=False)).keys() == {theirs}


def _finding(token: Token, y: str) -> Finding:
    return Finding(
        type=DriftType.DB_UNSPENT_MINT_SPENT,
        severity=Severity.HIGH,
        action=Act.MARK_SPENT,
        subject=f"token:{token.id}",
        npub=token.npub,
        mint=MintAlias("m"),
        unit="sat",
        value=AMOUNT,
        token_id=token.id,
        ys=(y,),
        evidence={"nonce": secrets.token_hex(4)},
    )


def _ys(read: Token | MalformedToken) -> list[str]:
    return [proof.y for proof in read.proofs] if isinstance(read, Token) else list(read.ys)


def _raw_ys(raw: dict[str, Any]) -> list[str]:
    proofs = [proof for proof in raw.get("proofs") or () if isinstance(proof, dict)]
    return [y_of(proof["secret"]) for proof in proofs if isinstance(proof.get("secret"), str) and proof["secret"]]
