"""Plans: corrections that a person reads, approves and applies (DESIGN section 5, guards). Pure data."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NewType

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from melt.errors import Severity
    from melt.model.journal import Actor
    from melt.model.words import Action, DriftType, MintAlias, TokenId, TokenStatus, Y

PlanId = NewType("PlanId", str)

PLAN_ITEMS_MAX: Final = 10_000
"""The most items of one plan (I11); a plan that would have more says how many it leaves out."""


class PlanState(StrEnum):
    """Life of a plan."""

    OPEN = "OPEN"
    """Waits for approval."""
    APPROVED = "APPROVED"
    APPLYING = "APPLYING"
    """Checked, and being carried out: found so after a crash, applying it again does the rest."""
    APPLIED = "APPLIED"
    REFUSED = "REFUSED"
    """Stale: what it was made from has changed."""
    WITHDRAWN = "WITHDRAWN"
    EXPIRED = "EXPIRED"


PLAN_MOVES: Final[dict[PlanState, frozenset[PlanState]]] = {
    PlanState.OPEN: frozenset({PlanState.OPEN, PlanState.APPROVED, PlanState.WITHDRAWN, PlanState.EXPIRED}),
    PlanState.APPROVED: frozenset({PlanState.APPLYING, PlanState.REFUSED, PlanState.WITHDRAWN, PlanState.EXPIRED}),
    PlanState.APPLYING: frozenset({PlanState.APPLIED, PlanState.REFUSED}),
    PlanState.APPLIED: frozenset(),
    PlanState.REFUSED: frozenset(),
    PlanState.WITHDRAWN: frozenset(),
    PlanState.EXPIRED: frozenset(),
}
"""Allowed moves. OPEN to itself is one approval of two."""

LIVE_PLAN: Final = frozenset(state for state, moves in PLAN_MOVES.items() if moves)
"""States of a plan that may still change something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanItem:
    """
    One correction, with what it was decided on.

    ``expected_rev`` is None in a document that meltd never wrote; ``digest`` is the document's ``mark``, over what other
    services change, so that their writes are noticed too (I13). ``value`` is in ``unit``.
    ``discrepancy_id`` and ``occurrence`` name the record; with them the correction's operation id, hence the item, is
    known to be done.
    """

    token_id: TokenId
    npub: str
    mint: MintAlias
    unit: str
    type: DriftType
    severity: Severity
    action: Action
    ys: tuple[Y, ...]
    value: int
    discrepancy_id: str
    occurrence: int
    expected_status: TokenStatus
    expected_rev: int | None
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanTotal:
    """What the items of one mint, unit, type and action come to. ``value`` is in ``unit``."""

    mint: MintAlias
    unit: str
    type: DriftType
    action: Action
    items: int
    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """Who approved a plan, and why."""

    actor: Actor
    at: datetime
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanScope:
    """What a plan was asked for: everything, one mint (alias), one user, some statuses (empty: those of a tour)."""

    mint: MintAlias | None = None
    npub: str | None = None
    statuses: tuple[TokenStatus, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """
    A plan's head; its items lie beside it (``meltd_plans``).

    ``digest`` is over all items. ``left_out`` counts corrections that found no room, that have not settled, or that a person
    has acknowledged. ``at_once``: who made it said not to wait until they have settled. ``done`` and ``left`` are items after applying: corrected, and left as they were (``why_left``
    counts the reasons). A plan that the sweep made by itself has a maker without a uid.
    """

    id: PlanId
    state: PlanState
    rev: int
    made_at: datetime
    made_by: Actor
    scope: PlanScope
    expires_at: datetime
    items: int
    left_out: int
    digest: str
    totals: tuple[PlanTotal, ...]
    approvals: tuple[Approval, ...] = ()
    ended_at: datetime | None = None
    ended_by: Actor | None = None
    reason: str | None = None
    done: int = 0
    left: int = 0
    why_left: Mapping[str, int] = field(default_factory=dict)
    at_once: bool = False

    @property
    def is_live(self) -> bool:
        """Whether it may still change something."""
        return self.state in LIVE_PLAN

    @property
    def made_by_the_sweep(self) -> bool:
        """Whether nobody asked for it."""
        return self.made_by.name == SWEEP_NAME


SWEEP_NAME: Final = "sweep"
"""The name of the actor that stands for the sweep."""
