"""
Entries that do not get on (DESIGN section 4): none stands still in silence.

What counts is what this process has watched. An entry gets on when it enters a state in which it has not been seen: one
that goes to and fro between two states stands still. A mint or store that does not answer is another trouble, with alarms
of its own; once it answers again, the time counts that has passed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from melt.errors import MintUnreachable, StoreLostAfterPayment, StoreUnavailable
from melt.model import MeltState

if TYPE_CHECKING:
    from melt.model import Melt, MeltId


@dataclass(frozen=True, slots=True, kw_only=True)
class StandPolicy:
    """When standing still is told: after so many equal refusals in a row, or so many seconds in one place."""

    refusals: int = 5
    after_s: float = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stuck:
    """Why an entry does not get on. ``needs_person``: nothing is under way that could end it."""

    reason: str
    refusals: int
    stood_s: float
    needs_person: bool


@dataclass(slots=True)
class _Place:
    since: float
    visited: set[MeltState] = field(default_factory=set)
    refusal: str | None = None
    equal: int = 0
    told_looks: int = 0
    """Looks since it was first found stuck; 0: it is not."""


def is_answer(error: BaseException) -> bool:
    """Whether store and mint did answer, so that this is a refusal and no silence."""
    if isinstance(error, StoreLostAfterPayment):
        return not isinstance(error.__cause__, StoreUnavailable)
    return not isinstance(error, MintUnreachable | StoreUnavailable)


class Standing:
    """How long each open entry has been where it is."""

    def __init__(self, policy: StandPolicy) -> None:
        self._policy = policy
        self._places: dict[MeltId, _Place] = {}

    def keep(self, open_ids: set[MeltId]) -> None:
        """Forget the entries that are not open any more."""
        self._places = {melt_id: place for melt_id, place in self._places.items() if melt_id in open_ids}

    def forget(self, melt_id: MeltId) -> None:
        """A person has decided about it: what was seen before counts no more."""
        self._places.pop(melt_id, None)

    def looks(self, melt_id: MeltId) -> int:
        """How many looks ago it was first found stuck; 0: it is not."""
        place = self._places.get(melt_id)
        return 0 if place is None else place.told_looks

    def arrived(self, melt: Melt, now: float) -> bool:
        """Note where it is; whether that is somewhere new, so that it has got on."""
        place = self._places.setdefault(melt.id, _Place(since=now))
        if melt.state in place.visited:
            return False
        was_told = place.told_looks > 0
        place.since, place.refusal, place.equal, place.told_looks = now, None, 0, 0
        place.visited.add(melt.state)
        return was_told

    def looked(self, melt: Melt, now: float, error: BaseException | None, waits_for: str | None) -> Stuck | None:
        """
        Judge a look that did not end the entry: why it is stuck, None where it is not or where that can't be told now.

        A HELD entry has an event of its own and waits for a person: it is never stuck.
        """
        place = self._places.setdefault(melt.id, _Place(since=now))
        if error is not None and not is_answer(error):
            return None
        said = None if error is None else f"{type(error).__name__}: {error}"
        place.equal = place.equal + 1 if said is not None and said == place.refusal else int(said is not None)
        place.refusal = said
        stood_s = now - place.since
        refused = place.equal >= self._policy.refusals
        if melt.state is MeltState.HELD or not (refused or stood_s >= self._policy.after_s):
            return None
        place.told_looks += 1
        why = said or waits_for or f"it is {melt.state.value}, and no look has brought it on"
        return Stuck(
            reason=why, refusals=place.equal, stood_s=stood_s, needs_person=said is not None or waits_for is None
        )
