"""The commands. Each says in its help what it is for, with an example."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

import daemon.cli.adopting
import daemon.cli.process
import daemon.cli.restore
import daemon.cli.summaries
import daemon.cli.tokens  # noqa: F401 - the commands register themselves
from daemon.cli.asking import ask as _ask
from daemon.cli.asking import client_of as _client
from daemon.cli.asking import show as _show
from daemon.cli.ends import EXIT_PENDING, AnswerLost, CommandFailed
from daemon.cli.plans import make_plan
from daemon.cli.repairs import (
    AcrossUsers,
    Adopt,
    Apply,
    Repair,
    RepairReason,
    RepairRequest,
    Yes,
    run_repair,
)
from daemon.cli.root import Json, LimitOption, Mint, Npub, Socket, app, melts_app

DECISION_TIMEOUT_S = 180.0
"""A decision asks the mint and may swap there."""

Now = Annotated[
    bool,
    typer.Option(
        "--now",
        help="With --plan: also what has not settled. A payment of the wallet beside meltd that is under way on one of these "
        "documents then loses what it would have kept and its change.",
    ),
]
NOW_RISK = (
    "meltd: with --now the plan holds documents that have not stood still yet. If the wallet beside meltd is paying with one of "
    "them, applying the plan makes it lose what it would have kept and its change. Look at each item first: meltd plans show ID\n"
)

if TYPE_CHECKING:
    from daemon.cli.client import Reply


@app.command(epilog="Example: meltd melt --npub npub1... --mint main --invoice lnbc10n1...")
def melt(
    npub: Annotated[str, typer.Option("--npub", help="Whose ecash pays.")],
    mint: Annotated[str, typer.Option("--mint", help="Alias or URL of a configured mint.")],
    invoice: Annotated[str, typer.Option("--invoice", help="BOLT-11 invoice with an amount.")],
    unit: Annotated[str, typer.Option("--unit", help="Unit of the ecash.")] = "sat",
    max_fee: Annotated[int | None, typer.Option("--max-fee", min=0, help="Refuse above this fee, in the unit.")] = None,
    wait: Annotated[float, typer.Option("--wait", min=0, help="Seconds to wait for the end.")] = 30.0,
    key: Annotated[
        str | None, typer.Option("--key", help="Idempotency key; repeat it to retry. Else a new one.")
    ] = None,
    socket: Socket = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Pay a Lightning invoice out of a user's ecash. Ends with 3 when the payment is still under way."""
    from uuid import uuid4  # noqa: PLC0415

    from daemon.cli import views  # noqa: PLC0415
    from daemon.cli.client import ANSWER_MARGIN_S  # noqa: PLC0415

    key = key or f"cli-{uuid4()}"
    body = {"npub": npub, "mint": mint, "invoice": invoice, "unit": unit, "max_fee": max_fee}
    headers = {"Idempotency-Key": key}
    try:
        reply = _client(socket).post("/v1/melts", body, headers=headers, timeout_s=wait + ANSWER_MARGIN_S, wait=wait)
    except AnswerLost as error:
        message = f"{error}; it is not known what became of the payment. Ask again with --key {key}"
        raise CommandFailed(message, EXIT_PENDING) from error
    _show(reply, as_json, views.melt)
    if reply.status == 202:
        sys.stderr.write(
            f"meltd: still under way; see `meltd melts show {reply.body['id']}`, or repeat with --key {key}\n"
        )
        raise typer.Exit(EXIT_PENDING)


@app.command(epilog="Examples: meltd reconcile --mint main --dry-run; meltd reconcile --repair DUPLICATE_PROOF")
def reconcile(
    mint: Mint = None,
    npub: Npub = None,
    status: Annotated[
        list[str] | None, typer.Option("--status", help="Only documents of this status; repeatable.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Report what would be done; change nothing.")] = False,  # noqa: FBT002
    plan: Annotated[bool, typer.Option("--plan", help="Keep what would be done, for people to approve.")] = False,  # noqa: FBT002
    now: Now = False,  # noqa: FBT002
    repair: Repair = None,
    apply: Apply = False,  # noqa: FBT002
    reason: RepairReason = None,
    across_users: AcrossUsers = False,  # noqa: FBT002
    adopt: Adopt = False,  # noqa: FBT002
    yes: Yes = False,  # noqa: FBT002
    socket: Socket = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Compare the database with the mints now, and correct by rule. With --repair: mend the double count."""
    from daemon.cli import progress, views  # noqa: PLC0415
    from daemon.cli.client import RECONCILE_TIMEOUT_S  # noqa: PLC0415

    asked = RepairRequest(
        type=repair, mint=mint, apply=apply, reason=reason, across_users=across_users, adopt=adopt, yes=yes
    )
    if asked.is_given(narrowed=bool(npub or status), dry_run=dry_run or plan):
        run_repair(asked, _client(socket), as_json=as_json)
        return
    if plan and dry_run:
        raise typer.BadParameter("--plan and --dry-run exclude each other")
    if now and not plan:
        raise typer.BadParameter("--now goes with --plan: a person looks at the items before they are applied")
    scope = {"mint": mint, "npub": npub, "statuses": status or []}
    if plan:
        if now:
            sys.stderr.write(NOW_RISK)
        make_plan({**scope, "now": now}, socket, as_json)
        return
    body = {**scope, "dry_run": dry_run}
    client = _client(socket)

    def ask() -> Reply:
        return _ask(lambda: client.post("/v1/reconcile", body, timeout_s=RECONCILE_TIMEOUT_S))

    reply = ask() if as_json else progress.beside(ask, lambda: _client(socket))
    _show(reply, as_json, views.reconcile)
    if reply.body.get("errors"):
        raise typer.Exit(1)


@app.command(epilog="Examples: meltd status --watch; meltd status --json | jq .open_events")
def status(
    watch: Annotated[bool, typer.Option("--watch", help="Show the sweeps, redrawn each second, until Ctrl-C.")] = False,  # noqa: FBT002
    socket: Socket = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """The daemon on one page: store, mints, sweeps, what is open."""
    from daemon.cli import progress, views  # noqa: PLC0415

    if watch and as_json:
        raise typer.BadParameter("--watch and --json exclude each other")
    client = _client(socket)
    if watch:
        _ask(lambda: progress.watch(client))
        return
    _show(_ask(lambda: client.get("/v1/status")), as_json, views.status)


@app.command(epilog="Example: meltd wallet npub1...")
def wallet(npub: Annotated[str, typer.Argument(help="Whose.")], socket: Socket = None, as_json: Json = False) -> None:  # noqa: FBT002
    """One user's ecash by mint, unit and status."""
    from urllib.parse import quote  # noqa: PLC0415

    from daemon.cli import views  # noqa: PLC0415

    client = _client(socket)
    _show(_ask(lambda: client.get(f"/v1/wallets/{quote(npub, safe='')}")), as_json, views.wallets)


@app.command(epilog="Examples: meltd events; meltd events --drill; meltd events --resolve ID --reason 'checked'")
def events(
    everything: Annotated[bool, typer.Option("--all", help="Resolved ones too.")] = False,  # noqa: FBT002
    drill: Annotated[bool, typer.Option("--drill", help="Raise an event on purpose, to see the alert arrive.")] = False,  # noqa: FBT002
    resolve: Annotated[str | None, typer.Option("--resolve", help="Close the event with this id.")] = None,
    reason: Annotated[str | None, typer.Option("--reason", help="Why it is closed (or raised).")] = None,
    limit: LimitOption = 100,
    socket: Socket = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """CRITICAL events: each is open, and alerts, until it is resolved."""
    from urllib.parse import quote  # noqa: PLC0415

    from daemon.cli import views  # noqa: PLC0415

    if drill and resolve:
        raise typer.BadParameter("--drill and --resolve exclude each other")
    if resolve and not reason:
        raise typer.BadParameter("--resolve needs a --reason, which is kept in the records")
    client = _client(socket)
    if drill:
        reply = _ask(lambda: client.post("/v1/events/drill", {"detail": reason}))
        _show(reply, as_json, lambda body: views.events([body]))
    elif resolve:
        reply = _ask(lambda: client.post(f"/v1/events/{quote(resolve, safe='')}/resolve", {"reason": reason}))
        _show(reply, as_json, lambda body: views.events([body]))
    else:
        reply = _ask(lambda: client.get("/v1/events", open=str(not everything).lower(), limit=limit))
        _show(reply, as_json, lambda body: views.events(body["events"]))


@app.command(epilog="Example: meltd pause --mint main --reason 'mint is being moved'")
def pause(
    reason: Annotated[str, typer.Option("--reason", help="Why; shown in status.")],
    mint: Mint = None,
    socket: Socket = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Stop changing things at one mint, or everywhere. Looking and reporting go on."""
    from daemon.cli import views  # noqa: PLC0415

    client = _client(socket)
    _show(_ask(lambda: client.post("/v1/pause", {"mint": mint, "reason": reason})), as_json, views.status)


@app.command(epilog="Example: meltd resume --mint main")
def resume(mint: Mint = None, socket: Socket = None, as_json: Json = False) -> None:  # noqa: FBT002
    """End a pause."""
    from daemon.cli import views  # noqa: PLC0415

    client = _client(socket)
    _show(_ask(lambda: client.post("/v1/resume", {"mint": mint})), as_json, views.status)


@melts_app.callback()
def melts(
    context: typer.Context,
    npub: Npub = None,
    limit: LimitOption = 50,
    socket: Socket = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Payments that were made or are under way. Without a command: list."""
    if context.invoked_subcommand is None:
        melts_list(npub=npub, limit=limit, socket=socket, as_json=as_json)


@melts_app.command("list", epilog="Example: meltd melts list --state PENDING")
def melts_list(
    npub: Npub = None,
    state: Annotated[list[str] | None, typer.Option("--state", help="Only in this state; repeatable.")] = None,
    limit: LimitOption = 50,
    socket: Socket = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Melts, newest first."""
    from daemon.cli import views  # noqa: PLC0415

    client = _client(socket)
    reply = _ask(lambda: client.get("/v1/melts", npub=npub, state=state or None, limit=limit))
    _show(reply, as_json, views.melts)


@melts_app.command("show", epilog="Example: meltd melts show ID")
def melts_show(
    melt_id: Annotated[str, typer.Argument(metavar="ID", help="The melt's id.")],
    socket: Socket = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """One melt with its amounts."""
    from urllib.parse import quote  # noqa: PLC0415

    from daemon.cli import views  # noqa: PLC0415

    client = _client(socket)
    _show(_ask(lambda: client.get(f"/v1/melts/{quote(melt_id, safe='')}")), as_json, views.melt)


@melts_app.command("resolve", epilog="Example: meltd melts resolve ID --as released --reason 'payee got nothing'")
def melts_resolve(
    melt_id: Annotated[str, typer.Argument(metavar="ID", help="The melt's id.")],
    outcome: Annotated[
        str | None,
        typer.Option(
            "--as",
            help="settled (it was paid), released (the inputs come back behind a fence), inputs_gone (spent, and nobody knows "
            "by whom; nothing is called paid, the invoice stays claimed) or observe (follow it again). Asked for if left out.",
        ),
    ] = None,
    reason: Annotated[
        str | None, typer.Option("--reason", help="Why; kept in the audit. Asked for if left out.")
    ] = None,
    preimage: Annotated[
        str | None,
        typer.Option("--preimage", help="The payee's: shows that it was paid where the mint does not say so."),
    ] = None,
    socket: Socket = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Decide about an open melt: shows the evidence, the mint asked now, and asks for a decision and its reason."""
    from urllib.parse import quote  # noqa: PLC0415

    from daemon.cli import views  # noqa: PLC0415

    client = _client(socket)
    path = f"/v1/melts/{quote(melt_id, safe='')}"
    evidence = _ask(lambda: client.get(f"{path}/evidence"))
    if not evidence.ok:
        _show(evidence, as_json, views.melt)
    if not as_json:
        views.evidence(evidence.body)
    if (outcome is None or reason is None) and (as_json or not sys.stdin.isatty()):
        _show_undecided(evidence, as_json)
        return
    if outcome is None:
        allowed = [name for name, yes in evidence.body["allowed"].items() if yes]
        if not allowed:
            raise CommandFailed("nothing can be decided about it now; the evidence says why")
        outcome = typer.prompt(f"Decide ({', '.join(allowed)})").strip()
    if reason is None:
        reason = typer.prompt("Reason").strip()
    body = {"action": outcome, "reason": reason} | ({} if preimage is None else {"preimage": preimage})
    reply = _ask(lambda: client.post(f"{path}/resolve", body, timeout_s=DECISION_TIMEOUT_S))
    _show(reply, as_json, views.melt)


def _show_undecided(evidence: Reply, as_json: bool) -> None:  # noqa: FBT001
    """Evidence alone: for a script, or for a person who has not decided yet."""
    from daemon.cli import tables  # noqa: PLC0415

    if as_json:
        tables.as_json(evidence.body)
    else:
        sys.stderr.write("meltd: nothing was decided; to decide, give --as and --reason\n")


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import PackageNotFoundError  # noqa: PLC0415
    from importlib.metadata import version as version_of  # noqa: PLC0415

    try:
        typer.echo(version_of("meltd"))
    except PackageNotFoundError:
        typer.echo("unknown (not installed)")
