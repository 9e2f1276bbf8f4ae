"""Given proofs and documents, asked about on request: database and mint side by side, and nothing written."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from melt.ecash import y_of
from tests.support.store import token

if TYPE_CHECKING:
    from tests.e2e.conftest import System


def test_given_documents_and_proofs_are_shown_as_both_sides_have_them(system: System) -> None:
    owner = system.user()
    clean, gone = system.fund(owner, 48, amounts=[32, 16]), system.fund(owner, 8)
    sent = system.fund(owner, 4, transaction_type="sent")
    spent_proofs = token(system.db, gone)["proofs"]
    asyncio.run(system.wallet.spend(spent_proofs))
    before = system.dump() | {"records": list(system.db["meltd_discrepancies"].find({}))}

    told = system.daemon.post("/v1/proofs/check", {"token_ids": [clean, gone, sent, "nowhere"]}).json()

    by_id = {one["token_id"]: one for one in told["documents"]}
    assert (by_id[clean]["blocked"], by_id[clean]["severity"], by_id[clean]["counted"]) == (False, None, True)
    assert [proof["mint"] for proof in by_id[clean]["proofs"]] == ["UNSPENT", "UNSPENT"]
    (proof,) = by_id[gone]["proofs"]
    assert (proof["database"], proof["mint"], by_id[gone]["severity"]) == ("unspent", "SPENT", "HIGH")
    assert by_id[gone]["blocked"] is True
    assert (by_id[sent]["counted"], by_id[sent]["blocked"]) == (False, True), "it is its recipient's"
    assert (told["missing"], told["blocked"], told["errors"]) == (["nowhere"], True, [])
    assert system.dump() | {"records": list(system.db["meltd_discrepancies"].find({}))} == before

    stranger = y_of(spent_proofs[0]["secret"])
    told = system.daemon.post("/v1/proofs/check", {"ys": [stranger], "mint": "main"}).json()
    assert told["strangers"] == [{"y": stranger, "mint": "SPENT"}], "no record leads to it yet"
    system.daemon.reconcile(npub=owner)
    told = system.daemon.post("/v1/proofs/check", {"ys": [stranger]}).json()
    assert [one["token_id"] for one in told["documents"]] == [gone]
    assert told["strangers"] == []
