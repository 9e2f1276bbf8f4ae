"""
Discrepancies: one record per type and subject for ever, with its occurrences; and their correction (DESIGN section 5).

A record is opened, seen again, closed (corrected or cleared) and, seen once more after that, opened anew as RECURRED
with its ``occurrence`` raised. Nothing is deleted; ``history`` keeps the last twenty turns of its life.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pymongo.errors import DuplicateKeyError

from melt import fencing
from melt.audit import correction_operation
from melt.errors import LostRace, Observing, Severity
from melt.model import (
    OPEN_DISCREPANCY,
    TERMINAL,
    Action,
    Discrepancy,
    DiscrepancyState,
    DriftType,
    MintAlias,
    TokenId,
    Turn,
    Y,
)
from melt.settling import Watched, sighting
from melt.store.core import Core, bounded, in_batches
from melt.store.door import pass_door
from melt.store.faults import AlreadyDone, Retry, store_method
from melt.store.journal import moment, read_actor, record_time
from melt.store.ledger import BATCH_MAX

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from pymongo.client_session import ClientSession

    from melt.model import Correction, Finding
    from melt.settling import SettlePolicy, Stopwatch
    from melt.store.connect import Collections, Document

HISTORY_MAX = 20
YS_MAX = 1000
_OPEN = sorted(state.value for state in OPEN_DISCREPANCY)
_ENDED_MELT = sorted(state.value for state in TERMINAL)


def discrepancy_id(finding: Finding) -> str:
    """The identity of what was found: its type and its subject."""
    return f"{finding.type}:{finding.subject}"


def close_update(state: DiscrepancyState, now: datetime) -> Document:
    """The update that closes open records."""
    turn = {"at": now, "what": str(state)}
    return {
        "$set": {"state": str(state), "closed_at": now},
        "$push": {"history": {"$each": [turn], "$slice": -HISTORY_MAX}},
    }


class Findings(Core):
    """The findings part of :class:`melt.ports.Store`."""

    @store_method
    def record(self, findings: Sequence[Finding]) -> tuple[Discrepancy, ...]:
        """See :meth:`melt.ports.Store.record`. An acknowledged record stays so and counts what is seen."""
        now = self._now()
        recorded: dict[str, Discrepancy] = {}
        for batch in in_batches(findings, BATCH_MAX):

            def work(session: ClientSession, batch: Sequence[Finding] = batch) -> dict[str, Document]:
                return self._record(session, batch, now)

            for key, after in self._run_fenced(work).items():
                self._stopwatch.noted(key, read_watched(after))
                recorded[key] = read_discrepancy(after)
        return tuple(recorded[discrepancy_id(finding)] for finding in findings)

    def _record(self, session: ClientSession, findings: Sequence[Finding], now: datetime) -> dict[str, Document]:
        """By id: the record as it is now."""
        return write_findings(self._c, session, findings, now, settle=self._settle, stopwatch=self._stopwatch)

    @store_method
    def clear_unseen(self, subjects: Sequence[str], seen: Sequence[str]) -> int:
        """See :meth:`melt.ports.Store.clear_unseen`. Acknowledged records stay acknowledged."""
        now = self._now()
        spared = set(seen)
        fence = fencing.current()
        cleared = 0
        for batch in in_batches(list(dict.fromkeys(subjects)), BATCH_MAX):

            def work(session: ClientSession, batch: Sequence[str] = batch) -> int:
                chosen = {"subject": {"$in": list(batch)}, "state": {"$in": _OPEN}}
                open_ids = [raw["_id"] for raw in self._c.discrepancies.find(chosen, {"_id": 1}, session=session)]
                unseen = [open_id for open_id in open_ids if open_id not in spared]
                if not unseen:
                    return 0
                if fence is not None:  # only here: most pages have nothing to clear and write nothing
                    self._hold_fence(session, fence)
                closing = close_update(DiscrepancyState.CLEARED, now)
                return self._c.discrepancies.update_many(
                    {"_id": {"$in": unseen}}, closing, session=session
                ).modified_count

            cleared += self._run(work)
        return cleared

    @store_method
    def correct(self, correction: Correction) -> bool:
        """
        See :meth:`melt.ports.Store.correct`. Applying one twice equals once, and both answer True.

        False also where the record was closed, acknowledged or opened anew meanwhile, where it has not settled (I13), and for
        a document that an open melt has reserved: its recovery decides.
        """
        now = self._now()

        def work(session: ClientSession) -> bool:
            return self._correct(session, correction, now)

        try:
            return self._run_fenced(work)
        except AlreadyDone:
            return True
        except (LostRace, Observing):
            return False

    def _correct(self, session: ClientSession, correction: Correction, now: datetime) -> bool:
        ledger = self._new_ledger(
            session,
            now=now,
            operation_id=correction_operation(correction.discrepancy_id, correction.occurrence),
            actor=correction.actor,
            discrepancy_id=correction.discrepancy_id,
            note=correction.note,
            fence=fencing.current(),
        )
        ledger.begin()
        held = ledger.load([correction.token_id])[0]
        token = held.token
        if token.status is not correction.expected_status or token.rev != correction.expected_rev:
            return False
        pass_door(self._c, session, correction.warrant, token, self._settle)
        if token.reservation is not None:
            chosen = {"_id": str(token.reservation.melt_id), "state": {"$nin": _ENDED_MELT}}
            if self._c.melts.find_one(chosen, {"_id": 1}, session=session) is not None:
                return False
        take = frozenset(correction.ys)
        rest = ledger.move(held, correction.new_status, reason=str(correction.reason), take=take or None)
        if rest is not None:
            ledger.store_loose(
                [rest],
                name=f"{token.transaction_id}_keep",
                parent=token.transaction_id,
                status=token.status,
                reason="correction_split",
            )
        ledger.finish()
        record = {
            "_id": correction.discrepancy_id,
            "occurrence": correction.occurrence,
            "state": {"$in": _OPEN},
        }
        closing = close_update(DiscrepancyState.CORRECTED, now)
        if self._c.discrepancies.update_one(record, closing, session=session).modified_count != 1:
            # Raised, not answered: the transaction must not be committed.
            msg = f"discrepancy {correction.discrepancy_id} is no longer open at occurrence {correction.occurrence}"
            raise LostRace(msg)
        return True

    @store_method
    def discrepancies(
        self,
        *,
        states: Sequence[DiscrepancyState],
        types: Sequence[DriftType],
        severities: Sequence[Severity],
        npub: str | None,
        limit: int,
    ) -> tuple[Discrepancy, ...]:
        """Newest first; an empty filter means all."""
        chosen: Document = {}
        for name, words in (("state", states), ("type", types), ("severity", severities)):
            if words:
                chosen[name] = {"$in": [str(word) for word in words]}
        if npub is not None:
            chosen["npub"] = npub
        found = self._c.discrepancies.find(chosen).sort("last_seen", -1).limit(bounded(limit))
        return tuple(read_discrepancy(raw) for raw in found)

    @store_method
    def open_discrepancies_of(
        self, token_ids: Sequence[TokenId], severities: Sequence[Severity]
    ) -> tuple[Discrepancy, ...]:
        """See :meth:`melt.ports.Store.open_discrepancies_of`."""
        found: list[Discrepancy] = []
        for batch in in_batches(list(dict.fromkeys(token_ids)), BATCH_MAX):
            chosen = {
                "token_id": {"$in": [str(token_id) for token_id in batch]},
                "state": {"$in": [*_OPEN, str(DiscrepancyState.ACKNOWLEDGED)]},
                "severity": {"$in": [str(severity) for severity in severities]},
            }
            found += [read_discrepancy(raw) for raw in self._c.discrepancies.find(chosen)]
        return tuple(one for one in found if one.state in OPEN_DISCREPANCY or one.action is Action.MARK_SPENT)

    @store_method
    def discrepancies_of_proof(self, y: Y, limit: int) -> tuple[Discrepancy, ...]:
        """See :meth:`melt.ports.Store.discrepancies_of_proof`."""
        found = self._c.discrepancies.find({"ys": str(y)}).sort("last_seen", -1).limit(bounded(limit))
        return tuple(read_discrepancy(raw) for raw in found)

    @store_method
    def count_open_discrepancies(self) -> Mapping[tuple[str, str, str], int]:
        """Keys (type, severity, mint alias or "")."""
        key = {"type": "$type", "severity": "$severity", "mint": "$mint"}
        pipeline: list[Document] = [
            {"$match": {"state": {"$in": _OPEN}}},
            {"$group": {"_id": key, "number": {"$sum": 1}}},
        ]
        return {
            (group["_id"]["type"], group["_id"]["severity"], group["_id"].get("mint") or ""): int(group["number"])
            for group in self._c.discrepancies.aggregate(pipeline)
        }


def write_findings(
    collections: Collections,
    session: ClientSession,
    findings: Sequence[Finding],
    now: datetime,
    *,
    settle: SettlePolicy,
    stopwatch: Stopwatch,
) -> dict[str, Document]:
    """
    Open, see again or re-open in a transaction that is under way; the records afterwards, by id.

    The caller may tell ``stopwatch`` of what was committed (:meth:`melt.settling.Stopwatch.noted`); where it does not, the
    next look at such a record adds no time, as after a look that was lost.
    """
    by_id = {discrepancy_id(finding): finding for finding in findings}
    present = {
        raw["_id"]: raw for raw in collections.discrepancies.find({"_id": {"$in": list(by_id)}}, session=session)
    }
    seen: dict[str, Document] = {}
    collided = False
    for key, finding in by_id.items():
        before = read_watched(present.get(key) or {})
        added_ms, watcher = stopwatch.added_ms(key, before)
        after = _seen(present.get(key), finding, now, settle, added_ms=added_ms, watcher=watcher)
        seen[key] = after
        try:
            if key in present:
                collections.discrepancies.replace_one({"_id": key}, after, session=session)
            else:
                collections.discrepancies.insert_one(after, session=session)
        except DuplicateKeyError:
            collided = True
            break
    if collided:
        raise Retry
    return seen


def _seen(
    present: Document | None, finding: Finding, now: datetime, settle: SettlePolicy, *, added_ms: int, watcher: str
) -> Document:
    """The record after this sighting."""
    record = _told(finding, now)
    before = read_watched(present or {})
    if present is None:
        history = [{"at": now, "what": str(DiscrepancyState.OPEN)}]
        opened = {"state": str(DiscrepancyState.OPEN), "occurrence": 1, "sightings": 1}
        began = Watched(mark=finding.mark, watcher=watcher, looks=1)
        return _weighed(
            record | opened | {"first_seen": now, "closed_at": None, "history": history}, finding, began, settle
        )
    state = DiscrepancyState(present["state"])
    if state in {DiscrepancyState.CORRECTED, DiscrepancyState.CLEARED}:
        began = Watched(mark=finding.mark, watcher=watcher, looks=before.looks + 1)
        return _weighed(present | record | _reopened(present, now), finding, began, settle)
    seen = sighting(
        before,
        finding,
        action=Action(present["action"]),
        ys=present.get("ys") or (),
        added_ms=added_ms,
        watcher=watcher,
    )
    if seen.anew and state is not DiscrepancyState.ACKNOWLEDGED:
        return _weighed(present | record | _reopened(present, now), finding, seen.watched, settle)
    again: Document = {"sightings": int(present["sightings"]) + 1}
    if seen.keeps_words:
        again |= {name: present[name] for name in ("value", "ys")}
        record |= again
    if present.get("action") == record["action"] and set(present.get("ys") or ()) == set(record["ys"]):
        again["same_since"] = present.get("same_since") or now
    return _weighed(present | record | again, finding, seen.watched, settle)


def _told(finding: Finding, now: datetime) -> Document:
    return {
        "_id": discrepancy_id(finding),
        "type": str(finding.type),
        "severity": str(finding.severity),
        "action": str(finding.action),
        "subject": finding.subject,
        "npub": finding.npub,
        "mint": finding.mint,
        "unit": finding.unit,
        "value": finding.value,
        "token_id": finding.token_id,
        "ys": [str(y) for y in finding.ys[:YS_MAX]],
        "evidence": dict(finding.evidence),
        "last_seen": now,
        "same_since": now,
    }


def _reopened(present: Document, now: datetime) -> Document:
    """Another occurrence: it was over, or its document is another now."""
    turn = {"at": now, "what": str(DiscrepancyState.RECURRED)}
    history = [*present.get("history", ()), turn][-HISTORY_MAX:]
    return {
        "state": str(DiscrepancyState.RECURRED),
        "occurrence": int(present["occurrence"]) + 1,
        "sightings": 1,
        "first_seen": now,
        "closed_at": None,
        "history": history,
    }


def _weighed(record: Document, finding: Finding, watched: Watched, settle: SettlePolicy) -> Document:
    """With its time, what that is measured by, and the severity of what does not come to rest."""
    needs_ms = settle.needs_ms(finding.action)
    if settle.is_unsettled(drift=finding.type, action=finding.action, open_ms=watched.open_ms):
        record["severity"] = str(Severity.HIGH)
        record["evidence"] = {**record["evidence"], "unsettled_s": watched.open_ms // 1000}
    return record | {
        "watched": raw_watched(watched),
        "needs_ms": needs_ms,
        "alert_ms": settle.alert_ms(finding.type, Severity(record["severity"])) if finding.token_id is not None else 0,
    }


def raw_watched(watched: Watched) -> Document:
    """How long a record was watched, as it is stored."""
    return {
        "mark": watched.mark,
        "ms": watched.watched_ms,
        "same_ms": watched.same_ms,
        "open_ms": watched.open_ms,
        "watcher": watched.watcher,
        "looks": watched.looks,
    }


def read_watched(raw: Document) -> Watched:
    """How long a record was watched; not at all where an older release wrote it."""
    told: Any = raw.get("watched") or {}
    return Watched(
        mark=told.get("mark"),
        watched_ms=int(told.get("ms") or 0),
        same_ms=int(told.get("same_ms") or 0),
        open_ms=int(told.get("open_ms") or 0),
        watcher=told.get("watcher"),
        looks=int(told.get("looks") or 0),
    )


def read_discrepancy(raw: Document) -> Discrepancy:
    """A record as the model has it."""
    get: Any = raw.get
    watched = read_watched(raw)
    return Discrepancy(
        id=raw["_id"],
        type=DriftType(raw["type"]),
        severity=Severity(raw["severity"]),
        action=Action(raw["action"]),
        state=DiscrepancyState(raw["state"]),
        subject=raw["subject"],
        npub=get("npub"),
        mint=None if get("mint") is None else MintAlias(raw["mint"]),
        unit=get("unit") or "",
        value=int(get("value") or 0),
        token_id=None if get("token_id") is None else TokenId(raw["token_id"]),
        ys=tuple(Y(y) for y in get("ys") or ()),
        first_seen=record_time(raw["first_seen"]),
        last_seen=record_time(raw["last_seen"]),
        closed_at=moment(get("closed_at")),
        sightings=int(raw["sightings"]),
        occurrence=int(raw["occurrence"]),
        same_since=moment(get("same_since")),
        evidence=dict(get("evidence") or {}),
        history=_history(get("history") or (), get("decisions") or ()),
        mark=watched.mark,
        watched_ms=watched.watched_ms,
        same_ms=watched.same_ms,
        open_ms=watched.open_ms,
        needs_ms=int(get("needs_ms") or 0),
        alert_ms=int(get("alert_ms") or 0),
    )


def read_turn(raw: Document) -> Turn:
    """A turn of a record's life as the model has it."""
    by = raw.get("by")
    return Turn(
        at=record_time(raw["at"]),
        what=str(raw["what"]),
        by=None if by is None else read_actor(by),
        reason=raw.get("reason"),
    )


def _history(turns: Sequence[Document], decisions: Sequence[Document]) -> tuple[Turn, ...]:
    """Oldest first; a person's turn that has fallen out of the last twenty is put back in its place."""
    kept = [read_turn(raw) for raw in turns]
    lost = [turn for turn in map(read_turn, decisions) if turn not in kept]
    return tuple(sorted([*kept, *lost], key=lambda turn: turn.at))
