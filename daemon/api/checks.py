"""``POST /v1/proofs/check``: body, answers and route."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Final, Self

from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic import Field, StringConstraints, model_validator

from daemon.api import bodies
from daemon.api.answers import Answer, FindingAnswer
from melt.errors import Severity
from melt.model import MintAlias, MintState, TokenId, TokenStatus, Y

if TYPE_CHECKING:
    from fastapi import FastAPI

    from daemon.ports import CheckedDocument, CheckReport, CheckService
    from melt.model import Actor

ITEMS_MAX: Final = 200

YText = Annotated[str, StringConstraints(pattern=r"^0[23][0-9a-fA-F]{64}$")]
IdText = Annotated[str, StringConstraints(min_length=1, max_length=128)]


class CheckBody(bodies.Body):
    """Ask about given proofs, by Y, or about whole documents. Nothing is written."""

    ys: list[YText] = Field(default_factory=list, max_length=ITEMS_MAX)
    token_ids: list[IdText] = Field(default_factory=list, max_length=ITEMS_MAX)
    mint: bodies.Alias | None = Field(default=None, description="Asked about Ys that lead to no document.")

    @model_validator(mode="after")
    def _names_something(self) -> Self:
        if not self.ys and not self.token_ids:
            raise ValueError("ys or token_ids must name something")
        return self


class CheckedProofAnswer(Answer):
    """One proof: what the database and what the mint says of it."""

    y: str
    amount: int
    database: TokenStatus
    mint: MintState | None = Field(description="Null where the mint could not be asked.")


class CheckedDocumentAnswer(Answer):
    """One document with its proofs."""

    token_id: str
    npub: str
    mint: str | None = Field(description="Alias; null where its mint is not configured.")
    status: TokenStatus
    transaction_type: str
    amount: int
    counted: bool = Field(description="Whether a balance counts it: unspent or pending, neither `sent` nor `melted`.")
    blocked: bool = Field(description="meltd would not pay with it now.")
    severity: Severity | None = Field(description="The worst of `found`.")
    proofs: list[CheckedProofAnswer]
    found: list[FindingAnswer]

    @classmethod
    def of(cls, one: CheckedDocument) -> Self:
        token = one.token
        return cls(
            token_id=token.id,
            npub=token.npub,
            mint=one.mint,
            status=token.status,
            transaction_type=token.transaction_type,
            amount=token.amount,
            counted=token.is_counted,
            blocked=one.blocked,
            severity=one.severity,
            proofs=[
                CheckedProofAnswer(y=proof.y, amount=proof.amount, database=token.status, mint=state)
                for proof, state in zip(token.proofs, one.states, strict=True)
            ],
            found=[FindingAnswer.of(item) for item in one.found],
        )


class StrangerAnswer(Answer):
    """A Y that leads to no document."""

    y: str
    mint: MintState | None


class CheckAnswer(Answer):
    """Database and mint side by side."""

    documents: list[CheckedDocumentAnswer]
    strangers: list[StrangerAnswer] = Field(description="Ys that no record of meltd leads to a document from.")
    missing: list[str] = Field(description="Documents that are not there or can't be read.")
    blocked: bool = Field(description="Whether any of the documents is.")
    errors: list[str]

    @classmethod
    def of(cls, report: CheckReport) -> Self:
        return cls(
            documents=[CheckedDocumentAnswer.of(one) for one in report.documents],
            strangers=[StrangerAnswer(y=y, mint=state) for y, state in report.strangers],
            missing=[str(token_id) for token_id in report.missing],
            blocked=any(one.blocked for one in report.documents),
            errors=list(report.errors),
        )


def add_checks(
    app: FastAPI,
    checks: CheckService,
    *,
    actor_of: Callable[[Request], Actor],
    body_bytes_max: int,
    refuse: Callable[[], None],
) -> None:
    """The route. ``refuse`` raises while the daemon stops."""

    @app.post("/v1/proofs/check", summary="Given proofs or documents: database and mint side by side")
    async def check(request: Request) -> JSONResponse:
        body = await bodies.read(request, CheckBody, limit=body_bytes_max)
        refuse()
        report = await checks.check(
            ys=[Y(y) for y in dict.fromkeys(y.lower() for y in body.ys)],
            token_ids=[TokenId(one) for one in dict.fromkeys(body.token_ids)],
            mint=None if body.mint is None else MintAlias(body.mint),
            actor=actor_of(request),
        )
        return JSONResponse(CheckAnswer.of(report).model_dump(mode="json"))
