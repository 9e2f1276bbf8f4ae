"""What every tour goes by: a cursor that is lost is opened again behind the last document, and not for ever."""

from __future__ import annotations

from typing import Any

import pytest
from pymongo.errors import AutoReconnect, CursorNotFound

from melt.store.long_cursor import LongCursor


class _Losing:
    """Five documents on a server that loses each cursor after so many documents."""

    def __init__(self, *, lives: list[int]) -> None:
        self.lives = lives
        self.opened: list[int | None] = []
        self.closed = 0

    def open_behind(self, position: int | None) -> Any:
        self.opened.append(position)
        return _Cursor(self, range(0 if position is None else position + 1, 5))


class _Cursor:
    def __init__(self, server: _Losing, ids: range) -> None:
        self._server = server
        self._ids = iter(ids)
        self._left = server.lives.pop(0) if server.lives else 100

    def __next__(self) -> dict[str, int]:
        if self._left == 0:
            msg = "lost"
            raise CursorNotFound(msg) if len(self._server.opened) % 2 else AutoReconnect(msg)
        self._left -= 1
        return {"_id": next(self._ids)}  # a StopIteration, as the driver's at the end

    def close(self) -> None:
        self._server.closed += 1


def _over(server: _Losing) -> LongCursor[int]:
    return LongCursor(server.open_behind, lambda raw: raw["_id"])


def _read(raw: dict[str, int]) -> str | None:
    return None if raw["_id"] == 3 else str(raw["_id"])


def test_a_cursor_lost_within_a_page_is_opened_again_behind_the_last_document():
    """Each document is passed once, and what can't be read is passed over."""
    server = _Losing(lives=[2, 0, 2])
    assert _over(server).page(_read, 10) == ("0", "1", "2", "4")
    assert (server.opened, server.closed) == ([None, 1, 1, 3], 3)


def test_one_page_opens_a_lost_cursor_three_times_and_then_gives_up():
    """The driver's error comes out, and the next page may try as often again."""
    server = _Losing(lives=[0] * 7)
    tour = _over(server)
    with pytest.raises(AutoReconnect):
        tour.page(_read, 2)
    assert len(server.opened) == 4
    assert tour.page(_read, 2) == ("0", "1")
    assert server.opened == [None] * 8


def test_a_page_goes_on_on_the_cursor_of_the_page_before():
    """Nothing is asked anew between pages, and the last page is empty."""
    server = _Losing(lives=[])
    tour = _over(server)
    assert (tour.page(_read, 2), tour.page(_read, 2), tour.page(_read, 2)) == (("0", "1"), ("2", "4"), ())
    assert server.opened == [None]
    tour.close()
    tour.close()
    assert server.closed == 1
