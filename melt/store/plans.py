"""
Plans (DESIGN section 5): a head that moves by conditional update, and its items beside it in parts that never change.

A plan of 10,000 items with many proofs each would be larger than one document may be.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from melt.errors import InvariantBroken, LostRace, Severity
from melt.model import (
    PLAN_MOVES,
    Action,
    Approval,
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
    Y,
)
from melt.store.core import Core, bounded, in_batches, new_mark
from melt.store.faults import store_method
from melt.store.findings import read_discrepancy
from melt.store.journal import encode, moment, read_actor, record_time
from melt.store.ledger import BATCH_MAX

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pymongo.client_session import ClientSession

    from melt.model import Discrepancy
    from melt.store.connect import Document

PART_ITEMS_MAX = 100
PART_YS_MAX = 20_000
"""Bounds of one part: 66 bytes a Y, far below what a document may hold."""
_PLAN_FIELDS = frozenset(field.name for field in fields(Plan))
_EXPIRABLE = [str(state) for state, moves in PLAN_MOVES.items() if PlanState.EXPIRED in moves]


class Plans(Core):
    """Implements :class:`melt.ports.PlanStore`."""

    @store_method
    def save_plan(self, plan: Plan, items: Sequence[PlanItem]) -> None:
        """See :meth:`melt.ports.PlanStore.save_plan`."""
        for number, (first, part) in enumerate(_parts(items)):
            raw: Document = {"_id": f"{plan.id}/{number:05d}", "kind": "items", "plan": str(plan.id), "first": first}
            raw["items"] = [encode(item) for item in part]
            self._put(raw)
        head = {name: encode(getattr(plan, name)) for name in sorted(_PLAN_FIELDS - {"id"})}
        self._put({"_id": str(plan.id), "kind": "plan", **head})

    def _put(self, raw: Document) -> None:
        chosen = {"_id": raw["_id"]}
        self._run(lambda session: self._c.plans.replace_one(chosen, raw, upsert=True, session=session))

    @store_method
    def plan(self, plan_id: PlanId) -> Plan | None:
        """The head."""
        raw = self._c.plans.find_one({"_id": str(plan_id), "kind": "plan"})
        return None if raw is None else read_plan(raw)

    @store_method
    def plan_items(self, plan_id: PlanId, *, skip: int, limit: int) -> tuple[PlanItem, ...]:
        """See :meth:`melt.ports.PlanStore.plan_items`."""
        chosen = {"plan": str(plan_id), "first": {"$lt": skip + limit, "$gt": skip - PART_ITEMS_MAX}}
        found: list[PlanItem] = []
        for raw in sorted(self._c.plans.find(chosen), key=lambda part: int(part["first"])):
            first = int(raw["first"])
            inside = raw["items"][max(0, skip - first) : max(0, skip + limit - first)]
            found += [read_item(item) for item in inside]
        return tuple(found)

    @store_method
    def plans(self, *, states: Sequence[PlanState], limit: int) -> tuple[Plan, ...]:
        """Newest first; an empty ``states`` means all."""
        chosen = {"kind": "plan", "state": {"$in": [str(state) for state in states or PlanState]}}
        found = self._c.plans.find(chosen).sort("made_at", -1).limit(bounded(limit))
        return tuple(read_plan(raw) for raw in found)

    @store_method
    def move_plan(self, plan: Plan, to: PlanState, /, **changes: object) -> Plan:
        """See :meth:`melt.ports.PlanStore.move_plan`."""
        if to not in PLAN_MOVES[plan.state]:
            msg = f"plan {plan.id} can't go from {plan.state} to {to}"
            raise InvariantBroken(msg)
        known: Any = changes
        moved = replace(plan, state=to, rev=plan.rev + 1, **known)
        mark = new_mark()
        raw = {name: encode(getattr(moved, name)) for name in ("state", "rev", *changes)}

        def work(session: ClientSession) -> bool:
            present = {"_id": str(plan.id), "state": str(plan.state), "rev": plan.rev}
            update = {"$set": {**raw, "mark": mark}}
            if self._c.plans.update_one(present, update, session=session).modified_count == 1:
                return True
            again = {"_id": str(plan.id), "rev": moved.rev, "mark": mark}
            return self._c.plans.find_one(again, {"_id": 1}, session=session) is not None

        if not self._run(work):
            msg = f"plan {plan.id} was moved by somebody else"
            raise LostRace(msg)
        return moved

    @store_method
    def drop_plan_items(self, plan_id: PlanId) -> None:
        """See :meth:`melt.ports.PlanStore.drop_plan_items`."""
        chosen = {"plan": str(plan_id)}
        self._run(lambda session: self._c.plans.delete_many(chosen, session=session))

    @store_method
    def expire_plans(self) -> int:
        """See :meth:`melt.ports.PlanStore.expire_plans`."""
        now = self._now()
        over = {"state": {"$in": _EXPIRABLE}, "expires_at": {"$lte": now}}
        if self._c.plans.find_one(over, {"_id": 1}) is None:
            return 0
        closing = {
            "$set": {"state": str(PlanState.EXPIRED), "ended_at": now, "reason": "its time is over"},
            "$inc": {"rev": 1},
        }
        return self._run(lambda session: self._c.plans.update_many(over, closing, session=session).modified_count)

    @store_method
    def discrepancies_by_id(self, ids: Sequence[str]) -> Mapping[str, Discrepancy]:
        """Those that are there."""
        found: dict[str, Discrepancy] = {}
        for batch in in_batches(list(dict.fromkeys(ids)), BATCH_MAX):
            for raw in self._c.discrepancies.find({"_id": {"$in": list(batch)}}):
                found[raw["_id"]] = read_discrepancy(raw)
        return found

    @store_method
    def operations_done(self, operation_ids: Sequence[str]) -> frozenset[str]:
        """See :meth:`melt.ports.PlanStore.operations_done`."""
        done: set[str] = set()
        for batch in in_batches(list(dict.fromkeys(operation_ids)), BATCH_MAX):
            chosen = {"operation": {"$in": list(batch)}}
            done |= {raw["operation"] for raw in self._c.audit.find(chosen, {"operation": 1})}
        return frozenset(done)


def _parts(items: Sequence[PlanItem]) -> list[tuple[int, list[PlanItem]]]:
    """The items in parts, each with the number of its first."""
    parts: list[tuple[int, list[PlanItem]]] = []
    ys = 0
    for number, item in enumerate(items):
        if not parts or len(parts[-1][1]) >= PART_ITEMS_MAX or ys + len(item.ys) > PART_YS_MAX:
            parts.append((number, []))
            ys = 0
        parts[-1][1].append(item)
        ys += len(item.ys)
    return parts


def read_plan(raw: Document) -> Plan:
    """A plan's head as the model has it."""
    scope = raw["scope"]
    return Plan(
        id=PlanId(raw["_id"]),
        state=PlanState(raw["state"]),
        rev=int(raw["rev"]),
        made_at=record_time(raw["made_at"]),
        made_by=read_actor(raw["made_by"]),
        scope=PlanScope(
            mint=None if scope.get("mint") is None else MintAlias(scope["mint"]),
            npub=scope.get("npub"),
            statuses=tuple(TokenStatus(status) for status in scope.get("statuses") or ()),
        ),
        expires_at=record_time(raw["expires_at"]),
        items=int(raw["items"]),
        left_out=int(raw["left_out"]),
        digest=raw["digest"],
        totals=tuple(_read_total(total) for total in raw["totals"]),
        approvals=tuple(
            Approval(actor=read_actor(one["actor"]), at=record_time(one["at"]), reason=one["reason"])
            for one in raw.get("approvals") or ()
        ),
        ended_at=moment(raw.get("ended_at")),
        ended_by=None if raw.get("ended_by") is None else read_actor(raw["ended_by"]),
        reason=raw.get("reason"),
        done=int(raw.get("done") or 0),
        left=int(raw.get("left") or 0),
        why_left={str(why): int(count) for why, count in (raw.get("why_left") or {}).items()},
        at_once=bool(raw.get("at_once")),
    )


def _read_total(raw: Document) -> PlanTotal:
    return PlanTotal(
        mint=MintAlias(raw["mint"]),
        unit=raw["unit"],
        type=DriftType(raw["type"]),
        action=Action(raw["action"]),
        items=int(raw["items"]),
        value=int(raw["value"]),
    )


def read_item(raw: Document) -> PlanItem:
    """An item as the model has it."""
    rev = raw.get("expected_rev")
    return PlanItem(
        token_id=TokenId(raw["token_id"]),
        npub=raw["npub"],
        mint=MintAlias(raw["mint"]),
        unit=raw["unit"],
        type=DriftType(raw["type"]),
        severity=Severity(raw["severity"]),
        action=Action(raw["action"]),
        ys=tuple(Y(y) for y in raw["ys"]),
        value=int(raw["value"]),
        discrepancy_id=raw["discrepancy_id"],
        occurrence=int(raw["occurrence"]),
        expected_status=TokenStatus(raw["expected_status"]),
        expected_rev=None if rev is None else int(rev),
        digest=raw["digest"],
    )
