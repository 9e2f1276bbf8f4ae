"""``POST /v1/tokens/spent``: what an operator knows about documents and meltd can't."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Self

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import Field

from daemon.api import bodies
from daemon.api.answers import Answer
from melt.errors import Code, MeltdError
from melt.model import MintState, TokenId, TokenStatus

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.ports import MarkedToken, TokenService
    from melt.model import Actor

DOCUMENTS_MAX = 100


class SpentBody(bodies.Body):
    """Mark whole documents spent: all of them, or none where one may not be."""

    token_ids: list[Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[\x21-\x7e]+$")]] = Field(
        min_length=1, max_length=DOCUMENTS_MAX
    )
    reason: bodies.Reason
    now: bool = Field(
        default=False,
        description="Documents too that an open melt has reserved, that are in question, or that were sent.",
    )


class MarkedAnswer(Answer):
    """One document, and what the mint calls its proofs."""

    token_id: str
    npub: str
    status_before: TokenStatus
    marked: bool = Field(description="False: it was spent before.")
    amount: int
    at_mint: dict[MintState, int] | None = Field(
        description="Its proofs by state; null where the mint could not be asked."
    )
    mint_error: str | None

    @classmethod
    def of(cls, one: MarkedToken) -> Self:
        return cls(
            token_id=one.token_id,
            npub=one.npub,
            status_before=one.status_before,
            marked=one.status_before is not TokenStatus.SPENT,
            amount=one.amount,
            at_mint=None if one.at_mint is None else dict(one.at_mint),
            mint_error=one.mint_error,
        )


class SpentAnswer(Answer):
    """What was marked, in the order asked for."""

    documents: list[MarkedAnswer]


def add_tokens(
    app: FastAPI,
    tokens: TokenService | None,
    *,
    limit: int,
    refuse: Callable[[], None],
    actor: Callable[[Request], Actor],
) -> None:
    """The route. ``refuse`` raises while the daemon takes no new work."""

    @app.post("/v1/tokens/spent", summary="Mark documents spent on a person's word")
    async def spent(request: Request) -> JSONResponse:
        body = await bodies.read(request, SpentBody, limit=limit)
        refuse()
        if tokens is None:
            raise MeltdError(Code.NOT_FOUND, "this daemon marks no documents")
        ids = [TokenId(token_id) for token_id in body.token_ids]
        marked = await tokens.mark_spent(token_ids=ids, reason=body.reason, now=body.now, actor=actor(request))
        return JSONResponse(SpentAnswer(documents=[MarkedAnswer.of(one) for one in marked]).model_dump(mode="json"))
