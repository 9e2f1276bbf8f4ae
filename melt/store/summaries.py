"""
Daily summaries: what everybody holds, what happened in a day, and the rows made of it (``meltd_summaries``).

Holdings are grouped by the server and streamed user by user. Amounts are summed as numbers: one that old code stored as
text counts as 0 here, and its document is on record as drift where it can't be read. What is ``melted`` or ``sent`` does not count.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from pymongo import ReplaceOne

from melt.errors import Code, StoreError
from melt.model import (
    AMOUNT_MAX,
    OPEN_DISCREPANCY,
    UNCOUNTED_TYPES,
    Activity,
    DaySummary,
    Holding,
    JournalKind,
    KeysetId,
    MeltState,
    MintAlias,
    ResolveAs,
)
from melt.store.core import Core, bounded
from melt.store.documents import at_most, keyset_id_of, summed
from melt.store.faults import store_method
from melt.store.journal import moment, record_time
from melt.store.ledger import BATCH_MAX
from melt.store.tokens import UNIT_DEFAULT, stored_forms

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from pymongo.command_cursor import CommandCursor

    from melt.ports import HoldingsWalk, Telemetry
    from melt.store.connect import Collections, Document

USERS_MAX = 100_000
"""Users with activity in one day whose rows are kept apart (I11); beyond it a day is refused, and the log says so."""
_OWED = ("unspent", "pending")
_NUMERIC = ["int", "long", "double", "decimal"]
_SENSIBLE_MAX = 2**62
"""The largest power of two that is stored: what is above it is the amount of no keyset (MALFORMED_TOKEN)."""


class MongoHoldings:
    """Implements :class:`melt.ports.HoldingsWalk` over one grouped cursor, sorted by user."""

    def __init__(
        self,
        collections: Collections,
        mint_urls: Sequence[str],
        npub: str | None,
        telemetry: Telemetry | None,
        keyset_units: Mapping[KeysetId, str],
    ) -> None:
        self.telemetry = telemetry
        self._c = collections
        self._match: Document = {
            "status": {"$in": list(_OWED)},
            "mint_url": {"$in": stored_forms(mint_urls)},
            "transaction_type": {"$nin": [word.value for word in UNCOUNTED_TYPES]},
            "npub": npub if npub is not None else {"$type": "string"},
        }
        self._cursor: CommandCursor[Document] | None = None
        self._units: dict[str, str] = {}
        self._keyset_units = keyset_units
        self._ahead: Document | None = None

    @store_method
    def next_users(self, users_max: int) -> tuple[Holding, ...]:
        """See :meth:`melt.ports.HoldingsWalk.next_users`."""
        if self._cursor is None:
            self._units = self._other_units()
            self._cursor = self._c.tokens.aggregate(self._pipeline(), allowDiskUse=True, batchSize=500)
        found: dict[tuple[str, str, str], int] = defaultdict(int)
        users: set[str] = set()
        while (group := self._next()) is not None:
            npub = group["_id"]["npub"]
            if npub not in users and len(users) >= users_max:
                self._ahead = group
                break
            users.add(npub)
            of_wallet = self._units.get(str(group["_id"].get("wallet")), UNIT_DEFAULT)
            unit = self._keyset_units.get(keyset_id_of(group["_id"].get("keyset")), of_wallet)
            found[npub, unit, group["_id"]["status"]] += summed(group["amount"])
        return tuple(
            Holding(npub=npub, unit=unit, status=status, amount=min(amount, AMOUNT_MAX))
            for (npub, unit, status), amount in found.items()
        )

    def close(self) -> None:
        """Give the cursor back."""
        cursor, self._cursor = self._cursor, None
        if cursor is not None:
            cursor.close()

    def _next(self) -> Document | None:
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            return ahead
        return None if self._cursor is None else next(self._cursor, None)

    def _pipeline(self) -> list[Document]:
        key = {"npub": "$npub", "wallet": "$wallet_id", "status": "$status", "keyset": "$proofs.id"}
        return [
            {"$match": self._match},
            {"$unwind": "$proofs"},
            {"$match": {"proofs.amount": {"$type": _NUMERIC, "$gt": 0, "$lte": _SENSIBLE_MAX}}},
            {"$group": {"_id": key, "amount": {"$sum": {"$toDecimal": "$proofs.amount"}}}},
            {"$sort": {"_id.npub": 1}},
        ]

    def _other_units(self) -> dict[str, str]:
        """The wallets that are not of the default unit: few, where there are any."""
        chosen = {"wallet_config.unit": {"$type": "string", "$ne": UNIT_DEFAULT}}
        return {
            str(wallet["_id"]): wallet["wallet_config"]["unit"] or UNIT_DEFAULT
            for wallet in self._c.wallets.find(chosen, {"wallet_config.unit": 1})
        }


@dataclass(slots=True)
class _Sums:
    numbers: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    found: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    mended: dict[str, int] = field(default_factory=lambda: defaultdict(int))


class Summaries(Core):
    """Implements :class:`melt.ports.SummaryStore`."""

    def holdings(
        self, mint_urls: Sequence[str], *, npub: str | None = None, keyset_units: Mapping[KeysetId, str] | None = None
    ) -> HoldingsWalk:
        """See :meth:`melt.ports.SummaryStore.holdings`. Asks nothing before its first page."""
        return MongoHoldings(self._c, mint_urls, npub, self.telemetry, keyset_units or {})

    @store_method
    def activity(
        self, mint: MintAlias, since: datetime, until: datetime, *, npub: str | None = None
    ) -> Mapping[tuple[str, str], Activity]:
        """See :meth:`melt.ports.SummaryStore.activity`. Raises StoreError beyond :data:`USERS_MAX` users."""
        sums: dict[tuple[str, str], _Sums] = defaultdict(_Sums)
        whose: Document = {} if npub is None else {"npub": npub}
        for group in self._ended_in_day(mint, since, until, whose):
            numbers = sums[group["_id"]["npub"], group["_id"]["unit"]].numbers
            for name in ("melts", "paid", "lightning_fees", "input_fees", "shortfall", "unaccounted", "reclaimed"):
                numbers[name] += summed(group[name])
        chosen: tuple[tuple[Document, str], ...] = (
            ({"first_seen": {"$gte": since, "$lt": until}}, "found"),
            ({"closed_at": {"$gte": since, "$lt": until}, "state": "corrected"}, "mended"),
        )
        for match, what in chosen:
            for group in self._drift({"mint": str(mint), **whose, **match}):
                counts: dict[str, int] = getattr(sums[_whose(group)], what)
                counts[group["_id"]["type"]] += int(group["number"])
        for group in self._drift({"mint": str(mint), **whose, "state": {"$in": sorted(OPEN_DISCREPANCY)}}):
            sums[_whose(group)].numbers["in_question"] += summed(group["value"])
        if len(sums) > USERS_MAX:
            msg = f"more than {USERS_MAX} users were active at {mint} within a day"
            raise StoreError(Code.INTERNAL, msg)
        return {
            key: Activity(**one.numbers, found=dict(one.found), mended=dict(one.mended)) for key, one in sums.items()
        }

    def _ended_in_day(self, mint: MintAlias, since: datetime, until: datetime, whose: Document) -> Iterator[Document]:
        """Journal entries that ended in the day, by user and unit; ``updated_at`` is never before ``ended_at``."""
        paid = {"$eq": ["$kind", JournalKind.MELT.value]}
        # Where the inputs are gone and nobody knows what became of the payment, nothing is called paid.
        known = {"$ne": ["$resolution.outcome", ResolveAs.INPUTS_GONE.value]}
        settled = {"$and": [paid, known, {"$eq": ["$state", MeltState.SETTLED.value]}]}
        back = {
            "$and": [
                {"$eq": ["$kind", JournalKind.RECLAIM.value]},
                {"$eq": ["$state", MeltState.SETTLED.value]},
            ]
        }

        def where(condition: Document, value: object) -> Document:
            return {"$sum": {"$toDecimal": {"$cond": [condition, value, 0]}}}

        pipeline: list[Document] = [
            {
                "$match": {
                    **whose,
                    "state": {"$in": [MeltState.SETTLED.value, MeltState.RELEASED.value]},
                    "updated_at": {"$gte": since},
                    "mint": str(mint),
                    "ended_at": {"$gte": since, "$lt": until},
                }
            },
            {
                "$group": {
                    "_id": {"npub": "$npub", "unit": "$unit"},
                    "melts": where(settled, 1),
                    "paid": where(settled, "$amount"),
                    "lightning_fees": where(settled, {"$ifNull": ["$fees_paid", 0]}),
                    "payment_fees": where(settled, "$input_fee"),
                    "swap_fees": {"$sum": {"$toDecimal": {"$ifNull": ["$swap_fee", 0]}}},
                    "shortfall": where(settled, "$shortfall"),
                    "unaccounted": {"$sum": {"$ifNull": ["$unaccounted", 0]}},
                    "reclaimed": where(back, "$keep_amount"),
                }
            },
        ]
        for group in self._c.melts.aggregate(pipeline):
            yield group | {"input_fees": summed(group["payment_fees"]) + summed(group["swap_fees"])}

    def _drift(self, match: Document) -> Iterator[Document]:
        key = {"npub": "$npub", "unit": "$unit", "type": "$type"}
        pipeline: list[Document] = [
            {"$match": match},
            {"$group": {"_id": key, "number": {"$sum": 1}, "value": {"$sum": {"$toDecimal": "$value"}}}},
        ]
        yield from self._c.discrepancies.aggregate(pipeline)

    @store_method
    def save_summaries(self, rows: Sequence[DaySummary]) -> None:
        """See :meth:`melt.ports.SummaryStore.save_summaries`. No money moves by it, so it needs no transaction."""
        if not rows:
            return
        if len(rows) > BATCH_MAX:
            msg = f"{len(rows)} summaries in one write"
            raise ValueError(msg)
        writes = [ReplaceOne({"_id": raw["_id"]}, raw, upsert=True) for raw in map(summary_document, rows)]
        self._c.summaries.bulk_write(writes, ordered=False)

    @store_method
    def summaries(
        self, *, mint: MintAlias | None, npub: str | None, day: str | None, limit: int
    ) -> tuple[DaySummary, ...]:
        """See :meth:`melt.ports.SummaryStore.summaries`."""
        chosen: Document = {"npub": npub}
        if mint is not None:
            chosen["mint"] = str(mint)
        if day is not None:
            chosen["day"] = day
        found = self._c.summaries.find(chosen).sort([("day", -1), ("mint", 1), ("unit", 1)]).limit(bounded(limit))
        return tuple(read_summary(raw) for raw in found)


def _whose(group: Document) -> tuple[str, str]:
    return group["_id"].get("npub") or "", group["_id"].get("unit") or UNIT_DEFAULT


def summary_document(row: DaySummary) -> Document:
    """A row as it is stored; its id is what it is about."""
    about = [row.day, str(row.mint), row.unit, *([] if row.npub is None else [row.npub])]
    return {
        "_id": "/".join(about),
        "day": row.day,
        "mint": str(row.mint),
        "unit": row.unit,
        "npub": row.npub,
        "made_at": row.made_at,
        "is_final": row.is_final,
        "liabilities": at_most(row.liabilities),
        "verified": None if row.verified is None else min(row.verified, AMOUNT_MAX),
        "verified_at": row.verified_at,
        "activity": {
            name: value if isinstance(value, dict) else min(value, AMOUNT_MAX)
            for name, value in asdict(row.activity).items()
        },
    }


def read_summary(raw: Document) -> DaySummary:
    """A row as the model has it."""
    activity: dict[str, Any] = dict(raw["activity"])
    found, mended = _counts(activity.pop("found", None)), _counts(activity.pop("mended", None))
    numbers: dict[str, Any] = {name: int(value) for name, value in activity.items()}
    verified = raw.get("verified")
    return DaySummary(
        day=raw["day"],
        mint=MintAlias(raw["mint"]),
        unit=raw["unit"],
        npub=raw.get("npub"),
        made_at=record_time(raw["made_at"]),
        is_final=bool(raw["is_final"]),
        liabilities=_counts(raw.get("liabilities")),
        verified=None if verified is None else int(verified),
        verified_at=moment(raw.get("verified_at")),
        activity=Activity(found=found, mended=mended, **numbers),
    )


def _counts(raw: Any) -> dict[str, int]:
    return {str(name): int(number) for name, number in (raw or {}).items()}
