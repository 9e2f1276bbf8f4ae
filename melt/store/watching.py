"""Choosing what a mint is asked to watch (NUT-17): implements :class:`melt.ports.WatchStore`."""

from __future__ import annotations

from contextlib import closing
from itertools import chain, zip_longest
from typing import TYPE_CHECKING

from melt.model import Token, TokenStatus, TransactionType, WatchedDocument
from melt.store.core import LIMIT_MAX, Core
from melt.store.documents import read_token
from melt.store.faults import store_method
from melt.store.tokens import stored_forms

if TYPE_CHECKING:
    from collections.abc import Generator

    from melt.model import TokenId
    from melt.store.connect import Document

DOCUMENTS_MAX = LIMIT_MAX
QUERY_MS_MAX = 20_000
_BATCH = 50
_NOT_THE_OWNERS = frozenset({TransactionType.MELTED.value, TransactionType.SENT.value})


class Watching(Core):
    """The part of the store that answers which unspent documents are worth a subscription."""

    @store_method
    def worth_watching(self, mint_url: str, *, proofs_max: int) -> tuple[WatchedDocument, ...]:
        """See :meth:`melt.ports.WatchStore.worth_watching`. A document that doesn't fit any more is passed over."""
        if proofs_max < 1 or self.reads_once:
            return ()
        chosen: Document = {"status": str(TokenStatus.UNSPENT), "mint_url": {"$in": stored_forms([mint_url])}}
        # Numbers only: a text in total_amount would stand above every amount.
        largest = self._watchable({**chosen, "total_amount": {"$gt": 0}}, "total_amount", proofs_max)
        newest = self._watchable(chosen, "_id", proofs_max)
        found: dict[TokenId, WatchedDocument] = {}
        left = proofs_max
        with closing(largest), closing(newest):
            for document in chain.from_iterable(zip_longest(largest, newest)):
                if document is None or document.token_id in found or len(document.ys) > left:
                    continue
                found[document.token_id] = document
                left -= len(document.ys)
                if left == 0:
                    break
        return tuple(found.values())

    def _watchable(self, chosen: Document, by: str, documents_max: int) -> Generator[WatchedDocument]:
        limit = min(documents_max, DOCUMENTS_MAX)
        cursor = self._c.tokens.find(chosen).sort(by, -1).limit(limit).batch_size(_BATCH).max_time_ms(QUERY_MS_MAX)
        with cursor:
            for raw in cursor:
                token = read_token(raw)
                if isinstance(token, Token) and token.proofs and token.transaction_type not in _NOT_THE_OWNERS:
                    yield WatchedDocument(token_id=token.id, ys=tuple(proof.y for proof in token.proofs))
