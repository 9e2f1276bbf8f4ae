"""
Plans: made by a dry run that is kept, approved by people, applied only to what they were made from (DESIGN section 5).

Making one asks the mints exactly as a dry run does and writes the first sighting down. Applying one

1. reads every document again and compares its version (status, rev, digest),
2. asks the mint again, sentinels too, and judges again by the same rules,
3. refuses the whole plan (PLAN_STALE) where one item would come out otherwise, before the first write,
4. writes the second sighting down, which is what giving value back needs, and moves the plan to APPLYING,
5. makes each correction by the same conditional write as a sweep, beyond the caps: that is what approval is for.

A process that dies in step 5 leaves an APPLYING plan; applying it again does what is not done. An item is done when
its correction's operation is in the audit, whoever made it: the sweep makes the same corrections under the same names.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Standing:
    """An item that still stands, with its verdict of now and its record."""

    item: PlanItem
    judged: Judged
    record: Discrepancy


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

    async def run(self, plan: Plan, actor: Actor) -> Plan:
        """
        Carry out an APPROVED plan, or the rest of an APPLYING one.

        Raises:
            PlanStale: something is not as the plan says; the plan is REFUSED and nothing was changed now.
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
            try:
                standing = await self._still_standing(rest, actor)
                self._require_confirmable(standing)
                standing = await self._seen_again(standing)
                break
            except PlanStale as stale:
                before_look = len(done) + len(begun)
                done, begun = await self._done_and_begun(items)
                if len(done) + len(begun) > before_look:
                    continue  # a sweep has made some of the same corrections in between: look at the others again
                ending = {"reason": stale.detail[:500], "ended_by": actor, "done": len(done), "left": len(rest)}
                await end_plan(self._plans, self._threads, self._clock, plan, PlanState.REFUSED, **ending)
                raise
        if plan.state is PlanState.APPROVED:
            before = plan
            plan = await self._threads(lambda: self._plans.move_plan(before, PlanState.APPLYING))
        return await self._carry_out(plan, items, standing, len(begun), actor)

    def _require_open(self, alias: MintAlias, items: Sequence[PlanItem]) -> None:
        """Neither paused nor frozen, and configured."""
        if alias not in self._mints:
            raise Refusal(Code.MINT_UNKNOWN, f"mint {alias!r} is no longer configured")
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

    async def _still_standing(self, items: Sequence[PlanItem], actor: Actor) -> list[_Standing]:
        """Every item with its verdict of now. Raises PlanStale for the first that changed, MintError."""
        by_mint: dict[MintAlias, dict[TokenId, list[PlanItem]]] = defaultdict(lambda: defaultdict(list))
        for item in items:
            by_mint[item.mint][item.token_id].append(item)
        standing: list[_Standing] = []
        for alias, by_token in by_mint.items():
            ids = list(by_token)
            for start in range(0, len(ids), PAGE_DOCUMENTS):
                page = ids[start : start + PAGE_DOCUMENTS]
                of_page = [item for token_id in page for item in by_token[token_id]]
                standing += await self._page_standing(alias, page, of_page, actor)
        return standing

    async def _page_standing(
        self, alias: MintAlias, ids: Sequence[TokenId], items: Sequence[PlanItem], actor: Actor
    ) -> list[_Standing]:
        found = await self._threads(lambda: self._store.tokens(ids))
        tokens = {one.id: one for one in found if isinstance(one, Token)}
        records = await self._records(items)
        suspects: list[Judged] = []
        outcome = Outcome(suspects=suspects)
        await self._reconciler.page(self._mints[alias], list(tokens.values()), outcome, dry_run=True, actor=actor)
        by_token: dict[TokenId, list[Judged]] = defaultdict(list)
        for one in suspects:
            by_token[one.token.id].append(one)
        standing: list[_Standing] = []
        for item in items:
            judged, record = by_token[item.token_id], records.get(item.discrepancy_id)
            why = why_stale(item, tokens.get(item.token_id), judged, record)
            if why is not None or record is None:
                raise PlanStale(why or "its record is gone")
            (same,) = (one for one in judged if one.verdict.type is item.type and set(one.verdict.ys) == set(item.ys))
            standing.append(_Standing(item=item, judged=same, record=record))
        return standing

    def _require_confirmable(self, standing: Sequence[_Standing]) -> None:
        """What gives value back was sighted long enough ago. Raises WRONG_STATE with the time from which on it was."""
        now = self._clock.now()
        after = timedelta(seconds=self._reconciler.policy.confirm_after_s)
        waiting = [
            (one.record.same_since or now) + after
            for one in standing
            if one.judged.verdict.action is not Action.MARK_SPENT and (one.record.same_since or now) + after > now
        ]
        if waiting:
            raise MeltdError(
                Code.WRONG_STATE,
                f"{len(waiting)} items give value back, which needs two sightings: too soon after the first",
                hint=f"apply it again from {max(waiting).isoformat(timespec='seconds')} on",
            )

    async def _seen_again(self, standing: Sequence[_Standing]) -> list[_Standing]:
        """The second sighting, written down. Raises PlanStale where a record took a turn in this moment."""
        records = await self._corrections.record([one.judged for one in standing], SEEN_BY_PLAN)
        now, confirm_s = self._clock.now(), self._reconciler.policy.confirm_after_s
        for one, record in zip(standing, records, strict=True):
            if record.occurrence != one.item.occurrence or not confirmed(record, now=now, confirm_after_s=confirm_s):
                raise PlanStale(f"the record of token {one.item.token_id} has changed since the plan was made")
        return [replace(one, record=record) for one, record in zip(standing, records, strict=True)]

    async def _carry_out(
        self, plan: Plan, items: Sequence[PlanItem], standing: Sequence[_Standing], begun: int, actor: Actor
    ) -> Plan:
        touched: set[TokenId] = set()
        why_left: Counter[str] = Counter()
        if begun:
            why_left["a reclaim is under way"] = begun
        for one in standing:
            judged = one.judged
            if one.item.token_id in touched:
                judged = await self._in_its_sibling(one) or judged
            touched.add(one.item.token_id)
            mint = self._mints[one.item.mint]
            if await self._reconciler.correct_planned(mint, judged, one.record, actor, note=f"plan {plan.id}"):
                continue
            if one.item.action is not Action.RECLAIM:
                why_left["the document moved on in this moment"] += 1
            elif await self._has_open_reclaim(one.item):
                why_left["a reclaim is under way"] += 1
            else:
                why_left["nothing to reclaim: locked, refused by the mint, or not worth the fee"] += 1
        left = sum(why_left.values())
        counted = {"ended_by": actor, "done": len(items) - left, "left": left, "why_left": dict(why_left)}
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
