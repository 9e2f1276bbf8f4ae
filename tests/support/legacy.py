"""Token documents as years of other code left them: what is wrong with each, and how it is to be read."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from bson import Decimal128, Int64, ObjectId

if TYPE_CHECKING:
    from collections.abc import Callable

Raw = dict[str, Any]
AMOUNT = 8
"""What each proof of a case is worth, whatever its document says."""


@dataclass(frozen=True)
class Legacy:
    """
    One way in which a document of two proofs of :data:`AMOUNT` is odd; ``change`` makes it so.

    ``reason`` is part of what is to be said of it, None where its meaning is plain. ``value`` is what its proofs count for.
    ``drift`` is a type that it shows besides, whatever the mint says.
    """

    name: str
    change: Callable[[Raw], object]
    reason: str | None = None
    value: int = 2 * AMOUNT
    drift: str | None = None

    def document(self, owner: str, mint_url: str, proofs: list[Raw]) -> Raw:
        """A document of ``proofs`` with this oddity."""
        now = datetime(2024, 2, 3, 4, 5, 6, tzinfo=UTC)
        raw: Raw = {
            "_id": ObjectId(),
            "npub": owner,
            "wallet_id": ObjectId(),
            "proofs": [dict(proof) for proof in proofs],
            "mint_url": mint_url,
            "status": "unspent",
            "transaction_type": "received",
            "transaction_id": f"tx_legacy_{secrets.token_hex(6)}",
            "metadata": {"source": "p2p"},
            "spent_at": None,
            "createdAt": now,
            "updatedAt": now,
            "total_amount": 2 * AMOUNT,
            "__v": 0,
        }
        self.change(raw)
        return raw


def _put(**fields: Any) -> Callable[[Raw], object]:
    return lambda raw: raw.update(fields)


def _without(*names: str) -> Callable[[Raw], object]:
    return lambda raw: [raw.pop(name) for name in names]


def _first(**fields: Any) -> Callable[[Raw], object]:
    return lambda raw: raw["proofs"][0].update(fields)


def _each(change: Callable[[Raw], object]) -> Callable[[Raw], object]:
    return lambda raw: [change(proof) for proof in raw["proofs"]]


def _amount(value: Any) -> Callable[[Raw], object]:
    return _each(lambda proof: proof.update(amount=value))


def _upper(name: str) -> Callable[[Raw], object]:
    return _each(lambda proof: proof.update({name: proof[name].upper()}))


def _renamed(raw: Raw) -> None:
    raw["created_at"], raw["updated_at"] = raw.pop("createdAt"), raw.pop("updatedAt")


def _shouted(raw: Raw) -> None:
    raw["mint_url"] = raw["mint_url"].replace("http://", "HTTP://")


PLAIN = (
    Legacy("as it should be", _put()),
    Legacy("amount as text", _amount("8")),
    Legacy("amount as double", _amount(8.0)),
    Legacy("amount as long", _amount(Int64(8))),
    Legacy("amount as decimal", _amount(Decimal128("8.00"))),
    Legacy("C in upper case", _upper("C")),
    Legacy("keyset id in upper case", _upper("id")),
    Legacy("no DLEQ", _each(lambda proof: proof.pop("dleq", None))),
    Legacy("DLEQ is junk", _each(lambda proof: proof.update(dleq="none"))),
    Legacy("extra fields", lambda raw: (raw.update(note={"a": [1]}), _first(state="x", reserved=False)(raw))),
    Legacy("total as text", _put(total_amount="16")),
    Legacy("total off", _put(total_amount=17), drift="AMOUNT_MISMATCH"),
    Legacy("total is junk", _put(total_amount="sixteen"), drift="AMOUNT_MISMATCH"),
    Legacy("total is negative", _put(total_amount=-16), drift="AMOUNT_MISMATCH"),
    Legacy("no total", _without("total_amount")),
    Legacy("trailing slash", lambda raw: raw.update(mint_url=raw["mint_url"] + "/")),
    Legacy("scheme in upper case", _shouted),
    Legacy("id is text", lambda raw: raw.update(_id=f"legacy-{secrets.token_hex(4)}")),
    Legacy("id is 24 digits of text", lambda raw: raw.update(_id=secrets.token_hex(12))),
    Legacy("created_at", _renamed),
    Legacy("no dates", _without("createdAt", "updatedAt", "spent_at")),
    Legacy("dates as text", _put(createdAt="2024-02-03T04:05:06.000Z", updatedAt="2024-02-03T04:05:06Z")),
    Legacy("dates as milliseconds", _put(createdAt=1_706_933_106_000, updatedAt=1_706_933_106_000.0)),
    Legacy("dates are junk", _put(createdAt="yesterday", updatedAt=True)),
    Legacy("no wallet", _without("wallet_id")),
    Legacy("no transaction id", _without("transaction_id")),
    Legacy("no type, no metadata", _without("transaction_type", "metadata")),
    Legacy("version is text", _put(__v="0")),
    Legacy("rev is junk", _put(rev="first")),
    Legacy("rev can't be raised", _put(rev=Int64(2**63 - 1))),
    Legacy("version can't be raised", _put(__v=Int64(2**63 - 1))),
)
"""What is read as it plainly means, and corrected like any other document."""

BROKEN = (
    Legacy("no proofs", _without("proofs"), "proofs are missing", 0),
    Legacy("proofs null", _put(proofs=None), "proofs are missing", 0),
    Legacy("proofs empty", _put(proofs=[]), "unspent without a proof", 0),
    Legacy("proofs is a document", lambda raw: raw.update(proofs=raw["proofs"][0]), "proofs is not a list", 0),
    Legacy("a proof is text", lambda raw: raw["proofs"].insert(0, "x"), "proofs[0]: is not a document"),
    Legacy("amount is no number", _first(amount="eight"), "proofs[0]: amount", AMOUNT),
    Legacy("amount is a fraction as text", _first(amount="8.5"), "proofs[0]: amount", AMOUNT),
    Legacy("amount is a fraction", _first(amount=8.5), "proofs[0]: amount", AMOUNT),
    Legacy("amount is negative", _first(amount=-8), "proofs[0]: amount", AMOUNT),
    Legacy("amount is negative text", _first(amount="-8"), "proofs[0]: amount", AMOUNT),
    Legacy("amount is zero", _first(amount=0), "proofs[0]: amount", AMOUNT),
    Legacy("amount is true", _first(amount=True), "proofs[0]: amount", AMOUNT),
    Legacy("amount is missing", lambda raw: raw["proofs"][0].pop("amount"), "proofs[0]: amount", AMOUNT),
    Legacy("amount is 2**63", _first(amount=float(2**63)), "proofs[0]: amount", AMOUNT),
    Legacy("amount is 2**63 as decimal", _first(amount=Decimal128(str(2**63))), "proofs[0]: amount", AMOUNT),
    Legacy("amounts overflow", _amount(Int64(2**62)), "more than 64 bits", 2**63 - 1),
    Legacy("secret is a number", _first(secret=5), "proofs[0]: secret", AMOUNT),
    Legacy("secret is empty", _first(secret=""), "proofs[0]: secret", AMOUNT),
    Legacy("C is missing", lambda raw: raw["proofs"][0].pop("C"), "proofs[0]: C", AMOUNT),
    Legacy("keyset is missing", lambda raw: raw["proofs"][0].pop("id"), "proofs[0]: id", AMOUNT),
    Legacy(
        "a secret twice", lambda raw: raw["proofs"].append(dict(raw["proofs"][0])), "twice", drift="DUPLICATE_PROOF"
    ),
    Legacy("unknown status", _put(status="melted"), "status is none of"),
    Legacy("status in another case", _put(status="UNSPENT"), "status is spelled in another way"),
    Legacy("status is a number", _put(status=1), "status is none of"),
    Legacy("no status", _without("status"), "status is missing"),
    Legacy("no npub", _without("npub"), "npub is missing"),
    Legacy("npub is a number", _put(npub=7), "npub is not a text"),
    Legacy("no mint", _without("mint_url"), "mint_url is missing"),
    Legacy("mint is a list", lambda raw: raw.update(mint_url=[7]), "mint_url is not a text"),
    Legacy("id is a number", lambda raw: raw.update(_id=secrets.randbelow(2**31)), "_id is neither"),
    Legacy("id is bytes", lambda raw: raw.update(_id=secrets.token_bytes(12)), "_id is neither"),
)
"""What can't be read as a token: reported with its reason and what can be told of its value, and never changed."""
