"""
Plans: made by a dry run that is kept, approved by people, applied only to what they were made from (DESIGN section 5).

Making one asks the mints exactly as a dry run does and writes the first sighting down. Applying one

1. reads every document again and compares its version (status, rev, digest),
2. asks the mint again, sentinels too, and judges again by the same rules,
3. leaves out what would come out otherwise and says so; refuses the plan (PLAN_STALE) where nothing of it stands any more,
4. writes the second sighting down, which is what giving value back needs, and moves the plan to APPLYING,
5. makes each correction through the same door as a sweep, beyond the caps: that is what approval is for.

A process that dies in step 5 leaves an APPLYING plan; applying it again does what is not done. An item is done when
its correction's operation is in the audit, whoever made it: the sweep makes the same corrections under the same names.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import structlog

from melt.audit import correction_operation
from melt.corrections import Judged, confirmed
from melt.errors import Code, MeltdError, PlanStale, Refusal
from melt.model import (
    PLAN_ITEMS_MAX,
    Action,
    Actor,
    DiscrepancyState,
    JournalKind,
    Plan,
    PlanState,
    Token,
)
from melt.plan_items import why_stale
from melt.reconcile import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from melt.corrections import Corrections
    from melt.events import CriticalEvents
    from melt.model import Discrepancy, MintAlias, PlanItem, TokenId
    from melt.ports import Clock, Mint, PlanStore, Store, StoreThreads
    from melt.reconcile import Reconciler

_log = structlog.get_logger("melt.plans")

PAGE_DOCUMENTS: Final = 100
STORY_MAX: Final = 10
SEEN_BY_PLAN: Final = {"seen_by": "plan"}
MOVED_ON: Final = "it is not as it was when the plan was made"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Standing:
    """An item that still stands, with its verdict of now and its record."""

    item: PlanItem
    judged: Judged
    record: Discrepancy


@dataclass(slots=True)
class _Looked:
    """What still stands of a plan, and why the rest is left as it is: sentences to count, the first of them whole."""

    standing: list[_Standing] = field(default_factory=list)
    moved: Counter[str] = field(default_factory=Counter)
    first_moved: str | None = None

    def leave(self, why: str) -> None:
        """One item less."""
        self.moved[MOVED_ON] += 1
        self.first_moved = self.first_moved or why


async def end_plan(
    plans: PlanStore, threads: StoreThreads, clock: Clock, plan: Plan, to: PlanState, **changes: object
) -> Plan:
    """The plan's last move. Raises LostRace."""
    return await threads(lambda: plans.move_plan(plan, to, ended_at=clock.now(), **changes))


class Applying:
    """Applies one plan at a time (its caller's promise)."""

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
        is_paused: Callable[[MintAlias], str | None],
        observing: Callable[[], str | None],
    ) -> None:
        self._store = store
        self._plans = plans
        self._threads = threads
        self._mints = mints
        self._reconciler = reconciler
        self._corrections = corrections
        self._events = events
        self._clock = clock
        self._is_paused = is_paused
        self._observing = observing

    async def run(self, plan: Plan, actor: Actor) -> Plan:
        """
        Carry out an APPROVED plan, or the rest of an APPLYING one.

        Raises:
            PlanStale: nothing is as the plan says any more; the plan is REFUSED and nothing was changed now.
            MeltdError WRONG_STATE: too soon after the first sighting, or frozen.
            Refusal: paused, or a mint that is not configured.
            MintError: a mint can't be asked or believed; nothing was changed, apply again later.
            StoreError: the store is away; apply again to do the rest.
        """
        items = await self._threads(lambda: self._plans.plan_items(plan.id, skip=0, limit=PLAN_ITEMS_MAX))
        done, begun = await self._done_and_begun(items)
        while True:
            rest = [item for item in items if item not in done and item not in begun]
            for alias in dict.fromkeys(item.mint for item in rest):
                self._require_open(alias, rest)
            looked = await self._still_standing(rest, actor)
            await self._see_again(looked, at_once=plan.at_once)
            before_look = len(done) + len(begun)
            if looked.moved:
                done, begun = await self._done_and_begun(items)
            if len(done) + len(begun) == before_look:
                break  # else a sweep has made some of the same corrections in between: look at the others again
        if looked.moved and not looked.standing and not begun:
            why = looked.first_moved or MOVED_ON
            ending = {"reason": why[:500], "ended_by": actor, "done": len(done), "left": len(rest)}
            await end_plan(self._plans, self._threads, self._clock, plan, PlanState.REFUSED, **ending)
            raise PlanStale(why)
        if plan.state is PlanState.APPROVED:
            before = plan
            plan = await self._threads(lambda: self._plans.move_plan(before, PlanState.APPLYING))
        return await self._carry_out(plan, items, looked, len(begun), actor)

    def _require_open(self, alias: MintAlias, items: Sequence[PlanItem]) -> None:
        """Neither paused nor frozen, and configured."""
        if alias not in self._mints:
            raise Refusal(Code.MINT_UNKNOWN, f"mint {alias!r} is no longer configured")
        observing = self._observing()
        if observing is not None:
            raise Refusal(Code.OBSERVING, observing, hint="the plan stays as it is: meltd adopt switches to correct")
        paused = self._is_paused(alias)
        if paused is not None:
            raise Refusal(Code.PAUSED, f"{alias} is paused ({paused})", hint="resume first")
        for npub in dict.fromkeys(item.npub for item in items if item.mint == alias):
            frozen = self._events.frozen(npub, alias)
            if frozen is not None:
                raise Refusal(
                    Code.WRONG_STATE,
                    f"corrections are frozen for {npub} at {alias}: an invariant was found broken",
                    hint="resolve the CRITICAL event first; `meltd events` shows it",
                )

    async def _done_and_begun(self, items: Sequence[PlanItem]) -> tuple[set[PlanItem], set[PlanItem]]:
        """What an earlier run (or a sweep) has done of a plan, and which reclaims are under way."""
        operation = {item: correction_operation(item.discrepancy_id, item.occurrence) for item in items}
        known = await self._threads(lambda: self._plans.operations_done(list(operation.values())))
        done = {item for item in items if operation[item] in known}
        reclaims = [item for item in items if item.action is Action.RECLAIM]
        records = await self._records(reclaims)
        begun: set[PlanItem] = set()
        for item in reclaims:
            record = records.get(item.discrepancy_id)
            if (
                record is not None
                and record.occurrence == item.occurrence
                and record.state is DiscrepancyState.CORRECTED
            ):
                done.add(item)
            elif await self._has_open_reclaim(item):
                begun.add(item)
        return done, begun

    async def _has_open_reclaim(self, item: PlanItem) -> bool:
        entries = await self._threads(lambda: self._store.melts_with_proof(item.ys[0], STORY_MAX))
        return any(entry.kind is JournalKind.RECLAIM and entry.is_open for entry in entries)

    async def _records(self, items: Sequence[PlanItem]) -> Mapping[str, Discrepancy]:
        ids = [item.discrepancy_id for item in items]
        return await self._threads(lambda: self._plans.discrepancies_by_id(ids)) if ids else {}

    async def _still_standing(self, items: Sequence[PlanItem], actor: Actor) -> _Looked:
        """Every item that stands, with its verdict of now. Raises MintError."""
        by_mint: dict[MintAlias, dict[TokenId, list[PlanItem]]] = defaultdict(lambda: defaultdict(list))
        for item in items:
            by_mint[item.mint][item.token_id].append(item)
        looked = _Looked()
        for alias, by_token in by_mint.items():
            ids = list(by_token)
            for start in range(0, len(ids), PAGE_DOCUMENTS):
                page = ids[start : start + PAGE_DOCUMENTS]
                of_page = [item for token_id in page for item in by_token[token_id]]
                await self._look_at_page(alias, page, of_page, actor, looked)
        return looked

    async def _look_at_page(
        self, alias: MintAlias, ids: Sequence[TokenId], items: Sequence[PlanItem], actor: Actor, looked: _Looked
    ) -> None:
        found = await self._threads(lambda: self._store.tokens(ids))
        tokens = {one.id: one for one in found if isinstance(one, Token)}
        records = await self._records(items)
        suspects: list[Judged] = []
        outcome = Outcome(suspects=suspects)
        await self._reconciler.page(self._mints[alias], list(tokens.values()), outcome, dry_run=True, actor=actor)
        by_token: dict[TokenId, list[Judged]] = defaultdict(list)
        for one in suspects:
            by_token[one.token.id].append(one)
        for item in items:
            about, record = by_token[item.token_id], records.get(item.discrepancy_id)
            why = why_stale(item, tokens.get(item.token_id), about, record)
            if why is not None or record is None:
                looked.leave(why or "its record is gone")
                continue
            (same,) = (one for one in about if one.verdict.type is item.type and set(one.verdict.ys) == set(item.ys))
            looked.standing.append(_Standing(item=item, judged=same, record=record))

    async def _see_again(self, looked: _Looked, *, at_once: bool) -> None:
        """
        The second sighting, written down. What took a turn in this moment, or has not settled, is left out.

        Raises WRONG_STATE where what gives value back was sighted too short a while ago, with the time from which on it was not.
        """
        records = await self._corrections.record([one.judged for one in looked.standing], SEEN_BY_PLAN)
        confirm_s = self._reconciler.policy.confirm_after_s
        before, looked.standing = looked.standing, []
        waiting_ms: list[float] = []
        for one, record in zip(before, records, strict=True):
            if record.occurrence != one.item.occurrence or record.state is DiscrepancyState.ACKNOWLEDGED:
                looked.leave(f"the record of token {one.item.token_id} has changed since the plan was made")
            elif not (record.is_settled or at_once):
                looked.leave(f"token {one.item.token_id} has not stood still for long enough")
            else:
                if not confirmed(record, confirm_after_s=confirm_s, at_once=at_once):
                    waiting_ms.append(1000 * confirm_s - record.same_ms)
                looked.standing.append(replace(one, record=record))
        if waiting_ms:
            then = self._clock.now() + timedelta(milliseconds=max(waiting_ms))
            raise MeltdError(
                Code.WRONG_STATE,
                f"{len(waiting_ms)} items give value back, which needs two sightings: too soon after the first",
                hint=f"apply it again from {then.isoformat(timespec='seconds')} on",
            )

    async def _carry_out(
        self, plan: Plan, items: Sequence[PlanItem], looked: _Looked, begun: int, actor: Actor
    ) -> Plan:
        touched: set[TokenId] = set()
        why_left: Counter[str] = Counter(looked.moved)
        if begun:
            why_left["a reclaim is under way"] = begun
        for one in looked.standing:
            judged = one.judged
            if one.item.token_id in touched:
                judged = await self._in_its_sibling(one) or judged
            touched.add(one.item.token_id)
            mint = self._mints[one.item.mint]
            if await self._reconciler.correct_planned(
                mint, judged, one.record, actor, note=f"plan {plan.id}", at_once=plan.at_once
            ):
                continue
            if one.item.action is not Action.RECLAIM:
                why_left["the document moved on in this moment"] += 1
            elif await self._has_open_reclaim(one.item):
                why_left["a reclaim is under way"] += 1
            else:
                why_left["nothing to reclaim: locked, refused by the mint, or not worth the fee"] += 1
        left = sum(why_left.values())
        counted = {"ended_by": actor, "done": len(items) - left, "left": left, "why_left": dict(why_left)}
        if looked.first_moved is not None:
            counted["reason"] = f"left out: {looked.first_moved}"[:500]
        after = await end_plan(self._plans, self._threads, self._clock, plan, PlanState.APPLIED, **counted)
        _log.info("plan applied", plan=plan.id, uid=actor.uid, done=after.done, left=after.left)
        return after

    async def _in_its_sibling(self, one: _Standing) -> Judged | None:
        """The rest of a document that an item of this plan has split: where its proofs lie now."""
        entries = await self._threads(lambda: self._store.audit_of_proof(one.item.ys[0], 1))
        if not entries:
            return None
        found = await self._threads(lambda: self._store.tokens([entries[0].token_id]))
        wanted = set(one.item.ys)
        for token in found:
            if (
                isinstance(token, Token)
                and token.status is one.item.expected_status
                and wanted <= {proof.y for proof in token.proofs}
            ):
                return replace(one.judged, token=token)
        return None
