"""What the records say of proofs that a mint has called SPENT (DESIGN section 5, Guards)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pymongo

from melt.model import (
    SANE_AGAIN,
    Action,
    DiscrepancyState,
    DriftType,
    EventType,
    MeltState,
    SpentMemory,
    Token,
    TokenStatus,
    Y,
    normalise_mint_url,
)
from melt.store.core import Core, in_batches
from melt.store.documents import read_token
from melt.store.faults import store_method
from melt.store.journal import moment, record_time
from melt.store.ledger import BATCH_MAX
from melt.store.tokens import stored_forms

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from melt.model import MintAlias
    from melt.store.connect import Document

RECORDS_MAX = 100
"""So many entries and so many corrections are looked at for known Ys, the newest (I11)."""
HINTS_MAX = 8
_EVENTS_MAX = 100
_MARKED = sorted((DriftType.DB_UNSPENT_MINT_SPENT, DriftType.DB_PENDING_MINT_SPENT, DriftType.RESERVATION_ORPHANED))
_REASONS = sorted((*_MARKED, "melt_released_spent", "melt_swapped", "melt_fenced"))
"""Reasons of audit entries to ``spent`` that say that the mint called the proofs so, or took them."""


class SpentEvidence(Core):
    """Implements :class:`melt.ports.SpentRecords`."""

    @store_method
    def spent_memory(self, mint: MintAlias, mint_url: str, limit: int) -> SpentMemory:
        """See :meth:`melt.ports.SpentRecords.spent_memory`. Bounded reads over indexes, but for hints."""
        identity = f"{EventType.MINT_STATE_REGRESSED}:mint:{mint}"
        told = list(
            self._c.events.find({"identity": identity}).sort("last_seen", pymongo.DESCENDING).limit(_EVENTS_MAX)
        )
        accepted = [
            record_time(raw["resolved_at"])
            for raw in told
            if not raw["open"] and raw.get("resolved_at") is not None and raw.get("resolution") != SANE_AGAIN
        ]
        accepted_at = max(accepted, default=None)
        regressed = next((raw.get("evidence", {}).get("ys") for raw in told if raw["open"]), None)
        dated = sorted((*self._settled(mint_url), *self._corrected(mint)), key=lambda pair: pair[0], reverse=True)
        known = dict.fromkeys(y for at, ys in dated if accepted_at is None or at > accepted_at for y in ys)
        return SpentMemory(
            known=tuple(known)[: max(0, limit)],
            hints=() if known else self._hints(mint_url),
            accepted_at=accepted_at,
            regressed=tuple(Y(y) for y in str(regressed).split(",")) if regressed else (),
        )

    def _settled(self, mint_url: str) -> Iterator[tuple[datetime, list[Y]]]:
        chosen = {"mint_key": normalise_mint_url(mint_url), "state": str(MeltState.SETTLED)}
        shape = {"inputs.y": 1, "updated_at": 1}
        for raw in self._c.melts.find(chosen, shape).sort("updated_at", pymongo.DESCENDING).limit(RECORDS_MAX):
            yield record_time(raw["updated_at"]), _inputs_of(raw)

    def _corrected(self, mint: MintAlias) -> Iterator[tuple[datetime, list[Y]]]:
        chosen = {
            "state": str(DiscrepancyState.CORRECTED),
            "mint": str(mint),
            "action": str(Action.MARK_SPENT),
            "type": {"$in": [str(drift) for drift in _MARKED]},
        }
        shape = {"ys": 1, "closed_at": 1}
        found = self._c.discrepancies.find(chosen, shape).sort("last_seen", pymongo.DESCENDING).limit(RECORDS_MAX)
        for raw in found:
            at = moment(raw.get("closed_at"))
            if at is not None:
                yield at, [Y(y) for y in raw.get("ys") or ()]

    def _hints(self, mint_url: str) -> tuple[Y, ...]:
        """One proof each of the first documents that are recorded as spent. No limit: it costs more (STORE.md)."""
        chosen = {"status": str(TokenStatus.SPENT), "mint_url": {"$in": stored_forms([mint_url])}}
        found: list[Y] = []
        if self.reads_once:
            return ()
        with self._c.tokens.find(chosen).batch_size(HINTS_MAX) as documents:
            for raw in documents:
                token = read_token(raw)
                if isinstance(token, Token) and token.proofs:
                    found.append(token.proofs[0].y)
                if len(found) >= HINTS_MAX:
                    break
        return tuple(found)

    @store_method
    def once_spent(self, ys: Sequence[Y]) -> Mapping[Y, datetime]:
        """See :meth:`melt.ports.SpentRecords.once_spent`: the journal's inputs and the audit, by their indexes on Ys."""
        found: dict[Y, datetime] = {}
        for batch in in_batches([str(y) for y in dict.fromkeys(ys)], BATCH_MAX):
            wanted = {"$in": list(batch)}
            settled = {"inputs.y": wanted, "state": str(MeltState.SETTLED)}
            for raw in self._c.melts.find(settled, {"inputs.y": 1, "updated_at": 1}):
                _note(found, batch, _inputs_of(raw), record_time(raw["updated_at"]))
            marked = {"ys": wanted, "to_status": str(TokenStatus.SPENT), "reason": {"$in": _REASONS}}
            for raw in self._c.audit.find(marked, {"ys": 1, "at": 1}):
                _note(found, batch, [Y(y) for y in raw["ys"]], record_time(raw["at"]))
        return found


def _inputs_of(raw: Document) -> list[Y]:
    inputs: Any = raw.get("inputs") or ()
    return [Y(ref["y"]) for ref in inputs]


def _note(found: dict[Y, datetime], batch: Sequence[str], ys: Sequence[Y], at: datetime) -> None:
    for y in set(ys).intersection(batch):
        present = found.get(Y(y))
        found[Y(y)] = at if present is None else max(present, at)
