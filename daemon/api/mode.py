"""The mode and the survey: bodies, answers and routes (ADR 23)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Final, Literal, Self

from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic import BeforeValidator, Field

from daemon.api import bodies
from daemon.api.answers import ActorAnswer, Answer
from daemon.api.repairs import RepairProgressAnswer
from melt.errors import Severity
from melt.model import Action, DriftType, TokenStatus
from melt.model.indexes import IndexState
from melt.model.mode import Mode
from melt.model.survey import Copies

if TYPE_CHECKING:
    from fastapi import FastAPI

    from daemon.ports import ModeReport, ModeService, SurveyReport
    from melt.model import Actor
    from melt.model.indexes import IndexStanding
    from melt.model.survey import Change, Drift, Holding

YS_MAX: Final = 100


def _as_mode(value: object) -> object:
    return Mode(value) if isinstance(value, str) and value != Mode.ENDING else value


class ModeBody(bodies.Body):
    """Observe this database, or correct what is found in it."""

    mode: Annotated[Literal[Mode.OBSERVE, Mode.CORRECT], BeforeValidator(_as_mode)]
    reason: bodies.Reason
    end_open: bool = Field(
        default=False,
        description="Back to `observe`: let open entries of the journal end first, and begin nothing new.",
    )


class SurveyBody(bodies.Body):
    """Look at everything and change nothing. Takes as long as a tour over all documents."""


class IndexAnswer(Answer):
    """An index that meltd wants in one of the wallet's collections."""

    collection: str
    name: str = Field(description="Of the one that serves, whoever made it.")
    keys: list[str]
    purpose: str
    state: IndexState
    unique: bool
    on_a_yes: bool = Field(description="Made only on a yes of its own: `meltd adopt --unique-index`.")
    detail: str | None
    seconds: float | None = Field(description="About how long it takes to make; null: not estimated.")

    @classmethod
    def of(cls, one: IndexStanding, seconds: float | None = None) -> Self:
        return cls(
            collection=one.collection,
            name=one.name,
            keys=list(one.keys),
            purpose=one.purpose,
            state=one.state,
            unique=one.unique,
            on_a_yes=one.on_a_yes,
            detail=one.detail,
            seconds=seconds,
        )


class ModeAnswer(Answer):
    """Whether meltd corrects this database or only observes it, and who has decided that."""

    mode: Mode = Field(description="In force here: the more careful of the database's choice and the setting.")
    reason: str
    in_database: Mode
    chosen: bool = Field(description="False: nobody has chosen yet; the next start decides anew.")
    chosen_at: datetime
    chosen_by: ActorAnswer
    setting: Mode | None
    indexes: list[IndexAnswer] = Field(description="In the wallet's collections, as of the last look.")

    @classmethod
    def of(cls, report: ModeReport) -> Self:
        return cls(
            mode=report.mode,
            reason=report.reason,
            in_database=report.choice.mode,
            chosen=report.choice.chosen,
            chosen_at=report.choice.at,
            chosen_by=ActorAnswer.of(report.choice.actor),
            setting=report.setting,
            indexes=[IndexAnswer.of(one) for one in report.indexes.standings],
        )


class HoldingAnswer(Answer):
    """Documents of one status and type, and what they come to in one unit."""

    status: str
    transaction_type: str
    unit: str
    documents: int
    proofs: int
    value: int

    @classmethod
    def of(cls, one: Holding) -> Self:
        return cls(
            status=one.status,
            transaction_type=one.transaction_type,
            unit=one.unit,
            documents=one.documents,
            proofs=one.proofs,
            value=one.value,
        )


class DriftAnswer(Answer):
    """Drift of one type at one mint in one unit."""

    type: DriftType
    severity: Severity
    action: Action = Field(description="What a rule would do about it.")
    mint: str | None
    unit: str
    number: int
    value: int

    @classmethod
    def of(cls, one: Drift) -> Self:
        return cls(
            type=one.type,
            severity=one.severity,
            action=one.action,
            mint=one.mint,
            unit=one.unit,
            number=one.number,
            value=one.value,
        )


class ChangeAnswer(Answer):
    """One correction that `correct` would make if nothing moved until then."""

    token_id: str
    npub: str
    mint: str
    unit: str
    type: DriftType
    action: Action
    status: TokenStatus
    proofs: int
    of_proofs: int
    ys: list[str]
    value: int
    in_s: float = Field(description="After how many seconds of watching at the earliest.")

    @classmethod
    def of(cls, one: Change) -> Self:
        return cls(
            token_id=one.token_id,
            npub=one.npub,
            mint=one.mint,
            unit=one.unit,
            type=one.type,
            action=one.action,
            status=one.status,
            proofs=one.proofs,
            of_proofs=one.of_proofs,
            ys=[str(y) for y in one.ys[:YS_MAX]],
            value=one.value,
            in_s=one.in_s,
        )


class CopiesAnswer(Answer):
    """Proofs that lie in several documents in one way."""

    pattern: Copies
    proofs: int
    value: int


class OthersAnswer(Answer):
    """Whether somebody else spends from this database, as far as the records show."""

    somebody_spends: bool = Field(description="False: the records show nobody, which after a short time proves little.")
    cleared: int = Field(description="Drift that somebody else put right while meltd watched.")
    settling: int = Field(description="Drift of that kind that is open now.")
    somebody_rolls_back: bool = Field(description="A program seems to turn spent documents back to unspent.")
    rolled_back: int = Field(description="Documents that are unspent and carry the date of being spent.")
    recurred: int


class SurveyAnswer(Answer):
    """What is there, and what `correct` would do about it."""

    mode: Mode
    correct_after_s: float
    documents: int
    proofs: int
    users: int
    holdings: list[HoldingAnswer]
    drift: list[DriftAnswer]
    changes: list[ChangeAnswer] = Field(description="The first 10000 of `changes_count`.")
    changes_count: int
    over_caps: list[str] = Field(
        description="Mints at which a tour's cap would hold some back: they are offered as a plan."
    )
    sent_as_unspent_documents: int
    sent_as_unspent: dict[str, int] = Field(description="`sent` documents that count as unspent, value by unit.")
    copies: list[CopiesAnswer]
    keeps_before_source: int = Field(description="Proofs stored anew before their source was spent.")
    others: OthersAnswer
    indexes: list[IndexAnswer]
    advice: list[str]
    complete: bool
    errors: list[str]
    seconds: float

    @classmethod
    def of(cls, report: SurveyReport) -> Self:
        survey = report.survey
        others = survey.others
        return cls(
            mode=report.mode.mode,
            correct_after_s=report.correct_after_s,
            documents=survey.documents,
            proofs=survey.proofs,
            users=survey.users,
            holdings=[HoldingAnswer.of(one) for one in survey.holdings],
            drift=[DriftAnswer.of(one) for one in survey.drift],
            changes=[ChangeAnswer.of(one) for one in survey.changes],
            changes_count=survey.changes_count,
            over_caps=[str(alias) for alias in survey.capped],
            sent_as_unspent_documents=survey.sent_as_unspent_documents,
            sent_as_unspent=dict(survey.sent_as_unspent),
            copies=[CopiesAnswer(pattern=one.copies, proofs=one.proofs, value=one.value) for one in survey.copies],
            keeps_before_source=survey.keeps_before_source,
            others=OthersAnswer(
                somebody_spends=others.somebody_spends,
                cleared=others.cleared,
                settling=others.settling,
                somebody_rolls_back=others.somebody_rolls_back,
                rolled_back=others.rolled_back,
                recurred=others.recurred,
            ),
            indexes=[IndexAnswer.of(wish.standing, wish.seconds) for wish in survey.indexes],
            advice=list(report.advice),
            complete=survey.complete,
            errors=list(survey.errors),
            seconds=report.seconds,
        )


def _json(value: Answer) -> JSONResponse:
    return JSONResponse(value.model_dump(mode="json"))


def add_mode(
    app: FastAPI,
    modes: ModeService,
    *,
    actor_of: Callable[[Request], Actor],
    body_bytes_max: int,
    refuse: Callable[[], None],
) -> None:
    """The routes. ``refuse`` raises while the daemon stops."""

    @app.get("/v1/mode", summary="Whether meltd corrects or observes")
    async def mode() -> JSONResponse:
        return _json(ModeAnswer.of(await modes.mode()))

    @app.post("/v1/mode", summary="Correct what is found, or only observe")
    async def switch(request: Request) -> JSONResponse:
        body = await bodies.read(request, ModeBody, limit=body_bytes_max)
        refuse()
        actor = actor_of(request)
        if body.mode is Mode.CORRECT:
            return _json(ModeAnswer.of(await modes.correct(actor=actor, reason=body.reason)))
        return _json(ModeAnswer.of(await modes.observe(actor=actor, reason=body.reason, end_open=body.end_open)))

    @app.post("/v1/survey", summary="What is there, and what would be changed")
    async def survey(request: Request) -> JSONResponse:
        await bodies.read(request, SurveyBody, limit=body_bytes_max)
        refuse()
        return _json(SurveyAnswer.of(await modes.survey(actor=actor_of(request))))

    @app.get("/v1/survey", summary="What a survey does now")
    async def progress() -> JSONResponse:
        return _json(RepairProgressAnswer.of(modes.survey_progress()))
