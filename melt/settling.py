"""
When drift has settled, so that a rule may write what another writer may still need (I13, DESIGN section 5). Pure.

A wallet service beside meltd pays in steps that take as long as Lightning does: for a while its proofs are SPENT at the mint
while their document says ``unspent``, and it comes back to that very document. Nobody can tell that from drift by looking once.
So a verdict is written down at once and keeps the document out of meltd's own payments at once, and is carried out only
after the document has stood still for ``correct_after_s``.

Time is counted in milliseconds *watched*: each look at the document adds what the process that watches it has seen pass on its
own monotonic clock since its last look, and never more than twice the interval of the looks. A wall clock that steps, a
second daemon whose clock is ahead, a night switched off: none of them settles anything. One process at a time counts a
record; another takes over once it has itself seen the count stand still for two intervals, and begins by adding nothing.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from melt.errors import Severity
from melt.model import Action, DriftType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from melt.model import Finding

REMEMBERED_MAX: Final = 200_000
"""How many records a process remembers its last look at; what is forgotten settles later, never sooner (I11)."""
UNSETTLED_FACTOR: Final = 3
"""What has not come to rest after so many times ``correct_after_s`` is for a person."""
CORRECTIVE: Final = frozenset({Action.MARK_SPENT, Action.RELEASE, Action.RECLAIM})
"""Actions that change something; the others are records."""
NEVER_ALERTS: Final = frozenset({DriftType.SENT_TOKEN_REDEEMED})
"""The normal end of something: it waits like everything else, and is nobody's concern meanwhile."""


class Phase(StrEnum):
    """How far an open record is."""

    SETTLING = "settling"
    """Younger than ``alert_after_s``: it pages nobody."""
    WAITING = "waiting"
    """Its document is still watched standing still before it is carried out."""
    DUE = "due"
    """Nothing is waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettlePolicy:
    """
    Seconds. ``correct_after_s``: a document stands still so long before a rule writes it; longer than the longest payment of the
    wallet beside meltd. ``alert_after_s``: before it a HIGH record pages nobody. ``look_s``: each open record's document is
    looked at so often. ``pending_grace_s``: so long at least a pending document is watched before it is released.

    ``correct_after_s`` 0: a database that nobody else spends from.
    """

    correct_after_s: float = 0.0
    alert_after_s: float = 0.0
    look_s: float = 60.0
    pending_grace_s: float = 0.0

    @property
    def waits(self) -> bool:
        """Whether another writer is reckoned with."""
        return self.correct_after_s > 0

    @property
    def step_max_ms(self) -> int:
        """The most that one look adds."""
        return round(2000 * self.look_s)

    def needs_ms(self, action: Action) -> int:
        """How long a record with this action is watched before it is carried out; 0 for one that changes nothing."""
        if action not in CORRECTIVE:
            return 0
        # Where nobody else writes, the document's own date will do.
        grace_s = self.pending_grace_s if action is Action.RELEASE and self.waits else 0.0
        return round(1000 * max(self.correct_after_s, grace_s))

    def alert_ms(self, drift: DriftType, severity: Severity) -> int:
        """How long a record is watched before it may page somebody. CRITICAL waits for nothing."""
        if severity is Severity.CRITICAL or drift in NEVER_ALERTS:
            return 0
        return round(1000 * self.alert_after_s)

    def is_unsettled(self, *, drift: DriftType, action: Action, open_ms: int) -> bool:
        """Whether it has been open, never carried out, for so long that a person has to look."""
        if not self.waits or action not in CORRECTIVE or drift in NEVER_ALERTS:
            return False
        return open_ms >= UNSETTLED_FACTOR * self.needs_ms(action)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """
    What a record holds of its time. ``mark`` is the document's digest that has stood still for ``watched_ms``.

    ``same_ms``: since when every whole look has asked for the same action on the same proofs. ``open_ms``: since it was opened,
    whatever moved meanwhile. ``watcher`` is the process that counts, ``looks`` how often that has moved: others look, too.
    """

    mark: str | None = None
    watched_ms: int = 0
    same_ms: int = 0
    open_ms: int = 0
    watcher: str | None = None
    looks: int = 0

    def after(self, added_ms: int, watcher: str, *, moved: bool = False, mark: str | None, same: bool) -> Watched:
        """
        As it is after a look that adds ``added_ms``.

        ``moved``: the document is not what it was, or the mint says something else of it: the time begins anew. ``same``: the
        look asked for the same as the one before it.
        """
        return Watched(
            mark=mark,
            watched_ms=0 if moved else self.watched_ms + added_ms,
            same_ms=self.same_ms + added_ms if same and not moved else 0,
            open_ms=self.open_ms + added_ms,
            watcher=watcher,
            looks=self.looks + (added_ms > 0 or watcher != self.watcher),
        )


@dataclass(frozen=True, slots=True)
class _Look:
    looks: int
    at: float


class Stopwatch:
    """
    What one process adds to the records that it looks at. Used by several threads.

    ``holder`` is the instance, of which one process lives at a time: what it counted in an earlier life is taken over at once.
    """

    def __init__(self, holder: str, life: str, monotonic: Callable[[], float], step_max_ms: int) -> None:
        self.name = f"{holder}/{life}"
        self._holder = f"{holder}/"
        self._monotonic = monotonic
        self._step_max_ms = step_max_ms
        self._looks: dict[str, _Look] = {}
        self._lock = threading.Lock()

    def added_ms(self, record_id: str, before: Watched) -> tuple[int, str]:
        """
        What this look adds, and who watches the record from now on. Changes nothing: :meth:`noted` does, after the commit.

        A first look adds nothing, nor does one that finds another count than this process left: a look whose commit it never
        heard of, or one of another thread, has added that time. A record that another process counts gets nothing from this
        one, unless its count has not moved for two intervals of our own time: then it is ours, from now on.
        """
        now = self._monotonic()
        with self._lock:
            last = self._looks.get(record_id)
        stands = last is not None and last.looks == before.looks
        passed_ms = max(0, round(1000 * (now - last.at))) if stands and last is not None else 0
        if before.watcher == self.name:
            return min(passed_ms, self._step_max_ms), self.name
        if before.watcher is None or before.watcher.startswith(self._holder):
            return 0, self.name
        return 0, self.name if passed_ms >= self._step_max_ms else before.watcher

    def noted(self, record_id: str, after: Watched) -> None:
        """
        The look was written down.

        Of another's record the moment is kept at which its count was first seen where it stands.
        """
        now = self._monotonic()
        with self._lock:
            last = self._looks.get(record_id)
            if after.watcher != self.name and last is not None and last.looks == after.looks:
                return
            if len(self._looks) >= REMEMBERED_MAX and record_id not in self._looks:
                self._looks.pop(next(iter(self._looks)))
            self._looks[record_id] = _Look(looks=after.looks, at=now)

    def forget(self, record_ids: Iterable[str]) -> None:
        """Records that are over."""
        with self._lock:
            for record_id in record_ids:
                self._looks.pop(record_id, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """What a look at an open record comes to. ``anew``: the document is another now, so it is another occurrence."""

    watched: Watched
    anew: bool
    keeps_words: bool
    """Whether value and Ys of the record stay: the look was at fewer proofs."""


def sighting(
    before: Watched, finding: Finding, *, action: Action, ys: Iterable[str], added_ms: int, watcher: str
) -> Sighting:
    """
    One more look at an open record, which so far asked for ``action`` on ``ys``.

    A finding without a mark (of a look that was about something else) leaves the one that is there. Proofs that the mint did
    not call SPENT before begin anew, too, where one record tells of both (the reservation of a melt that is over).
    """
    mark = finding.mark or before.mark
    anew = before.mark is not None and mark != before.mark
    first = before.mark is None and mark is not None
    says_otherwise = finding.whole and set(ys) != {str(y) for y in finding.ys}
    is_gone_now = finding.action is Action.MARK_SPENT and action is not Action.MARK_SPENT
    watched = before.after(
        added_ms,
        watcher,
        moved=anew or first or says_otherwise or is_gone_now,
        mark=mark,
        same=action == finding.action,
    )
    return Sighting(watched=watched, anew=anew, keeps_words=not finding.whole and not anew)
