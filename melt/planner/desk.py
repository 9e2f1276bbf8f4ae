"""Plans: made by a dry run that is kept, approved by people; :mod:`melt.planner.applying` carries them out."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from melt.corrections import Judged
from melt.errors import Code, InvariantBroken, LostRace, MeltdError, MintError, Refusal
from melt.model import (
    LIVE_PLAN,
    PLAN_ITEMS_MAX,
    Action,
    Actor,
    Approval,
    DiscrepancyState,
    Plan,
    PlanId,
    PlanScope,
    PlanState,
    TokenStatus,
)
from melt.plan_items import digest_of, items_of, totals_of
from melt.planner.applying import PAGE_DOCUMENTS, SEEN_BY_PLAN, Applying, end_plan
from melt.reconcile import TOURED, Outcome, sort_urls

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from melt.corrections import Corrections
    from melt.events import CriticalEvents
    from melt.model import MintAlias, PlanItem
    from melt.ports import Clock, Entropy, Mint, PlanStore, Store, StoreThreads
    from melt.reconcile import Reconciler

_log = structlog.get_logger("melt.plans")

LIVE_MAX: Final = 1_000
SAMPLED: Final = frozenset({TokenStatus.SPENT, TokenStatus.FAILED})
"""Statuses of which a tour sees a sample only: what it did not see again stays in the sweep's plan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanPolicy:
    """``four_eyes``: who made a plan may not approve it. ``expires_s``: how long a plan may wait."""

    four_eyes: bool = False
    expires_s: float = 7 * 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanMade:
    """
    What making a plan came to. ``plan`` is None where there is nothing to correct now; ``errors`` are of mints.

    ``left_out`` counts what found no room, has not settled, or was acknowledged.
    """

    plan: Plan | None
    documents: int
    proofs: int
    left_out: int = 0
    errors: tuple[str, ...] = ()


class Planner:
    """Makes, keeps and applies plans."""

    def __init__(
        self,
        *,
        store: Store,
        plans: PlanStore,
        threads: StoreThreads,
        mints: Mapping[MintAlias, Mint],
        reconciler: Reconciler,
        corrections: Corrections,
        events: CriticalEvents,
        clock: Clock,
        entropy: Entropy,
        policy: PlanPolicy,
        is_paused: Callable[[MintAlias], str | None],
        observing: Callable[[], str | None] = lambda: None,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._plans = plans
        self._threads = threads
        self._mints = mints
        self._reconciler = reconciler
        self._corrections = corrections
        self._clock = clock
        self._entropy = entropy
        self._policy = policy
        self._applying = Applying(
            store=store,
            plans=plans,
            threads=threads,
            mints=mints,
            reconciler=reconciler,
            corrections=corrections,
            events=events,
            clock=clock,
            is_paused=is_paused,
            observing=observing,
        )
        self._on_change = on_change
        self._busy = asyncio.Lock()

    # --- reading ---

    async def plan(self, plan_id: PlanId) -> Plan | None:
        """A plan's head."""
        await self._threads(self._plans.expire_plans)
        return await self._threads(lambda: self._plans.plan(plan_id))

    async def plans(self, *, states: Sequence[PlanState], limit: int) -> tuple[Plan, ...]:
        """Newest first; an empty ``states`` means all."""
        await self._threads(self._plans.expire_plans)
        return await self._threads(lambda: self._plans.plans(states=states, limit=limit))

    async def items(self, plan_id: PlanId, *, skip: int, limit: int) -> tuple[PlanItem, ...]:
        """Some of a plan's items, in its order."""
        return await self._threads(lambda: self._plans.plan_items(plan_id, skip=skip, limit=limit))

    # --- making ---

    async def make(self, *, scope: PlanScope, actor: Actor, at_once: bool = False) -> PlanMade:
        """
        A dry run that is kept, of what has settled. ``at_once``: of the rest, too, because a person knows that nobody else is
        at work on it (I13).

        Raises Refusal MINT_UNKNOWN. A mint that can't be asked is an error in the answer; the plan is of the others.
        """
        if scope.mint is not None and scope.mint not in self._mints:
            raise Refusal(Code.MINT_UNKNOWN, "no mint of this alias is configured")
        aliases = [alias for alias in self._mints if scope.mint in {None, alias}]
        items: list[PlanItem] = []
        errors: list[str] = []
        documents = proofs = left_out = 0
        async with self._busy:
            urls = sort_urls(await self._threads(self._store.mint_urls), self._mints)
            for alias in aliases:
                outcome = Outcome()
                try:
                    left_out += await self._look(
                        alias, urls.by_alias[alias], scope, outcome, items, actor, at_once=at_once
                    )
                except InvariantBroken as error:
                    await self._reconciler.freeze(alias, error)
                    errors.append(f"{alias}: {error.code}: {error.detail}")
                except MintError as error:
                    errors.append(f"{alias}: {error.code}: {error.detail}")
                documents += outcome.documents
                proofs += outcome.proofs
            plan = None
            if items:
                plan = await self._save(items, left_out=left_out, scope=scope, actor=actor, at_once=at_once)
        self._on_change()
        return PlanMade(plan=plan, documents=documents, proofs=proofs, left_out=left_out, errors=tuple(errors))

    async def _look(
        self,
        alias: MintAlias,
        urls: Sequence[str],
        scope: PlanScope,
        outcome: Outcome,
        items: list[PlanItem],
        actor: Actor,
        *,
        at_once: bool,
    ) -> int:
        """Add one mint's items; how many found no room, have not settled or are acknowledged."""
        if not urls:
            return 0
        left_out = 0
        tour = self._store.tour(scope.statuses or TOURED, urls, None, npub=scope.npub)
        try:
            while page := await self._threads(partial(tour.next_page, PAGE_DOCUMENTS)):
                suspects: list[Judged] = []
                outcome.suspects = suspects
                await self._reconciler.page(self._mints[alias], page, outcome, dry_run=True, actor=actor)
                records = await self._corrections.record(suspects, SEEN_BY_PLAN)
                found, not_now = items_of(suspects, records, at_once=at_once)
                room = max(0, PLAN_ITEMS_MAX - len(items))
                items.extend(found[:room])
                left_out += not_now + len(found[room:])
        finally:
            await self._threads(tour.close)
        return left_out

    async def _save(
        self, items: Sequence[PlanItem], *, left_out: int, scope: PlanScope, actor: Actor, at_once: bool = False
    ) -> Plan:
        # What is gone is settled first; the rest of a document of both kinds then lies in a sibling.
        ordered = sorted(items, key=lambda item: (item.mint, item.token_id, item.action is not Action.MARK_SPENT))
        now = self._clock.now()
        plan = Plan(
            id=PlanId(f"plan_{self._entropy.token(8)}"),
            state=PlanState.OPEN,
            rev=1,
            made_at=now,
            made_by=actor,
            scope=scope,
            expires_at=now + timedelta(seconds=self._policy.expires_s),
            items=len(ordered),
            left_out=left_out,
            digest=digest_of(ordered),
            totals=totals_of(ordered),
            at_once=at_once,
        )
        await self._threads(lambda: self._plans.save_plan(plan, ordered))
        return plan

    # --- the sweep's own ---

    async def offer(self, alias: MintAlias, items: Sequence[PlanItem], *, left_out: int, actor: Actor) -> Plan | None:
        """
        What a whole tour would have corrected but for a cap: one OPEN plan per mint that the sweep keeps up to date.

        A newer one replaces an older one that nobody has approved; where nothing changed the old one stands. Without
        items the old one is withdrawn. Returns the plan that stands, if any.
        """
        live = await self._threads(lambda: self._plans.plans(states=tuple(LIVE_PLAN), limit=LIVE_MAX))
        ours = [plan for plan in live if plan.made_by_the_sweep and plan.scope.mint == alias]
        older = [plan for plan in ours if plan.state is PlanState.OPEN]
        wanted = [*items, *[item for plan in older for item in await self._not_seen_again(plan, items)]]
        wanted = wanted[:PLAN_ITEMS_MAX]
        digest = digest_of(wanted)
        standing = next((plan for plan in ours if plan.digest == digest), None)
        fresh = None
        if wanted and standing is None:
            fresh = await self._save(wanted, left_out=left_out, scope=PlanScope(mint=alias), actor=actor)
        for plan in older:
            if plan is not standing:
                why = "nothing is over the cap any more" if fresh is None else f"replaced by {fresh.id}"
                await self._replace(plan, why, actor)
        stands = fresh or standing
        if fresh is not None:
            _log.warning(
                "over the cap: a plan waits for approval",
                plan=fresh.id,
                mint=alias,
                items=fresh.items,
                next_step=f"meltd plans show {fresh.id}",
            )
        self._on_change()
        return stands

    async def _not_seen_again(self, plan: Plan, items: Sequence[PlanItem]) -> list[PlanItem]:
        """What a tour sees by sample only, and did not see this time, as long as its record is open."""
        seen = {(item.token_id, item.type) for item in items}
        before = await self.items(plan.id, skip=0, limit=PLAN_ITEMS_MAX)
        kept = [i for i in before if i.expected_status in SAMPLED and (i.token_id, i.type) not in seen]
        ids = [item.discrepancy_id for item in kept]
        records = await self._threads(lambda: self._plans.discrepancies_by_id(ids)) if ids else {}
        return [
            item
            for item in kept
            if (record := records.get(item.discrepancy_id)) is not None
            and record.occurrence == item.occurrence
            and record.closed_at is None
            and record.state is not DiscrepancyState.ACKNOWLEDGED
        ]

    async def _replace(self, plan: Plan, why: str, actor: Actor) -> None:
        ending = {"reason": why, "ended_by": actor}
        try:
            await end_plan(self._plans, self._threads, self._clock, plan, PlanState.WITHDRAWN, **ending)
        except LostRace:
            return  # somebody approved it in this moment
        await self._threads(lambda: self._plans.drop_plan_items(plan.id))

    # --- people ---

    async def approve(self, *, plan_id: PlanId, reason: str, actor: Actor) -> Plan | None:
        """
        One person's yes. None: there is no such plan.

        With four eyes the maker can't be the approver, and a plan that the sweep made needs two people. Raises
        MeltdError WRONG_STATE, Refusal FORBIDDEN.
        """
        plan = await self.plan(plan_id)
        if plan is None:
            return None
        if plan.state is not PlanState.OPEN:
            raise MeltdError(Code.WRONG_STATE, f"the plan is {plan.state}; only an OPEN one can be approved")
        if self._policy.four_eyes:
            if actor.uid is None:
                raise Refusal(Code.FORBIDDEN, "four eyes are asked for, and the kernel does not say who you are")
            if actor.uid == plan.made_by.uid:
                raise Refusal(Code.FORBIDDEN, "four eyes: who made a plan may not approve it")
            if actor.uid in {approval.actor.uid for approval in plan.approvals}:
                raise Refusal(Code.FORBIDDEN, "four eyes: you have approved this plan; a second person has to")
        approval = Approval(actor=actor, at=self._clock.now(), reason=reason)
        approvals = (*plan.approvals, approval)
        to = PlanState.APPROVED if self._is_enough(replace(plan, approvals=approvals)) else PlanState.OPEN
        after = await self._threads(lambda: self._plans.move_plan(plan, to, approvals=approvals))
        _log.info("plan approved", plan=plan.id, state=after.state.value, uid=actor.uid, reason=reason)
        self._on_change()
        return after

    def approvals_needed(self, plan: Plan) -> int:
        """How many people have to approve it."""
        return 2 if self._policy.four_eyes and plan.made_by.uid is None else 1

    def _is_enough(self, plan: Plan) -> bool:
        if not self._policy.four_eyes:
            return bool(plan.approvals)
        others = {approval.actor.uid for approval in plan.approvals} - {plan.made_by.uid, None}
        return len(others) >= self.approvals_needed(plan)

    async def withdraw(self, *, plan_id: PlanId, reason: str, actor: Actor) -> Plan | None:
        """Nobody may apply it any more. None: there is no such plan. Raises MeltdError WRONG_STATE."""
        plan = await self.plan(plan_id)
        if plan is None:
            return None
        if plan.state not in {PlanState.OPEN, PlanState.APPROVED}:
            raise MeltdError(Code.WRONG_STATE, f"the plan is {plan.state}; it can't be withdrawn")
        ending = {"reason": reason, "ended_by": actor}
        after = await end_plan(self._plans, self._threads, self._clock, plan, PlanState.WITHDRAWN, **ending)
        self._on_change()
        _log.info("plan withdrawn", plan=plan.id, uid=actor.uid, reason=reason)
        return after

    async def apply(self, *, plan_id: PlanId, actor: Actor) -> Plan | None:
        """
        Carry an approved plan out, or the rest of one that was interrupted; an APPLIED one is answered as it is.

        None: there is no such plan. Raises MeltdError WRONG_STATE, and what :meth:`Applying.run` does.
        """
        async with self._busy:
            plan = await self.plan(plan_id)
            if plan is None or plan.state is PlanState.APPLIED:
                return plan
            self._require_applicable(plan)
            try:
                return await self._applying.run(plan, actor)
            finally:
                self._on_change()

    def _require_applicable(self, plan: Plan) -> None:
        if plan.state is PlanState.APPLYING:
            return
        if plan.state is not PlanState.APPROVED:
            raise MeltdError(Code.WRONG_STATE, f"the plan is {plan.state}; only an APPROVED one can be applied")
        if not self._is_enough(plan):
            raise MeltdError(Code.WRONG_STATE, "four eyes are asked for now, and the plan was approved without them")
