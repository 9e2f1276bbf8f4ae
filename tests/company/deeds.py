"""What another writer may do to documents that meltd has reserved, as a plain service would write it."""

from __future__ import annotations

import asyncio
import copy
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from bson import ObjectId

from tests.support.store import npub

if TYPE_CHECKING:
    from pymongo.database import Database

    from tests.support.mint import TestWallet

Document = dict[str, Any]


@dataclass(kw_only=True)
class Neighbour:
    """The other writer of one row. ``fees`` and ``minted`` are what its own doings cost and brought in, in sat."""

    db: Database[Document]
    wallet: TestWallet
    owner: str
    fees: int = 0
    minted: int = 0
    dropped: int = 0
    """What it wrote over or deleted without having it anywhere else."""
    made: set[str] = field(default_factory=set)
    """Documents that it has stored."""
    touched: set[str] = field(default_factory=set)
    stranger: str = field(default_factory=npub)

    def set(self, document: Document, **fields: Any) -> None:
        """An update of one document, as Mongoose's ``save()`` makes it."""
        self.touched.add(str(document["_id"]))
        fields["updatedAt"] = datetime.now(UTC)
        self.db["cashu_tokens"].update_one({"_id": document["_id"]}, {"$set": fields})

    def unset(self, document: Document, *names: str) -> None:
        self.touched.add(str(document["_id"]))
        self.db["cashu_tokens"].update_one({"_id": document["_id"]}, {"$unset": dict.fromkeys(names, "")})

    def delete(self, document: Document) -> None:
        self.touched.add(str(document["_id"]))
        self.db["cashu_tokens"].delete_one({"_id": document["_id"]})

    def store(self, like: Document, proofs: Sequence[Document], **fields: Any) -> None:
        """A document of its own with these proofs."""
        made = copy.deepcopy(like)
        for name in ("reservation", "rev", "spent_at"):
            made.pop(name, None)
        made |= {
            "_id": ObjectId(),
            "proofs": list(proofs),
            "status": "unspent",
            "total_amount": sum(int(proof["amount"]) for proof in proofs),
            "transaction_id": f"tx_other_{secrets.token_hex(8)}",
            **fields,
        }
        self.made.add(str(made["_id"]))
        self.db["cashu_tokens"].insert_one(made)

    def mint(self, amount: int) -> list[Document]:
        self.minted += amount
        return [dict(proof) for proof in asyncio.run(self.wallet.mint(amount))]


def fail(other: Neighbour, document: Document) -> None:
    """A poller that fails what has been pending for long."""
    other.set(document, status="failed")


def spend(other: Neighbour, document: Document) -> None:
    """A service that calls it spent."""
    other.set(document, status="spent", spent_at=datetime.now(UTC))


def unspend(other: Neighbour, document: Document) -> None:
    """A clean-up that gives pending documents back."""
    other.set(document, status="unspent")


def delete(other: Neighbour, document: Document) -> None:
    """A clean-up that deletes them."""
    other.delete(document)
    other.dropped += int(document["total_amount"])


def replace(other: Neighbour, document: Document) -> None:
    """A service that stores the same proofs anew, in another document."""
    other.delete(document)
    other.store(document, document["proofs"])


def split(other: Neighbour, document: Document) -> None:
    """A service that moves a part of the proofs into a document of its own."""
    proofs = document["proofs"]
    half = max(1, len(proofs) // 2)
    kept, moved = proofs[half:], proofs[:half]
    other.set(document, proofs=kept, total_amount=sum(int(proof["amount"]) for proof in kept))
    other.store(document, moved)


def give_away(other: Neighbour, document: Document) -> None:
    """A service that moves it to another user."""
    other.set(document, npub=other.stranger)


def other_proofs(other: Neighbour, document: Document) -> None:
    """A service that writes other proofs in the place of ours."""
    proofs = other.mint(8)
    other.dropped += int(document["total_amount"])
    other.set(document, proofs=proofs, total_amount=8)


def more_proofs(other: Neighbour, document: Document) -> None:
    """A service that merges a document into ours."""
    proofs = [*document["proofs"], *other.mint(4)]
    other.set(document, proofs=proofs, total_amount=sum(int(proof["amount"]) for proof in proofs))


def unreserve(other: Neighbour, document: Document) -> None:
    """A service that writes back a document that it read before we reserved it, all but the status."""
    other.unset(document, "reservation")


def take_back(other: Neighbour, document: Document) -> None:
    """The same, status and all."""
    other.set(document, status="unspent")
    other.unset(document, "reservation")


def move_mint(other: Neighbour, document: Document) -> None:
    """A service that gives it another mint's URL."""
    other.set(document, mint_url="http://127.0.0.1:9/elsewhere")


def use(other: Neighbour, document: Document) -> None:
    """A payment of its own: it swaps the proofs at the mint, and writes nothing yet about their document."""
    proofs = document["proofs"]
    fresh = asyncio.run(other.wallet.swap(proofs))
    other.fees += sum(int(p["amount"]) for p in proofs) - sum(int(p["amount"]) for p in fresh)
    other.store(document, [dict(proof) for proof in fresh])


def use_and_spend(other: Neighbour, document: Document) -> None:
    """The same to its end: the document is called spent."""
    use(other, document)
    spend(other, document)


Deed = Callable[[Neighbour, Document], None]
DEEDS: Final[dict[str, Deed]] = {
    "fail": fail,
    "spend": spend,
    "unspend": unspend,
    "delete": delete,
    "replace": replace,
    "split": split,
    "owner": give_away,
    "proofs": other_proofs,
    "merge": more_proofs,
    "unreserve": unreserve,
    "take back": take_back,
    "mint_url": move_mint,
    "use": use,
    "use, spend": use_and_spend,
}
TAKING: Final = frozenset({"use", "use, spend"})
"""Deeds that need the mint to honour the proofs."""
