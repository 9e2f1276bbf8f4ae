"""The command's frame: its groups, and the options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_EPILOG = """\
Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 still under way, 69 no daemon at the socket,
78 the configuration can't be used."""

app = typer.Typer(
    name="meltd",
    help="Keeps a custodial Cashu service's proofs and its mints the same, and pays Lightning invoices with them.",
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
melts_app = typer.Typer(
    help="Payments that were made or are under way.", invoke_without_command=True, rich_markup_mode=None
)
plans_app = typer.Typer(help="Corrections that wait for a person.", invoke_without_command=True, rich_markup_mode=None)
discrepancies_app = typer.Typer(
    help="What was found wrong, and what became of it.", invoke_without_command=True, rich_markup_mode=None
)
tokens_app = typer.Typer(help="Single token documents.", no_args_is_help=True, rich_markup_mode=None)
config_app = typer.Typer(help="Check and show the configuration.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(melts_app, name="melts")
app.add_typer(plans_app, name="plans")
app.add_typer(discrepancies_app, name="discrepancies")
app.add_typer(tokens_app, name="tokens")
app.add_typer(config_app, name="config")

Socket = Annotated[
    Path | None, typer.Option("--socket", help="The daemon's socket. Else MELTD_SOCKET, else from the settings.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the daemon's answer instead of a table.")]
Config = Annotated[
    Path | None, typer.Option("--config", help="TOML file. Else MELTD_CONFIG, else /etc/meltd/meltd.toml.")
]
Mint = Annotated[str | None, typer.Option("--mint", help="Alias of a configured mint.")]
Npub = Annotated[str | None, typer.Option("--npub", help="Only this user's.")]
LimitOption = Annotated[int, typer.Option("--limit", min=1, max=1000, help="At most so many, newest first.")]
