"""``POST /v1/restore``: look for value that the database lacks (NUT-09)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Self

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import Field

from daemon.api import bodies
from daemon.api.answers import Answer, FindingAnswer
from melt.errors import Code, MeltdError
from melt.model import MeltId, MintAlias
from melt.model.restore import RestoreScope

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.ports import RestoreOperations
    from melt.model import Actor
    from melt.model.restore import Discovery, RestoreReport


class RestoreBody(bodies.Body):
    """Ask the mints which of our outputs they have signed, and import what the database lacks. Without fields: everything."""

    mint: bodies.Alias | None = None
    melt: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[\x21-\x7e]+$")] | None = Field(
        default=None, description="Only what this melt or reclaim planned; it must have ended."
    )
    dry_run: bool = Field(default=False, description="Report exactly what would be imported, and change nothing.")


class DiscoveryAnswer(Answer):
    """Value that the mint holds and the database lacks."""

    finding: FindingAnswer
    imported: bool = Field(description="Whether it was (in a dry run: would be) stored as a new document.")
    kept_out: str | None = Field(description="Why it was only recorded.")

    @classmethod
    def of(cls, one: Discovery) -> Self:
        return cls(finding=FindingAnswer.of(one.found), imported=one.kept_out is None, kept_out=one.kept_out)


class RestoreAnswer(Answer):
    """What a restore found and imported or, in a dry run, would import."""

    dry_run: bool
    entries: int = Field(description="Journal entries looked at.")
    outputs: int = Field(description="Outputs that the mints were asked about.")
    signed: int = Field(description="Of these, signed by the mint.")
    refused: int = Field(description="Signatures that do not verify: no value.")
    foreign: int = Field(description="Entries with outputs of another seed, which this one can't restore.")
    found: list[DiscoveryAnswer]
    imported: int
    imported_amounts: dict[str, int] = Field(description="By unit.")
    errors: list[str]
    seconds: float

    @classmethod
    def of(cls, report: RestoreReport) -> Self:
        return cls(
            dry_run=report.dry_run,
            entries=report.entries,
            outputs=report.outputs,
            signed=report.signed,
            refused=report.refused,
            foreign=report.foreign,
            found=[DiscoveryAnswer.of(one) for one in report.discoveries],
            imported=report.imported,
            imported_amounts=report.imported_amounts,
            errors=list(report.errors),
            seconds=round(report.seconds, 3),
        )


def add_restore(
    app: FastAPI,
    restores: RestoreOperations | None,
    *,
    limit: int,
    refuse: Callable[[], None],
    actor: Callable[[Request], Actor],
) -> None:
    """The route. ``refuse`` raises while the daemon takes no new work."""

    @app.post("/v1/restore", summary="Look for value that the database lacks")
    async def restore(request: Request) -> JSONResponse:
        body = await bodies.read(request, RestoreBody, limit=limit)
        refuse()
        if restores is None:
            raise MeltdError(Code.NOT_FOUND, "this daemon does not restore")
        scope = RestoreScope(
            mint=None if body.mint is None else MintAlias(body.mint),
            melt=None if body.melt is None else MeltId(body.melt),
        )
        report = await restores.restore(scope=scope, dry_run=body.dry_run, actor=actor(request))
        if report is None:
            raise MeltdError(Code.NOT_FOUND, "there is no melt with this id")
        return JSONResponse(RestoreAnswer.of(report).model_dump(mode="json"))
