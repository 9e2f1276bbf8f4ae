"""
Discrepancies one by one: a person's acknowledgement and its end (DESIGN sections 3 and 5).

What a person decided is kept in ``decisions`` beside ``history``, which holds the last twenty turns only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from melt.errors import Code, MeltdError
from melt.model import OPEN_DISCREPANCY, DiscrepancyState
from melt.ports.cases import OpenFigures
from melt.store.core import Core, bounded, new_mark
from melt.store.documents import summed
from melt.store.faults import store_method
from melt.store.findings import HISTORY_MAX, read_discrepancy
from melt.store.journal import encode, record_time
from melt.store.records import read_event

if TYPE_CHECKING:
    from datetime import datetime

    from pymongo.client_session import ClientSession

    from melt.model import Actor, CriticalEvent, Discrepancy, MeltId, TokenId
    from melt.store.connect import Document

DECISIONS_MAX = 100
"""A record takes so many decisions of people; more would be a script at play (I11)."""
REOPENED = "reopened"
_OPEN = sorted(state.value for state in OPEN_DISCREPANCY)


class Cases(Core):
    """Implements :class:`melt.ports.CaseStore`."""

    @store_method
    def discrepancy(self, discrepancy_id: str) -> Discrepancy | None:
        """One record with its history."""
        raw = self._c.discrepancies.find_one({"_id": discrepancy_id})
        return None if raw is None else read_discrepancy(raw)

    @store_method
    def acknowledge(self, discrepancy_id: str, *, reason: str, actor: Actor) -> Discrepancy | None:
        """See :meth:`melt.ports.CaseStore.acknowledge`."""
        state = DiscrepancyState.ACKNOWLEDGED
        return self._decide(discrepancy_id, _OPEN, {"state": str(state)}, str(state), reason, actor)

    @store_method
    def reopen(self, discrepancy_id: str, *, reason: str, actor: Actor) -> Discrepancy | None:
        """See :meth:`melt.ports.CaseStore.reopen`."""
        changes: Document = {"state": None, "same_since": self._now()}
        return self._decide(discrepancy_id, [str(DiscrepancyState.ACKNOWLEDGED)], changes, REOPENED, reason, actor)

    def _decide(
        self, discrepancy_id: str, from_states: list[str], changes: Document, what: str, reason: str, actor: Actor
    ) -> Discrepancy | None:
        """``state`` None in ``changes``: open, by its occurrence."""
        turn = {"at": self._now(), "what": what, "by": encode(actor), "reason": reason, "mark": new_mark()}

        def work(session: ClientSession) -> Document | None:
            present = self._c.discrepancies.find_one({"_id": discrepancy_id}, session=session)
            decisions = [] if present is None else list(present.get("decisions") or ())
            if present is None or any(one.get("mark") == turn["mark"] for one in decisions):
                return present  # not there, or an earlier run of this was committed
            if present["state"] not in from_states:
                raise MeltdError(
                    Code.WRONG_STATE,
                    f"the discrepancy is {present['state']}; this needs {' or '.join(from_states)}",
                )
            if len(decisions) >= DECISIONS_MAX:
                raise MeltdError(Code.WRONG_STATE, f"{DECISIONS_MAX} decisions were taken about this discrepancy")
            after = present | changes
            if after["state"] is None:
                once = int(present["occurrence"]) == 1
                after["state"] = str(DiscrepancyState.OPEN if once else DiscrepancyState.RECURRED)
            after["history"] = [*present.get("history", ()), turn][-HISTORY_MAX:]
            after["decisions"] = [*decisions, turn]
            self._c.discrepancies.replace_one({"_id": discrepancy_id}, after, session=session)
            return after

        raw = self._run(work)
        return None if raw is None else read_discrepancy(raw)

    @store_method
    def discrepancies_of_token(self, token_id: TokenId, limit: int) -> tuple[Discrepancy, ...]:
        """Newest first."""
        found = self._c.discrepancies.find({"token_id": str(token_id)}).sort("last_seen", -1).limit(bounded(limit))
        return tuple(read_discrepancy(raw) for raw in found)

    @store_method
    def events_about_melt(self, melt_id: MeltId, limit: int) -> tuple[CriticalEvent, ...]:
        """See :meth:`melt.ports.CaseStore.events_about_melt`."""
        found = self._c.events.find({"subject": f"melt:{melt_id}"}).sort("last_seen", -1).limit(bounded(limit))
        return tuple(read_event(raw) for raw in found)

    @store_method
    def open_figures(self) -> OpenFigures:
        """See :class:`melt.ports.cases.OpenFigures`."""
        pipeline: list[Document] = [
            {"$match": {"state": {"$in": _OPEN}}},
            {
                "$group": {
                    "_id": {"severity": "$severity", "unit": "$unit"},
                    "oldest": {"$min": "$first_seen"},
                    "value": {"$sum": {"$toDecimal": "$value"}},
                }
            },
        ]
        oldest: dict[str, datetime] = {}
        value: dict[tuple[str, str], int] = {}
        for group in self._c.discrepancies.aggregate(pipeline):
            severity, unit = group["_id"]["severity"], group["_id"].get("unit") or "sat"
            since = record_time(group["oldest"])
            oldest[severity] = min(oldest.get(severity, since), since)
            value[severity, unit] = value.get((severity, unit), 0) + summed(group["value"])
        return OpenFigures(oldest=oldest, value=value)
