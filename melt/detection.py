"""
Detection lag: how old the oldest verification of an unspent sat is (DESIGN section 5, Sweep). Pure.

It is what a theft or a lost update can stay unseen for, so the sweep steers by it. No document carries the time at
which it was verified: a tour passes documents in ``_id`` order, so when it passed which position tells it for all of
them. The lag is an upper bound: what the warm lane or a request verified in between makes it no smaller, and the marks
are as coarse as :data:`MARKS_MAX` makes them, rounded to the older side.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from melt.model import Mark, Passage

if TYPE_CHECKING:
    from melt.model import SweepRecord, TokenId

MARKS_MAX: Final = 64
"""Even. A long tour is remembered in 32 to 64 stretches: two tours are some kilobytes, which every page writes."""
_OBJECT_ID_DIGITS: Final = 24


def pass_page(passage: Passage, position: TokenId, at: datetime) -> Passage:
    """
    The passage after one more page, which ended at ``position`` and was begun at ``at``.

    A mark takes ``stride`` pages; when there are too many marks, two neighbours become one with the older time.
    """
    if passage.marks and passage.pages < passage.stride:
        last = replace(passage.marks[-1], position=position)
        return replace(passage, marks=(*passage.marks[:-1], last), pages=passage.pages + 1)
    marks = (*passage.marks, Mark(position=position, at=at))
    if len(marks) <= MARKS_MAX:
        return replace(passage, marks=marks, pages=1)
    # One more than an even number: pairs, and the new mark alone with its first page.
    pairs = zip(marks[0:-1:2], marks[1::2], strict=True)
    merged = [Mark(position=later.position, at=earlier.at) for earlier, later in pairs]
    return replace(passage, marks=(*merged, marks[-1]), stride=passage.stride * 2, pages=1)


def verified_since(record: SweepRecord) -> datetime:
    """
    A time before which no document was verified last: every one that stands was verified, or made, after it.

    - Between tours: when the first page of the last tour was begun.
    - In a tour at a position: when the last complete tour began the page that holds the next document. What lies
      behind its end was made after it, and counts from its last mark.
    - In the first tour: what meltd was not asked to watch can't be late, so from when it first saw the mint, or from
      the making of the document at the position, whichever is later: what comes next is younger than that.

    A tour that is interrupted, fails, or does not get on keeps its position, so this time stays and the lag grows.
    """
    if record.finished_at is not None:
        return _earliest(record.passing) or record.started_at
    last = record.passed
    if last is None:
        seen = record.first_seen or record.started_at
        made = None if record.position is None else made_at(record.position)
        return seen if made is None else max(seen, made)
    if record.position is None or not last.marks:
        return _earliest(last) or last.started_at
    index = bisect_right(last.marks, _order(record.position), key=lambda mark: _order(mark.position))
    return last.marks[min(index, len(last.marks) - 1)].at


def detection_lag_s(record: SweepRecord, now: datetime) -> float:
    """Seconds since :func:`verified_since`; never negative."""
    return max(0.0, (now - verified_since(record)).total_seconds())


def made_at(position: TokenId) -> datetime | None:
    """When an ObjectId was made, to the second, as its writer's clock had it; None for an id of another kind."""
    if not _is_object_id(position):
        return None
    return datetime.fromtimestamp(int(position[:8], 16), UTC)


def _earliest(passage: Passage | None) -> datetime | None:
    if passage is None:
        return None
    return passage.marks[0].at if passage.marks else passage.started_at


def _order(position: TokenId) -> tuple[bool, str]:
    """MongoDB's order of ids: strings before ObjectIds, each kind by its bytes."""
    return (_is_object_id(position), position)


def _is_object_id(position: str) -> bool:
    return len(position) == _OBJECT_ID_DIGITS and all(digit in "0123456789abcdef" for digit in position)
