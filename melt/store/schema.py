"""
Collections, validators and meltd's own indexes: made at start, before traffic, and never later (DESIGN section 3).

Making an index while a transaction has uncommitted writes can stall a store, and one built under running transactions
can miss documents. So everything is compared first, and a second daemon that starts beside a busy one changes nothing.
The indexes in the wallet's collections are :mod:`melt.store.indexes`'.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pymongo.errors import CollectionInvalid, OperationFailure

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
from melt.model.mode import Mode
from melt.store.indexes import Index, ascending, ensure_own

if TYPE_CHECKING:
    from collections.abc import Iterable
    from enum import StrEnum

    from pymongo.collection import Collection
    from pymongo.database import Database

    from melt.store.connect import Collections, Document

UniqueProofs = Literal["auto", "on", "off"]
UNIQUE_PROOFS_WISH = "unique_proofs"
"""``_id`` in ``meltd_wishes``: a person has said yes to the unique index on counted secrets."""
_NAMESPACE_EXISTS = 48
_NUMBER = ["int", "long"]


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
_MODE = _schema(["_id", "mode"], {"_id": _TEXT, "mode": _words(Mode), "history": {"bsonType": "array", "maxItems": 20}})
_WISHES = _schema(["_id", "at", "actor", "reason"], {"_id": _TEXT, "at": _DATE, "reason": _TEXT})


_OWN_INDEXES: dict[str, tuple[Index, ...]] = {
    "melts": (
        # Sparse, not partial: some servers look nothing up by a partial index.
        Index(name="idempotency_key", keys=ascending("idempotency_key"), unique=True, sparse=True),
        Index(name="claim", keys=ascending("claim"), unique=True, sparse=True),
        Index(name="held", keys=ascending("held"), unique=True, sparse=True),
        Index(name="state", keys=ascending("state", "updated_at")),
        Index(name="mint_state", keys=ascending("mint_key", "state", "updated_at")),
        Index(name="npub", keys=ascending("npub", "created_at")),
        Index(name="inputs_y", keys=ascending("inputs.y")),
        # What ended when, and who planned which counters: the walks of a restore.
        Index(name="mint_ended", keys=ascending("mint_key", "ended_at", "_id")),
        Index(name="blanks", keys=ascending("blanks.keyset_id", "blanks.counter"), sparse=True),
        Index(name="swap", keys=ascending("swap.outputs.keyset_id", "swap.outputs.counter"), sparse=True),
        Index(name="fence", keys=ascending("fence.outputs.keyset_id", "fence.outputs.counter"), sparse=True),
    ),
    "discrepancies": (
        Index(name="state", keys=ascending("state", "last_seen")),
        Index(name="subject", keys=ascending("subject")),
        Index(name="ys", keys=ascending("ys")),
        Index(name="token_id", keys=ascending("token_id")),
        Index(name="npub", keys=ascending("npub")),
    ),
    "audit": (
        Index(name="operation", keys=ascending("operation")),
        Index(name="token_id", keys=ascending("token_id", "at")),
        Index(name="melt_id", keys=ascending("melt_id", "at")),
        Index(name="ys", keys=ascending("ys")),
    ),
    "events": (
        Index(name="open_identity", keys=ascending("identity"), unique=True, partial={"open": True}),
        Index(name="open", keys=ascending("open", "last_seen")),
    ),
    "leases": (),
    "counters": (),
    "sweeps": (),
    "summaries": (Index(name="npub_day", keys=ascending("npub", "day")),),
    "restores": (),
    "plans": (
        Index(name="state", keys=ascending("state", "made_at")),
        Index(name="plan", keys=ascending("plan", "first")),
    ),
    "seals": (),
    "wishes": (),
    "mode": (),
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
    "mode": _MODE,
}


def ensure_own_schema(database: Database[Document], collections: Collections) -> None:
    """
    Make what is missing of meltd's own collections.

    Raises :class:`melt.errors.ConfigError` where an index that has to be unique is not.
    """
    present = {info["name"]: info for info in database.list_collections()}
    for key, validator in _VALIDATORS.items():
        collection: Collection[Document] = getattr(collections, key)
        _ensure_collection(database, collection.name, validator, present.get(collection.name))
        ensure_own(collection, _OWN_INDEXES[key])


def ensure_wallet_collections(database: Database[Document], collections: Collections) -> None:
    """Make the wallet's two collections where its own program has not done so yet."""
    present = set(database.list_collection_names())
    for collection in (collections.tokens, collections.wallets):
        if collection.name not in present:
            _create_collection(database, collection.name)


def wants_unique_proofs(collections: Collections, unique_proofs: UniqueProofs) -> bool:
    """
    Whether a person has said yes to the unique index: by the setting ``on``, or by ``meltd adopt --unique-index``.

    ``off`` overrules that.
    """
    if unique_proofs == "auto":
        return collections.wishes.find_one({"_id": UNIQUE_PROOFS_WISH}, {"_id": 1}) is not None
    return unique_proofs == "on"


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
