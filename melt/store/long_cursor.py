"""One long cursor over a collection, with a position to come back to: what every tour in this package goes by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from pymongo.errors import AutoReconnect, CursorNotFound

if TYPE_CHECKING:
    from collections.abc import Callable

    from pymongo.cursor import Cursor

    from melt.store.connect import Document

_REOPENINGS_MAX = 3
"""How often one page may reopen a lost cursor before it gives up; the next page starts at 0 again."""

Position = TypeVar("Position")
Item = TypeVar("Item")


class LongCursor(Generic[Position]):
    """
    Passes each document once, page by page, in an order that has positions; used by one thread at a time.

    A page query per batch costs the whole collection each time on some servers; a cursor does not. A cursor that
    was lost (idle for ten minutes, a server that restarted) is opened again behind the last document.
    """

    def __init__(
        self,
        open_behind: Callable[[Position | None], Cursor[Document]],
        position_of: Callable[[Document], Position],
        position: Position | None = None,
    ) -> None:
        """``open_behind`` asks for what lies behind a position, in order; None is the start."""
        self._open_behind = open_behind
        self._position_of = position_of
        self._position = position
        self._cursor: Cursor[Document] | None = None

    def page(self, read: Callable[[Document], Item | None], items_max: int) -> tuple[Item, ...]:
        """
        The next items, empty at the end. What ``read`` answers None to is passed over.

        Raises PyMongoError: that of the last try, where the cursor is lost again and again.
        """
        page: list[Item] = []
        reopenings = 0
        while len(page) < items_max:
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
            self._position = self._position_of(raw)
            item = read(raw)
            if item is not None:
                page.append(item)
        return tuple(page)

    def close(self) -> None:
        """Give the cursor back; a later page opens a new one."""
        cursor, self._cursor = self._cursor, None
        if cursor is not None:
            cursor.close()

    def _open(self) -> Cursor[Document]:
        if self._cursor is None:
            self._cursor = self._open_behind(self._position)
        return self._cursor


def id_of(raw: Document) -> object:
    """The position in a tour in ``_id`` order."""
    return raw["_id"]
