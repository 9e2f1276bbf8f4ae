"""
Token documents and the model: tolerant in reading, strict in writing (DESIGN section 3).

Reading never raises: a document that can't be a token becomes a :class:`melt.model.MalformedToken` that says why in
our own words, without values of the document (I10). Writing goes through :func:`token_document` alone.

What years of other code left is read as what it plainly means, and stays as it lies there when proofs move:

- an amount is a positive whole number below 2**63: int, long, double, Decimal128, or a text of digits alone (``"8"``);
- hex says the same in both cases: ``C`` and a keyset id of 16 or 66 hex digits read in lower case (a base64 id does not);
- a moment is a date, ISO text, or milliseconds since 1970; ``created_at`` and ``updated_at`` stand for Mongoose's names;
- a document without ``transaction_id``, wallet, dates, total or ``rev`` is a token all the same.

A status in another case (``"UNSPENT"``) is *not* read as what it seems to mean: neither the service's queries nor
meltd's find such a document, so its owner does not have the money until somebody mends it, and that is what is reported.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import bson
from bson import Decimal128, ObjectId
from bson.errors import InvalidDocument, InvalidId

from melt.ecash import y_of
from melt.errors import InvariantBroken
from melt.model import (
    AMOUNT_MAX,
    PROOFS_PER_DOCUMENT_MAX,
    Dleq,
    KeysetId,
    MalformedToken,
    MeltId,
    NewProof,
    Proof,
    Reservation,
    Token,
    TokenId,
    TokenStatus,
    TransactionType,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from melt.store.connect import Document

_HEX_ID_CHARS = 24
_TEXT_CHARS_MAX = 4096
_REASONS_MAX = 8
_STATUSES = frozenset(status.value for status in TokenStatus)
_DIGITS: Final = re.compile(r"[0-9]{1,19}", re.ASCII)
_HEX: Final = re.compile(r"[0-9A-Fa-f]+", re.ASCII)
_HEX_KEYSET_ID_CHARS: Final = (16, 66)
_MOMENT_CHARS_MAX: Final = 40
STANDS_STILL: Final[tuple[str, ...]] = (
    "status",
    "proofs",
    "transaction_type",
    "transaction_id",
    "npub",
    "wallet_id",
    "mint_url",
    "reservation",
)
"""The fields of a document by which another writer would show that it is at work on it."""
_MS_SINCE_1970: Final = (10**12, 10**13)
"""Which numbers may be a moment in milliseconds: from 2001 on, as this data is younger than Mongoose, to 2286."""


def whole_number(value: object) -> int | None:
    """An int from int, long, double or Decimal128 where it is whole and fits into 64 bits; else None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        number = int(value)
    elif isinstance(value, float):
        if not value.is_integer():
            return None
        number = int(value)
    elif isinstance(value, Decimal128):
        decimal = value.to_decimal()
        # The exponent is bounded first: 1E+6000 would be expanded to thousands of digits.
        if not decimal.is_finite() or decimal.adjusted() > 19 or decimal != decimal.to_integral_value():
            return None
        number = int(decimal)
    else:
        return None
    return number if -AMOUNT_MAX - 1 <= number <= AMOUNT_MAX else None


def amount_of(value: object) -> int | None:
    """An amount: a whole number in any type, or a text of nothing but digits; else None."""
    if isinstance(value, str):
        return whole_number(int(value)) if _DIGITS.fullmatch(value) else None
    return whole_number(value)


def summed(value: object) -> int:
    """
    A sum that the database made of amounts, at most AMOUNT_MAX: one senseless amount must not take the others' sums away.

    Such sums are made of decimals (``$toDecimal``): servers answer an overflow of 64 bits in different ways, or not at all.
    """
    if isinstance(value, Decimal128):
        decimal = value.to_decimal()
        if decimal.is_nan():
            return 0
        return AMOUNT_MAX if decimal >= AMOUNT_MAX else max(0, int(decimal))
    if isinstance(value, int | float) and not isinstance(value, bool) and value == value:  # noqa: PLR0124 - NaN
        return AMOUNT_MAX if value >= AMOUNT_MAX else max(0, int(value))
    return 0


def at_most(sums: Mapping[str, int]) -> dict[str, int]:
    """Sums as they can be stored: 64 bits hold AMOUNT_MAX."""
    return {name: min(value, AMOUNT_MAX) for name, value in sums.items()}


def token_id_of(raw_id: object) -> TokenId:
    """The id as text: the hex of an ObjectId, a legacy string as it is, anything else by its type and text."""
    if isinstance(raw_id, ObjectId | str):
        return TokenId(str(raw_id))
    return TokenId(f"{type(raw_id).__name__}:{str(raw_id)[:80]}")


def raw_ids(token_id: TokenId | str) -> tuple[ObjectId | str, ...]:
    """What ``_id`` may be for a token id. A string of 24 hex digits may be either."""
    if len(token_id) == _HEX_ID_CHARS:
        try:
            return (ObjectId(token_id), str(token_id))
        except InvalidId:
            pass
    return (str(token_id),)


def raw_wallet_id(wallet_id: str | None) -> ObjectId | str | None:
    """``wallet_id`` as a Mongoose service stores it."""
    return None if wallet_id is None else raw_ids(wallet_id)[0]


def mark_of(document: Document) -> str:
    """
    A digest of what has to stand still of a document before a rule writes it (I13): 32 hex characters.

    It is over the raw values, since meltd reads several forms as the same thing and other writers need not. What else
    changes (dates, counters of versions, fields of anybody's own) is without effect.
    """
    chosen: Document = {name: document[name] for name in STANDS_STILL if name in document}
    try:
        told = bson.encode(chosen)
    except (InvalidDocument, OverflowError, UnicodeEncodeError):  # no database holds such values; reading never raises
        told = repr(chosen).encode("utf-8", "backslashreplace")
    return hashlib.blake2b(told, digest_size=16).hexdigest()


def read_token(document: Document) -> Token | MalformedToken:
    """A document of the token collection, whatever it holds."""
    reasons: list[str] = []
    npub = _text(document.get("npub"), "npub", reasons)
    mint_url = _text(document.get("mint_url"), "mint_url", reasons)
    status = _status(document.get("status"), reasons)
    if not isinstance(document.get("_id"), ObjectId | str):
        reasons.append("_id is neither an ObjectId nor a string")
    proofs = _proofs(document, status, reasons)
    token_id = token_id_of(document.get("_id"))
    if reasons or npub is None or mint_url is None or status is None:
        return replace(_malformed(token_id, reasons, npub, mint_url, status, proofs), mark=mark_of(document))
    wallet_id = document.get("wallet_id")
    total = amount_of(document.get("total_amount"))
    transaction_type = document.get("transaction_type")
    transaction_id = document.get("transaction_id")
    return Token(
        id=token_id,
        npub=npub,
        wallet_id=str(wallet_id) if isinstance(wallet_id, ObjectId | str) else None,
        mint_url=mint_url,
        status=status,
        transaction_type=transaction_type if isinstance(transaction_type, str) else "",
        transaction_id=transaction_id if isinstance(transaction_id, str) and transaction_id else f"tx_{token_id}",
        proofs=proofs,
        total_amount=total,
        total_is_junk=document.get("total_amount") is not None and (total is None or total < 0),
        reservation=_reservation(document.get("reservation")),
        rev=whole_number(document.get("rev")),
        created_at=created_at_of(document),
        updated_at=moment_of(document.get("updatedAt")) or moment_of(document.get("updated_at")),
        spent_at=moment_of(document.get("spent_at")),
        mark=mark_of(document),
    )


def _malformed(
    token_id: TokenId,
    reasons: list[str],
    npub: str | None,
    mint_url: str | None,
    status: TokenStatus | None,
    proofs: tuple[Proof, ...],
) -> MalformedToken:
    times = Counter(proof.y for proof in proofs)
    amounts = {proof.y: proof.amount for proof in proofs}
    return MalformedToken(
        id=token_id,
        reasons=tuple(reasons[:_REASONS_MAX]),
        npub=npub,
        mint_url=mint_url,
        status=status,
        value=min(sum(amounts.values()), AMOUNT_MAX),
        ys=tuple(times),
        repeated=tuple(y for y, number in times.items() if number > 1),
        repeated_value=min(sum(amounts[y] * (number - 1) for y, number in times.items()), AMOUNT_MAX),
    )


def _text(value: object, field: str, reasons: list[str]) -> str | None:
    if isinstance(value, str) and value and len(value) <= _TEXT_CHARS_MAX:
        return value
    reasons.append(f"{field} is missing" if value is None else f"{field} is not a text of usual length")
    return None


def _status(value: object, reasons: list[str]) -> TokenStatus | None:
    if isinstance(value, str) and value in _STATUSES:
        return TokenStatus(value)
    if isinstance(value, str) and value.strip().lower() in _STATUSES:
        reasons.append("status is spelled in another way, so that no query finds the document")
    else:
        reasons.append("status is missing" if value is None else "status is none of pending, unspent, spent, failed")
    return None


def _proofs(document: Document, status: TokenStatus | None, reasons: list[str]) -> tuple[Proof, ...]:
    raw = document.get("proofs")
    if raw is None:
        if status in {TokenStatus.UNSPENT, TokenStatus.SPENT}:
            reasons.append("proofs are missing")
        return ()
    if not isinstance(raw, list):
        reasons.append("proofs is not a list")
        return ()
    if not raw and status is TokenStatus.UNSPENT:
        reasons.append("unspent without a proof")
    proofs: list[Proof] = []
    for position, item in enumerate(raw):
        proof = _proof(item)
        if not isinstance(proof, str):
            proofs.append(proof)
        elif len(reasons) < _REASONS_MAX:
            reasons.append(f"proofs[{position}]: {proof}")
    if len({proof.secret for proof in proofs}) != len(proofs):
        reasons.insert(0, "one proof lies in it twice")
    if sum(proof.amount for proof in proofs) > AMOUNT_MAX:
        reasons.insert(0, "its amounts add up to more than 64 bits hold")
    return tuple(proofs)


def _proof(raw: object) -> Proof | str:
    """The proof, or what is wrong with it."""
    if not isinstance(raw, dict):
        return "is not a document"
    keyset_id, secret, c = raw.get("id"), raw.get("secret"), raw.get("C")
    for name, value in (("id", keyset_id), ("secret", secret), ("C", c)):
        if not isinstance(value, str) or not value:
            return f"{name} is missing or no text"
    amount = amount_of(raw.get("amount"))
    if amount is None or amount <= 0:
        return "amount is not a positive whole number of 64 bits"
    try:
        y = y_of(str(secret))
    except ValueError:
        return "secret can't be encoded"
    witness = raw.get("witness")
    return Proof(
        keyset_id=_keyset_id(str(keyset_id)),
        amount=amount,
        secret=str(secret),
        c=_lower_hex(str(c)),
        y=y,
        witness=witness if isinstance(witness, str) and witness.strip() else None,
        dleq=_dleq(raw.get("dleq")),
    )


def read_proofs(raw: object) -> tuple[Proof, ...]:
    """The readable ones of raw proofs that lie outside of any token document."""
    found = [_proof(item) for item in raw] if isinstance(raw, list) else []
    return tuple(proof for proof in found if not isinstance(proof, str))


def _lower_hex(text: str) -> str:
    return text.lower() if _HEX.fullmatch(text) else text


def _keyset_id(text: str) -> KeysetId:
    """As a mint writes it (NUT-02): hex in lower case; the base64 ids of old mints mean something else in each case."""
    return KeysetId(_lower_hex(text) if len(text) in _HEX_KEYSET_ID_CHARS else text)


def keyset_id_of(value: object) -> KeysetId:
    """A proof's keyset id as it is read; empty for what is none."""
    return _keyset_id(value) if isinstance(value, str) else KeysetId("")


def _dleq(raw: object) -> Dleq | None:
    if not isinstance(raw, dict):
        return None
    e, s, r = raw.get("e"), raw.get("s"), raw.get("r")
    if not isinstance(e, str) or not isinstance(s, str):
        return None
    return Dleq(e=e, s=s, r=r if isinstance(r, str) else None)


def _reservation(raw: object) -> Reservation | None:
    """Junk counts as reserved by a melt that nobody knows, so that it is reported as orphaned."""
    if raw is None:
        return None
    melt_id = raw.get("melt_id") if isinstance(raw, dict) else None
    at = raw.get("at") if isinstance(raw, dict) else None
    return Reservation(melt_id=MeltId(melt_id if isinstance(melt_id, str) else ""), at=moment_of(at))


def moment_of(value: object) -> datetime | None:
    """A date as BSON, as ISO text or as milliseconds since 1970; None for what is none of these."""
    moment: datetime | None = None
    if isinstance(value, datetime):
        moment = value
    elif isinstance(value, str) and len(value) <= _MOMENT_CHARS_MAX:
        try:
            moment = datetime.fromisoformat(value.strip())
        except ValueError:
            return None
    elif (ms := whole_number(value)) is not None and _MS_SINCE_1970[0] <= ms < _MS_SINCE_1970[1]:
        moment = datetime.fromtimestamp(ms / 1000, UTC)
    if moment is None:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def created_at_of(document: Document) -> datetime | None:
    """Mongoose's field, its elder, or the moment that an ObjectId carries."""
    moment = moment_of(document.get("createdAt")) or moment_of(document.get("created_at"))
    raw_id = document.get("_id")
    if moment is None and isinstance(raw_id, ObjectId):
        return raw_id.generation_time
    return moment


def raw_proof(proof: NewProof) -> Document:
    """A proof of ours as a Mongoose service stores one."""
    raw: Document = {"id": str(proof.keyset_id), "amount": proof.amount, "secret": proof.secret, "C": proof.c}
    raw["_id"] = ObjectId()
    if proof.dleq is not None:
        raw["dleq"] = {"e": proof.dleq.e, "s": proof.dleq.s}
        if proof.dleq.r is not None:
            raw["dleq"]["r"] = proof.dleq.r
    return raw


def amounts_of(raw_proofs: Sequence[Document]) -> tuple[int, ...]:
    """The amounts of raw proofs that are about to be written; each must be a positive 64-bit int."""
    amounts: list[int] = []
    for raw in raw_proofs:
        amount = amount_of(raw.get("amount"))
        if amount is None or amount <= 0:
            msg = "a proof that is about to be written has no positive amount"
            raise InvariantBroken(msg)
        amounts.append(amount)
    if sum(amounts) > AMOUNT_MAX:
        msg = "a token document that is about to be written would overflow 64 bits"
        raise InvariantBroken(msg)
    return tuple(amounts)


def token_document(
    *,
    npub: str,
    wallet_id: object,
    mint_url: str,
    raw_proofs: Sequence[Document],
    status: TokenStatus,
    transaction_id: str,
    parent_transaction_id: str,
    operation_id: str,
    now: datetime,
    reservation: Reservation | None,
    transaction_type: TransactionType = TransactionType.CHANGE,
) -> Document:
    """
    A new ``change`` document, as the wallet service's own code leaves them.

    meltd makes documents of type ``change``, and ``sent`` ones where it splits one of these: what was handed out stays so.
    Raises :class:`melt.errors.InvariantBroken` for what must never be
    written: no proofs or too many, a proof twice, amounts that are none, a status other than unspent or pending
    for value that is ours.
    """
    secrets = {raw.get("secret") for raw in raw_proofs}
    if not raw_proofs or len(raw_proofs) > PROOFS_PER_DOCUMENT_MAX or len(secrets) != len(raw_proofs):
        msg = "a token document needs 1 to 1000 distinct proofs"
        raise InvariantBroken(msg)
    document: Document = {"_id": ObjectId(), "npub": npub}
    if wallet_id is not None:
        document["wallet_id"] = wallet_id
    document |= {
        "proofs": list(raw_proofs),
        "mint_url": mint_url,
        "status": str(status),
        "transaction_type": str(transaction_type),
        "transaction_id": transaction_id,
        "metadata": {
            "source": "p2p" if transaction_type is TransactionType.SENT else "change",
            "parent_transaction_id": parent_transaction_id,
            "operation_hash": hashlib.sha256(operation_id.encode()).hexdigest()[:16],
            "atomic_operation": True,
            "operation_timestamp": now.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        },
        "spent_at": now if status is TokenStatus.SPENT else None,
        "createdAt": now,
        "updatedAt": now,
        "total_amount": sum(amounts_of(raw_proofs)),
        "__v": 0,
        "rev": 1,
    }
    if reservation is not None:
        document["reservation"] = raw_reservation(reservation)
    return document


def raw_reservation(reservation: Reservation) -> dict[str, Any]:
    """``reservation`` as it is stored."""
    return {"melt_id": str(reservation.melt_id), "at": reservation.at}
