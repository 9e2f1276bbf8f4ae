"""``meltd adopt`` and ``meltd mode``: look first, then correct on a yes and a reason; and back again (ADR 23)."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from daemon.cli.asking import ask, client_of, show
from daemon.cli.ends import CommandFailed
from daemon.cli.repairs import post, want_unique_index, watch
from daemon.cli.root import Json, Socket, app

if TYPE_CHECKING:
    from daemon.cli.client import Client

MODES = ("observe", "correct")

_WHAT_ADOPTING_MEANS = """\
From a yes on meltd corrects by rule what it finds in this database: what has stood still for sweep.correct_after_s is marked
spent, released or taken back, as the survey says, and payments may be made through meltd. It makes the indexes that it wants,
but no unique one. Back to looking only: meltd mode observe --reason TEXT."""
_WHAT_THE_INDEX_MEANS = """\
With this yes meltd makes a unique index on proofs.secret at its next start, over unspent and pending documents of the types
received, minted and change. From then on the database itself refuses to store a proof in a second one of these. A service that
stores a proof anew before it marks the source spent gets a duplicate key error (11000) after the mint has paid: see that it
does not. To undo it, drop the index meltd_unique_counted_secret and set mongo.unique_proofs to off."""


@app.command(
    epilog="Examples: meltd adopt --dry-run; meltd adopt --reason 'seen on Monday'; meltd adopt --unique-index"
)
def adopt(
    status: Annotated[  # noqa: FBT002
        bool, typer.Option("--status", help="Only show where the unique index stands; counts the duplicates.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="The survey alone: switch nothing.")] = False,  # noqa: FBT002
    unique_index: Annotated[  # noqa: FBT002
        bool, typer.Option("--unique-index", help="A yes to the unique index on proofs, and to nothing else.")
    ] = False,
    reason: Annotated[
        str | None, typer.Option("--reason", help="Why; kept in the records. Asked for if left out.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,  # noqa: FBT002
    socket: Socket = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Survey this database: what is there and what would be changed; then correct it, on a yes and a reason."""
    connection = client_of(socket)
    if status:
        from daemon.cli.repair_views import adoption  # noqa: PLC0415

        show(watch(connection, lambda: ask(lambda: connection.get("/v1/adoption", count="true"))), as_json, adoption)
        return
    interactive = sys.stdin.isatty() and not as_json
    if unique_index:
        if dry_run:
            raise typer.BadParameter("--unique-index and --dry-run exclude each other: see --status")
        want_unique_index(
            connection, _reason(_WHAT_THE_INDEX_MEANS, reason, yes=yes, interactive=interactive), as_json=as_json
        )
        return
    _survey(connection, dry_run=dry_run, reason=reason, yes=yes, interactive=interactive, as_json=as_json)


def _survey(
    connection: Client, *, dry_run: bool, reason: str | None, yes: bool, interactive: bool, as_json: bool
) -> None:
    """Show the survey; then switch, unless it was all that was asked for."""
    from daemon.cli.adopting_views import mode, survey  # noqa: PLC0415

    reply = post(connection, "/v1/survey", {}, progress="/v1/survey")
    if dry_run or not reply.ok or (reason is None and not interactive):
        show(reply, as_json, survey)
        if not dry_run:
            sys.stderr.write("meltd: nothing was switched; to correct from now on: meltd adopt --reason TEXT\n")
        return
    if as_json:
        why = _reason(_WHAT_ADOPTING_MEANS, reason, yes=True, interactive=False)
        switched = post(connection, "/v1/mode", {"mode": "correct", "reason": why})
        reply.body["adopted"] = switched.body
        show(reply, as_json, survey)
        if not switched.ok:
            raise typer.Exit(1)
        return
    show(reply, as_json, survey)
    why = _reason(_WHAT_ADOPTING_MEANS, reason, yes=yes, interactive=interactive)
    show(post(connection, "/v1/mode", {"mode": "correct", "reason": why}), as_json, mode)


def _reason(meaning: str, reason: str | None, *, yes: bool, interactive: bool) -> str:
    """Explain and ask on a terminal; a usage error where nobody can be asked and no reason is given."""
    if interactive:
        sys.stderr.write(meaning + "\n")
        if not yes and not typer.confirm("Do it?"):
            raise CommandFailed("nothing was changed")
        reason = reason or typer.prompt("Reason").strip()
    if not reason:
        raise typer.BadParameter("a --reason is needed, which is kept in the records")
    return reason


@app.command(name="mode", epilog="Examples: meltd mode; meltd mode observe --reason 'moving the service' --end-open")
def show_or_switch(
    to: Annotated[str | None, typer.Argument(metavar="[observe|correct]", help="Nothing: show it.")] = None,
    reason: Annotated[str | None, typer.Option("--reason", help="Why; kept in the records.")] = None,
    end_open: Annotated[  # noqa: FBT002
        bool, typer.Option("--end-open", help="To observe: let open entries of the journal end first.")
    ] = False,
    socket: Socket = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Show whether meltd corrects or observes, or switch it."""
    from daemon.cli.adopting_views import mode  # noqa: PLC0415

    connection = client_of(socket)
    if to is None:
        show(ask(lambda: connection.get("/v1/mode")), as_json, mode)
        return
    if to not in MODES:
        raise typer.BadParameter("the mode is observe or correct")
    if not reason:
        raise typer.BadParameter("switching needs a --reason, which is kept in the records")
    body: dict[str, object] = {"mode": to, "reason": reason}
    show(post(connection, "/v1/mode", body | ({"end_open": True} if end_open else {})), as_json, mode)


__all__ = ["adopt", "show_or_switch"]
