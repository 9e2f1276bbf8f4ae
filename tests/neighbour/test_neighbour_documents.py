"""The neighbour's documents: what its validators refuse, what a save keeps, and the habits of programs around a wallet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from bson import Int64, ObjectId

from tests.neighbour.load import fund
from tests.neighbour.process import Refused
from tests.support.store import insert_token, npub, token

if TYPE_CHECKING:
    from pymongo.database import Database

    from tests.neighbour.process import Neighbour

    Documents = Database[dict[str, Any]]

CHANGE = {"transaction_type": "change", "metadata": {"source": "change", "parent_transaction_id": "tx_melt_1"}}


@pytest.mark.parametrize(
    ("amounts", "wrong", "paths"),
    [
        ([8, 2], {}, []),
        ([8], {**CHANGE, "total_amount": Int64(8), "rev": 3, "reservation": {"melt_id": "m"}}, []),
        ([], {"status": "pending"}, []),
        ([], {}, ["proofs"]),
        ([], {"status": "spent"}, ["proofs"]),
        ([8], {"total_amount": 9}, ["total_amount"]),
        ([8], {"metadata": {"quote_id": "q"}}, ["metadata.source"]),
        ([8], {"transaction_type": "change"}, ["metadata.parent_transaction_id"]),
        ([8], {"wallet_id": None}, ["wallet_id"]),
        ([0, 8], {}, ["proofs.0.amount"]),
        ([8], {"status": "held"}, ["status"]),
    ],
)
def test_its_validators_find_what_they_would_not_save(
    neighbour: Neighbour, db: Documents, amounts: list[int], wrong: dict[str, Any], paths: list[str]
) -> None:
    planted = insert_token(db, npub(), amounts, **{"wallet_id": ObjectId(), **wrong})

    found = neighbour.invalid()

    assert [(one["id"], sorted(one["paths"])) for one in found] == [(planted, paths)] * bool(paths)
    if paths:
        with pytest.raises(Refused) as refused:
            neighbour.save(planted)
        assert refused.value.name == "VALIDATION"
        assert sorted(refused.value.details["paths"]) == paths
    else:
        neighbour.save(planted)


def test_a_save_leaves_fields_that_it_does_not_know_and_writes_proofs_whole(
    neighbour: Neighbour, db: Documents
) -> None:
    planted = insert_token(
        db,
        npub(),
        [4, 2],
        wallet_id=ObjectId(),
        rev=7,
        reservation={"melt_id": "m"},
        metadata={"source": "p2p", "ours": 1},
    )
    db["cashu_tokens"].update_one({"_id": ObjectId(planted)}, {"$set": {"proofs.0.unknown": 1}})
    neighbour.save(planted)
    saved = token(db, planted)
    assert (saved["rev"], saved["reservation"], saved["metadata"]["ours"]) == (7, {"melt_id": "m"}, 1)
    assert saved["proofs"][0]["unknown"] == 1

    neighbour.save(planted, proofs=True)
    whole = token(db, planted)
    assert (whole["rev"], whole["reservation"]) == (7, {"melt_id": "m"})
    assert [proof["secret"] for proof in whole["proofs"]] == [proof["secret"] for proof in saved["proofs"]]


def test_odd_habits_of_programs_around_a_wallet(neighbour: Neighbour, db: Documents) -> None:
    user = npub()
    kept, gone = fund(neighbour, [user], shapes=[(16, 8)])[user]
    before = token(db, kept)
    neighbour.replace(kept)
    assert token(db, kept) == before
    neighbour.touch(kept)
    touched = token(db, kept)
    assert touched["metadata"].pop("note")
    assert {**touched, "updatedAt": before["updatedAt"]} == before
    db["cashu_tokens"].update_one({"_id": ObjectId(kept)}, {"$set": {"status": "spent"}})
    neighbour.unspend(kept)
    assert token(db, kept)["status"] == "unspent"
    neighbour.remove(gone)
    assert [line["id"] for line in neighbour.history(user)] == [kept]
