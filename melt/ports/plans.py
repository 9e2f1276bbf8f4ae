"""Plans in the database (``meltd_plans``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from melt.model import Discrepancy, Plan, PlanId, PlanItem, PlanState


class PlanStore(Protocol):
    """Where plans are kept. Every method raises :class:`melt.errors.StoreError` and no other."""

    def save_plan(self, plan: Plan, items: Sequence[PlanItem]) -> None:
        """A new plan: its items first, then its head, so that a plan that is there is whole."""
        ...

    def plan(self, plan_id: PlanId) -> Plan | None: ...

    def plan_items(self, plan_id: PlanId, *, skip: int, limit: int) -> tuple[PlanItem, ...]:
        """In the order in which the plan was made."""
        ...

    def plans(self, *, states: Sequence[PlanState], limit: int) -> tuple[Plan, ...]:
        """Newest first; an empty ``states`` means all."""
        ...

    def move_plan(self, plan: Plan, to: PlanState, /, **changes: object) -> Plan:
        """
        One conditional update on ``{_id, state, rev}``.

        Raises LostRace when it matched nothing and InvariantBroken on a move that PLAN_MOVES forbids.
        """
        ...

    def drop_plan_items(self, plan_id: PlanId) -> None:
        """Of a plan that nobody approved and that a newer one has replaced: its head and its totals stay."""
        ...

    def expire_plans(self) -> int:
        """Close the plans whose time is over; how many."""
        ...

    def discrepancies_by_id(self, ids: Sequence[str]) -> Mapping[str, Discrepancy]:
        """Those that are there."""
        ...

    def operations_done(self, operation_ids: Sequence[str]) -> frozenset[str]:
        """Those of these operations whose entries are in the audit."""
        ...
