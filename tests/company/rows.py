"""The rows of the table: a state of the journal, what the other writer does there and to how much, what the payment does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from tests.company.deeds import DEEDS, TAKING


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """
    What becomes of the payment without the other writer.

    ``script`` is the mint's node's; ``then`` is how a payment that hangs ends, ``posts`` and ``denies`` are as in
    :class:`tests.company.life.Mint`. ``exact``: a swap to exact amounts comes before.
    """

    name: str
    script: dict[str, Any]
    posts: str = "answered"
    then: str | None = None
    denies: bool = False
    exact: bool = False


SETTLED: Final = Story(name="settled", script={})
FAILED: Final = Story(name="failed", script={"pay": "FAILED", "status": "FAILED"})
HANGS: Final = {"pay": "PENDING", "status": "PENDING"}
PENDING_SETTLED: Final = Story(name="pending, settled", script=HANGS, then="SETTLED")
PENDING_FAILED: Final = Story(name="pending, failed", script=HANGS, then="FAILED")
LOST_SETTLED: Final = Story(name="answer lost, settled", script={}, posts="answer lost")
LOST_FAILED: Final = Story(name="answer lost, failed", script=FAILED.script, posts="answer lost")
UNSENT: Final = Story(name="request lost", script={}, posts="request lost")
REFUSED: Final = Story(name="refused", script={}, posts="refused")
DENIED: Final = Story(name="paid, and the mint denies it", script={}, posts="answer lost", denies=True)
EXACT: Final = Story(name="swapped, settled", script={}, exact=True)
EXACT_FAILED: Final = Story(name="swapped, failed", script=FAILED.script, exact=True)

_ANSWERS: Final = (SETTLED, FAILED, PENDING_SETTLED, PENDING_FAILED, LOST_SETTLED, LOST_FAILED, UNSENT, REFUSED)
POINTS: Final[dict[str, tuple[Story, ...]]] = {
    "chosen": (SETTLED,),
    "reserved": (SETTLED, FAILED),
    "swapping": (EXACT, EXACT_FAILED),
    "swapped": (EXACT, EXACT_FAILED),
    "ready": (EXACT, EXACT_FAILED),
    "melting": _ANSWERS,
    "posted": _ANSWERS,
    "pending": (FAILED, PENDING_SETTLED, PENDING_FAILED, LOST_SETTLED, LOST_FAILED, UNSENT, REFUSED, DENIED),
    "fencing": (LOST_FAILED, UNSENT),
    "fenced": (LOST_FAILED, UNSENT),
    "held": (DENIED,),
}
"""Where the other writer comes between, and in which stories that place is passed."""
BEFORE: Final = frozenset({"chosen", "reserved", "swapping", "swapped", "ready", "melting"})
"""Before the POST."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row. ``scope``: ``one`` document or ``all``. ``kills``: meltd is killed there at the same moment."""

    point: str
    story: Story
    deed: str
    scope: str
    kills: bool = False

    @property
    def name(self) -> str:
        killed = ", killed" if self.kills else ""
        return f"{self.point} / {self.story.name} / {self.deed} {self.scope}{killed}"


def all_rows() -> tuple[Row, ...]:
    """The table."""
    rows = [
        Row(point=point, story=story, deed=deed, scope=scope)
        for point, stories in POINTS.items()
        for story in stories
        for deed in DEEDS
        for scope in ("one", "all")
        if _makes_sense(point, story, deed)
    ]
    killed = [
        Row(point=point, story=story, deed=deed, scope="all", kills=True)
        for point, stories in POINTS.items()
        for story in stories
        for deed in DEEDS
        if point != "chosen" and _makes_sense(point, story, deed)
    ]
    return (*rows, *killed)


def few_rows() -> tuple[Row, ...]:
    """A selection that the tests run: each point in each of its stories once, with one deed after the other."""
    left = list(all_rows())
    chosen: list[Row] = []
    for number, (point, story) in enumerate((point, story) for point, stories in POINTS.items() for story in stories):
        fitting = [row for row in left if row.point == point and row.story is story and row.kills is (number % 4 == 3)]
        seen = [row.deed for row in chosen]
        chosen.append(min(fitting, key=lambda row: (seen.count(row.deed), row.scope == "one")))
    return tuple(chosen)


def _makes_sense(point: str, story: Story, deed: str) -> bool:
    """The mint gives nothing to another writer for proofs that it has taken, or that hang in a payment."""
    if deed not in TAKING or point in BEFORE - {"swapped"}:
        return True
    if point in {"posted", "pending"}:
        return story in (FAILED, LOST_FAILED, UNSENT, REFUSED)
    return point == "fencing"
