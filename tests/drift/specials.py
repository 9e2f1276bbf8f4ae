"""
Drift that is more than one document and its mint: duplicates, foreign mints, keysets, payments and their ends.

What needs a payment is planted while the daemon runs, before the rest; what makes a mint a liar comes last.
"""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from melt.model import DriftType
from tests.drift.cases import AMOUNTS, Document
from tests.drift.ground import LIVE, Ground
from tests.support.proxy import Act, Fault

PATIENT_S: Final = 60.0
LIGHTNING_FEE: Final = 1
"""What the mint's node takes for a payment."""
EXPIRY_DAYS: Final = 5
PURSE: Final = (128, 64)
"""What pays 100 sat with more change than the fee reserve: the largest proof alone."""


@dataclass(kw_only=True)
class Special:
    """A row of the table that is no single document. ``subjects`` are the records that must be there."""

    name: str
    type: DriftType
    outcome: str
    planted: int
    subjects: list[str] = field(default_factory=list)
    token_ids: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class Payments:
    """What the payments before the planting left behind."""

    specials: list[Special] = field(default_factory=list)
    lost: dict[tuple[str, str], int] = field(default_factory=dict)
    """By user and mint, the value of proofs that were taken out of the database."""


def _melt(ground: Ground, mint: str, amount: int, **script: Any) -> tuple[str, Document, list[Document]]:
    """A user of its own, with one document, pays; the user, the daemon's answer, and the document's proofs."""
    owner = ground.users[ground.dice.randrange(len(ground.users))]
    proofs = asyncio.run(ground.wallet(mint).mint(sum(PURSE), amounts=PURSE))
    document = ground.make_document(owner, mint, proofs)
    ground.db["cashu_tokens"].insert_one(document)
    invoice = asyncio.run(ground.mints[mint].invoice(amount, **script))
    wait = 0 if script else 60
    body: Document = ground.daemon.melt(owner, mint, invoice.invoice, wait=wait).json()
    return owner, body, document["proofs"]


def pay(ground: Ground, number: int) -> Payments:
    """
    Payments through the daemon: change that the database loses, change that the mint keeps, mints that contradict
    themselves.
    """
    done = Payments()
    lost = Special(name="change lost by the database", type=DriftType.PROOF_NOT_IN_DB, outcome="corrected", planted=0)
    for _ in range(number):
        owner, melt, _ = _melt(ground, "alpha", 100)
        assert melt.get("state") == "SETTLED", melt
        change = ground.db["cashu_tokens"].find_one({"transaction_id": f"{melt['transaction_id']}_melt_change"})
        assert change is not None, melt
        ground.db["cashu_tokens"].delete_one({"_id": change["_id"]})
        key = (owner, "alpha")
        done.lost[key] = done.lost.get(key, 0) + int(change["total_amount"])
        lost.planted += 1
        lost.subjects.append(f"melt:{melt['id']}")
    # The mint gives it after all when restore asks: then it is the owner's.
    kept = Special(name="change kept for a while", type=DriftType.CHANGE_SHORTFALL, outcome="corrected", planted=0)
    for _ in range(number):
        ground.proxy.add(
            Fault(endpoint="melt", act=Act.EDIT, edit=lambda answer: {**answer, "change": []}),
            Fault(
                endpoint="restore", act=Act.REWRITE, status=200, body={"outputs": [], "signatures": []}, times=4, nth=1
            ),
        )
        owner, melt, _ = _melt(ground, "slow", 100)
        assert melt.get("state") == "SETTLED", melt
        ground.proxy.clear()
        stored = ground.db["meltd_melts"].find_one({"_id": melt["id"]})
        assert stored is not None
        back = sum(ref["amount"] for ref in stored["inputs"]) - 100 - stored["input_fee"] - LIGHTNING_FEE
        assert melt["shortfall"], melt
        key = (owner, "slow")
        done.lost[key] = done.lost.get(key, 0) + back
        kept.planted += 1
        kept.subjects.append(f"melt:{melt['id']}")
    done.specials = [lost, kept, _paid_and_unspent(ground), _unpaid_and_spent(ground)]
    return done


def _failing(ground: Ground) -> tuple[str, Document, list[Document]]:
    owner, melt, proofs = _melt(ground, "alpha", 100, pay="FAILED", status="FAILED")
    _until(lambda: ground.daemon.get(f"/v1/melts/{melt['id']}").json()["state"] == "PENDING")
    return owner, melt, proofs


def _paid_and_unspent(ground: Ground) -> Special:
    _, melt, _ = _failing(ground)
    with closing(sqlite3.connect(ground.mints["alpha"].folder / "mint.sqlite3", timeout=10)) as database:
        database.execute("UPDATE melt_quotes SET state = 'PAID' WHERE quote = ?", (melt["quote_id"],))
        database.commit()
    ground.daemon.wait_state(melt["id"], "HELD", within_s=PATIENT_S)
    return Special(
        name="PAID, inputs unspent",
        type=DriftType.QUOTE_PAID_INPUTS_UNSPENT,
        outcome="recorded",
        planted=1,
        subjects=[f"melt:{melt['id']}"],
    )


def _unpaid_and_spent(ground: Ground) -> Special:
    _, melt, proofs = _failing(ground)
    stored = ground.db["meltd_melts"].find_one({"_id": melt["id"]})
    assert stored is not None
    inputs = {ref["amount"] for ref in stored["inputs"]}
    asyncio.run(ground.wallet("alpha").spend([proof for proof in proofs if proof["amount"] in inputs]))
    ground.daemon.wait_state(melt["id"], "HELD", within_s=PATIENT_S)
    return Special(
        name="UNPAID, inputs spent",
        type=DriftType.QUOTE_UNPAID_INPUTS_SPENT,
        outcome="recorded",
        planted=1,
        subjects=[f"melt:{melt['id']}"],
    )


def duplicates(ground: Ground, number: int) -> tuple[list[Special], dict[str, Document]]:
    """
    Proofs that two documents hold: of one user, and of two. Also the documents that must lose them, by id.

    The younger document has five proofs of its own and three of the elder.
    """
    within = Special(name="twice, one user", type=DriftType.DUPLICATE_PROOF, outcome="corrected", planted=0)
    across = Special(name="twice, two users", type=DriftType.DUPLICATE_PROOF, outcome="corrected", planted=0)
    losers: dict[str, Document] = {}
    for special, same in ((within, True), (across, False)):
        for index in range(number):
            mint = LIVE[index % 2]
            elder_owner, other = ground.dice.sample(ground.users, 2)
            wallet = ground.wallet(mint)
            elder = ground.make_document(elder_owner, mint, asyncio.run(wallet.mint(sum(AMOUNTS), amounts=AMOUNTS)))
            own = asyncio.run(wallet.mint(sum(AMOUNTS[3:]), amounts=AMOUNTS[3:]))
            shared = [{k: v for k, v in proof.items() if k != "_id"} for proof in elder["proofs"][:3]]
            younger = ground.make_document(elder_owner if same else other, mint, [*shared, *own], kind="received")
            elder["createdAt"] = elder["updatedAt"] = younger["createdAt"] - timedelta(hours=1)
            ground.db["cashu_tokens"].insert_many([elder, younger])
            losers[str(younger["_id"])] = younger
            special.token_ids += [str(elder["_id"]), str(younger["_id"])]
            special.planted += 2
    return [within, across], losers


def foreign(ground: Ground, number: int) -> Special:
    """Documents of a mint that nobody has configured: a URL from the database is never contacted."""
    url = "https://mint.elsewhere.example"
    documents = []
    for _ in range(number):
        owner = ground.dice.choice(ground.users)
        proofs = [
            {"id": "00ffffffffffffff", "amount": 8, "secret": secrets.token_hex(32), "C": "02" + secrets.token_hex(32)}
        ]
        document = ground.make_document(owner, "alpha", proofs)
        document["mint_url"] = url
        documents.append(document)
    ground.db["cashu_tokens"].insert_many(documents)
    return Special(
        name="a mint nobody configured",
        type=DriftType.MINT_UNCONFIGURED,
        outcome="recorded",
        planted=1,
        subjects=[f"mint_url:{url}"],
    )


def expiring(ground: Ground, number: int) -> Special:
    """Documents on a keyset that ends in some days; the mint has gone on to another one."""
    mint = ground.mints["alpha"]
    keyset = asyncio.run(mint.rotate_keyset(fee_ppk=100, final_expiry=int(time.time()) + EXPIRY_DAYS * 86_400))
    wallet = ground.wallet("alpha")
    for _ in range(number):
        owner = ground.dice.choice(ground.users)
        proofs = asyncio.run(wallet.mint(sum(AMOUNTS), amounts=AMOUNTS))
        assert {proof["id"] for proof in proofs} == {keyset}
        ground.db["cashu_tokens"].insert_one(ground.make_document(owner, "alpha", proofs))
    asyncio.run(mint.rotate_keyset(fee_ppk=100))
    return Special(
        name="a keyset that ends soon",
        type=DriftType.KEYSET_EXPIRING,
        outcome="recorded",
        planted=1,
        subjects=[f"keyset:alpha:{keyset}"],
    )


def regress(ground: Ground, ys: list[str]) -> tuple[Special, Callable[[], None]]:
    """The slow mint takes back what it called SPENT; the second value ends the lie."""
    gone = set(ys)

    def edit(answer: Document) -> Document:
        states = [{**one, "state": "UNSPENT"} if one["Y"] in gone else one for one in answer["states"]]
        return {**answer, "states": states}

    ground.proxy.clear()
    ground.proxy.add(Fault(endpoint="checkstate", act=Act.EDIT, edit=edit, times=1_000_000))
    special = Special(
        name="SPENT, then not any more",
        type=DriftType.MINT_STATE_REGRESSED,
        outcome="recorded",
        planted=1,
        subjects=["mint:slow"],
    )
    return special, ground.proxy.clear


def _until(condition: Callable[[], bool], within_s: float = PATIENT_S) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
