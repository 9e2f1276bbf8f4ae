"""
Journal entries and their documents.

A document holds the entry's fields under their own names (``id`` as ``_id``) and five that only the database needs:

- ``claim``: the payment hash, until the entry is RELEASED; its unique index holds I1;
- ``held``: the Ys that the entry holds while it is open; their unique index keeps two entries from one proof;
- ``mint_key``: the mint's URL in the form in which URLs are compared;
- ``proofs``: the inputs' raw proofs while the entry is open, so that no other writer's hand on a token document can keep
  it from its end; no value of the model carries them (I10);
- ``operation``: the mark of the write that made this version, by which a repeated write knows itself.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

from melt.errors import InvariantBroken
from melt.model import (
    Actor,
    Altered,
    InputRef,
    JournalKind,
    KeysetId,
    Melt,
    MeltId,
    MeltState,
    MintAlias,
    OutputPlan,
    PostOutcome,
    QuoteId,
    Resolution,
    ResolveAs,
    SwapPlan,
    TokenId,
    Y,
    normalise_mint_url,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melt.store.connect import Document

MELT_FIELDS = frozenset(field.name for field in fields(Melt))


def encode(value: object) -> Any:
    """A value of the model as BSON: dataclasses as documents, tuples as lists, enums as their text."""
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, list | tuple | set | frozenset):
        return [encode(item) for item in value]
    return value


def held_ys(melt: Melt) -> list[str]:
    """The Ys that an open entry holds, each once: inputs of the melt and of its swaps."""
    held = {ref.y for ref in melt.inputs}
    for plan in (melt.swap, melt.fence):
        if plan is not None:
            held |= {ref.y for ref in plan.inputs}
    return sorted(held)


def melt_document(melt: Melt, operation: str, proofs: Sequence[Document] = ()) -> Document:
    """The whole entry; ``proofs`` are its inputs', raw."""
    document: Document = {"_id": str(melt.id)}
    document |= {name: encode(getattr(melt, name)) for name in sorted(MELT_FIELDS - {"id"})}
    if melt.idempotency_key is None:
        # Absent, not null: its index is sparse.
        del document["idempotency_key"]
    document["mint_key"] = normalise_mint_url(melt.mint_url)
    document["operation"] = operation
    if melt.is_open and proofs:
        document["proofs"] = list(proofs)
    if melt.state is not MeltState.RELEASED and melt.payment_hash is not None:
        document["claim"] = melt.payment_hash
    if melt.is_open and (held := held_ys(melt)):
        # An empty list would be a key of its own in the unique index.
        document["held"] = held
    return document


def melt_update(old: Melt, new: Melt, operation: str, proofs: Sequence[Document] | None = None) -> Document:
    """
    The update that turns ``old`` into ``new``: what differs, and what follows from the state.

    ``proofs`` are those of new inputs, raw; None: the inputs are what they were.
    """
    changed = {name: encode(getattr(new, name)) for name in MELT_FIELDS if getattr(new, name) != getattr(old, name)}
    changed["operation"] = operation
    gone: dict[str, str] = {}
    if new.is_open and (held := held_ys(new)):
        changed["held"] = held
    else:
        gone["held"] = ""
    if not new.is_open:
        gone["proofs"] = ""
    elif proofs is not None:
        changed["proofs"] = list(proofs)
    if new.state is MeltState.RELEASED:
        gone["claim"] = ""
    return {"$set": changed, "$unset": gone} if gone else {"$set": changed}


def read_melt(document: Document) -> Melt:
    """The entry. Raises :class:`melt.errors.InvariantBroken` for one that can't be read: nobody but meltd writes them."""
    try:
        return _read_melt(document)
    except (KeyError, TypeError, ValueError, AttributeError):
        msg = f"journal entry {document.get('_id')} can't be read"
    # Not chained: a KeyError or ValueError could quote a value of the document.
    raise InvariantBroken(msg)


def _read_melt(document: Document) -> Melt:
    get = document.get
    return Melt(
        id=MeltId(document["_id"]),
        kind=JournalKind(get("kind", "melt")),
        state=MeltState(document["state"]),
        rev=int(document["rev"]),
        holder=document["holder"],
        idempotency_key=get("idempotency_key"),
        request_digest=document["request_digest"],
        npub=document["npub"],
        wallet_id=get("wallet_id"),
        mint=MintAlias(document["mint"]),
        mint_url=document["mint_url"],
        unit=document["unit"],
        transaction_id=document["transaction_id"],
        payment_hash=get("payment_hash"),
        invoice=get("invoice"),
        quote_id=None if get("quote_id") is None else QuoteId(document["quote_id"]),
        quote_expiry=_int_or_none(get("quote_expiry")),
        amount=int(document["amount"]),
        fee_reserve=int(document["fee_reserve"]),
        input_fee=int(document["input_fee"]),
        inputs=_inputs(document["inputs"]),
        source_token_ids=_token_ids(document["source_token_ids"]),
        blanks=_plan(get("blanks")),
        swap=_swap(get("swap")),
        fence=_swap(get("fence")),
        post=PostOutcome(get("post", "not_sent")),
        posted_at=moment(get("posted_at")),
        post_code=_int_or_none(get("post_code")),
        clear_since=moment(get("clear_since")),
        contradiction_since=moment(get("contradiction_since")),
        contradiction=get("contradiction"),
        preimage=get("preimage"),
        fees_paid=_int_or_none(get("fees_paid")),
        swap_fee=int(get("swap_fee", 0)),
        shortfall=int(get("shortfall", 0)),
        unaccounted=int(get("unaccounted", 0)),
        keep_token_ids=_token_ids(get("keep_token_ids", ())),
        keep_amount=int(get("keep_amount", 0)),
        change_token_id=None if get("change_token_id") is None else TokenId(document["change_token_id"]),
        change_amount=int(get("change_amount", 0)),
        error_code=get("error_code"),
        error_detail=get("error_detail"),
        resolution=_resolution(get("resolution")),
        note=get("note"),
        altered=_altered(get("altered") or ()),
        refusals=int(get("refusals", 0)),
        refused_code=_int_or_none(get("refused_code")),
        actor=read_actor(document["actor"]),
        created_at=record_time(document["created_at"]),
        updated_at=record_time(document["updated_at"]),
        ended_at=moment(get("ended_at")),
    )


def read_actor(raw: Document) -> Actor:
    """An actor as :func:`encode` wrote it."""
    return Actor(name=raw["name"], uid=raw.get("uid"), gid=raw.get("gid"), pid=raw.get("pid"))


def moment(value: object) -> datetime | None:
    """An aware UTC datetime, or None."""
    if not isinstance(value, datetime):
        return None
    return value if value.tzinfo is not None else value.replace(tzinfo=UTC)


def record_time(value: object) -> datetime:
    """An aware UTC datetime. Raises :class:`melt.errors.InvariantBroken`: our own records always have theirs."""
    found = moment(value)
    if found is None:
        msg = "a record of meltd's own has no time"
        raise InvariantBroken(msg)
    return found


def _int_or_none(value: Any) -> int | None:
    return None if value is None else int(value)


def _token_ids(raw: Any) -> tuple[TokenId, ...]:
    return tuple(TokenId(item) for item in raw)


def _inputs(raw: Any) -> tuple[InputRef, ...]:
    return tuple(
        InputRef(
            token_id=TokenId(item["token_id"]),
            y=Y(item["y"]),
            amount=int(item["amount"]),
            keyset_id=KeysetId(item["keyset_id"]),
        )
        for item in raw
    )


def _altered(raw: Any) -> tuple[Altered, ...]:
    return tuple(
        Altered(
            token_id=TokenId(item["token_id"]),
            what=item["what"],
            done=item["done"],
            amount=int(item["amount"]),
            ys=tuple(Y(y) for y in item["ys"]),
            written=bool(item["written"]),
            deleted=bool(item["deleted"]),
            changed_at=moment(item.get("changed_at")),
            seen_at=record_time(item["seen_at"]),
        )
        for item in raw
    )


def _plan(raw: Any) -> OutputPlan | None:
    if raw is None:
        return None
    return OutputPlan(
        keyset_id=KeysetId(raw["keyset_id"]),
        counter=int(raw["counter"]),
        amounts=tuple(int(amount) for amount in raw["amounts"]),
        seed_id=raw["seed_id"],
    )


def _resolution(raw: Any) -> Resolution | None:
    if raw is None:
        return None
    return Resolution(
        outcome=ResolveAs(raw["outcome"]),
        reason=raw["reason"],
        actor=read_actor(raw["actor"]),
        at=record_time(raw["at"]),
    )


def _swap(raw: Any) -> SwapPlan | None:
    if raw is None:
        return None
    outputs = _plan(raw["outputs"])
    if outputs is None:
        msg = "a swap without outputs"
        raise ValueError(msg)
    return SwapPlan(inputs=_inputs(raw["inputs"]), outputs=outputs, keep=int(raw["keep"]), fee=int(raw["fee"]))
