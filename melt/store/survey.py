"""The database as a survey asks for it (:mod:`melt.survey`). Nothing here writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melt.store.core import Core, in_batches
from melt.store.faults import store_method
from melt.store.findings import read_discrepancy
from melt.store.ledger import BATCH_MAX
from melt.store.tokens import UNIT_DEFAULT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from melt.model import Discrepancy
    from melt.store.connect import Document


class SurveyReads(Core):
    """Implements :class:`melt.ports.SurveyStore`, with what the mode's part does about indexes."""

    @store_method
    def other_units(self) -> Mapping[str, str]:
        """See :meth:`melt.ports.SurveyStore.other_units`."""
        chosen = {"wallet_config.unit": {"$type": "string", "$nin": [UNIT_DEFAULT, ""]}}
        return {
            str(wallet["_id"]): wallet["wallet_config"]["unit"]
            for wallet in self._c.wallets.find(chosen, {"wallet_config.unit": 1})
        }

    @store_method
    def records_by_state(self) -> Mapping[tuple[str, str], int]:
        """See :meth:`melt.ports.SurveyStore.records_by_state`."""
        pipeline: list[Document] = [
            {"$match": {"token_id": {"$type": "string"}}},
            {"$group": {"_id": {"type": "$type", "state": "$state"}, "number": {"$sum": 1}}},
        ]
        return {
            (group["_id"]["type"], group["_id"]["state"]): int(group["number"])
            for group in self._c.discrepancies.aggregate(pipeline)
        }

    @store_method
    def records(self, ids: Sequence[str]) -> tuple[Discrepancy, ...]:
        """See :meth:`melt.ports.SurveyStore.records`."""
        found: list[Discrepancy] = []
        for batch in in_batches(list(dict.fromkeys(ids)), BATCH_MAX):
            found += [read_discrepancy(raw) for raw in self._c.discrepancies.find({"_id": {"$in": list(batch)}})]
        return tuple(found)
