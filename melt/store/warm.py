"""Which documents the warm lane looks at beside the new ones (DESIGN section 5, Sweep)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melt.model import TokenId
from melt.store.core import Core
from melt.store.documents import token_id_of
from melt.store.faults import store_method
from melt.store.tokens import stored_forms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melt.model import TokenStatus


class WarmReads(Core):
    """Implements :class:`melt.ports.LargeTokens`."""

    @store_method
    def large_tokens(
        self, statuses: Sequence[TokenStatus], mint_urls: Sequence[str], amount_min: int, limit: int
    ) -> tuple[TokenId, ...]:
        """See :meth:`melt.ports.LargeTokens.large_tokens`. Reads an index, and no order is asked of it."""
        if self.reads_once:
            return ()
        chosen = {
            "status": {"$in": [str(status) for status in statuses]},
            "total_amount": {"$gte": amount_min},
            "mint_url": {"$in": stored_forms(mint_urls)},
        }
        found: list[TokenId] = []
        with self._c.tokens.find(chosen, {"_id": 1}) as cursor:
            for raw in cursor:
                if len(found) >= limit:
                    break
                found.append(token_id_of(raw["_id"]))
        return tuple(found)
