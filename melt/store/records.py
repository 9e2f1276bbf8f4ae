"""CRITICAL events, the audit, sweeps, instances and health (DESIGN sections 3 to 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bson import ObjectId
from pymongo.errors import DuplicateKeyError

from melt.model import (
    AuditEntry,
    CriticalEvent,
    EventType,
    MeltId,
    MintAlias,
    Solvency,
    SweepRecord,
    TokenId,
    TokenStatus,
    Y,
)
from melt.store.core import Core, bounded
from melt.store.documents import at_most
from melt.store.faults import Retry, store_method
from melt.store.journal import moment, read_actor, record_time
from melt.store.leases import read_fence
from melt.store.passages import raw_passage, read_passage

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from pymongo.client_session import ClientSession

    from melt.store.connect import Document

_INSTANCE = "instance:"


class Records(Core):
    """The parts of :class:`melt.ports.Store` about what happened and who is there."""

    # --- events ---

    @store_method
    def raise_event(
        self,
        event_type: EventType,
        subject: str,
        *,
        mint: MintAlias | None,
        detail: str,
        requires_manual_intervention: bool,
        evidence: Mapping[str, str | int | bool | None],
        opened_at: datetime | None = None,
    ) -> tuple[CriticalEvent, bool]:
        """See :meth:`melt.ports.Store.raise_event`. At most one event per type and subject is open."""
        now = self._now()
        identity = f"{event_type}:{subject}"
        fresh: Document = {
            "identity": identity,
            "type": str(event_type),
            "subject": subject,
            "mint": mint,
            "detail": detail,
            "requires_manual_intervention": requires_manual_intervention,
            "evidence": dict(evidence),
            "last_seen": now,
        }

        def work(session: ClientSession) -> tuple[CriticalEvent, bool]:
            present = self._c.events.find_one({"identity": identity, "open": True}, session=session)
            if present is not None:
                seen = present | fresh | {"sightings": int(present["sightings"]) + 1}
                self._c.events.replace_one({"_id": present["_id"]}, seen, session=session)
                return read_event(seen), False
            opened = fresh | {"_id": str(ObjectId()), "open": True, "opened_at": opened_at or now, "resolved_at": None}
            opened |= {"sightings": 1, "resolution": None}
            collided = False
            try:
                self._c.events.insert_one(opened, session=session)
            except DuplicateKeyError:
                collided = True
            if collided:
                raise Retry
            return read_event(opened), True

        return self._run(work)

    @store_method
    def resolve_event(self, event_type: EventType, subject: str, *, reason: str) -> CriticalEvent | None:
        """See :meth:`melt.ports.Store.resolve_event`; the document keeps the reason and the time to recover."""
        now = self._now()
        chosen = {"identity": f"{event_type}:{subject}", "open": True}

        def work(session: ClientSession) -> CriticalEvent | None:
            present = self._c.events.find_one(chosen, session=session)
            if present is None:
                return None
            closed = {"open": False, "resolved_at": now, "resolution": reason}
            event = read_event(present | closed)
            update = {"$set": closed | {"recovery_s": event.recovery_s}}
            self._c.events.update_one({"_id": present["_id"]}, update, session=session)
            return event

        return self._run(work)

    @store_method
    def events(self, *, open_only: bool, limit: int) -> tuple[CriticalEvent, ...]:
        """Newest first."""
        chosen: Document = {"open": True} if open_only else {}
        found = self._c.events.find(chosen).sort("last_seen", -1).limit(bounded(limit))
        return tuple(read_event(raw) for raw in found)

    # --- audit ---

    @store_method
    def audit(self, *, token_id: TokenId | None, melt_id: MeltId | None, limit: int) -> tuple[AuditEntry, ...]:
        """Newest first; None means any."""
        chosen: Document = {}
        if token_id is not None:
            chosen["token_id"] = str(token_id)
        if melt_id is not None:
            chosen["melt_id"] = str(melt_id)
        return self._entries(chosen, limit)

    @store_method
    def audit_of_proof(self, y: Y, limit: int) -> tuple[AuditEntry, ...]:
        """The entries that touched this proof, newest first: the part of its story that meltd wrote."""
        return self._entries({"ys": str(y)}, limit)

    def _entries(self, chosen: Document, limit: int) -> tuple[AuditEntry, ...]:
        found = self._c.audit.find(chosen).sort([("at", -1), ("_id", -1)]).limit(bounded(limit))
        return tuple(read_entry(raw) for raw in found)

    # --- sweeps ---

    @store_method
    def save_sweep(self, record: SweepRecord) -> None:
        """The one record of this mint's tour."""
        raw: Document = {
            "_id": str(record.mint),
            "tour": record.tour,
            "position": record.position,
            "started_at": record.started_at,
            "updated_at": record.updated_at,
            "finished_at": record.finished_at,
            "documents": record.documents,
            "proofs": record.proofs,
            "total_documents": record.total_documents,
            "found": dict(record.found),
            "corrected": dict(record.corrected),
            "error": record.error,
            "sampled": record.sampled,
            "owed": at_most(record.owed),
            "honoured": at_most(record.honoured),
            "solvency": [
                {"unit": one.unit, **at_most({"owed": one.owed, "honoured": one.honoured}), "at": one.at}
                for one in record.solvency
            ],
            "first_seen": record.first_seen,
            "passing": raw_passage(record.passing),
            "passed": raw_passage(record.passed),
            "succeeded_at": record.succeeded_at,
        }
        chosen = {"_id": raw["_id"]}
        self._run_fenced(lambda session: self._c.sweeps.replace_one(chosen, raw, upsert=True, session=session))

    @store_method
    def sweeps(self) -> tuple[SweepRecord, ...]:
        """Every mint's, by alias."""
        return tuple(sorted((read_sweep(raw) for raw in self._c.sweeps.find()), key=lambda record: record.mint))

    # --- instances and health ---

    @store_method
    def renew_instance(self, holder: str) -> None:
        """See :meth:`melt.ports.Store.renew_instance`."""
        update = {"$inc": {"renewals": 1}, "$set": {"at": self._now()}}
        chosen = {"_id": f"{_INSTANCE}{holder}"}
        self._run(lambda session: self._c.leases.update_one(chosen, update, upsert=True, session=session))

    @store_method
    def instances(self) -> Mapping[str, int]:
        """Holder to its ``renewals``."""
        return {
            raw["_id"].removeprefix(_INSTANCE): int(raw["renewals"])
            for raw in self._c.leases.find()
            if str(raw["_id"]).startswith(_INSTANCE)
        }

    @store_method
    def ping(self) -> None:
        """Raises :class:`melt.errors.StoreUnavailable` where the database does not answer."""
        self._c.melts.database.command("ping")


def read_event(raw: Document) -> CriticalEvent:
    """An event as the model has it."""
    return CriticalEvent(
        id=str(raw["_id"]),
        type=EventType(raw["type"]),
        subject=raw["subject"],
        mint=None if raw.get("mint") is None else MintAlias(raw["mint"]),
        detail=raw.get("detail") or "",
        opened_at=record_time(raw["opened_at"]),
        last_seen=record_time(raw["last_seen"]),
        resolved_at=moment(raw.get("resolved_at")),
        sightings=int(raw["sightings"]),
        requires_manual_intervention=bool(raw.get("requires_manual_intervention")),
        evidence=dict(raw.get("evidence") or {}),
        resolution=raw.get("resolution"),
    )


def read_entry(raw: Document) -> AuditEntry:
    """An audit entry as the model has it."""
    return AuditEntry(
        id=raw["_id"],
        at=record_time(raw["at"]),
        token_id=TokenId(raw["token_id"]),
        npub=raw["npub"],
        mint_url=raw["mint_url"],
        from_status=None if raw.get("from_status") is None else TokenStatus(raw["from_status"]),
        to_status=TokenStatus(raw["to_status"]),
        amount=int(raw["amount"]),
        ys=tuple(Y(y) for y in raw["ys"]),
        reason=raw["reason"],
        actor=read_actor(raw["actor"]),
        melt_id=None if raw.get("melt_id") is None else MeltId(raw["melt_id"]),
        discrepancy_id=raw.get("discrepancy_id"),
        note=raw.get("note"),
        fence=read_fence(raw.get("fence")),
    )


def read_sweep(raw: Document) -> SweepRecord:
    """A tour's record as the model has it."""
    return SweepRecord(
        mint=MintAlias(raw["_id"]),
        tour=int(raw["tour"]),
        position=None if raw.get("position") is None else TokenId(raw["position"]),
        started_at=record_time(raw["started_at"]),
        updated_at=record_time(raw["updated_at"]),
        finished_at=moment(raw.get("finished_at")),
        documents=int(raw["documents"]),
        proofs=int(raw["proofs"]),
        total_documents=int(raw.get("total_documents") or 0),
        found=_counts(raw.get("found")),
        corrected=_counts(raw.get("corrected")),
        error=raw.get("error"),
        sampled=None if raw.get("sampled") is None else TokenId(raw["sampled"]),
        owed=_counts(raw.get("owed")),
        honoured=_counts(raw.get("honoured")),
        solvency=tuple(
            Solvency(
                mint=MintAlias(raw["_id"]),
                unit=str(one["unit"]),
                owed=int(one["owed"]),
                honoured=int(one["honoured"]),
                at=record_time(one["at"]),
            )
            for one in raw.get("solvency") or ()
        ),
        first_seen=moment(raw.get("first_seen")),
        passing=read_passage(raw.get("passing")),
        passed=read_passage(raw.get("passed")),
        succeeded_at=moment(raw.get("succeeded_at")),
    )


def _counts(raw: Any) -> dict[str, int]:
    return {str(name): int(number) for name, number in (raw or {}).items()}
