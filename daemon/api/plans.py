"""Routes of plans, of single discrepancies and of stories."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Self

from fastapi import FastAPI, Path, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BeforeValidator, Field

from daemon.api import bodies
from daemon.api.answers import ActorAnswer, Answer, FindingAnswer
from daemon.api.peers import actor_of
from melt.errors import Code, MeltdError, Severity
from melt.model import Action, DriftType, MintAlias, PlanId, PlanScope, PlanState, TokenStatus
from melt.story import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pydantic import BaseModel

    from daemon.ports.plans import Casebook, PlanDesk
    from melt.model import Discrepancy, Plan, PlanItem, Turn
    from melt.planner import PlanMade
    from melt.story import Story

PlanPath = Annotated[str, Path(min_length=1, max_length=64, pattern=r"^[\x21-\x7e]+$")]
CasePath = Annotated[str, Path(min_length=1, max_length=400, pattern=r"^[\x20-\x7e]+$")]


# --- what callers send ---


class PlanBody(bodies.Body):
    """Make a plan of what a reconciliation would correct now. Without fields: everything."""

    mint: bodies.Alias | None = None
    npub: bodies.Npub | None = None
    statuses: Annotated[list[TokenStatus], BeforeValidator(bodies.statuses_by_value)] = Field(
        default_factory=list, max_length=4, description="Only documents of these statuses; empty: the sweep's choice."
    )
    now: bool = Field(
        default=False,
        description="Also what has not settled. Only where you know that nobody else is at work on these documents: a payment of "
        "another service that is under way loses what it would have kept and its change.",
    )


class ApprovePlanBody(bodies.Body):
    """Approve a plan."""

    reason: bodies.Reason


class ApplyPlanBody(bodies.Body):
    """Apply an approved plan, or the rest of one that was interrupted."""


class WithdrawPlanBody(bodies.Body):
    """Withdraw a plan: nobody may apply it any more."""

    reason: bodies.Reason


class AcknowledgeBody(bodies.Body):
    """A person knows of a discrepancy and leaves it as it is: no rule corrects it."""

    reason: bodies.Reason


class ReopenBody(bodies.Body):
    """Take an acknowledgement back."""

    reason: bodies.Reason


class PlansQuery(bodies.Query):
    """Filters of plans; an empty list means all."""

    state: list[PlanState] = Field(default_factory=list, max_length=16)
    limit: bodies.Limit = 50


class PlanQuery(bodies.Query):
    """Which of a plan's items to show."""

    skip: int = Field(default=0, ge=0, le=10_000)
    limit: bodies.Limit = 100


# --- what callers get ---


class PlanTotalAnswer(Answer):
    """What the items of one mint, unit, type and action come to. `value` is in `unit`."""

    mint: str
    unit: str
    type: DriftType
    action: Action
    items: int
    value: int


class ApprovalAnswer(Answer):
    """Who approved, and why."""

    by: ActorAnswer
    at: datetime
    reason: str


class PlanScopeAnswer(Answer):
    """What the plan was asked for; null means all."""

    mint: str | None
    npub: str | None
    statuses: list[TokenStatus]


class PlanAnswer(Answer):
    """A plan without its items."""

    id: str
    state: PlanState
    made_at: datetime
    made_by: ActorAnswer
    scope: PlanScopeAnswer
    expires_at: datetime
    items: int
    left_out: int = Field(
        description="Corrections that found no room or have not settled, and records that a person has acknowledged."
    )
    now: bool = Field(description="Made to be applied without waiting until its documents have stood still.")
    totals: list[PlanTotalAnswer]
    approvals: list[ApprovalAnswer]
    approvals_needed: int = Field(description="How many people have to approve it.")
    ended_at: datetime | None
    ended_by: ActorAnswer | None
    reason: str | None = Field(description="Why it was refused, withdrawn or closed.")
    done: int = Field(description="Items that are corrected, once the plan has ended.")
    left: int = Field(description="Items that were left as they were.")
    why_left: dict[str, int]

    @classmethod
    def of(cls, plan: Plan, needed: int) -> Self:
        return cls(
            id=plan.id,
            state=plan.state,
            made_at=plan.made_at,
            made_by=ActorAnswer.of(plan.made_by),
            scope=PlanScopeAnswer(mint=plan.scope.mint, npub=plan.scope.npub, statuses=list(plan.scope.statuses)),
            expires_at=plan.expires_at,
            items=plan.items,
            left_out=plan.left_out,
            now=plan.at_once,
            totals=[
                PlanTotalAnswer(
                    mint=total.mint,
                    unit=total.unit,
                    type=total.type,
                    action=total.action,
                    items=total.items,
                    value=total.value,
                )
                for total in plan.totals
            ],
            approvals=[
                ApprovalAnswer(by=ActorAnswer.of(one.actor), at=one.at, reason=one.reason) for one in plan.approvals
            ],
            approvals_needed=needed,
            ended_at=plan.ended_at,
            ended_by=None if plan.ended_by is None else ActorAnswer.of(plan.ended_by),
            reason=plan.reason,
            done=plan.done,
            left=plan.left,
            why_left=dict(plan.why_left),
        )


class PlanItemAnswer(Answer):
    """One correction, with the version of the document that it was decided on. `value` is in `unit`."""

    token_id: str
    npub: str
    mint: str
    unit: str
    type: DriftType
    severity: Severity
    action: Action
    ys: list[str]
    value: int
    discrepancy_id: str
    expected_status: TokenStatus
    expected_rev: int | None
    digest: str

    @classmethod
    def of(cls, item: PlanItem) -> Self:
        return cls(
            token_id=item.token_id,
            npub=item.npub,
            mint=item.mint,
            unit=item.unit,
            type=item.type,
            severity=item.severity,
            action=item.action,
            ys=list(item.ys),
            value=item.value,
            discrepancy_id=item.discrepancy_id,
            expected_status=item.expected_status,
            expected_rev=item.expected_rev,
            digest=item.digest,
        )


class PlanWithItemsAnswer(Answer):
    """A plan and some of its items."""

    plan: PlanAnswer
    skip: int
    items: list[PlanItemAnswer]


class PlanMadeAnswer(Answer):
    """What making a plan came to. `plan` is null where there is nothing to correct."""

    plan: PlanAnswer | None
    documents: int
    proofs: int
    left_out: int = Field(description="What found no room, has not settled, or was acknowledged.")
    errors: list[str] = Field(description="Mints that could not be asked; the plan is of the others.")

    @classmethod
    def of(cls, made: PlanMade, desk: PlanDesk) -> Self:
        return cls(
            plan=None if made.plan is None else PlanAnswer.of(made.plan, desk.approvals_needed(made.plan)),
            documents=made.documents,
            left_out=made.left_out,
            proofs=made.proofs,
            errors=list(made.errors),
        )


class PlansAnswer(Answer):
    """Plans, newest first."""

    plans: list[PlanAnswer]


class TurnAnswer(Answer):
    """One turn of a discrepancy's life."""

    at: datetime
    what: str
    by: ActorAnswer | None
    reason: str | None

    @classmethod
    def of(cls, turn: Turn) -> Self:
        by = None if turn.by is None else ActorAnswer.of(turn.by)
        return cls(at=turn.at, what=turn.what, by=by, reason=turn.reason)


class DiscrepancyAnswer(Answer):
    """One discrepancy and its life, oldest turn first."""

    discrepancy: FindingAnswer
    history: list[TurnAnswer]

    @classmethod
    def of(cls, record: Discrepancy, now: datetime) -> Self:
        return cls(discrepancy=FindingAnswer.of(record, now), history=[TurnAnswer.of(turn) for turn in record.history])


class LineAnswer(Answer):
    """One thing that happened."""

    at: datetime
    text: str


class StoryAnswer(Answer):
    """The story of one proof, melt or document: `lines` in order of time, `now` where it stands."""

    kind: Kind
    subject: str
    lines: list[LineAnswer]
    now: list[str]
    left_out: list[str]

    @classmethod
    def of(cls, story: Story) -> Self:
        return cls(
            kind=story.kind,
            subject=story.subject,
            lines=[LineAnswer(at=line.at, text=line.text) for line in story.lines],
            now=list(story.now),
            left_out=list(story.left_out),
        )


# --- routes ---


def _json(value: BaseModel, status: int = 200) -> JSONResponse:
    return JSONResponse(value.model_dump(mode="json"), status_code=status)


def _no_plan() -> MeltdError:
    return MeltdError(Code.NOT_FOUND, "there is no plan with this id")


def add_plans(app: FastAPI, desk: PlanDesk, *, body_bytes_max: int, refuse_when_draining: Callable[[], None]) -> None:
    """``refuse_when_draining`` raises while the daemon stops."""

    def shown(plan: Plan | None) -> JSONResponse:
        if plan is None:
            raise _no_plan()
        return _json(PlanAnswer.of(plan, desk.approvals_needed(plan)))

    @app.post("/v1/plans", status_code=201, summary="Make a plan: a dry run that is kept")
    async def make_plan(request: Request) -> JSONResponse:
        body = await bodies.read(request, PlanBody, limit=body_bytes_max)
        refuse_when_draining()
        mint = None if body.mint is None else MintAlias(body.mint)
        scope = PlanScope(mint=mint, npub=body.npub, statuses=tuple(body.statuses))
        made = await desk.make(scope=scope, actor=actor_of(request.scope), at_once=body.now)
        return _json(PlanMadeAnswer.of(made, desk), 200 if made.plan is None else 201)

    @app.get("/v1/plans", summary="Plans, newest first")
    async def plans(query: Annotated[PlansQuery, Query()]) -> JSONResponse:
        found = await desk.plans(states=tuple(query.state), limit=query.limit)
        return _json(PlansAnswer(plans=[PlanAnswer.of(plan, desk.approvals_needed(plan)) for plan in found]))

    @app.get("/v1/plans/{id}", summary="One plan with its items")
    async def plan(id: PlanPath, query: Annotated[PlanQuery, Query()]) -> JSONResponse:  # noqa: A002 - the path's word
        found = await desk.plan(PlanId(id))
        if found is None:
            raise _no_plan()
        items: Sequence[PlanItem] = await desk.items(found.id, skip=query.skip, limit=query.limit)
        return _json(
            PlanWithItemsAnswer(
                plan=PlanAnswer.of(found, desk.approvals_needed(found)),
                skip=query.skip,
                items=[PlanItemAnswer.of(item) for item in items],
            )
        )

    @app.post("/v1/plans/{id}/approve", summary="Approve a plan")
    async def approve(id: PlanPath, request: Request) -> JSONResponse:  # noqa: A002 - the path's word
        body = await bodies.read(request, ApprovePlanBody, limit=body_bytes_max)
        return shown(await desk.approve(plan_id=PlanId(id), reason=body.reason, actor=actor_of(request.scope)))

    @app.post("/v1/plans/{id}/apply", summary="Apply an approved plan")
    async def apply(id: PlanPath, request: Request) -> JSONResponse:  # noqa: A002 - the path's word
        await bodies.read(request, ApplyPlanBody, limit=body_bytes_max)
        refuse_when_draining()
        return shown(await desk.apply(plan_id=PlanId(id), actor=actor_of(request.scope)))

    @app.post("/v1/plans/{id}/withdraw", summary="Withdraw a plan")
    async def withdraw(id: PlanPath, request: Request) -> JSONResponse:  # noqa: A002 - the path's word
        body = await bodies.read(request, WithdrawPlanBody, limit=body_bytes_max)
        return shown(await desk.withdraw(plan_id=PlanId(id), reason=body.reason, actor=actor_of(request.scope)))


def add_cases(app: FastAPI, cases: Casebook, *, body_bytes_max: int, now: Callable[[], datetime]) -> None:
    """Discrepancies one by one. Their ids hold colons and may hold slashes."""

    def shown(record: Discrepancy | None) -> JSONResponse:
        if record is None:
            raise MeltdError(Code.NOT_FOUND, "there is no discrepancy with this id")
        return _json(DiscrepancyAnswer.of(record, now()))

    @app.post("/v1/discrepancies/{id:path}/acknowledge", summary="Leave a discrepancy as it is, for a reason")
    async def acknowledge(id: CasePath, request: Request) -> JSONResponse:  # noqa: A002 - the path's word
        body = await bodies.read(request, AcknowledgeBody, limit=body_bytes_max)
        actor = actor_of(request.scope)
        return shown(await cases.acknowledge(discrepancy_id=id, reason=body.reason, actor=actor))

    @app.post("/v1/discrepancies/{id:path}/reopen", summary="Take an acknowledgement back")
    async def reopen(id: CasePath, request: Request) -> JSONResponse:  # noqa: A002 - the path's word
        body = await bodies.read(request, ReopenBody, limit=body_bytes_max)
        actor = actor_of(request.scope)
        return shown(await cases.reopen(discrepancy_id=id, reason=body.reason, actor=actor))

    @app.get("/v1/discrepancies/{id:path}", summary="One discrepancy and its life")
    async def discrepancy(id: CasePath) -> JSONResponse:  # noqa: A002 - the path's word
        return shown(await cases.discrepancy(id))

    @app.get("/v1/explain/{what:path}", summary="The story of a proof, a melt or a document in plain words")
    async def explain(what: CasePath) -> JSONResponse:
        story = await cases.explain(what)
        if story is None:
            raise MeltdError(Code.NOT_FOUND, "no record knows this proof, melt or document")
        return _json(StoryAnswer.of(story))
