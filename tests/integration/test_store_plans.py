"""Plans on the real store: whole, in parts, moved by one winner, over in time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from melt.errors import InvariantBroken, LostRace
from melt.model import Actor, Approval, PlanId, PlanState, TokenId, Y
from melt.plan_items import digest_of, totals_of
from melt.store.plans import PART_ITEMS_MAX, PART_YS_MAX
from tests.support.scripted_plans import make_item, make_plan

NOW = datetime.now(UTC).replace(microsecond=0)


def items(count, ys=1):
    return tuple(
        make_item(token_id=TokenId(f"{n:024x}"), ys=tuple(Y(f"02{n:032x}{i:032x}") for i in range(ys)))
        for n in range(count)
    )


def kept(store, held, **changes):
    plan = make_plan(
        items=len(held),
        digest=digest_of(held),
        totals=totals_of(held),
        made_at=NOW,
        expires_at=NOW + timedelta(hours=1),
        **changes,
    )
    store.save_plan(plan, held)
    return plan


def test_a_plan_reads_back_as_it_was_made(store):
    held = items(3, ys=2)
    approval = Approval(actor=Actor(name="socket", uid=5), at=NOW, reason="seen")
    plan = kept(store, held, approvals=(approval,))
    assert store.plan(plan.id) == plan
    assert store.plan_items(plan.id, skip=0, limit=10) == held
    assert store.plan(PlanId("other")) is None
    assert store.plan_items(PlanId("other"), skip=0, limit=10) == ()


@pytest.mark.parametrize("count", [PART_ITEMS_MAX, PART_ITEMS_MAX + 1, 3 * PART_ITEMS_MAX])
def test_items_are_paged_over_their_parts_without_gap_or_repetition(store, db, count):
    held = items(count)
    plan = kept(store, held)
    assert store.plan_items(plan.id, skip=0, limit=10_000) == held
    paged = [item for skip in range(0, count, 70) for item in store.plan_items(plan.id, skip=skip, limit=70)]
    assert tuple(paged) == held
    assert db["meltd_plans"].count_documents({"kind": "items"}) == -(-count // PART_ITEMS_MAX)


def test_a_part_is_bounded_by_its_proofs_too(store, db):
    held = items(5, ys=PART_YS_MAX // 2)
    plan = kept(store, held)
    assert [len(raw["items"]) for raw in db["meltd_plans"].find({"kind": "items"})] == [2, 2, 1]
    assert store.plan_items(plan.id, skip=3, limit=10) == held[3:]


def test_of_two_people_at_once_one_moves_it(store):
    plan = kept(store, items(1))

    def move(to):
        try:
            return store.move_plan(plan, to)
        except LostRace:
            return None

    with ThreadPoolExecutor(2) as pool:
        moved = [one for one in pool.map(move, [PlanState.APPROVED, PlanState.WITHDRAWN]) if one is not None]
    (won,) = moved
    assert store.plan(plan.id) == won
    assert won.rev == plan.rev + 1


@pytest.mark.parametrize("to", [PlanState.APPLIED, PlanState.APPLYING, PlanState.REFUSED])
def test_a_plan_that_nobody_approved_is_never_applied(store, to):
    plan = kept(store, items(1))
    with pytest.raises(InvariantBroken):
        store.move_plan(plan, to)
    assert store.plan(plan.id) == plan


def test_time_ends_what_waits_and_leaves_what_is_under_way(store):
    waiting = kept(store, items(1))
    running = replace(make_plan(PlanState.APPLYING), id=PlanId("running"), made_at=NOW, expires_at=NOW)
    store.save_plan(running, items(1))
    late = replace(waiting, id=PlanId("late"), state=PlanState.APPROVED, expires_at=NOW)
    store.save_plan(late, items(1))
    assert store.expire_plans() == 1
    assert store.expire_plans() == 0
    states = {plan.id: plan.state for plan in store.plans(states=(), limit=10)}
    assert states == {"plan_1": PlanState.OPEN, "running": PlanState.APPLYING, "late": PlanState.EXPIRED}


def test_a_replaced_plan_keeps_its_head_and_totals(store):
    plan = kept(store, items(2))
    store.drop_plan_items(plan.id)
    assert store.plan(plan.id) == plan
    assert store.plan_items(plan.id, skip=0, limit=10) == ()
