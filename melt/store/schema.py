"""
Collections, validators and indexes: made at start, before traffic, and never later (DESIGN section 3).

Making an index while a transaction has uncommitted writes can stall a store, and one built under running transactions
can miss documents. So everything is compared first, and a second daemon that starts beside a busy one changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import pymongo
import structlog
from pymongo.errors import CollectionInvalid, OperationFailure

from melt.errors import Code, StoreError
from melt.model import (
    DiscrepancyState,
    DriftType,
    EventType,
    JournalKind,
    MeltState,
    PlanState,
    PostOutcome,
    TokenStatus,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from enum import StrEnum

    from pymongo.collection import Collection
    from pymongo.database import Database

    from melt.store.connect import Collections, Document

_log = structlog.get_logger("melt.store")

UniqueProofs = Literal["auto", "on", "off"]
UNIQUE_PROOFS_INDEX = "meltd_unique_proofs_secret"
UNIQUE_PROOFS_WISH = "unique_proofs"
"""``_id`` in ``meltd_wishes``: a person wants the index where other services write (``meltd adopt``)."""
INDEX_BUILD_S_MAX = 3600.0
"""For the unique index alone: an embedded store takes about 0.7 ms a proof."""
_DUPLICATE_KEY = 11000
_NAMESPACE_EXISTS = 48
_NUMBER = ["int", "long"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """An index to have. One with the same keys (and, for a partial one, the same filter) counts as it."""

    name: str
    keys: tuple[tuple[str, int], ...]
    unique: bool = False
    sparse: bool = False
    partial: Document | None = field(default=None)


def _schema(required: Iterable[str], properties: Document) -> Document:
    return {"$jsonSchema": {"bsonType": "object", "required": list(required), "properties": properties}}


def _words(words: type[StrEnum]) -> Document:
    return {"enum": [word.value for word in words]}


_TEXT = {"bsonType": "string"}
_TEXT_OR_NONE = {"bsonType": ["string", "null"]}
_INT = {"bsonType": _NUMBER}
_NATURAL = {"bsonType": _NUMBER, "minimum": 0}
_DATE = {"bsonType": "date"}
_TEXTS = {"bsonType": "array", "items": _TEXT}

_MELTS = _schema(
    ["_id", "state", "rev", "npub", "mint", "mint_url", "unit", "transaction_id", "amount", "inputs", "created_at"],
    {
        "_id": _TEXT,
        "kind": _words(JournalKind),
        "state": _words(MeltState),
        "rev": _NATURAL,
        "npub": _TEXT,
        "mint": _TEXT,
        "mint_url": _TEXT,
        "unit": _TEXT,
        "transaction_id": _TEXT,
        "idempotency_key": _TEXT,
        "payment_hash": _TEXT_OR_NONE,
        "claim": _TEXT,
        "held": _TEXTS,
        "amount": _NATURAL,
        "fee_reserve": _NATURAL,
        "input_fee": _NATURAL,
        "post": _words(PostOutcome),
        "inputs": {
            "bsonType": "array",
            "items": {
                "bsonType": "object",
                "required": ["token_id", "y", "amount", "keyset_id"],
                "properties": {"token_id": _TEXT, "y": _TEXT, "amount": _NATURAL, "keyset_id": _TEXT},
            },
        },
        "created_at": _DATE,
        "updated_at": _DATE,
    },
)
_DISCREPANCIES = _schema(
    ["_id", "type", "severity", "action", "state", "subject", "first_seen", "last_seen", "sightings", "occurrence"],
    {
        "_id": _TEXT,
        "type": _words(DriftType),
        "state": _words(DiscrepancyState),
        "subject": _TEXT,
        "first_seen": _DATE,
        "last_seen": _DATE,
        "sightings": _NATURAL,
        "occurrence": _NATURAL,
        "ys": _TEXTS,
        "history": {"bsonType": "array", "maxItems": 20},
    },
)
_AUDIT = _schema(
    ["_id", "operation", "at", "token_id", "npub", "to_status", "amount", "ys", "reason", "actor"],
    {
        "_id": _TEXT,
        "operation": _TEXT,
        "at": _DATE,
        "token_id": _TEXT,
        "npub": _TEXT,
        "from_status": {"enum": [None, *(status.value for status in TokenStatus)]},
        "to_status": _words(TokenStatus),
        "amount": _NATURAL,
        "ys": _TEXTS,
        "reason": _TEXT,
    },
)
_EVENTS = _schema(
    ["_id", "identity", "type", "subject", "open", "opened_at", "last_seen", "sightings"],
    {"_id": _TEXT, "type": _words(EventType), "open": {"bsonType": "bool"}, "opened_at": _DATE, "last_seen": _DATE},
)
_LEASES = _schema(
    ["_id", "renewals", "at"],
    {
        "_id": _TEXT,
        "renewals": _NATURAL,
        "at": _DATE,
        "holder": _TEXT_OR_NONE,
        "epoch": _NATURAL,
        "writes": _NATURAL,
        "shards": _TEXTS,
        "sessions": _TEXTS,
        "turns": {"bsonType": "array", "maxItems": 20},
    },
)
_COUNTERS = _schema(["_id", "next"], {"_id": _TEXT, "next": {"bsonType": _NUMBER, "minimum": 0, "maximum": 2**31}})
_SWEEPS = _schema(["_id", "tour", "started_at", "documents", "proofs"], {"_id": _TEXT, "tour": _NATURAL})
_SUMMARIES = _schema(
    ["_id", "day", "mint", "unit", "made_at", "liabilities", "activity"],
    {"_id": _TEXT, "day": _TEXT, "mint": _TEXT, "unit": _TEXT, "npub": _TEXT_OR_NONE, "made_at": _DATE},
)
_RESTORES = _schema(["_id", "rounds", "started_at"], {"_id": _TEXT, "rounds": _NATURAL, "started_at": _DATE})
_PLANS = _schema(
    # A plan's head, or a part of its items.
    ["_id", "kind"],
    {
        "_id": _TEXT,
        "kind": {"enum": ["plan", "items"]},
        "state": _words(PlanState),
        "rev": _NATURAL,
        "made_at": _DATE,
        "expires_at": _DATE,
        "plan": _TEXT,
        "first": _NATURAL,
        "items": {"bsonType": [*_NUMBER, "array"], "maxItems": 100},
    },
)
_SEALS = _schema(["_id"], {"_id": _TEXT})
_WISHES = _schema(["_id", "at", "actor", "reason"], {"_id": _TEXT, "at": _DATE, "reason": _TEXT})


def _ascending(*names: str) -> tuple[tuple[str, int], ...]:
    return tuple((name, 1) for name in names)


_OWN_INDEXES: dict[str, tuple[Index, ...]] = {
    "melts": (
        # Sparse, not partial: some servers look nothing up by a partial index.
        Index(name="idempotency_key", keys=_ascending("idempotency_key"), unique=True, sparse=True),
        Index(name="claim", keys=_ascending("claim"), unique=True, sparse=True),
        Index(name="held", keys=_ascending("held"), unique=True, sparse=True),
        Index(name="state", keys=_ascending("state", "updated_at")),
        Index(name="mint_state", keys=_ascending("mint_key", "state", "updated_at")),
        Index(name="npub", keys=_ascending("npub", "created_at")),
        Index(name="inputs_y", keys=_ascending("inputs.y")),
        # What ended when, and who planned which counters: the walks of a restore.
        Index(name="mint_ended", keys=_ascending("mint_key", "ended_at", "_id")),
        Index(name="blanks", keys=_ascending("blanks.keyset_id", "blanks.counter"), sparse=True),
        Index(name="swap", keys=_ascending("swap.outputs.keyset_id", "swap.outputs.counter"), sparse=True),
        Index(name="fence", keys=_ascending("fence.outputs.keyset_id", "fence.outputs.counter"), sparse=True),
    ),
    "discrepancies": (
        Index(name="state", keys=_ascending("state", "last_seen")),
        Index(name="subject", keys=_ascending("subject")),
        Index(name="ys", keys=_ascending("ys")),
        Index(name="token_id", keys=_ascending("token_id")),
        Index(name="npub", keys=_ascending("npub")),
    ),
    "audit": (
        Index(name="operation", keys=_ascending("operation")),
        Index(name="token_id", keys=_ascending("token_id", "at")),
        Index(name="melt_id", keys=_ascending("melt_id", "at")),
        Index(name="ys", keys=_ascending("ys")),
    ),
    "events": (
        Index(name="open_identity", keys=_ascending("identity"), unique=True, partial={"open": True}),
        Index(name="open", keys=_ascending("open", "last_seen")),
    ),
    "leases": (),
    "counters": (),
    "sweeps": (),
    "summaries": (Index(name="npub_day", keys=_ascending("npub", "day")),),
    "restores": (),
    "plans": (
        Index(name="state", keys=_ascending("state", "made_at")),
        Index(name="plan", keys=_ascending("plan", "first")),
    ),
    "seals": (),
    "wishes": (),
}
_VALIDATORS = {
    "melts": _MELTS,
    "discrepancies": _DISCREPANCIES,
    "audit": _AUDIT,
    "events": _EVENTS,
    "leases": _LEASES,
    "counters": _COUNTERS,
    "sweeps": _SWEEPS,
    "summaries": _SUMMARIES,
    "restores": _RESTORES,
    "plans": _PLANS,
    "seals": _SEALS,
    "wishes": _WISHES,
}
_TOKEN_INDEXES = (
    Index(name="meltd_npub_status_mint", keys=_ascending("npub", "status", "mint_url")),
    Index(name="meltd_status_id", keys=_ascending("status", "_id")),
    Index(name="meltd_status_amount", keys=_ascending("status", "total_amount")),
    Index(name="meltd_reservation", keys=_ascending("reservation.melt_id"), sparse=True),
)
_WALLET_INDEXES = (Index(name="meltd_npub", keys=_ascending("npub")),)
_SECRET_INDEX = Index(name="meltd_proofs_secret", keys=_ascending("proofs.secret"))
_UNIQUE_SECRET_INDEX = Index(
    name=UNIQUE_PROOFS_INDEX,
    keys=_ascending("proofs.secret"),
    unique=True,
    partial={"proofs.secret": {"$exists": True}},
)
_TRANSACTION_INDEX = Index(name="meltd_transaction_id", keys=_ascending("transaction_id"))
_UNIQUE_TRANSACTION_INDEX = Index(name="meltd_transaction_id", keys=_ascending("transaction_id"), unique=True)


def ensure_schema(database: Database[Document], collections: Collections, unique_proofs: UniqueProofs) -> bool:
    """
    Make what is missing; returns whether a unique index on ``proofs.secret`` stands.

    ``auto`` makes that index in a token collection that is new or empty, since other services' old code may rely on
    storing proofs twice; and in any that a person has adopted, unless duplicates have come back. ``on`` makes it
    anywhere and raises :class:`melt.errors.StoreError` with counts where duplicates forbid it; ``off`` leaves it.
    """
    present = {info["name"]: info for info in database.list_collections()}
    for key, validator in _VALIDATORS.items():
        collection: Collection[Document] = getattr(collections, key)
        _ensure_collection(database, collection.name, validator, present.get(collection.name))
        for index in _OWN_INDEXES[key]:
            _ensure_index(collection, index)
    for collection in (collections.tokens, collections.wallets):
        if collection.name not in present:
            _create_collection(database, collection.name)
    for index in _WALLET_INDEXES:
        _ensure_index(collections.wallets, index)
    adopted = collections.wishes.find_one({"_id": UNIQUE_PROOFS_WISH}, {"_id": 1}) is not None
    return _ensure_token_indexes(collections.tokens, unique_proofs, adopted=adopted)


def _ensure_token_indexes(tokens: Collection[Document], unique_proofs: UniqueProofs, *, adopted: bool) -> bool:
    ours = tokens.estimated_document_count() == 0
    for index in _TOKEN_INDEXES:
        _ensure_index(tokens, index)
    if not _has_index_on(tokens, "transaction_id"):
        _ensure_index(tokens, _UNIQUE_TRANSACTION_INDEX if ours else _TRANSACTION_INDEX)
    # By a partial index, such as the unique one is, some servers look nothing up.
    _ensure_index(tokens, _SECRET_INDEX)
    if _has_unique_secrets(tokens):
        return True
    if unique_proofs == "on" or (unique_proofs == "auto" and ours):
        _make_unique(tokens)
        return True
    return unique_proofs == "auto" and adopted and _make_adopted(tokens)


def _make_adopted(tokens: Collection[Document]) -> bool:
    """The index that a person asked for. False where duplicates have come back: meltd starts without it."""
    _log.info("making the unique index on proofs.secret: the collection was adopted", index=UNIQUE_PROOFS_INDEX)
    try:
        _make_unique(tokens)
    except StoreError as error:
        _log.error(
            "the unique index on proofs.secret was not made: duplicates have come back",
            code=error.code.value,
            detail=error.detail,
            next_step="stop what stores proofs twice, run meltd reconcile --repair DUPLICATE_PROOF, and start again",
        )
        return False
    _log.info("the unique index on proofs.secret stands: no proof can be stored twice", index=UNIQUE_PROOFS_INDEX)
    return True


def _make_unique(tokens: Collection[Document]) -> None:
    refused = False
    try:
        with pymongo.timeout(INDEX_BUILD_S_MAX):
            _create_index(tokens, _UNIQUE_SECRET_INDEX)
    except OperationFailure as error:
        if error.code != _DUPLICATE_KEY:
            raise
        refused = True
    if refused:
        # Raised out here: the driver's error quotes a secret (I10).
        secrets = _count_duplicates(tokens)
        raise StoreError(
            Code.PROOF_STATE_INCONSISTENCY,
            f"the unique index on proofs.secret can't be made: {secrets} proofs lie in more than one token document",
            hint="set mongo.unique_proofs to auto, run meltd reconcile --repair DUPLICATE_PROOF, then meltd adopt",
        )


def _count_duplicates(tokens: Collection[Document]) -> int:
    pipeline: list[Document] = [
        {"$unwind": "$proofs"},
        {"$group": {"_id": "$proofs.secret", "times": {"$sum": 1}}},
        {"$match": {"times": {"$gt": 1}}},
        {"$count": "secrets"},
    ]
    for found in tokens.aggregate(pipeline, allowDiskUse=True):
        return int(found["secrets"])
    return 0


def _ensure_collection(database: Database[Document], name: str, validator: Document, info: Any) -> None:
    if info is None:
        _create_collection(database, name, validator=validator)
        return
    if info.get("options", {}).get("validator") != validator:
        database.command("collMod", name, validator=validator)


def _create_collection(database: Database[Document], name: str, **options: Any) -> None:
    try:
        database.create_collection(name, check_exists=False, **options)
    except CollectionInvalid:
        return
    except OperationFailure as error:
        # Another daemon that starts at the same moment made it.
        if error.code != _NAMESPACE_EXISTS:
            raise


def _ensure_index(collection: Collection[Document], index: Index) -> None:
    for info in collection.list_indexes():
        same_keys = list(info["key"].items()) == list(index.keys)
        if same_keys and (index.partial is None or dict(info.get("partialFilterExpression", {})) == index.partial):
            return
    _create_index(collection, index)


def _create_index(collection: Collection[Document], index: Index) -> None:
    options: Document = {"name": index.name}
    if index.unique:
        options["unique"] = True
    if index.sparse:
        options["sparse"] = True
    if index.partial is not None:
        options["partialFilterExpression"] = index.partial
    collection.create_index(list(index.keys), **options)


def _has_index_on(collection: Collection[Document], first: str) -> bool:
    return any(next(iter(info["key"]), None) == first for info in collection.list_indexes())


def _has_unique_secrets(tokens: Collection[Document]) -> bool:
    return any(list(info["key"]) == ["proofs.secret"] and info.get("unique") for info in tokens.list_indexes())
