"""``meltd tokens``: single documents."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Final

import typer

from daemon.cli.asking import ask, client_of, show
from daemon.cli.root import Json, Socket, tokens_app

_NOW: Final = "Reserved, questioned and sent documents too: somebody may still need them."


@tokens_app.callback()
def tokens() -> None:
    """Single token documents."""


@tokens_app.command("spent", epilog="Example: meltd tokens spent ID --reason 'paid out by hand on Monday'")
def tokens_spent(
    token_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="The documents' ids.")],
    reason: Annotated[
        str | None, typer.Option("--reason", help="Why; kept in the audit. Asked for if left out.")
    ] = None,
    now: Annotated[bool, typer.Option("--now", help=_NOW)] = False,  # noqa: FBT002
    socket: Socket = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Mark documents spent: what you know and meltd can't. Says what the mint calls their proofs."""
    if reason is None:
        if as_json or not sys.stdin.isatty():
            raise typer.BadParameter("--reason is needed: it is kept in the audit")
        reason = typer.prompt("Reason").strip()
    body = {"token_ids": list(token_ids), "reason": reason, "now": now}
    client = client_of(socket)
    show(ask(lambda: client.post("/v1/tokens/spent", body)), as_json, _view)


def _view(body: dict[str, Any]) -> None:
    from daemon.cli.tables import table  # noqa: PLC0415

    rows = [
        (one["token_id"], one["npub"], one["status_before"], "yes" if one["marked"] else "was so before", one["amount"], _said(one))
        for one in body["documents"]
    ]  # fmt: skip
    table("Marked spent", ("document", "npub", "was", "marked", "#amount", "the mint says"), rows, empty="")


def _said(one: dict[str, Any]) -> str:
    if one["at_mint"] is None:
        return str(one["mint_error"])
    return ", ".join(f"{count} {state}" for state, count in one["at_mint"].items()) or "it has no proofs"
