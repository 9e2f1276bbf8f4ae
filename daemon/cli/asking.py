"""Asking the daemon and showing its answer, as every command does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from daemon.cli.ends import AnswerLost, CommandFailed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from daemon.cli.client import Client, Reply


def client_of(path: Path | None) -> Client:
    """The connection of one command."""
    from daemon.cli.client import Client, find_socket  # noqa: PLC0415 - httpx costs 100 ms that --help need not wait for

    return Client(find_socket(path))


def show(reply: Reply, as_json: bool, view: Callable[[dict[str, Any]], None]) -> None:  # noqa: FBT001
    """Print the answer; a problem document ends the command with 1."""
    from daemon.cli import tables  # noqa: PLC0415

    if as_json:
        tables.as_json(reply.body)
    elif reply.ok:
        view(reply.body)
    else:
        tables.problem(reply.body)
    if not reply.ok:
        raise typer.Exit(1)


def ask(call: Callable[[], Reply]) -> Reply:
    """A request whose lost answer is a plain failure: repeating it does no harm."""
    try:
        return call()
    except AnswerLost as error:
        raise CommandFailed(str(error)) from error
