"""Commands about plans, single discrepancies and stories."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from daemon.cli.asking import ask, client_of, show
from daemon.cli.root import Json, LimitOption, Npub, Socket, app, discrepancies_app, plans_app

if TYPE_CHECKING:
    from daemon.cli.client import Reply

PlanIdArgument = Annotated[str, typer.Argument(metavar="ID", help="The plan's id.")]
CaseArgument = Annotated[str, typer.Argument(metavar="ID", help="The discrepancy's id: TYPE:SUBJECT.")]


def make_plan(body: dict[str, Any], socket: Socket, as_json: Json) -> None:
    """``meltd reconcile --plan``."""
    from daemon.cli import plan_views  # noqa: PLC0415
    from daemon.cli.client import RECONCILE_TIMEOUT_S  # noqa: PLC0415

    client = client_of(socket)
    reply = ask(lambda: client.post("/v1/plans", body, timeout_s=RECONCILE_TIMEOUT_S))
    show(reply, as_json, plan_views.made)
    if reply.body.get("errors"):
        raise typer.Exit(1)


@plans_app.callback()
def plans(
    context: typer.Context,
    state: Annotated[list[str] | None, typer.Option("--state", help="Only in this state; repeatable.")] = None,
    limit: LimitOption = 50,
    socket: Socket = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Corrections that wait for a person. Without a command: list."""
    if context.invoked_subcommand is None:
        plans_list(state=state, limit=limit, socket=socket, as_json=as_json)


@plans_app.command("list", epilog="Example: meltd plans list --state OPEN")
def plans_list(
    state: Annotated[list[str] | None, typer.Option("--state", help="Only in this state; repeatable.")] = None,
    limit: LimitOption = 50,
    socket: Socket = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Plans, newest first."""
    from daemon.cli import plan_views  # noqa: PLC0415

    client = client_of(socket)
    show(ask(lambda: client.get("/v1/plans", state=state or None, limit=limit)), as_json, plan_views.plans)


@plans_app.command("show", epilog="Example: meltd plans show ID --limit 1000")
def plans_show(
    plan_id: PlanIdArgument,
    skip: Annotated[int, typer.Option("--skip", min=0, help="Leave out so many items.")] = 0,
    limit: LimitOption = 100,
    socket: Socket = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """One plan: what it would change, item by item."""
    from daemon.cli import plan_views  # noqa: PLC0415

    client = client_of(socket)
    path = f"/v1/plans/{quote(plan_id, safe='')}"
    show(ask(lambda: client.get(path, skip=skip, limit=limit)), as_json, plan_views.plan_with_items)


@plans_app.command("approve", epilog="Example: meltd plans approve ID --reason 'checked with the mint'")
def plans_approve(
    plan_id: PlanIdArgument,
    reason: Annotated[str, typer.Option("--reason", help="Why; kept with the plan.")],
    socket: Socket = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Approve a plan. Nothing is changed by that: apply it then."""
    from daemon.cli import plan_views  # noqa: PLC0415

    show(_post(socket, plan_id, "approve", {"reason": reason}), as_json, plan_views.plan)


@plans_app.command("apply", epilog="Example: meltd plans apply ID")
def plans_apply(plan_id: PlanIdArgument, socket: Socket = None, as_json: Json = False) -> None:  # noqa: FBT002
    """Apply an approved plan: exactly its items, if all is still as it says. Ends with 1 when items were left."""
    from daemon.cli import plan_views  # noqa: PLC0415

    reply = _post(socket, plan_id, "apply", {})
    show(reply, as_json, plan_views.plan)
    if reply.body.get("left"):
        sys.stderr.write("meltd: some items were left as they were\n")
        raise typer.Exit(1)


@plans_app.command("withdraw", epilog="Example: meltd plans withdraw ID --reason 'the mint was wrong'")
def plans_withdraw(
    plan_id: PlanIdArgument,
    reason: Annotated[str, typer.Option("--reason", help="Why; kept with the plan.")],
    socket: Socket = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Nobody may apply it any more."""
    from daemon.cli import plan_views  # noqa: PLC0415

    show(_post(socket, plan_id, "withdraw", {"reason": reason}), as_json, plan_views.plan)


def _post(socket: Socket, plan_id: str, verb: str, body: dict[str, Any]) -> Reply:
    from daemon.cli.client import RECONCILE_TIMEOUT_S  # noqa: PLC0415

    client = client_of(socket)
    path = f"/v1/plans/{quote(plan_id, safe='')}/{verb}"
    return ask(lambda: client.post(path, body, timeout_s=RECONCILE_TIMEOUT_S))


@discrepancies_app.callback(epilog="Example: meltd discrepancies --severity HIGH --state open")
def discrepancies(
    context: typer.Context,
    state: Annotated[
        list[str] | None,
        typer.Option("--state", help="open, recurred, corrected, acknowledged or cleared; repeatable."),
    ] = None,
    type_: Annotated[list[str] | None, typer.Option("--type", help="Drift type; repeatable.")] = None,
    severity: Annotated[
        list[str] | None, typer.Option("--severity", help="CRITICAL, HIGH, MEDIUM or LOW; repeatable.")
    ] = None,
    npub: Npub = None,
    limit: LimitOption = 100,
    socket: Socket = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """What was found wrong between database and mints, and what became of it. Without a command: list."""
    from daemon.cli import views  # noqa: PLC0415

    if context.invoked_subcommand is not None:
        return
    client = client_of(socket)
    query = {"state": state or None, "type": type_ or None, "severity": severity or None, "npub": npub, "limit": limit}
    reply = ask(lambda: client.get("/v1/discrepancies", **query))
    show(reply, as_json, lambda body: views.findings(body["discrepancies"], "Discrepancies"))


@discrepancies_app.command("show", epilog="Example: meltd discrepancies show ID")
def discrepancies_show(discrepancy_id: CaseArgument, socket: Socket = None, as_json: Json = False) -> None:  # noqa: FBT002
    """One discrepancy: evidence, age and every turn of its life."""
    from daemon.cli import plan_views  # noqa: PLC0415

    client = client_of(socket)
    path = f"/v1/discrepancies/{quote(discrepancy_id, safe='')}"
    show(ask(lambda: client.get(path)), as_json, plan_views.discrepancy)


@discrepancies_app.command("acknowledge", epilog="Example: meltd discrepancies acknowledge ID --reason 'known loss'")
def discrepancies_acknowledge(
    discrepancy_id: CaseArgument,
    reason: Annotated[str, typer.Option("--reason", help="Why; kept in its history.")],
    socket: Socket = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Leave it as it is: no rule corrects it, and it alerts no more. Proofs that the mint has taken still pay nothing."""
    _decide(socket, discrepancy_id, "acknowledge", reason, as_json=as_json)


@discrepancies_app.command("reopen", epilog="Example: meltd discrepancies reopen ID --reason 'to be mended'")
def discrepancies_reopen(
    discrepancy_id: CaseArgument,
    reason: Annotated[str, typer.Option("--reason", help="Why; kept in its history.")],
    socket: Socket = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Take an acknowledgement back."""
    _decide(socket, discrepancy_id, "reopen", reason, as_json=as_json)


def _decide(socket: Socket, discrepancy_id: str, verb: str, reason: str, *, as_json: bool) -> None:
    from daemon.cli import plan_views  # noqa: PLC0415

    client = client_of(socket)
    path = f"/v1/discrepancies/{quote(discrepancy_id, safe='')}/{verb}"
    show(ask(lambda: client.post(path, {"reason": reason})), as_json, plan_views.discrepancy)


@app.command(epilog="Example: meltd explain 02ab...")
def explain(
    what: Annotated[str, typer.Argument(metavar="Y|MELT|TOKEN", help="A proof's Y, a melt's id or a document's id.")],
    socket: Socket = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """What happened to a proof, a melt or a document, in order and in plain words."""
    from daemon.cli import plan_views  # noqa: PLC0415

    client = client_of(socket)
    show(ask(lambda: client.get(f"/v1/explain/{quote(what, safe='')}")), as_json, plan_views.story)
