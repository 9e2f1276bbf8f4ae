"""A scripted :class:`daemon.ports.RepairService` for the API's and the command's tests."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from daemon.ports import Adoption, RepairProgress, RepairReport
from melt.errors import Severity
from melt.model import Actor, DriftType, MintAlias, TokenId, TokenStatus, Y
from melt.model.repair import (
    Left,
    LeftReason,
    Removal,
    RepairPlan,
    RepairStep,
    RepairType,
    UniqueProofsWish,
    UserValue,
)
from tests.support.engine import NOW

NPUB = "npub1" + "q" * 58
LOSING, KEEPING = TokenId("aa" * 12), TokenId("bb" * 12)


def make_plan(**changes: Any) -> RepairPlan:
    """One document that loses a proof of 16 sat, one group left to a person."""
    y = Y("02" + "ab" * 32)
    step = RepairStep(
        key="k",
        token_id=LOSING,
        npub=NPUB,
        mint=MintAlias("main"),
        unit="sat",
        transaction_type="received",
        status=TokenStatus.UNSPENT,
        rev=None,
        ys=(y,),
        to_status=TokenStatus.SPENT,
        removals=(Removal(y=y, amount=16, kept_in=KEEPING, kept_status=TokenStatus.UNSPENT),),
        amount=16,
        reason=DriftType.DUPLICATE_PROOF,
        severity=Severity.HIGH,
    )
    left = Left(
        reason=LeftReason.ACROSS_USERS,
        mint=MintAlias("main"),
        unit="sat",
        value=8,
        ys=(Y("03" + "cd" * 32),),
        token_ids=(LOSING, KEEPING),
        npubs=(NPUB, NPUB[:-1] + "p"),
        type=DriftType.DUPLICATE_PROOF,
        proposal=KEEPING,
    )
    value = UserValue(
        npub=NPUB,
        mint=MintAlias("main"),
        unit="sat",
        counted=48,
        honoured=32,
        after=32,
        causes={"duplicate": 16},
    )
    plan = RepairPlan(
        type=RepairType.DUPLICATE_PROOF,
        across_users=False,
        documents=40,
        proofs=200,
        duplicates=2,
        melted_documents=0,
        complete=True,
        steps=(step,),
        left=(left,),
        users=(value,),
    )
    return replace(plan, **changes)


@dataclass
class ScriptedRepairs:
    """Remembers what it was asked; ``failure`` is raised by all of it."""

    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    failure: Exception | None = None
    plan: RepairPlan = field(default_factory=make_plan)
    wish: UniqueProofsWish | None = None

    def _call(self, name: str, **arguments: Any) -> None:
        self.calls.append((name, arguments))
        if self.failure is not None:
            raise self.failure

    async def repair(self, *, dry_run: bool, **asked: Any) -> RepairReport:
        self._call("repair", dry_run=dry_run, **asked)
        return RepairReport(plan=self.plan, dry_run=dry_run, applied=0 if dry_run else 1, seconds=0.5)

    def progress(self) -> RepairProgress:
        return RepairProgress(running=True, phase="searching", done=10, total=40, seconds=1.0)

    async def adoption(self, *, count: bool) -> Adoption:
        self._call("adoption", count=count)
        duplicates = 2 if count else None
        return Adoption(indexed=False, setting="auto", wish=self.wish, duplicates=duplicates, next_step="adopt it")

    async def adopt(self, *, reason: str, actor: Actor) -> Adoption:
        self._call("adopt", reason=reason, actor=actor)
        self.wish = UniqueProofsWish(at=NOW, actor=actor, reason=reason)
        return await self.adoption(count=False)
