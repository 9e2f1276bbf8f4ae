"""
The judge: reads raw documents and asks the mints, and believes nothing that meltd says of itself.

A document is *wrongly changed* when it is not as its case says it has to be in the end. Money is what a mint honours of the
distinct proofs of a user's documents; it may only change by the input fees of swaps that the journal names.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from melt.ecash import y_of
from tests.drift.cases import End
from tests.drift.ground import MINTS, Ground, Planted

Document = dict[str, Any]
Key = tuple[str, str]
"""A user and a mint's name."""
COUNTED: Final = frozenset({"unspent", "pending"})
_MAY_CHANGE: Final = frozenset({"status", "spent_at", "updatedAt", "rev", "reservation", "__v"})
"""What a status move writes; ``__v`` is Mongoose's count of changes to an array, raised where proofs move."""


@dataclass(kw_only=True)
class Census:
    """What the mints say of everything in the database at one moment."""

    honoured: dict[Key, int] = field(default_factory=lambda: defaultdict(int))
    counted: dict[Key, int] = field(default_factory=lambda: defaultdict(int))
    """By the documents' statuses, each secret as often as it stands there."""
    states: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def snapshot(ground: Ground) -> dict[Any, Document]:
    """Every token document, raw, by id."""
    return {document["_id"]: document for document in ground.db["cashu_tokens"].find({})}


def census(ground: Ground, documents: Mapping[Any, Document]) -> Census:
    """Ask the mints about every proof that can be read. A secret in several documents belongs to the eldest."""
    found = Census()
    by_mint: dict[str, list[tuple[Document, str, int]]] = defaultdict(list)
    names = {ground.url(name).rstrip("/"): name for name in MINTS}
    for document in documents.values():
        name = names.get(str(document.get("mint_url", "")).rstrip("/"))
        if name is None or not isinstance(document.get("proofs"), list) or not isinstance(document.get("npub"), str):
            continue
        for proof in document["proofs"]:
            amount = _amount(proof.get("amount"))
            if amount is not None and amount > 0:
                by_mint[name].append((document, y_of(proof["secret"]), amount))
    for name, held in by_mint.items():
        states = ground.states(name, (y for _, y, _ in held))
        found.states |= states
        seen: set[str] = set()
        for document, y, amount in sorted(held, key=lambda one: _made_at(one[0])):
            key = (document["npub"], name)
            if document["status"] in COUNTED:
                found.counted[key] += amount
            if y not in seen and states[y] != "SPENT":
                found.honoured[key] += amount
            seen.add(y)
    return found


def _made_at(document: Document) -> Any:
    return document.get("createdAt") or document.get("created_at") or document["_id"].generation_time


def _amount(value: Any) -> int | None:
    try:
        return int(str(value).split(".", maxsplit=1)[0])
    except ValueError:
        return None


# --- documents ---


def problems_of(
    planted: Planted, after: Mapping[Any, Document], children: Mapping[str, Sequence[Document]]
) -> list[str]:
    """What is wrong with a planted document in the end; nothing where it is as its case demands."""
    now = after.get(planted.id)
    if now is None:
        return ["the document is gone"]
    before = planted.raw
    born = children.get(str(before.get("transaction_id")), ())
    match planted.case.end:
        case End.SAME:
            return [*_same(before, now), *(f"{len(born)} documents came of it" for _ in born[:1])]
        case End.SPENT | End.UNSPENT as end:
            wrong = _moved(before, now, "spent" if end is End.SPENT else "unspent")
            return [*wrong, *_proofs_are(now, before["proofs"])]
        case End.SPLIT:
            return _split(planted, now, born)
        case End.RECLAIMED:
            value = sum(int(d["total_amount"]) for d in born)
            worth = sum(planted.raw["proofs"][i]["amount"] for i in range(len(planted.raw["proofs"])))
            wrong = _same(before, now)
            if not 0 < worth - value <= 2 or any(d["status"] != "unspent" for d in born):
                wrong.append(f"{value} of {worth} came back")
            return wrong
        case End.REPAIRED:
            return []


def _same(before: Document, now: Document) -> list[str]:
    changed = sorted(
        k for k in before.keys() | now.keys() if before.get(k) != now.get(k) or (k in before) != (k in now)
    )
    return [f"changed: {', '.join(changed)}"] if changed else []


def _moved(before: Document, now: Document, status: str) -> list[str]:
    wrong = []
    if now["status"] != status:
        wrong.append(f"it is {now['status']}, not {status}")
    if (now["status"] == "spent") != (now.get("spent_at") is not None):
        wrong.append("spent_at does not fit")
    if now.get("reservation") is not None:
        wrong.append("a reservation is left")
    others = sorted(k for k in before if k not in _MAY_CHANGE | {"proofs", "total_amount"} and before[k] != now.get(k))
    return [*wrong, *(f"changed: {name}" for name in others)]


def _proofs_are(now: Document, proofs: Sequence[Document]) -> list[str]:
    return [] if now["proofs"] == list(proofs) else ["its proofs are not what they were"]


def _split(planted: Planted, now: Document, born: Sequence[Document]) -> list[str]:
    touched = planted.case.touched
    gone, rest = planted.raw["proofs"][:touched], planted.raw["proofs"][touched:]
    wrong = [*_moved(planted.raw, now, "spent"), *_proofs_are(now, gone)]
    found = [proof for document in born for proof in document["proofs"]]
    if found != rest:
        wrong.append("the rest is not in a sibling as it was")
    if any(document["status"] != "unspent" or document["npub"] != planted.owner for document in born):
        wrong.append("the sibling is not its owner's unspent document")
    wrong += [
        "total_amount is not what the proofs add up to"
        for document in (now, *born)
        if document["total_amount"] != sum(int(float(str(p["amount"]))) for p in document["proofs"])
    ]
    return wrong


def children_of(before: Mapping[Any, Document], after: Mapping[Any, Document]) -> dict[str, list[Document]]:
    """The documents that were made meanwhile, by their parent's transaction."""
    born: dict[str, list[Document]] = defaultdict(list)
    for key, document in sorted(after.items(), key=lambda item: str(item[0])):
        if key not in before:
            born[str(document["metadata"]["parent_transaction_id"])].append(document)
    return born


# --- money ---


def fees(ground: Ground, since: Iterable[str]) -> dict[Key, int]:
    """By user and mint, the input fees of swaps that were carried out for entries that are not among ``since``."""
    known = set(since)
    found: dict[Key, int] = defaultdict(int)
    price: dict[str, dict[str, int]] = {
        name: {k["id"]: int(k.get("input_fee_ppk") or 0) for k in asyncio.run(ground.wallet(name).keysets())}
        for name in MINTS
    }
    for entry in ground.db["meltd_melts"].find({"kind": "reclaim", "state": "SETTLED"}):
        if entry["_id"] not in known:
            ppk = sum(price[entry["mint"]][ref["keyset_id"]] for ref in entry["swap"]["inputs"])
            found[entry["npub"], entry["mint"]] += -(-ppk // 1000)
    return found


def twice(documents: Mapping[Any, Document]) -> int:
    """How many secrets stand in more than one document."""
    places: dict[str, int] = defaultdict(int)
    for document in documents.values():
        if isinstance(document.get("proofs"), list):
            for secret in {proof.get("secret") for proof in document["proofs"] if isinstance(proof, dict)}:
                places[str(secret)] += 1
    return sum(1 for count in places.values() if count > 1)


def audit_gaps(ground: Ground) -> list[str]:
    """Status changes without exactly one entry: more than one of one document from one status to another in one operation."""
    pipeline = [
        {"$group": {"_id": {"o": "$operation", "t": "$token_id"}, "times": {"$sum": 1}}},
        {"$match": {"times": {"$gt": 1}}},
    ]
    return [str(found["_id"]) for found in ground.db["meltd_audit"].aggregate(pipeline)]
