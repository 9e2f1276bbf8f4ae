"""Token documents as a Mongoose service writes them, a database per test, and stores over it."""

from __future__ import annotations

import asyncio
import secrets
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from bson import ObjectId

from melt.errors import Severity
from melt.model import Action, DriftType, Finding, MintAlias, Warrant

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pymongo.database import Database

    from melt.model import Melt, NewProof, Token

KEYSET = "00c3c8469bdea580"
MINT_URL = "http://127.0.0.1:3338"
_BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


def npub() -> str:
    """A new user's public key, of the right shape."""
    return "npub1" + "".join(secrets.choice(_BECH32) for _ in range(58))


def fake_proof(amount: int, *, keyset_id: str = KEYSET, dleq: bool = False, **more: Any) -> dict[str, Any]:
    """A proof that looks right and that no mint has signed."""
    proof: dict[str, Any] = {
        "id": keyset_id,
        "amount": amount,
        "secret": secrets.token_hex(32),
        "C": "02" + secrets.token_hex(32),
    }
    if dleq:
        proof["dleq"] = {"e": secrets.token_hex(32), "s": secrets.token_hex(32), "r": secrets.token_hex(32)}
    return {**proof, **more}


def insert_wallet(db: Database[dict[str, Any]], owner: str, mint_url: str = MINT_URL, unit: str = "sat") -> ObjectId:
    """A wallet document, as the service would have left it; returns its id."""
    now = datetime.now(UTC)
    wallet_id = ObjectId()
    db["cashu_wallets"].insert_one(
        {
            "_id": wallet_id,
            "npub": owner,
            "mint_url": mint_url,
            "p2pk_pubkey": "02" + secrets.token_hex(32),
            "p2pk_privkey": secrets.token_hex(32),
            "wallet_config": {"unit": unit, "created_via": "api"},
            "createdAt": now,
            "updatedAt": now,
            "__v": 0,
        }
    )
    return wallet_id


def warrant_of(record: Any, held: Any, **changes: Any) -> Warrant:
    """By what a rule may write the document ``held`` that ``record`` is about."""
    fields = {"discrepancy_id": record.id, "occurrence": record.occurrence, "token_id": held.id, "mark": held.mark}
    return Warrant(**{**fields, **changes})


def written_off(held: Any) -> Finding:
    """What a look finds of a spent document whose proofs the mint still honours."""
    return Finding(
        type=DriftType.DB_SPENT_MINT_UNSPENT,
        severity=Severity.MEDIUM,
        action=Action.RECLAIM,
        subject=f"token:{held.id}",
        npub=held.npub,
        mint=MintAlias("m"),
        unit="sat",
        value=held.amount,
        token_id=held.id,
        ys=(),
        evidence={},
        mark=held.mark,
    )


def insert_token(
    db: Database[dict[str, Any]],
    owner: str,
    proofs: Iterable[dict[str, Any] | int],
    *,
    status: str = "unspent",
    mint_url: str = MINT_URL,
    wallet_id: ObjectId | None = None,
    transaction_type: str = "minted",
    transaction_id: str | None = None,
    metadata: dict[str, Any] | None = None,
    created_at: datetime | None = None,
    **more: Any,
) -> str:
    """
    A token document as a Mongoose service writes it; returns its id as text.

    ``proofs`` may hold amounts, for which proofs are made up. ``more`` overrides or adds fields.
    """
    now = created_at or datetime.now(UTC)
    held = [fake_proof(proof) if isinstance(proof, int) else dict(proof) for proof in proofs]
    for proof in held:
        proof.setdefault("_id", ObjectId())
    document: dict[str, Any] = {
        "_id": ObjectId(),
        "npub": owner,
        "wallet_id": wallet_id,
        "proofs": held,
        "mint_url": mint_url,
        "status": status,
        "transaction_type": transaction_type,
        "transaction_id": transaction_id or f"tx_{transaction_type}_{secrets.token_hex(8)}",
        "metadata": metadata or {"source": "lightning"},
        "spent_at": now if status == "spent" else None,
        "createdAt": now,
        "updatedAt": now,
        "total_amount": sum(int(proof["amount"]) for proof in held),
        "__v": 0,
        **more,
    }
    if document["wallet_id"] is None:
        del document["wallet_id"]
    db["cashu_tokens"].insert_one(document)
    return str(document["_id"])


def token(db: Database[dict[str, Any]], token_id: str) -> dict[str, Any]:
    """The raw document."""
    found = db["cashu_tokens"].find_one({"_id": ObjectId(token_id)})
    assert found is not None, f"no token {token_id}"
    return found


def sums_by_status(db: Database[dict[str, Any]], owner: str) -> dict[str, int]:
    """What the proofs of a user add up to, by status, counted here and not by the store under test."""
    sums: dict[str, int] = {}
    for document in db["cashu_tokens"].find({"npub": owner}):
        amount = sum(int(proof["amount"]) for proof in document["proofs"])
        sums[document["status"]] = sums.get(document["status"], 0) + amount
    return sums


def assert_no_secret_twice(db: Database[dict[str, Any]]) -> None:
    """I4, counted here."""
    seen: dict[str, str] = {}
    for document in db["cashu_tokens"].find({}):
        for proof in document.get("proofs", ()):
            assert proof["secret"] not in seen, f"a proof lies in {seen[proof['secret']]} and in {document['_id']}"
            seen[proof["secret"]] = str(document["_id"])


def assert_totals(db: Database[dict[str, Any]]) -> None:
    """``total_amount`` is what the proofs add up to, everywhere."""
    for document in db["cashu_tokens"].find({}):
        amounts: Sequence[int] = [int(proof["amount"]) for proof in document["proofs"]]
        assert document["total_amount"] == sum(amounts), f"total_amount of {document['_id']}"


class SystemClock:
    """The real time, for stores under test."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float, /) -> None:
        await asyncio.sleep(seconds)

    async def wait(self, event: asyncio.Event, seconds: float, /) -> bool:
        try:
            await asyncio.wait_for(event.wait(), seconds)
        except TimeoutError:
            return False
        return True


def new_proof(amount: int, *, keyset_id: str = KEYSET) -> NewProof:
    """A proof as it comes out of unblinding, of no real mint."""
    from melt.model import Dleq, KeysetId, NewProof

    return NewProof(
        keyset_id=KeysetId(keyset_id),
        amount=amount,
        secret=secrets.token_hex(32),
        c="02" + secrets.token_hex(32),
        dleq=Dleq(e=secrets.token_hex(32), s=secrets.token_hex(32), r=secrets.token_hex(32)),
    )


def make_melt(tokens: Sequence[Token], ys: Iterable[str] | None = None, **changes: Any) -> Melt:
    """
    A journal entry, ready for ``Store.reserve``, that spends these tokens, or of their proofs those of ``ys``.

    ``changes`` overrides fields; by default it pays all but one sat of the inputs and the reserve is 1.
    """
    from melt.model import Actor, InputRef, Melt, MeltId, MeltState, MintAlias, QuoteId

    chosen = None if ys is None else set(ys)
    inputs = tuple(
        InputRef(token_id=token.id, y=proof.y, amount=proof.amount, keyset_id=proof.keyset_id)
        for token in tokens
        for proof in token.proofs
        if chosen is None or proof.y in chosen
    )
    now = datetime.now(UTC)
    fields: dict[str, Any] = {
        "id": MeltId(secrets.token_hex(12)),
        "state": MeltState.RESERVED,
        "rev": 1,
        "holder": "test",
        "idempotency_key": secrets.token_hex(8),
        "request_digest": secrets.token_hex(8),
        "npub": tokens[0].npub,
        "wallet_id": tokens[0].wallet_id,
        "mint": MintAlias("m"),
        "mint_url": tokens[0].mint_url,
        "unit": "sat",
        "transaction_id": f"tx_melt_{secrets.token_hex(6)}",
        "payment_hash": secrets.token_hex(32),
        "invoice": "lnbc1",
        "quote_id": QuoteId(secrets.token_hex(8)),
        "quote_expiry": None,
        "amount": sum(ref.amount for ref in inputs) - 1,
        "fee_reserve": 1,
        "input_fee": 0,
        "inputs": inputs,
        "source_token_ids": (),
        "blanks": None,
        "actor": Actor(name="test"),
        "created_at": now,
        "updated_at": now,
    }
    return Melt(**{**fields, **changes})
