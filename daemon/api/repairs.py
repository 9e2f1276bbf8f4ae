"""Repairs of the double count and the adoption of the collection: bodies, answers and routes (ADR 13)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Final, Self

from fastapi import Query, Request
from fastapi.responses import JSONResponse
from pydantic import BeforeValidator, Field

from daemon.api import bodies
from daemon.api.answers import ActorAnswer, Answer
from melt.errors import Code, Refusal, Severity
from melt.model import DriftType, MintAlias, TokenStatus
from melt.model.repair import LeftReason, RepairType

if TYPE_CHECKING:
    from fastapi import FastAPI

    from daemon.ports import Adoption, RepairProgress, RepairReport, RepairService
    from melt.model import Actor
    from melt.model.repair import Left, RepairStep, UserValue

ROWS_MAX: Final = 1000
"""So many steps, users and leftovers are listed; the counts are of all."""
YS_MAX: Final = 100


def _as_type(value: object) -> object:
    return RepairType(value) if isinstance(value, str) else value


class RepairBody(bodies.Body):
    """Plan a repair of the double count, or carry one out."""

    type: Annotated[RepairType, BeforeValidator(_as_type)] = Field(
        description="DUPLICATE_PROOF, LEGACY_MELTED_DOCUMENT, or all."
    )
    mint: bodies.Alias | None = None
    dry_run: bool = Field(default=True, description="Tell what would be done, and change nothing.")
    across_users: bool = Field(
        default=False,
        description="A person has confirmed that the oldest holder keeps what documents of several users hold.",
    )
    plan: str | None = Field(
        default=None, pattern=r"^[0-9a-f]{16}$", description="Carry out only the plan with this id."
    )
    reason: bodies.Reason | None = None


class AdoptBody(bodies.Body):
    """Have the unique index on the secrets of counted documents made at the next start."""

    reason: bodies.Reason


class AdoptionQuery(bodies.Query):
    """How thoroughly to look."""

    count: bool = Field(default=False, description="Count the duplicates: reads the whole collection.")


class RemovalAnswer(Answer):
    """Proofs that leave a document because another one keeps them."""

    kept_in: str
    ys: list[str]
    amount: int


class RepairStepAnswer(Answer):
    """One change of one document."""

    token_id: str
    npub: str
    mint: str
    unit: str
    transaction_type: str
    status: TokenStatus
    to_status: TokenStatus
    reason: DriftType
    severity: Severity
    amount: int = Field(description="What leaves the document, or stops counting in it.")
    proofs: int = Field(description="How many proofs it held.")
    removals: list[RemovalAnswer]

    @classmethod
    def of(cls, step: RepairStep) -> Self:
        removals = []
        for keeper in step.keepers[:YS_MAX]:
            same = [removal for removal in step.removals if removal.kept_in == keeper]
            ys = [str(removal.y) for removal in same]
            removals.append(RemovalAnswer(kept_in=keeper, ys=ys[:YS_MAX], amount=sum(r.amount for r in same)))
        return cls(
            token_id=step.token_id,
            npub=step.npub,
            mint=step.mint,
            unit=step.unit,
            transaction_type=step.transaction_type,
            status=step.status,
            to_status=step.to_status,
            reason=step.reason,
            severity=step.severity,
            amount=step.amount,
            proofs=len(step.ys),
            removals=removals,
        )


class LeftAnswer(Answer):
    """Proofs that are left as they are."""

    reason: LeftReason
    needs_person: bool
    type: DriftType
    mint: str | None
    unit: str
    value: int
    ys: list[str]
    token_ids: list[str]
    npubs: list[str]
    proposed_keeper: str | None

    @classmethod
    def of(cls, one: Left) -> Self:
        return cls(
            reason=one.reason,
            needs_person=one.reason.needs_person,
            type=one.type,
            mint=one.mint,
            unit=one.unit,
            value=one.value,
            ys=[str(y) for y in one.ys[:YS_MAX]],
            token_ids=[str(token_id) for token_id in one.token_ids[:YS_MAX]],
            npubs=list(one.npubs[:YS_MAX]),
            proposed_keeper=one.proposal,
        )


class UserValueAnswer(Answer):
    """How much too high one user's balance is at one mint."""

    npub: str
    mint: str
    unit: str
    counted: int = Field(description="What unspent and pending documents add up to, each copy counted.")
    honoured: int = Field(description="Each distinct proof once, where the mint doesn't call it SPENT.")
    inflation: int
    after: int = Field(description="`counted` once the plan is applied.")
    causes: dict[str, int] = Field(description="The inflation by cause.")

    @classmethod
    def of(cls, value: UserValue) -> Self:
        return cls(
            npub=value.npub,
            mint=value.mint,
            unit=value.unit,
            counted=value.counted,
            honoured=value.honoured,
            inflation=value.inflation,
            after=value.after,
            causes=dict(value.causes),
        )


class RepairAnswer(Answer):
    """A plan and what became of it. Lists hold at most 1000 items; the counts are of all."""

    plan: str = Field(description="The plan's id: the same id does the same.")
    type: RepairType
    dry_run: bool
    across_users: bool
    complete: bool = Field(description="False: there is more than one plan holds; repair, then look again.")
    documents: int
    proofs: int
    duplicates: int = Field(description="Secrets that stand in more than one document.")
    melted_documents: int = Field(description="`melted` documents that count towards a balance.")
    planned: int
    applied: int
    undone: dict[str, int]
    left_count: int
    needs_person: int
    inflation: dict[str, int] = Field(description="How much too high all balances are, by `mint/unit`.")
    users: list[UserValueAnswer]
    steps: list[RepairStepAnswer]
    left: list[LeftAnswer]
    errors: list[str]
    seconds: float

    @classmethod
    def of(cls, report: RepairReport) -> Self:
        plan = report.plan
        inflation: dict[str, int] = {}
        for user in plan.users:
            key = f"{user.mint}/{user.unit}"
            inflation[key] = inflation.get(key, 0) + user.inflation
        return cls(
            plan=plan.id,
            type=plan.type,
            dry_run=report.dry_run,
            across_users=plan.across_users,
            complete=plan.complete,
            documents=plan.documents,
            proofs=plan.proofs,
            duplicates=plan.duplicates,
            melted_documents=plan.melted_documents,
            planned=len(plan.steps),
            applied=report.applied,
            undone=dict(report.undone),
            left_count=len(plan.left),
            needs_person=sum(one.reason.needs_person for one in plan.left),
            inflation=inflation,
            users=[UserValueAnswer.of(user) for user in plan.users[:ROWS_MAX]],
            steps=[RepairStepAnswer.of(step) for step in plan.steps[:ROWS_MAX]],
            left=[LeftAnswer.of(one) for one in plan.left[:ROWS_MAX]],
            errors=list(report.errors),
            seconds=report.seconds,
        )


class RepairProgressAnswer(Answer):
    """What a repair does now."""

    running: bool
    phase: str
    done: int
    total: int | None
    seconds: float

    @classmethod
    def of(cls, progress: RepairProgress) -> Self:
        return cls(
            running=progress.running,
            phase=progress.phase,
            done=progress.done,
            total=progress.total,
            seconds=progress.seconds,
        )


class AdoptionAnswer(Answer):
    """Where the collection stands on its way to a unique index on the secrets of counted documents."""

    indexed: bool = Field(description="The index is listed and no duplicate is known, as of the last look.")
    setting: str = Field(description="`mongo.unique_proofs`.")
    adopted_at: datetime | None
    adopted_by: ActorAnswer | None
    reason: str | None
    duplicates: int | None = Field(description="Secrets in several counted documents; null: not counted.")
    keeps_before_source: int | None = Field(
        description="Proofs that were stored anew before their source was spent, which the index would refuse."
    )
    next_step: str

    @classmethod
    def of(cls, adoption: Adoption) -> Self:
        wish = adoption.wish
        return cls(
            indexed=adoption.indexed,
            setting=adoption.setting,
            adopted_at=None if wish is None else wish.at,
            adopted_by=None if wish is None else ActorAnswer.of(wish.actor),
            reason=None if wish is None else wish.reason,
            duplicates=adoption.duplicates,
            keeps_before_source=adoption.keeps_before_source,
            next_step=adoption.next_step,
        )


def _json(value: Answer) -> JSONResponse:
    return JSONResponse(value.model_dump(mode="json"))


def add_repairs(
    app: FastAPI,
    repairs: RepairService,
    *,
    actor_of: Callable[[Request], Actor],
    body_bytes_max: int,
    refuse: Callable[[], None],
) -> None:
    """The routes. ``refuse`` raises while the daemon stops."""

    @app.post("/v1/repairs", summary="Repair the double count, or tell what a repair would do")
    async def repair(request: Request) -> JSONResponse:
        body = await bodies.read(request, RepairBody, limit=body_bytes_max)
        refuse()
        if not body.dry_run and body.reason is None:
            raise Refusal(
                Code.INVALID_REQUEST, "reason: is required to carry a repair out", hint="it is kept in the audit"
            )
        report = await repairs.repair(
            repair=body.type,
            mint=None if body.mint is None else MintAlias(body.mint),
            dry_run=body.dry_run,
            across_users=body.across_users,
            plan_id=body.plan,
            reason=body.reason or "",
            actor=actor_of(request),
        )
        return _json(RepairAnswer.of(report))

    @app.get("/v1/repairs", summary="What a repair does now")
    async def progress() -> JSONResponse:
        return _json(RepairProgressAnswer.of(repairs.progress()))

    @app.get("/v1/adoption", summary="Whether the unique index stands or is wanted")
    async def adoption(query: Annotated[AdoptionQuery, Query()]) -> JSONResponse:
        return _json(AdoptionAnswer.of(await repairs.adoption(count=query.count)))

    @app.post("/v1/adoption", summary="Have the unique index made at the next start")
    async def adopt(request: Request) -> JSONResponse:
        body = await bodies.read(request, AdoptBody, limit=body_bytes_max)
        refuse()
        return _json(AdoptionAnswer.of(await repairs.adopt(reason=body.reason, actor=actor_of(request))))
