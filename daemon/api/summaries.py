"""The route of the daily summaries, and its answer."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Self

from fastapi import FastAPI, Query
from fastapi.responses import JSONResponse
from pydantic import Field

from daemon.api import bodies
from daemon.api.answers import Answer
from melt.model import MintAlias

if TYPE_CHECKING:
    from daemon.ports.summaries import SummaryReads
    from melt.model import DaySummary


class SummariesQuery(bodies.Query):
    """Which summaries."""

    mint: bodies.Alias | None = None
    npub: bodies.Npub | None = Field(default=None, description="One user's; left out: the mints' own.")
    day: Annotated[str, Field(pattern=r"^\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])$")] | None = Field(
        default=None, description="A day in UTC, as 2026-11-25."
    )
    limit: bodies.Limit = 100


class SummaryAnswer(Answer):
    """One day at one mint in one unit. Amounts in the unit."""

    day: str
    mint: str
    unit: str
    npub: str | None
    made_at: datetime
    is_final: bool = Field(description="Made after the day had ended.")
    liabilities: dict[str, int] = Field(description="What the database owes, by status.")
    owed: int
    verified: int | None = Field(
        description="What the mint honoured of it when the last whole tour looked; a user's: owed less what is in question."
    )
    verified_at: datetime | None
    in_question: int = Field(description="Value of the discrepancies that are open.")
    found: dict[str, int] = Field(description="Discrepancies found on the day, by type.")
    mended: dict[str, int] = Field(description="Discrepancies corrected on the day, by type.")
    melts: int
    paid: int
    lightning_fees: int
    input_fees: int = Field(description="The mint's, for payments and for swaps.")
    shortfall: int
    unaccounted: int = Field(description="Went with inputs that are gone: nobody knows whether it paid anything.")
    reclaimed: int

    @classmethod
    def of(cls, row: DaySummary) -> Self:
        """From a row."""
        done = row.activity
        return cls(
            day=row.day,
            mint=row.mint,
            unit=row.unit,
            npub=row.npub,
            made_at=row.made_at,
            is_final=row.is_final,
            liabilities=dict(row.liabilities),
            owed=row.owed,
            verified=row.verified,
            verified_at=row.verified_at,
            in_question=done.in_question,
            found=dict(done.found),
            mended=dict(done.mended),
            melts=done.melts,
            paid=done.paid,
            lightning_fees=done.lightning_fees,
            input_fees=done.input_fees,
            shortfall=done.shortfall,
            unaccounted=done.unaccounted,
            reclaimed=done.reclaimed,
        )


class SummariesAnswer(Answer):
    """Newest day first."""

    summaries: list[SummaryAnswer]


def add_summaries(app: FastAPI, reads: SummaryReads) -> None:
    """The route."""

    @app.get("/v1/summaries", summary="Daily summaries of mints or of one user")
    async def summaries(query: Annotated[SummariesQuery, Query()]) -> JSONResponse:
        mint = None if query.mint is None else MintAlias(query.mint)
        found = await reads.summaries(mint=mint, npub=query.npub, day=query.day, limit=query.limit)
        answer = SummariesAnswer(summaries=[SummaryAnswer.of(row) for row in found])
        return JSONResponse(answer.model_dump(mode="json"))
