"""Scripted plans and discrepancies behind the API. Calls, failure and ``known`` are those of the scripted operations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from melt.errors import Severity
from melt.model import (
    Action,
    Actor,
    Approval,
    DiscrepancyState,
    DriftType,
    MintAlias,
    Plan,
    PlanId,
    PlanItem,
    PlanScope,
    PlanState,
    PlanTotal,
    TokenId,
    TokenStatus,
    Turn,
)
from melt.planner import PlanMade
from melt.story import Kind, Line, Story
from tests.support.scripted import AT, NPUB, Y_HEX, make_discrepancy

if TYPE_CHECKING:
    from melt.model import Discrepancy
    from tests.support.scripted import ScriptedOperations

PERSON = Actor(name="socket", uid=1000, gid=1000, pid=1)


def make_plan(state: PlanState = PlanState.OPEN, **changes: Any) -> Plan:
    """A plan of one item."""
    made = Plan(
        id=PlanId("plan_1"),
        state=state,
        rev=1,
        made_at=AT,
        made_by=PERSON,
        scope=PlanScope(mint=MintAlias("main")),
        expires_at=AT + timedelta(days=7),
        items=1,
        left_out=0,
        digest="00" * 16,
        totals=(
            PlanTotal(
                mint=MintAlias("main"),
                unit="sat",
                type=DriftType.DB_UNSPENT_MINT_SPENT,
                action=Action.MARK_SPENT,
                items=1,
                value=16,
            ),
        ),
    )
    return replace(made, **changes)


def make_item(**changes: Any) -> PlanItem:
    """One correction."""
    made = PlanItem(
        token_id=TokenId("aa" * 12),
        npub=NPUB,
        mint=MintAlias("main"),
        unit="sat",
        type=DriftType.DB_UNSPENT_MINT_SPENT,
        severity=Severity.HIGH,
        action=Action.MARK_SPENT,
        ys=(Y_HEX,),
        value=16,
        discrepancy_id="DB_UNSPENT_MINT_SPENT:token:" + "aa" * 12,
        occurrence=1,
        expected_status=TokenStatus.UNSPENT,
        expected_rev=None,
        digest="00" * 16,
    )
    return replace(made, **changes)


@dataclass
class ScriptedDesk:
    """Implements :class:`daemon.ports.PlanDesk`."""

    operations: ScriptedOperations

    def _answer(self, name: str, plan: Plan, **arguments: Any) -> Plan | None:
        self.operations._call(name, **arguments)
        return plan if self.operations.known else None

    async def plans(self, **filters: Any) -> tuple[Plan, ...]:
        self.operations._call("plans", **filters)
        return (make_plan(),)

    async def plan(self, plan_id: PlanId) -> Plan | None:
        return self._answer("plan", make_plan(id=plan_id), plan_id=plan_id)

    async def items(self, plan_id: PlanId, *, skip: int, limit: int) -> tuple[PlanItem, ...]:
        self.operations._call("items", plan_id=plan_id, skip=skip, limit=limit)
        return (make_item(),)

    def approvals_needed(self, plan: Plan) -> int:
        return 1

    async def make(self, *, scope: PlanScope, actor: Actor, at_once: bool = False) -> PlanMade:
        self.operations._call("make", scope=scope, actor=actor, at_once=at_once)
        return PlanMade(plan=make_plan() if self.operations.known else None, documents=40, proofs=200)

    async def approve(self, *, plan_id: PlanId, reason: str, actor: Actor) -> Plan | None:
        approval = Approval(actor=actor, at=AT, reason=reason)
        plan = make_plan(PlanState.APPROVED, id=plan_id, approvals=(approval,))
        return self._answer("approve", plan, plan_id=plan_id, reason=reason, actor=actor)

    async def withdraw(self, *, plan_id: PlanId, reason: str, actor: Actor) -> Plan | None:
        plan = make_plan(PlanState.WITHDRAWN, id=plan_id, reason=reason, ended_at=AT, ended_by=actor)
        return self._answer("withdraw", plan, plan_id=plan_id, reason=reason, actor=actor)

    async def apply(self, *, plan_id: PlanId, actor: Actor) -> Plan | None:
        plan = make_plan(PlanState.APPLIED, id=plan_id, done=1, ended_at=AT, ended_by=actor)
        return self._answer("apply", plan, plan_id=plan_id, actor=actor)


@dataclass
class ScriptedCases:
    """Implements :class:`daemon.ports.Casebook`."""

    operations: ScriptedOperations

    def _answer(self, name: str, record: Discrepancy, **arguments: Any) -> Discrepancy | None:
        self.operations._call(name, **arguments)
        return record if self.operations.known else None

    async def discrepancy(self, discrepancy_id: str) -> Discrepancy | None:
        turn = Turn(at=AT, what="open")
        record = replace(make_discrepancy(), id=discrepancy_id, history=(turn,))
        return self._answer("discrepancy", record, discrepancy_id=discrepancy_id)

    async def acknowledge(self, *, discrepancy_id: str, reason: str, actor: Actor) -> Discrepancy | None:
        turn = Turn(at=AT, what="acknowledged", by=actor, reason=reason)
        record = replace(
            make_discrepancy(),
            id=discrepancy_id,
            state=DiscrepancyState.ACKNOWLEDGED,
            closed_at=None,
            history=(turn,),
        )
        return self._answer("acknowledge", record, discrepancy_id=discrepancy_id, reason=reason, actor=actor)

    async def reopen(self, *, discrepancy_id: str, reason: str, actor: Actor) -> Discrepancy | None:
        record = replace(make_discrepancy(), id=discrepancy_id, state=DiscrepancyState.OPEN, closed_at=None)
        return self._answer("reopen", record, discrepancy_id=discrepancy_id, reason=reason, actor=actor)

    async def explain(self, what: str) -> Story | None:
        self.operations._call("explain", what=what)
        if not self.operations.known:
            return None
        line = Line(at=AT, text="meltd reserved document d for melt m")
        return Story(kind=Kind.PROOF, subject=what, lines=(line,), now=("document d is spent",), left_out=())
