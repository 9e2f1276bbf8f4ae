"""
What is planted: each kind of disagreement between database and mint, and how each has to end (DESIGN section 5). Pure.

A document is written by a wallet service (``status``, ``kind``, what ``spoil`` does to it) and its proofs are something at
the mint (``states``). ``end`` is what a reader must find afterwards; ``types`` are the drift types that must be on record.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from bson import Decimal128

from melt.model import DriftType

Document = dict[str, Any]
AMOUNTS: Final = (1, 2, 4, 8, 16, 32, 64, 128)
"""The proofs of every planted document: eight, 255 sat."""


class End(StrEnum):
    """How a document has to be in the end."""

    SAME = "same"
    """As it was written, to the letter."""
    SPENT = "spent"
    """Marked spent, with all its proofs."""
    SPLIT = "split"
    """Marked spent with the proofs that are gone; the others are unspent in a sibling."""
    UNSPENT = "unspent"
    """Released."""
    RECLAIMED = "reclaimed"
    """As it was written; its value is back as new proofs of the same owner."""
    REPAIRED = "repaired"
    """Rid of what lies elsewhere too: its proofs that nobody else holds are still here."""


class Outcome(StrEnum):
    """What becomes of the record."""

    CORRECTED = "corrected"
    RECORDED = "recorded"
    UNSEEN = "unseen"
    """Nothing may be found: the document is sound, or its mint is dead."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One kind of document. ``touched``: so many of its proofs are in ``state`` at the mint, the others in ``others``."""

    name: str
    types: tuple[DriftType, ...] = ()
    outcome: Outcome = Outcome.RECORDED
    end: End = End.SAME
    status: str = "unspent"
    kind: str = "minted"
    state: str = "UNSPENT"
    touched: int = len(AMOUNTS)
    others: str = "UNSPENT"
    spoil: Callable[[Document], None] | None = None
    share: int = 1
    """How many of these for each one of the others."""

    def states(self) -> tuple[str, ...]:
        return (self.state,) * self.touched + (self.others,) * (len(AMOUNTS) - self.touched)


def _set(**changes: Any) -> Callable[[Document], None]:
    def spoil(document: Document) -> None:
        document.update(changes)

    return spoil


def _without(*names: str) -> Callable[[Document], None]:
    def spoil(document: Document) -> None:
        for name in names:
            del document[name]

    return spoil


def _each(change: Callable[[Document], None], first: int = len(AMOUNTS)) -> Callable[[Document], None]:
    def spoil(document: Document) -> None:
        for proof in document["proofs"][:first]:
            change(proof)

    return spoil


def _orphan(document: Document) -> None:
    at = datetime.now(UTC) - timedelta(days=2)
    document["reservation"] = {"melt_id": f"melt_{secrets.token_hex(12)}", "at": at}


def _wrong_dleq(proof: Document) -> None:
    proof["dleq"] = {**proof["dleq"], "e": secrets.token_hex(32)}


def _slash(document: Document) -> None:
    document["mint_url"] += "/"


def _text_amounts(proof: Document) -> None:
    proof["amount"] = str(proof["amount"])


def _decimal_amounts(proof: Document) -> None:
    proof["amount"] = Decimal128(str(proof["amount"]))


def _double_amounts(proof: Document) -> None:
    proof["amount"] = float(proof["amount"])


def _negative(proof: Document) -> None:
    proof["amount"] = -proof["amount"]


def _upper(proof: Document) -> None:
    proof["C"] = proof["C"].upper()
    proof["id"] = proof["id"].upper()


def _created_at(document: Document) -> None:
    document["created_at"] = document.pop("createdAt")
    del document["updatedAt"], document["__v"]


def _foreign(proof: Document) -> None:
    proof["id"] = "00" + secrets.token_hex(7)


T = DriftType
C = Outcome.CORRECTED

MATRIX: Final = (
    Case(name="counted, all spent", types=(T.DB_UNSPENT_MINT_SPENT,), outcome=C, end=End.SPENT, state="SPENT", share=3),
    Case(
        name="counted, some spent",
        types=(T.DB_UNSPENT_MINT_SPENT,),
        outcome=C,
        end=End.SPLIT,
        state="SPENT",
        touched=3,
        share=3,
    ),
    Case(name="counted, being spent", types=(T.DB_UNSPENT_MINT_PENDING,), state="PENDING"),
    Case(
        name="left pending, unspent",
        types=(T.DB_PENDING_MINT_UNSPENT,),
        outcome=C,
        end=End.UNSPENT,
        status="pending",
        share=2,
    ),
    Case(name="pending on both sides", types=(T.DB_PENDING_MINT_PENDING,), status="pending", state="PENDING"),
    Case(
        name="left pending, spent",
        types=(T.DB_PENDING_MINT_SPENT,),
        outcome=C,
        end=End.SPENT,
        status="pending",
        state="SPENT",
        share=2,
    ),
    Case(
        name="written off, still good",
        types=(T.DB_SPENT_MINT_UNSPENT,),
        outcome=C,
        end=End.RECLAIMED,
        status="spent",
        share=2,
    ),
    Case(
        name="sent and redeemed, still counted",
        types=(T.SENT_TOKEN_REDEEMED,),
        outcome=Outcome.CORRECTED,
        end=End.SPENT,
        kind="sent",
        state="SPENT",
    ),
    Case(
        name="sent and partly redeemed, still counted",
        types=(T.SENT_TOKEN_REDEEMED,),
        outcome=Outcome.CORRECTED,
        end=End.SPLIT,
        kind="sent",
        state="SPENT",
        touched=3,
    ),
    Case(name="sent, pending, not redeemed", types=(T.DB_PENDING_MINT_UNSPENT,), status="pending", kind="sent"),
    Case(name="sent, not redeemed", types=(T.DB_SPENT_MINT_UNSPENT,), status="spent", kind="sent", share=2),
    Case(name="spent, pending at the mint", types=(T.DB_SPENT_MINT_PENDING,), status="spent", state="PENDING"),
    Case(
        name="failed, still good",
        types=(T.DB_FAILED_MINT_UNSPENT,),
        outcome=C,
        end=End.RECLAIMED,
        status="failed",
    ),
)
"""Each cell of DESIGN's table in which the two sides disagree, or agree that something is under way."""

BEYOND: Final = (
    Case(name="total_amount off", types=(T.AMOUNT_MISMATCH,), spoil=_set(total_amount=9999)),
    Case(name="wrong DLEQ", types=(T.INVALID_SIGNATURE,), spoil=_each(_wrong_dleq, 2)),
    Case(name="keyset nobody lists", types=(T.UNKNOWN_KEYSET,), spoil=_each(_foreign, 2)),
    Case(
        name="reserved by no melt",
        types=(T.RESERVATION_ORPHANED,),
        outcome=C,
        end=End.UNSPENT,
        status="pending",
        spoil=_orphan,
    ),
    Case(
        name="melted, counted, spent",
        types=(T.LEGACY_MELTED_DOCUMENT, T.DB_UNSPENT_MINT_SPENT),
        outcome=C,
        end=End.SPENT,
        kind="melted",
        state="SPENT",
    ),
    Case(name="melted, spent", types=(T.LEGACY_MELTED_DOCUMENT,), status="spent", kind="melted", state="SPENT"),
)

MALFORMED: Final = (
    Case(name="no npub", types=(T.MALFORMED_TOKEN,), spoil=_without("npub")),
    Case(name="unknown status", types=(T.MALFORMED_TOKEN,), spoil=_set(status="claimed")),
    Case(name="negative amounts", types=(T.MALFORMED_TOKEN,), spoil=_each(_negative)),
    Case(name="proofs are text", types=(T.MALFORMED_TOKEN,), spoil=_set(proofs="[]")),
    Case(name="amount above int64", types=(T.MALFORMED_TOKEN,), spoil=_each(lambda p: p.update(amount=1e30), 1)),
)

LEGACY: Final = (
    Case(
        name="amounts as text",
        types=(T.DB_UNSPENT_MINT_SPENT,),
        outcome=C,
        end=End.SPENT,
        state="SPENT",
        spoil=_each(_text_amounts),
    ),
    Case(
        name="amounts as Decimal128",
        types=(T.DB_UNSPENT_MINT_SPENT,),
        outcome=C,
        end=End.SPENT,
        state="SPENT",
        spoil=_each(_decimal_amounts),
    ),
    Case(
        name="amounts as double, some spent",
        types=(T.DB_UNSPENT_MINT_SPENT,),
        outcome=C,
        end=End.SPLIT,
        state="SPENT",
        touched=4,
        spoil=_each(_double_amounts),
    ),
    Case(
        name="mint_url with a slash",
        types=(T.DB_UNSPENT_MINT_SPENT,),
        outcome=C,
        end=End.SPENT,
        state="SPENT",
        spoil=_slash,
    ),
    Case(
        name="upper-case hex",
        types=(T.DB_UNSPENT_MINT_SPENT,),
        outcome=C,
        end=End.SPENT,
        state="SPENT",
        spoil=_each(_upper),
    ),
    Case(
        name="created_at, no Mongoose",
        types=(T.DB_PENDING_MINT_UNSPENT,),
        outcome=C,
        end=End.UNSPENT,
        status="pending",
        spoil=_created_at,
    ),
)

SOUND: Final = (
    Case(name="money", outcome=Outcome.UNSEEN),
    Case(name="change", outcome=Outcome.UNSEEN, kind="change"),
    Case(name="spent long ago", outcome=Outcome.UNSEEN, status="spent", state="SPENT"),
    Case(name="sent and redeemed", outcome=Outcome.UNSEEN, status="spent", kind="sent", state="SPENT"),
)
"""What nobody may touch. The rest of the database."""

DEAD: Final = (
    Case(name="dead mint: counted, spent", outcome=Outcome.UNSEEN, state="SPENT", share=2),
    Case(name="dead mint: left pending", outcome=Outcome.UNSEEN, status="pending", share=2),
    Case(name="dead mint: written off", outcome=Outcome.UNSEEN, status="spent", share=2),
)
"""Drift that nobody can see: a mint that does not answer tells nothing, so nothing may change."""

PLANTED: Final = (*MATRIX, *BEYOND, *MALFORMED, *LEGACY)
