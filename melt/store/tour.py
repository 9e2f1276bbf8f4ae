"""A tour over token documents: one long cursor in ``_id`` order, with a position to come back to (DESIGN section 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from bson import ObjectId

from melt.store.documents import raw_ids, read_token
from melt.store.faults import store_method
from melt.store.long_cursor import LongCursor, id_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from pymongo.collection import Collection
    from pymongo.cursor import Cursor

    from melt.model import MalformedToken, Token, TokenId
    from melt.ports import Telemetry
    from melt.store.connect import Document

_CURSOR_BATCH = 200
_TYPES = ("string", "object", "binData", "objectId")
"""Types of ``_id`` in the order of BSON, after the numbers. What would come behind an ObjectId is nobody's id."""
_ODD_IDS = frozenset({"int", "Int64", "float", "Decimal128", "dict", "bytes", "Binary", "UUID"})
"""How :func:`melt.store.documents.token_id_of` begins an id that is neither an ObjectId nor a text."""


class MongoTour:
    """
    Implements :class:`melt.ports.Tour`.

    Numbers sort before strings and these before ObjectIds, and a comparison stays within its type: a position that is
    no ObjectId therefore asks for what is later in its type and for all of the later types.
    """

    def __init__(
        self,
        tokens: Collection[Document],
        chosen: Document,
        after: TokenId | None,
        telemetry: Telemetry | None,
        *,
        picks: Callable[[Document], bool] | None = None,
    ) -> None:
        """``picks`` chooses among the documents that are passed; None: all of them."""
        self._picks = picks
        self.telemetry = telemetry
        self._tokens = tokens
        self._chosen = chosen
        self._after = after
        self._cursor = LongCursor(self._open_behind, id_of)

    @store_method
    def next_page(self, documents_max: int) -> tuple[Token | MalformedToken, ...]:
        """See :meth:`melt.ports.Tour.next_page`."""
        return self._cursor.page(self._read, documents_max)

    def _read(self, raw: Document) -> Token | MalformedToken | None:
        return read_token(raw) if self._picks is None or self._picks(raw) else None

    def close(self) -> None:
        """See :meth:`melt.store.long_cursor.LongCursor.close`."""
        self._cursor.close()

    def _open_behind(self, position: object) -> Cursor[Document]:
        if position is None and self._after is not None:
            position = self._raw_position(self._after)
        return self._tokens.find(chosen_behind(self._chosen, position)).sort("_id", 1).batch_size(_CURSOR_BATCH)

    def _raw_position(self, after: TokenId) -> ObjectId | str | None:
        """
        24 hex digits stand for an ObjectId, unless a document has that very text as its id.

        None, the start, for what stands for an id of another type: the few documents before it are passed once more.
        """
        candidates = raw_ids(after)
        found = self._tokens.find_one({"_id": {"$in": list(candidates)}}, {"_id": 1})
        if found is not None and isinstance(found["_id"], ObjectId | str):
            return found["_id"]
        return None if after.split(":", 1)[0] in _ODD_IDS else candidates[0]


def chosen_behind(chosen: Document, position: object) -> Document:
    """The filter ``chosen`` for what lies behind a position in ``_id`` order; None is the start."""
    if position is None:
        return dict(chosen)
    later = _TYPES[_rank(position) :]
    if not later:
        return {**chosen, "_id": {"$gt": position}}
    behind = [{"_id": {"$gt": position}}, *({"_id": {"$type": name}} for name in later)]
    return {"$and": [chosen, {"$or": behind}]} if chosen else {"$or": behind}


def _rank(position: object) -> int:
    """How many of ``_TYPES`` a tour at this position need not ask for as a whole."""
    if isinstance(position, str):
        return 1
    if isinstance(position, dict):
        return 2
    if isinstance(position, bytes | UUID):
        return 3
    return len(_TYPES) if isinstance(position, ObjectId) else 0
