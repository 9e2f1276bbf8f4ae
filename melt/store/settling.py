"""Looking at the documents of open records, and counting for how long they stand still (I13, :mod:`melt.settling`)."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from melt.model import OPEN_DISCREPANCY, DiscrepancyState
from melt.settling import Watched
from melt.store.core import Core, in_batches
from melt.store.documents import STANDS_STILL, mark_of, raw_ids, token_id_of
from melt.store.faults import store_method
from melt.store.findings import raw_watched, read_discrepancy, read_watched
from melt.store.ledger import BATCH_MAX

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pymongo.client_session import ClientSession

    from melt.model import Discrepancy, MintAlias, TokenId
    from melt.store.connect import Document

_NOT_OVER = sorted(state.value for state in (*OPEN_DISCREPANCY, DiscrepancyState.ACKNOWLEDGED))


@dataclass(frozen=True, slots=True)
class _Same:
    """What several records get in one update: they were looked at together, by the same process."""

    added_ms: int
    watcher: str
    looks: int


class Settling(Core):
    """Implements :class:`melt.ports.SettleStore`."""

    @store_method
    def open_about_tokens(self, mint: MintAlias, limit: int) -> tuple[Discrepancy, ...]:
        """See :meth:`melt.ports.SettleStore.open_about_tokens`. By the index on states; put in order here."""
        chosen = {"state": {"$in": _NOT_OVER}, "mint": str(mint), "token_id": {"$type": "string"}}
        found = [read_discrepancy(raw) for raw in self._c.discrepancies.find(chosen)]
        found.sort(key=lambda record: (record.watched_ms, record.id))
        return tuple(found[:limit])

    @store_method
    def marks(self, ids: Sequence[TokenId]) -> Mapping[TokenId, str]:
        """See :meth:`melt.ports.SettleStore.marks`."""
        shape = dict.fromkeys(STANDS_STILL, 1)
        found: dict[TokenId, str] = {}
        for batch in in_batches(list(dict.fromkeys(ids)), BATCH_MAX):
            wanted = [raw_id for token_id in batch for raw_id in raw_ids(token_id)]
            for raw in self._c.tokens.find({"_id": {"$in": wanted}}, shape):
                found[token_id_of(raw["_id"])] = mark_of(raw)
        return found

    @store_method
    def watch(self, looked: Mapping[str, str]) -> None:
        """See :meth:`melt.ports.SettleStore.watch`. Records that stand still together are written together."""
        for batch in in_batches(list(looked), BATCH_MAX):

            def work(session: ClientSession, batch: Sequence[str] = batch) -> dict[str, Watched]:
                return self._watch(session, {record_id: looked[record_id] for record_id in batch})

            for record_id, after in self._run_fenced(work).items():
                self._stopwatch.noted(record_id, after)

    def _watch(self, session: ClientSession, looked: Mapping[str, str]) -> dict[str, Watched]:
        chosen = {"_id": {"$in": list(looked)}, "state": {"$in": _NOT_OVER}}
        counted: dict[str, Watched] = {}
        together: dict[_Same, list[str]] = defaultdict(list)
        for raw in self._c.discrepancies.find(chosen, {"watched": 1}, session=session):
            record_id, mark, before = raw["_id"], looked[raw["_id"]], read_watched(raw)
            added_ms, watcher = self._stopwatch.added_ms(record_id, before)
            moved = mark != before.mark
            after = before.after(added_ms, watcher, moved=moved, mark=mark, same=True)
            counted[record_id] = after
            if moved:
                update: Document = {"$set": {"watched": raw_watched(after)}}
                self._c.discrepancies.update_one({"_id": record_id}, update, session=session)
            else:
                together[_Same(added_ms, watcher, after.looks - before.looks)].append(record_id)
        for same, ids in together.items():
            added = dict.fromkeys(("watched.ms", "watched.same_ms", "watched.open_ms"), same.added_ms)
            update = {"$inc": {**added, "watched.looks": same.looks}, "$set": {"watched.watcher": same.watcher}}
            self._c.discrepancies.update_many({"_id": {"$in": ids}}, update, session=session)
        return counted
