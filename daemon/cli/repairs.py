"""``meltd reconcile --repair``: the double count shown, confirmed, mended and kept out (ADR 13)."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daemon.cli.asking import ask, show
from daemon.cli.ends import CommandFailed, NoDaemon

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.cli.client import Client, Reply

POLL_S = 0.5

Repair = Annotated[
    str | None,
    typer.Option(
        "--repair", metavar="TYPE", help="DUPLICATE_PROOF, LEGACY_MELTED_DOCUMENT or all: show what a repair would do."
    ),
]
Apply = Annotated[bool, typer.Option("--apply", help="With --repair: carry it out.")]
RepairReason = Annotated[str | None, typer.Option("--reason", help="With --apply: why; kept in the audit.")]
AcrossUsers = Annotated[
    bool,
    typer.Option("--across-users", help="With --repair: the oldest holder keeps what documents of several users hold."),
]
Adopt = Annotated[
    bool, typer.Option("--adopt", help="With --apply: then have the unique index made at the next start.")
]
Yes = Annotated[bool, typer.Option("--yes", help="With --apply: don't ask.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairRequest:
    """The options of a repair."""

    type: str | None
    mint: str | None
    apply: bool
    reason: str | None
    across_users: bool
    adopt: bool
    yes: bool

    def is_given(self, *, narrowed: bool, dry_run: bool) -> bool:
        """Whether a repair is asked for; a usage error where the options don't go together."""
        if self.type is None:
            if self.apply or self.across_users or self.adopt or self.yes or self.reason is not None:
                raise typer.BadParameter("--apply, --reason, --across-users, --adopt and --yes go with --repair TYPE")
            return False
        if narrowed:
            raise typer.BadParameter("--repair looks at every document: leave --npub and --status out")
        if self.apply and dry_run:
            raise typer.BadParameter("--apply and --dry-run exclude each other")
        if not self.apply and (self.adopt or self.yes):
            raise typer.BadParameter("--adopt and --yes go with --apply")
        return True

    def body(self) -> dict[str, object]:
        """What the daemon is asked, as a dry run."""
        word = self.type or ""
        kind = word.lower() if word.lower() == "all" else word.upper()
        return {"type": kind, "mint": self.mint, "across_users": self.across_users, "dry_run": True}


def run_repair(asked: RepairRequest, connection: Client, *, as_json: bool) -> None:
    """Show the plan; with ``--apply`` confirm it, carry it out and show what became of it."""
    from daemon.cli.repair_views import repair  # noqa: PLC0415

    if not asked.apply:
        reply = post(connection, "/v1/repairs", asked.body())
        show(reply, as_json, repair)
        if not as_json and reply.body["planned"]:
            sys.stderr.write(f"meltd: nothing was changed; to carry it out: {_again(asked, reply)}\n")
        _end(reply)
        return
    interactive = sys.stdin.isatty() and not as_json
    reason = asked.reason
    if reason is None:
        if not interactive:
            raise typer.BadParameter("--apply needs a --reason, which is kept in the audit")
        reason = typer.prompt("Reason").strip()
    body = asked.body() | {"dry_run": False, "reason": reason}
    if interactive and not asked.yes:
        plan = post(connection, "/v1/repairs", asked.body())
        show(plan, as_json, repair)
        if plan.body["planned"] and not typer.confirm(f"Change {plan.body['planned']} documents as shown?"):
            raise CommandFailed("nothing was changed")
        # Only what was shown: where documents have moved on by then, the daemon refuses.
        body["plan"] = plan.body["plan"]
    reply = post(connection, "/v1/repairs", body)
    show(reply, as_json, repair)
    _end(reply)
    if asked.adopt:
        want_unique_index(connection, reason, as_json=as_json)


def _again(asked: RepairRequest, reply: Reply) -> str:
    words = ["meltd reconcile --repair", str(reply.body["type"])]
    words += ["--mint", asked.mint] if asked.mint else []
    words += ["--across-users"] if asked.across_users else []
    return " ".join([*words, "--apply --reason TEXT"])


def _end(reply: Reply) -> None:
    if reply.body["errors"] or reply.body["undone"]:
        raise typer.Exit(1)


def want_unique_index(connection: Client, reason: str, *, as_json: bool) -> None:
    """Have the unique index on counted secrets made at the next start."""
    from daemon.cli.repair_views import adoption  # noqa: PLC0415

    show(post(connection, "/v1/adoption", {"reason": reason}), as_json, adoption)


def post(connection: Client, path: str, body: dict[str, object], *, progress: str = "/v1/repairs") -> Reply:
    """A long request; ``progress`` tells what it does meanwhile."""
    from daemon.cli.client import RECONCILE_TIMEOUT_S  # noqa: PLC0415

    return watch(
        connection,
        lambda: ask(lambda: connection.post(path, body, timeout_s=RECONCILE_TIMEOUT_S)),
        progress=progress,
    )


def watch(connection: Client, call: Callable[[], Reply], *, progress: str = "/v1/repairs") -> Reply:
    """A long request; on a terminal what the daemon is doing meanwhile is shown."""
    if not sys.stderr.isatty():
        return call()
    from rich.console import Console  # noqa: PLC0415

    from daemon.cli.client import Client  # noqa: PLC0415

    poller = Client(connection.path)
    with ThreadPoolExecutor(1) as thread, Console(stderr=True).status("asking meltd") as shown:
        answer = thread.submit(call)
        while not answer.done():
            time.sleep(POLL_S)
            try:
                shown.update(_told(ask(lambda: poller.get(progress)).body))
            except (CommandFailed, NoDaemon):
                continue
        return answer.result()


def _told(progress: dict[str, Any]) -> str:
    if not progress.get("running"):
        return "asking meltd"
    of = f" of {progress['total']}" if progress["total"] else ""
    return f"{progress['phase']}: {progress['done']}{of} ({progress['seconds']:.0f} s)"
