"""A repair's transactions on the real store: conditional, repeatable, bounded, and never a proof lost to two at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from bson import ObjectId

from melt.ecash import y_of
from melt.errors import InvariantBroken, Severity
from melt.model import Action, Actor, DriftType, MintAlias, TokenId, TokenStatus, Y
from melt.model.repair import Removal, RepairStep, step_key
from melt.repair.find import find
from melt.repair.steps import as_batch
from melt.settling import SettlePolicy
from melt.store import Threads
from tests.support.store import SystemClock, fake_proof, insert_token, make_melt, npub, token, written_off

if TYPE_CHECKING:
    from collections.abc import Callable

    from pymongo.database import Database

    from melt.store import MongoStore

ACTOR = Actor(name="test", uid=7)


@pytest.fixture
def legacy(make_store: Callable[..., MongoStore]) -> MongoStore:
    """A store without the unique index."""
    return make_store(unique_proofs="off")


def step(db: Database[dict[str, Any]], losing: str, keeper: str, proof: dict[str, Any], **changes: Any) -> RepairStep:
    """``proof`` leaves ``losing`` because ``keeper`` holds it, decided on the documents as they are."""
    document = token(db, losing)
    ys = tuple(Y(y_of(p["secret"])) for p in document["proofs"])
    y = Y(y_of(proof["secret"]))
    status = TokenStatus(document["status"])
    to = TokenStatus.SPENT if ys == (y,) else status
    kept_status = TokenStatus(token(db, keeper)["status"])
    fields: dict[str, Any] = {
        "key": step_key(TokenId(losing), status, document.get("rev"), to, (y,)),
        "token_id": TokenId(losing),
        "npub": document["npub"],
        "mint": MintAlias("main"),
        "unit": "sat",
        "transaction_type": document["transaction_type"],
        "status": status,
        "rev": document.get("rev"),
        "ys": ys,
        "to_status": to,
        "removals": (Removal(y=y, amount=proof["amount"], kept_in=TokenId(keeper), kept_status=kept_status),),
        "amount": proof["amount"],
        "reason": DriftType.DUPLICATE_PROOF,
        "severity": Severity.HIGH,
    }
    return RepairStep(**{**fields, **changes})


def apply(store: MongoStore, *steps: RepairStep) -> tuple[str | None, ...]:
    return store.apply_repairs(as_batch(steps, actor=ACTOR, note="checked"))


def test_applying_twice_equals_once_and_both_answer_the_same(legacy: MongoStore, db: Database[dict[str, Any]]) -> None:
    owner, proof = npub(), fake_proof(16)
    keeper, losing, stale = (insert_token(db, owner, [proof, 1]) for _ in range(3))
    steps = (step(db, losing, keeper, proof), step(db, stale, keeper, proof, rev=9))

    first = apply(legacy, *steps)
    after = [token(db, one) for one in (keeper, losing, stale)]
    assert apply(legacy, *steps) == first
    assert first[0] is None
    assert first[1] is not None
    assert [token(db, one) for one in (keeper, losing, stale)] == after
    assert [d.get("rev") for d in after] == [1, 1, None]
    assert [len(d["proofs"]) for d in after] == [2, 1, 2]
    (entry,) = db["meltd_audit"].find({})
    assert (entry["token_id"], entry["amount"], entry["note"], entry["actor"]["uid"]) == (losing, 16, "checked", 7)
    assert proof["secret"] not in str(entry)


@pytest.mark.parametrize(
    "change",
    [
        {"losing": {"status": "pending"}},
        {"losing": {"rev": 5}},
        {"losing": {"proofs": []}},
        {"keeper": {"status": "spent"}},
        {"keeper": {"proofs": []}},
        {"keeper": {"npub": 3}},
    ],
    ids=str,
)
def test_a_document_that_moved_on_is_left_alone(
    legacy: MongoStore, db: Database[dict[str, Any]], change: dict[str, dict[str, Any]]
) -> None:
    owner, proof = npub(), fake_proof(16)
    keeper, losing = (insert_token(db, owner, [proof, 1]) for _ in range(2))
    planned = step(db, losing, keeper, proof)
    for which, fields in change.items():
        db["cashu_tokens"].update_one({"_id": ObjectId({"losing": losing, "keeper": keeper}[which])}, {"$set": fields})
    before = list(db["cashu_tokens"].find({}))

    (answer,) = apply(legacy, planned)

    assert answer is not None
    assert list(db["cashu_tokens"].find({})) == before
    assert db["meltd_audit"].count_documents({}) == 0


@pytest.mark.parametrize("which", ["losing", "keeper"])
def test_a_document_that_an_open_melt_has_reserved_meanwhile_is_left_alone(
    legacy: MongoStore, db: Database[dict[str, Any]], which: str
) -> None:
    owner, proof = npub(), fake_proof(16)
    ids = {"keeper": insert_token(db, owner, [proof]), "losing": insert_token(db, owner, [proof, 1])}
    (chosen,) = legacy.tokens([TokenId(ids[which])])
    legacy.reserve(make_melt([chosen]), blanks=None, seed_id="s")  # type: ignore[list-item]
    planned = step(db, ids["losing"], ids["keeper"], proof)
    before = list(db["cashu_tokens"].find({}))

    (answer,) = apply(legacy, planned)

    assert answer == "an open melt holds one of the documents or proofs"
    assert list(db["cashu_tokens"].find({})) == before


def test_two_repairs_at_once_never_take_a_proof_out_of_both_documents(
    make_store: Callable[..., MongoStore], db: Database[dict[str, Any]]
) -> None:
    stores = [make_store(unique_proofs="off"), make_store(schema=False)]
    owner = npub()
    for _ in range(8):
        proof = fake_proof(16)
        a, b = (insert_token(db, owner, [proof, 1]) for _ in range(2))
        plans = [step(db, a, b, proof), step(db, b, a, proof)]
        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(lambda pair: apply(pair[0], pair[1]), zip(stores, plans, strict=True)))
        assert sum(answer == (None,) for answer in answers) == 1, answers
        assert db["cashu_tokens"].count_documents({"proofs.secret": proof["secret"]}) == 1


def test_a_batch_that_is_too_large_or_changes_a_document_twice_is_a_bug(
    legacy: MongoStore, db: Database[dict[str, Any]]
) -> None:
    owner, proof = npub(), fake_proof(16)
    keeper, losing = (insert_token(db, owner, [proof, 1]) for _ in range(2))
    planned = step(db, losing, keeper, proof)
    with pytest.raises(InvariantBroken):
        apply(legacy, planned, planned)


async def test_the_search_reads_whatever_years_of_other_code_left(
    legacy: MongoStore, db: Database[dict[str, Any]]
) -> None:
    owner, proof = npub(), fake_proof(16)
    a = insert_token(db, owner, [proof], transaction_type="melted")
    b = insert_token(db, owner, [proof, proof], status="weird")
    db["cashu_tokens"].insert_many(
        [
            {"_id": "text", "proofs": [{"secret": proof["secret"]}, 3, None, {"secret": 7}, {"secret": ""}]},
            {"_id": "none", "transaction_id": 1},
            {"_id": "junk", "proofs": "x", "transaction_id": 2},
            {"_id": "empty", "proofs": [], "status": 4, "transaction_id": 3},
        ]
    )
    threads = Threads(2)
    try:
        found = await find(legacy, threads, lambda *_: None)
    finally:
        await threads.aclose()
    (ids,) = found.groups.values()
    assert set(ids) == {a, b, "text"}
    assert (found.documents, found.melted, found.complete) == (6, [a], True)


def test_a_wish_for_the_index_is_kept_and_only_auto_follows_it(
    make_store: Callable[..., MongoStore], db: Database[dict[str, Any]]
) -> None:
    insert_token(db, npub(), [16])
    store = make_store()
    assert (store.unique_proofs_indexed, store.unique_proofs_wish()) == (False, None)
    wish = store.wish_unique_proofs(actor=ACTOR, reason="fixed")
    assert store.wish_unique_proofs(actor=Actor(name="other"), reason="again") == wish == store.unique_proofs_wish()
    assert make_store(unique_proofs="off").unique_proofs_indexed is False
    assert make_store().unique_proofs_indexed is True
    assert make_store().unique_proofs_indexed is True


class SteppedClock(SystemClock):
    """The real date, and a monotonic clock that the test moves."""

    def __init__(self) -> None:
        self.at = 0.0

    def monotonic(self) -> float:
        return self.at


def test_a_document_is_repaired_only_once_it_has_stood_still(
    make_store: Callable[..., MongoStore], db: Database[dict[str, Any]]
) -> None:
    """I13: a person's word is about the rule; another writer may be at work on this document."""
    clock = SteppedClock()
    store = make_store(unique_proofs="off", clock=clock, settle=SettlePolicy(correct_after_s=100, look_s=60))
    owner, proof = npub(), fake_proof(16)
    keeper, losing = (insert_token(db, owner, [proof, 1]) for _ in range(2))
    planned = step(db, losing, keeper, proof)
    held = store.tokens([TokenId(losing)])[0]
    (why,) = apply(store, planned)
    assert why is not None
    assert "stood still" in why

    finding = replace(written_off(held), type=DriftType.DUPLICATE_PROOF, action=Action.RECORD)
    (record,) = store.record([finding])
    for passes, answer in ((60, why), (39, why), (1, None)):
        clock.at += passes
        store.watch({record.id: held.mark})
        assert apply(store, planned) == (answer,), clock.at
    assert [len(token(db, one)["proofs"]) for one in (keeper, losing)] == [2, 1]


def test_a_document_that_is_written_meanwhile_is_watched_anew_before_it_is_repaired(
    make_store: Callable[..., MongoStore], db: Database[dict[str, Any]]
) -> None:
    clock = SteppedClock()
    store = make_store(unique_proofs="off", clock=clock, settle=SettlePolicy(correct_after_s=100, look_s=60))
    owner, proof = npub(), fake_proof(16)
    keeper, losing = (insert_token(db, owner, [proof, 1]) for _ in range(2))
    finding = replace(
        written_off(store.tokens([TokenId(losing)])[0]), type=DriftType.DUPLICATE_PROOF, action=Action.RECORD
    )
    (record,) = store.record([finding])
    clock.at += 100
    store.watch({record.id: store.tokens([TokenId(losing)])[0].mark})
    db["cashu_tokens"].update_one({"_id": ObjectId(losing)}, {"$set": {"transaction_id": "tx_another"}})
    (why,) = apply(store, step(db, losing, keeper, proof))
    assert why is not None
    assert len(token(db, losing)["proofs"]) == 2
