"""The command of the daily summaries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from daemon.cli.asking import ask, client_of, show
from daemon.cli.root import Json, LimitOption, Mint, Npub, Socket, app

if TYPE_CHECKING:
    from collections.abc import Mapping


@app.command(epilog="Examples: meltd summary; meltd summary --npub npub1... --day 2026-11-25")
def summary(
    mint: Mint = None,
    npub: Npub = None,
    day: Annotated[str | None, typer.Option("--day", help="Only this day (UTC), as 2026-11-25.")] = None,
    limit: LimitOption = 30,
    socket: Socket = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """What is owed at each mint and what a day cost, day by day; with --npub one user's."""
    client = client_of(socket)
    reply = ask(lambda: client.get("/v1/summaries", mint=mint, npub=npub, day=day, limit=limit))
    show(reply, as_json, lambda body: view(body["summaries"]))


def view(rows: list[dict[str, Any]]) -> None:
    """A line for each day, mint and unit."""
    from daemon.cli import tables  # noqa: PLC0415

    lines = [
        (row["day"] + ("" if row["is_final"] else " *"), row["mint"], row["owed"], row["verified"], row["in_question"],
         _sum(row["found"]), _sum(row["mended"]), row["melts"], row["paid"],
         row["lightning_fees"] + row["input_fees"], row["shortfall"], row["unaccounted"], row["reclaimed"], row["unit"],
         tables.when(row["made_at"]))
        for row in rows
    ]  # fmt: skip
    columns = (
        "day (UTC, * not over)", "mint", "#owed", "#verified", "#in question", "#found", "#mended", "#melts", "#paid",
        "#fees", "#shortfall", "#unaccounted", "#reclaimed", "unit", "as of (UTC)",
    )  # fmt: skip
    tables.table("Summaries", columns, lines, empty="No summaries yet: the first ones are made soon after the start.")


def _sum(counts: Mapping[str, int]) -> int:
    return sum(counts.values())
