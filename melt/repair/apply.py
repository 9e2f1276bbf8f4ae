"""Carrying a plan out, batch by batch (ADR 13)."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Final

from melt.corrections import record_findings
from melt.drift import SEVERITIES
from melt.errors import InvariantBroken
from melt.model import Action, DriftType, Finding
from melt.repair.steps import as_batch, batches

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from melt.model import Actor, MintAlias, TokenId
    from melt.model.repair import RepairPlan, RepairStep
    from melt.ports import RepairStore, Store, StoreThreads, Telemetry
    from melt.reconcile import Reconciler
    from melt.repair.find import Progress

RECORDS_MAX: Final = 1000
"""So many findings are recorded for a person in one run."""


@dataclass(slots=True, kw_only=True)
class Applied:
    """What became of a plan's steps: counts, and why steps were left undone (reason to count)."""

    done: int = 0
    undone: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)


class Applier:
    """Writes what a plan says, and records what it leaves to a person. One plan at a time is the caller's promise."""

    def __init__(
        self,
        *,
        store: Store,
        repairs: RepairStore,
        threads: StoreThreads,
        reconciler: Reconciler,
        telemetry: Telemetry,
    ) -> None:
        self._store = store
        self._repairs = repairs
        self._threads = threads
        self._reconciler = reconciler
        self._telemetry = telemetry

    async def apply(
        self,
        plan: RepairPlan,
        *,
        actor: Actor,
        reason: str,
        refused: Callable[[MintAlias], str | None],
        progress: Progress,
    ) -> Applied:
        """
        Carry out a plan, batch by batch; ``refused`` says before each one why its mint's documents may not be changed.

        A step whose documents moved on is left undone and counted. Raises StoreError: what was committed stays, and
        the next run goes on from there.
        """
        applied = Applied()
        by_mint: dict[MintAlias, list[RepairStep]] = defaultdict(list)
        for step in plan.steps:
            by_mint[step.mint].append(step)
        await self._record(plan, actor)
        for alias, steps in by_mint.items():
            try:
                await self._apply_mint(alias, steps, applied, actor, reason, refused, progress, len(plan.steps))
            except InvariantBroken as error:
                await self._reconciler.freeze(alias, error)
                applied.errors.append(f"{alias}: {error.code}: {error.detail}")
        return applied

    async def _apply_mint(
        self,
        alias: MintAlias,
        steps: Sequence[RepairStep],
        applied: Applied,
        actor: Actor,
        reason: str,
        refused: Callable[[MintAlias], str | None],
        progress: Progress,
        total: int,
    ) -> None:
        bumps: Counter[TokenId] = Counter()
        stuck: set[TokenId] = set()
        for chosen in batches(steps):
            why_not = refused(alias)
            if why_not is not None:
                applied.errors.append(f"{alias}: {why_not}")
                return
            # What earlier batches of this run wrote has moved these documents on: that is no reason to stop.
            now = tuple(_as_it_is_now(step, bumps[step.token_id], stuck) for step in chosen)
            batch = replace(as_batch(chosen, actor=actor, note=reason), steps=now)
            answers = await self._threads(partial(self._repairs.apply_repairs, batch))
            losing = {step.token_id for step, answer in zip(now, answers, strict=True) if answer is None}
            for step, answer in zip(now, answers, strict=True):
                if answer is not None:
                    applied.undone[answer] += 1
                    stuck |= step.touches
                    continue
                applied.done += 1
                self._telemetry.drift_corrected(step.reason, step.severity, alias)
            written = losing | {
                keeper for step, answer in zip(now, answers, strict=True) if answer is None for keeper in step.keepers
            }
            bumps.update(written)
            progress("repairing", applied.done + applied.undone.total(), total)

    async def _record(self, plan: RepairPlan, actor: Actor) -> None:
        """What needs a person stands in the discrepancies, whoever looks there, and what is repaired: there it settles (I13)."""
        findings = [
            Finding(
                type=one.type,
                severity=SEVERITIES[DriftType.DUPLICATE_PROOF],
                action=Action.RECORD,
                subject=f"token:{token_id}",
                npub=one.npubs[0] if len(one.npubs) == 1 else None,
                mint=one.mint,
                unit=one.unit,
                value=one.value,
                token_id=token_id,
                ys=one.ys,
                evidence={
                    "seen_by": actor.name,
                    "left_because": one.reason.value,
                    "documents": len(one.token_ids),
                    "other_documents": ", ".join(other for other in one.token_ids if other != token_id)[:400] or None,
                    "proposed_keeper": one.proposal,
                },
            )
            for one in plan.left
            if one.reason.needs_person
            for token_id in one.token_ids
        ]
        findings += [_finding_of(step, actor) for step in plan.steps]
        unique = list({f"{finding.type}:{finding.subject}": finding for finding in findings}.values())[:RECORDS_MAX]
        if unique:
            await record_findings(unique, store=self._store, threads=self._threads, telemetry=self._telemetry)


def _finding_of(step: RepairStep, actor: Actor) -> Finding:
    """The record by which a document that loses proofs is watched until it may be written."""
    return Finding(
        type=step.reason,
        severity=step.severity,
        action=Action.RECORD,
        subject=f"token:{step.token_id}",
        npub=step.npub,
        mint=step.mint,
        unit=step.unit,
        value=step.amount,
        token_id=step.token_id,
        ys=tuple(removal.y for removal in step.removals) or step.ys,
        evidence={"seen_by": actor.name, "reason": "a repair would take what lies elsewhere too out of this document"},
        whole=False,
    )


def _as_it_is_now(step: RepairStep, bumps: int, stuck: set[TokenId]) -> RepairStep:
    """The step on the version that this run itself has brought about; documents that stay unrepaired close nothing."""
    closes = tuple(record for record in step.closes if record.rpartition("token:")[2] not in stuck)
    return replace(step, rev=(step.rev or 0) + bumps if bumps else step.rev, closes=closes)
