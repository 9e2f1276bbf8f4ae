"""
The wallet service's part in the demo: documents as a Mongoose service leaves them, written and read past meltd.

The only module of the daemon that knows the database driver: what the service wrote and what there is in the end must
not be seen through meltd's own eyes.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from bson import ObjectId
from pymongo import MongoClient

from daemon.demo.accounts import Operation, Stored
from melt.ecash import proof_dleq_holds, y_of
from melt.model import Y

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from daemon.demo.scenario import DocumentPlan
    from daemon.demo.wallet import ProofDict

DATABASE: Final = "cashu"
_BECH32: Final = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_TIMEOUT_MS: Final = 10_000


class WalletService:
    """The service beside which meltd is put. One mint, unit sat."""

    def __init__(self, uri: str, mint_url: str) -> None:
        self._client: MongoClient[dict[str, Any]] = MongoClient(
            uri, tz_aware=True, serverSelectionTimeoutMS=_TIMEOUT_MS, socketTimeoutMS=_TIMEOUT_MS
        )
        self._db = self._client[DATABASE]
        self._mint_url = mint_url
        self._wallets: dict[str, ObjectId] = {}
        self._known: dict[Y, tuple[str, int, str]] = {}

    def close(self) -> None:
        """Let go of the database."""
        self._client.close()

    # --- writing ---

    def add_user(self) -> str:
        """A user with a wallet; returns the npub."""
        npub = "npub1" + "".join(secrets.choice(_BECH32) for _ in range(58))
        at = datetime.now(UTC) - timedelta(days=60)
        wallet_id = ObjectId()
        self._db["cashu_wallets"].insert_one(
            {
                "_id": wallet_id,
                "npub": npub,
                "mint_url": self._mint_url,
                "p2pk_pubkey": "02" + secrets.token_hex(32),
                "p2pk_privkey": secrets.token_hex(32),
                "wallet_config": {"unit": "sat", "created_via": "api"},
                "createdAt": at,
                "updatedAt": at,
                "__v": 0,
            }
        )
        self._wallets[npub] = wallet_id
        return npub

    def add_document(self, npub: str, plan: DocumentPlan, proofs: Sequence[ProofDict]) -> str:
        """
        A token document of that plan; returns its id.

        ``proofs`` come from the demo's own wallet, which has checked the mint's signature on each.
        """
        at = datetime.now(UTC) - timedelta(days=plan.age_days)
        number = secrets.token_hex(6)
        name = {"change": f"tx_melt_{number}_keep"}.get(plan.kind, f"tx_{plan.kind}_{number}")
        document: dict[str, Any] = {
            "_id": ObjectId(),
            "npub": npub,
            "wallet_id": self._wallets[npub],
            "proofs": [{**proof, "_id": ObjectId()} for proof in proofs],
            "mint_url": self._mint_url + ("/" if plan.slash else ""),
            "status": plan.status,
            "transaction_type": plan.kind,
            "transaction_id": name,
            "metadata": _metadata(plan, name),
            "spent_at": at if plan.status == "spent" else None,
            "createdAt": at,
            "updatedAt": at,
            "total_amount": sum(plan.amounts),
            "__v": 0,
        }
        self._known |= {y_of(proof["secret"]): _face(proof) for proof in proofs}
        self._db["cashu_tokens"].insert_one(document)
        return str(document["_id"])

    # --- reading ---

    def document(self, document_id: str) -> dict[str, Any]:
        """The raw document."""
        return self._db["cashu_tokens"].find_one({"_id": ObjectId(document_id)}) or {}

    def named(self, npub: str, transaction_id: str) -> dict[str, Any]:
        """The user's document of that transaction; empty where there is none."""
        return self._db["cashu_tokens"].find_one({"npub": npub, "transaction_id": transaction_id}) or {}

    def proofs(self, keys: Mapping[str, Mapping[int, str]]) -> list[Stored]:
        """
        Every proof of every document. ``keys`` are the mint's, by keyset and amount (NUT-01).

        A proof that this service has not stored itself counts as signed only where its DLEQ shows it (NUT-12).
        """
        return [
            _stored(document, proof, keys, self._known)
            for document in self._db["cashu_tokens"].find({})
            for proof in document.get("proofs", ())
        ]

    def operations(self) -> list[Operation]:
        """What meltd's journal says that was done at the mint: who paid for which inputs."""
        found: list[Operation] = []
        for entry in self._db["meltd_melts"].find({}):
            settled, fence, swap = entry["state"] == "SETTLED", entry.get("fence"), entry.get("swap")
            if settled and swap:
                found.append(_operation(entry["npub"], swap["inputs"]))
            if settled and entry.get("kind") != "reclaim":
                found.append(_operation(entry["npub"], entry["inputs"]))
            if entry["state"] == "RELEASED" and fence:
                found.append(_operation(entry["npub"], fence["inputs"]))
        return found


def ys_in(document: Mapping[str, Any]) -> list[Y]:
    """The Ys of a raw document's proofs, in its order."""
    return [y_of(proof["secret"]) for proof in document.get("proofs", ())]


def _metadata(plan: DocumentPlan, name: str) -> dict[str, Any]:
    metadata: dict[str, Any] = {"source": plan.source}
    if plan.kind == "change":
        metadata["parent_transaction_id"] = name.removesuffix("_keep")
        metadata["atomic_operation"] = True
    elif plan.kind == "received":
        metadata["used_private_key"] = False
    elif not plan.amounts:
        metadata |= {"quote_id": secrets.token_hex(12), "mint_amount": 500, "pending_amount": 500}
    return metadata


def _stored(
    document: Mapping[str, Any],
    proof: Mapping[str, Any],
    keys: Mapping[str, Mapping[int, str]],
    known: Mapping[Y, tuple[str, int, str]],
) -> Stored:
    y, amount = y_of(proof["secret"]), int(proof["amount"])
    dleq, key = proof.get("dleq") or {}, keys.get(proof["id"], {}).get(amount)
    signed = known.get(y) == _face(proof) or (
        key is not None
        and {"e", "s", "r"} <= dleq.keys()
        and proof_dleq_holds(proof["secret"], proof["C"], dleq["e"], dleq["s"], dleq["r"], key)
    )
    return Stored(
        npub=document["npub"],
        document=str(document["_id"]),
        status=document["status"],
        kind=document["transaction_type"],
        y=y,
        amount=amount,
        keyset=proof["id"],
        signed=signed,
    )


def _face(proof: Mapping[str, Any]) -> tuple[str, int, str]:
    return proof["id"], int(proof["amount"]), proof["C"]


def _operation(npub: str, inputs: Iterable[Mapping[str, Any]]) -> Operation:
    refs = list(inputs)
    return Operation(npub=npub, ys=tuple(Y(ref["y"]) for ref in refs), keysets=tuple(ref["keyset_id"] for ref in refs))
