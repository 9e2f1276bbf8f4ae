"""The repair as the daemon uses it: plan, look, apply (ADR 13)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melt.model import EventType
from melt.repair.apply import Applied, Applier
from melt.repair.plan import Planner

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from melt.events import CriticalEvents
    from melt.model import Actor, MintAlias
    from melt.model.repair import RepairPlan, RepairType
    from melt.ports import Mint, RepairStore, Store, StoreThreads, Telemetry
    from melt.reconcile import Reconciler
    from melt.repair.find import Found, Progress


class Repairer:
    """Plans and carries out repairs. One at a time is the caller's promise."""

    def __init__(
        self,
        *,
        store: Store,
        repairs: RepairStore,
        threads: StoreThreads,
        mints: Mapping[MintAlias, Mint],
        reconciler: Reconciler,
        events: CriticalEvents,
        telemetry: Telemetry,
    ) -> None:
        self._events = events
        self._planner = Planner(
            store=store, repairs=repairs, threads=threads, mints=mints, reconciler=reconciler, events=events
        )
        self._applier = Applier(
            store=store, repairs=repairs, threads=threads, reconciler=reconciler, telemetry=telemetry
        )

    async def search(self, progress: Progress) -> Found:
        """See :meth:`melt.repair.plan.Planner.search`."""
        return await self._planner.search(progress)

    async def plan(
        self, repair: RepairType, *, across_users: bool, only: MintAlias | None, progress: Progress
    ) -> RepairPlan:
        """See :meth:`melt.repair.plan.Planner.plan`."""
        return await self._planner.plan(repair, across_users=across_users, only=only, progress=progress)

    async def apply(
        self,
        plan: RepairPlan,
        *,
        actor: Actor,
        reason: str,
        refused: Callable[[MintAlias], str | None],
        progress: Progress,
    ) -> Applied:
        """See :meth:`melt.repair.apply.Applier.apply`."""
        return await self._applier.apply(plan, actor=actor, reason=reason, refused=refused, progress=progress)

    def why_frozen(self, alias: MintAlias) -> str | None:
        """Why nothing may be changed at a mint because of what was seen there; None: it may."""
        frozen = self._events.frozen(None, alias)
        if frozen is None and self._events.is_open(EventType.SENTINEL_FAILED, f"mint:{alias}"):
            frozen = "a sentinel failed at its last question"
        return frozen
