"""Repairs and adoption on request: implements :class:`daemon.ports.RepairService` (ADR 13)."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import structlog

from daemon.ports import Adoption, RepairProgress, RepairReport
from melt.errors import Code, MeltdError, Refusal
from melt.repair import keeps_before_source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from melt.model import Actor, MintAlias
    from melt.model.repair import RepairPlan, RepairType
    from melt.ports import Clock, RepairStore, StoreThreads
    from melt.repair import Repairer

_log = structlog.get_logger("meltd.repairs")

_ADOPT = "meltd adopt --unique-index --reason TEXT has the unique index made at the next start"
_ADVISED_AGAINST = (
    "better leave it: a service stores proofs anew before it marks their source spent, which the index would refuse after "
    "the mint has paid"
)
_REPAIR = "run meltd reconcile --repair DUPLICATE_PROOF"
_RESTART = "restart meltd at a quiet moment: the index is made at start, before any traffic"
_DONE = "nothing: the database refuses to store a proof in a second counted document"
_OFF = "mongo.unique_proofs is off: set it to auto, or leave it"


@dataclass(slots=True, kw_only=True)
class DaemonRepairs:
    """Plans and carries out one repair at a time, and keeps what it is doing for whoever asks."""

    store: RepairStore
    threads: StoreThreads
    repairer: Repairer
    is_paused: Callable[[MintAlias | None], str | None]
    observing: Callable[[], str | None]
    knows: Callable[[MintAlias], bool]
    draining: Callable[[], bool]
    clock: Clock
    setting: str
    on_change: Callable[[], None]
    _busy: asyncio.Lock = field(default_factory=asyncio.Lock)
    _progress: RepairProgress = field(default_factory=RepairProgress)
    _since: float = 0.0

    async def repair(
        self,
        *,
        repair: RepairType,
        mint: MintAlias | None,
        dry_run: bool,
        across_users: bool,
        plan_id: str | None,
        reason: str,
        actor: Actor,
    ) -> RepairReport:
        """See :meth:`daemon.ports.RepairService.repair`."""
        if mint is not None and not self.knows(mint):
            raise Refusal(Code.MINT_UNKNOWN, "no mint of this alias is configured")
        observing = self.observing()
        if observing is not None:
            dry_run = True  # what would be done is told all the same
        if not dry_run:
            self._refuse(mint)
        with self._alone():
            async with self._busy:
                plan = await self.repairer.plan(repair, across_users=across_users, only=mint, progress=self._tell)
                if plan_id not in {None, plan.id}:
                    raise Refusal(
                        Code.WRONG_STATE,
                        "the plan is another one by now: documents or the mint's answers have changed",
                        hint="look at the new plan, then apply that",
                    )
                if dry_run:
                    errors = plan.errors if observing is None else (*plan.errors, f"nothing was changed: {observing}")
                    return RepairReport(plan=plan, dry_run=True, errors=errors, seconds=self._seconds())
                return await self._apply(plan, reason=reason, actor=actor)

    async def _apply(self, plan: RepairPlan, *, reason: str, actor: Actor) -> RepairReport:
        aliases = {step.mint for step in plan.steps}
        if aliases and all(self._why_not(alias) is not None for alias in aliases):
            self._refuse(min(aliases))
        applied = await self.repairer.apply(
            plan, actor=actor, reason=reason, refused=self._told_why_not, progress=self._tell
        )
        self.on_change()
        _log.warning(
            "the double count was repaired",
            repair=plan.type.value,
            plan=plan.id,
            planned=len(plan.steps),
            done=applied.done,
            undone=dict(applied.undone),
            across_users=plan.across_users,
            left=len(plan.left),
            uid=actor.uid,
        )
        return RepairReport(
            plan=plan,
            dry_run=False,
            applied=applied.done,
            undone=dict(applied.undone),
            errors=(*plan.errors, *applied.errors),
            seconds=self._seconds(),
        )

    def progress(self) -> RepairProgress:
        """What runs now."""
        return self._progress

    # --- adoption ---

    async def adoption(self, *, count: bool) -> Adoption:
        """See :meth:`daemon.ports.RepairService.adoption`."""
        wish = await self.threads(self.store.unique_proofs_wish)
        duplicates, early = await self._count() if count else (None, None)
        indexed = self.store.unique_proofs_indexed
        if indexed:
            step = _DONE
        elif self.setting == "off":
            step = _OFF
        elif duplicates:
            step = _REPAIR
        elif early:
            step = _ADVISED_AGAINST
        else:
            step = _ADOPT if wish is None else _RESTART
        return Adoption(
            indexed=indexed,
            setting=self.setting,
            wish=wish,
            duplicates=duplicates,
            next_step=step,
            keeps_before_source=early,
        )

    async def adopt(self, *, reason: str, actor: Actor) -> Adoption:
        """See :meth:`daemon.ports.RepairService.adopt`."""
        if not self.store.unique_proofs_indexed:
            duplicates, _ = await self._count()
            if duplicates:
                raise MeltdError(
                    Code.PROOF_STATE_INCONSISTENCY,
                    f"{duplicates} proofs count in more than one document: a unique index can't be made",
                    hint=f"{_REPAIR} first",
                )
            await self.threads(partial(self.store.wish_unique_proofs, actor=actor, reason=reason))
            _log.warning("the unique index is wanted", uid=actor.uid, next_step=_RESTART)
        return await self.adoption(count=False)

    async def _count(self) -> tuple[int, int]:
        """Proofs that count in several documents, and those that were stored anew before their source was spent."""
        with self._alone():
            async with self._busy:
                found = await self.repairer.search(self._tell)
                return found.counted_twice, keeps_before_source(found)

    # --- inside ---

    def _why_not(self, alias: MintAlias | None) -> tuple[Code, str] | None:
        if self.draining():
            return Code.SHUTTING_DOWN, "meltd is stopping and takes no new work"
        paused = self.is_paused(alias)
        if paused is not None:
            return Code.PAUSED, f"paused: {paused}"
        frozen = None if alias is None else self.repairer.why_frozen(alias)
        return None if frozen is None else (Code.CRITICAL_MINT_UNTRUSTED, f"frozen: {frozen}")

    def _told_why_not(self, alias: MintAlias) -> str | None:
        why_not = self._why_not(alias)
        return None if why_not is None else f"{why_not[0]}: {why_not[1]}"

    def _refuse(self, alias: MintAlias | None) -> None:
        why_not = self._why_not(alias)
        if why_not is not None:
            hints = {
                Code.PAUSED: "meltd resume; a dry run works meanwhile",
                Code.CRITICAL_MINT_UNTRUSTED: "meltd events",
            }
            raise Refusal(*why_not, hint=hints.get(why_not[0]))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if self._busy.locked():
            raise Refusal(
                Code.CONCURRENT_OPERATION, "a repair or a search for duplicates is running", hint="try again after it"
            )
        self._since = self.clock.monotonic()
        self._tell("starting", 0, None)
        try:
            yield
        finally:
            self._progress = RepairProgress()

    def _tell(self, phase: str, done: int, total: int | None) -> None:
        self._progress = RepairProgress(running=True, phase=phase, done=done, total=total, seconds=self._seconds())

    def _seconds(self) -> float:
        return round(self.clock.monotonic() - self._since, 3)
