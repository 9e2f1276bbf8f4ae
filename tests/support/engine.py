"""Values of the engine for tests of its pure parts: tokens, proofs, journal entries, and a scripted mint port."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cashu.core.crypto.b_dhke import step2_bob
from cashu.core.crypto.secp import PrivateKey, PublicKey

from melt.errors import MintUnreachable
from melt.model import (
    Actor,
    BlindSignature,
    InputRef,
    Keyset,
    KeysetId,
    Melt,
    MeltId,
    MeltQuote,
    MeltState,
    MintAlias,
    OutputPlan,
    PostOutcome,
    Proof,
    QuoteId,
    QuoteState,
    Reservation,
    Restored,
    Token,
    TokenId,
    TokenStatus,
    Y,
)

if TYPE_CHECKING:
    from melt.model import BlindedMessage

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
KEYSET = KeysetId("015ba18a8adcd02e715a58358eb618da4a4b3791151a4bee5e968bb88406ccf76a")
SEED_ID = "5eed" * 4


def y(name: object) -> Y:
    """A Y of the right shape, the same for the same name; no point."""
    return Y("02" + hashlib.sha256(str(name).encode()).hexdigest())


def proof(name: object, amount: int = 1, *, keyset_id: KeysetId = KEYSET) -> Proof:
    return Proof(keyset_id=keyset_id, amount=amount, secret=f"s-{name}", c="02" + "ab" * 32, y=y(name))


def token(
    status: TokenStatus, *amounts: int, reserved_by: str | None = None, type_: str = "received", **more: Any
) -> Token:
    """A document whose proofs are named 0, 1, 2, ..."""
    proofs = tuple(proof(i, amount) for i, amount in enumerate(amounts))
    fields: dict[str, Any] = {
        "id": TokenId("aa" * 12),
        "npub": "npub1" + "q" * 58,
        "wallet_id": None,
        "mint_url": "http://mint",
        "status": status,
        "transaction_type": type_,
        "transaction_id": "tx",
        "proofs": proofs,
        "total_amount": sum(amounts),
        "reservation": None if reserved_by is None else Reservation(melt_id=MeltId(reserved_by), at=NOW),
    }
    return Token(**{**fields, **more})


def melt_of(*amounts: int, **changes: Any) -> Melt:
    """A journal entry whose inputs are named 0, 1, 2, ...; its POST was answered "pending" an hour ago."""
    refs = tuple(
        InputRef(token_id=TokenId("aa" * 12), y=y(i), amount=a, keyset_id=KEYSET) for i, a in enumerate(amounts)
    )
    base = Melt(
        id=MeltId("m"),
        state=MeltState.PENDING,
        rev=1,
        holder="h",
        idempotency_key="k",
        request_digest="d",
        npub="npub1" + "q" * 58,
        wallet_id=None,
        mint=MintAlias("main"),
        mint_url="http://mint",
        unit="sat",
        transaction_id="tx",
        payment_hash="11" * 32,
        invoice="lnbc1",
        quote_id=QuoteId("q"),
        quote_expiry=None,
        amount=sum(amounts),
        fee_reserve=0,
        input_fee=0,
        inputs=refs,
        source_token_ids=(TokenId("aa" * 12),),
        blanks=None,
        post=PostOutcome.PENDING,
        posted_at=NOW.replace(hour=11),
        actor=Actor(name="test"),
        created_at=NOW,
        updated_at=NOW,
    )
    return replace(base, **changes)


def quote_of(state: QuoteState, **more: Any) -> MeltQuote:
    fields: dict[str, Any] = {"id": QuoteId("q"), "state": state, "amount": 1, "fee_reserve": 0, "expiry": None}
    return MeltQuote(**{**fields, **more})


@dataclass
class SigningMint:
    """
    The part of the mint port that :mod:`melt.recovery.signatures` uses: a mint that signs with real keys.

    ``quote_change`` is what the quote says when it is asked (None: the mint can't be asked). ``restorable`` are the
    outputs that it has signed, by B_. ``asked`` keeps which calls came.
    """

    alias: MintAlias = MintAlias("main")  # noqa: RUF009 - a NewType is its text
    url: str = "http://mint"
    denominations: Sequence[int] = tuple(1 << bit for bit in range(64))
    quote_change: tuple[BlindSignature, ...] | None = ()
    quote_state: QuoteState = QuoteState.PAID
    restorable: dict[str, BlindSignature] = field(default_factory=dict)
    restore_fails: bool = False
    keysets_listed: dict[KeysetId, Keyset] = field(default_factory=dict)
    restore_order: Callable[[list[Restored]], list[Restored]] = list
    asked: list[str] = field(default_factory=list)

    def private(self, amount: int) -> PrivateKey:
        return PrivateKey(hashlib.sha256(f"key of {amount}".encode()).digest())

    def sign(self, output: BlindedMessage, amount: int, *, dleq: bool = True, **changes: Any) -> BlindSignature:
        """A signature over ``amount`` on an output, remembered for a restore."""
        key = self.private(amount)
        c_, e, s = step2_bob(PublicKey(bytes.fromhex(output.b_)), key)
        made = BlindSignature(
            keyset_id=output.keyset_id,
            amount=amount,
            c_=c_.format().hex(),
            dleq_e=e.to_hex() if dleq else None,
            dleq_s=s.to_hex() if dleq else None,
        )
        made = replace(made, **changes)
        self.restorable[output.b_] = made
        return made

    async def keysets_with(self, wanted: Collection[KeysetId]) -> Mapping[KeysetId, Keyset]:
        return self.keysets_listed

    async def keys(self, keyset_id: KeysetId) -> Mapping[int, str]:
        self.asked.append("keys")
        return {a: self.private(a).public_key.format().hex() for a in self.denominations}

    async def melt_quote_state(self, quote_id: QuoteId) -> MeltQuote:
        self.asked.append("quote")
        if self.quote_change is None:
            raise MintUnreachable("scripted")
        return quote_of(self.quote_state, change=self.quote_change, change_known=True)

    async def restore(self, outputs: Sequence[BlindedMessage]) -> tuple[Restored, ...]:
        self.asked.append("restore")
        if self.restore_fails:
            raise MintUnreachable("scripted")
        found = [Restored(b_=o.b_, signature=self.restorable[o.b_]) for o in outputs if o.b_ in self.restorable]
        return tuple(self.restore_order(found))


def blanks_of(seed: Any, count: int, *, counter: int = 0) -> OutputPlan:
    """Blank outputs of a seed."""
    return OutputPlan(keyset_id=KEYSET, counter=counter, amounts=(0,) * count, seed_id=seed.seed_id)
