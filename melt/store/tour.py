"""A tour over token documents: one long cursor in ``_id`` order, with a position to come back to (DESIGN section 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bson import ObjectId
from pymongo.errors import AutoReconnect, CursorNotFound

from melt.store.documents import raw_ids, read_token
from melt.store.faults import store_method

if TYPE_CHECKING:
    from pymongo.collection import Collection
    from pymongo.cursor import Cursor

    from melt.model import MalformedToken, Token, TokenId
    from melt.ports import Telemetry
    from melt.store.connect import Document

_REOPENINGS_MAX = 3
"""How often one page may reopen a lost cursor before it gives up; the next page starts at 0 again."""
_CURSOR_BATCH = 200


class MongoTour:
    """
    Implements :class:`melt.ports.Tour`.

    A page query per batch costs the whole collection each time on some servers; a cursor does not. A cursor that
    was lost (idle for ten minutes, a server that restarted) is opened again behind the last document.
    Strings sort before ObjectIds, and a comparison stays within its type: a position that is a string therefore
    asks for the later strings and all ObjectIds.
    """

    def __init__(
        self,
        tokens: Collection[Document],
        chosen: Document,
        after: TokenId | None,
        telemetry: Telemetry | None,
    ) -> None:
        self.telemetry = telemetry
        self._tokens = tokens
        self._chosen = chosen
        self._after = after
        self._position: object = None
        self._started = after is None
        self._cursor: Cursor[Document] | None = None

    @store_method
    def next_page(self, documents_max: int) -> tuple[Token | MalformedToken, ...]:
        """See :meth:`melt.ports.Tour.next_page`."""
        page: list[Token | MalformedToken] = []
        reopenings = 0
        while len(page) < documents_max:
            try:
                raw = next(self._open(), None)
            except (CursorNotFound, AutoReconnect):
                self.close()
                reopenings += 1
                if reopenings > _REOPENINGS_MAX:
                    raise
                continue
            if raw is None:
                break
            self._position = raw["_id"]
            page.append(read_token(raw))
        return tuple(page)

    def close(self) -> None:
        """Give the cursor back; a later page opens a new one."""
        cursor, self._cursor = self._cursor, None
        if cursor is not None:
            cursor.close()

    def _open(self) -> Cursor[Document]:
        if self._cursor is None:
            if not self._started and self._after is not None:
                self._position = self._raw_position(self._after)
                self._started = True
            chosen = dict(self._chosen)
            if isinstance(self._position, str):
                chosen["$or"] = [{"_id": {"$gt": self._position}}, {"_id": {"$type": "objectId"}}]
            elif self._position is not None:
                chosen["_id"] = {"$gt": self._position}
            self._cursor = self._tokens.find(chosen).sort("_id", 1).batch_size(_CURSOR_BATCH)
        return self._cursor

    def _raw_position(self, after: TokenId) -> ObjectId | str:
        """24 hex digits stand for an ObjectId, unless a document has that very text as its id."""
        candidates = raw_ids(after)
        found = self._tokens.find_one({"_id": {"$in": list(candidates)}}, {"_id": 1})
        if found is not None and isinstance(found["_id"], ObjectId | str):
            return found["_id"]
        return candidates[0]
