"""``meltd restore``: look for value that the database lacks."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from daemon.cli.asking import ask, client_of, show
from daemon.cli.root import Json, Mint, Socket, app


@app.command(epilog="Example: meltd restore --mint main --dry-run")
def restore(
    mint: Mint = None,
    melt: Annotated[str | None, typer.Option("--melt", help="Only what this melt or reclaim planned.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Report what would be imported; change nothing.")] = False,  # noqa: FBT002
    socket: Socket = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Ask the mints which of our outputs they have signed (NUT-09), and import what the database lacks."""
    from daemon.cli.client import RECONCILE_TIMEOUT_S  # noqa: PLC0415 - httpx costs 100 ms

    client = client_of(socket)
    body = {"mint": mint, "melt": melt, "dry_run": dry_run}
    reply = ask(lambda: client.post("/v1/restore", body, timeout_s=RECONCILE_TIMEOUT_S))
    show(reply, as_json, _view)
    if reply.body.get("errors"):
        raise typer.Exit(1)


def _view(body: dict[str, Any]) -> None:
    """What was found, what became of it, and the sums."""
    from daemon.cli.tables import facts, plain, table  # noqa: PLC0415

    yes = "would import" if body["dry_run"] else "imported"
    rows = [
        (one["finding"]["subject"], one["finding"]["npub"], one["finding"]["mint"], one["finding"]["value"], one["finding"]["unit"], yes if one["imported"] else one["kept_out"])
        for one in body["found"]
    ]  # fmt: skip
    table("At the mint and not in the database", ("subject", "npub", "mint", "#value", "unit", "became"), rows, empty="Nothing is lacking.")  # fmt: skip
    amounts = ", ".join(f"{plain(amount)} {unit}" for unit, amount in sorted(body["imported_amounts"].items()))
    facts(
        "",
        [
            ("looked at", f"{plain(body['entries'])} journal entries, {plain(body['outputs'])} outputs, {plain(body['signed'])} signed"),
            (yes, f"{body['imported']} of {len(body['found'])} found{f': {amounts}' if amounts else ''}"),
            *([("bad signatures", body["refused"])] if body["refused"] else []),
            *([("of another seed", f"{body['foreign']} entries")] if body["foreign"] else []),
            *[("error", text) for text in body["errors"]],
        ],
    )  # fmt: skip
