"""The commands that are the daemon or look at its configuration: run, demo, config."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from daemon.cli.root import Config, Json, app, config_app
from daemon.demo import MintKind

Secretive = Annotated[
    str | None,
    typer.Option(
        "--mongo-uri", help="Replica set to use. Others can see it in `ps`: prefer MELTD_MONGO_URI or a file."
    ),
]


@app.command(epilog="Example: meltd run --embedded --mint main=http://127.0.0.1:3338")
def run(
    config: Config = None,
    embedded: Annotated[bool, typer.Option("--embedded", help="Run the embedded store under the data folder.")] = False,  # noqa: FBT002
    mongo_uri: Secretive = None,
    database: Annotated[str | None, typer.Option("--database", help="Database that holds cashu_tokens.")] = None,
    mint: Annotated[list[str] | None, typer.Option("--mint", metavar="ALIAS=URL", help="A mint; repeatable.")] = None,
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="State of this instance.")] = None,
    socket: Annotated[Path | None, typer.Option("--socket", help="Where to listen.")] = None,
    http_host: Annotated[str | None, typer.Option("--http-host", help="Address of metrics and health.")] = None,
    http_port: Annotated[int | None, typer.Option("--http-port", help="Port of metrics and health; 0: any.")] = None,
    log_level: Annotated[str | None, typer.Option("--log-level", help="DEBUG, INFO, WARNING or ERROR.")] = None,
    log_format: Annotated[str | None, typer.Option("--log-format", help="auto, json or pretty.")] = None,
) -> None:
    """Run the daemon in the foreground until SIGTERM or Ctrl-C."""
    from daemon import guard  # noqa: PLC0415
    from daemon.settings import load  # noqa: PLC0415
    from melt.errors import ConfigError  # noqa: PLC0415

    if message := guard.problem(deep=True):
        raise ConfigError(message)
    given: dict[str, Any] = {
        "embedded": embedded or None,
        "data_dir": data_dir,
        "mongo": {"uri": mongo_uri, "database": database},
        "socket": {"path": socket},
        "http": {"host": http_host, "port": http_port},
        "log": {"level": log_level, "format": log_format},
        "mints": {alias: {"url": url} for alias, url in map(_mint, mint or [])},
    }
    settings = load(config=config, overrides=_without_none(given))
    settings.require_runnable()
    from daemon.bootstrap import run as run_daemon  # noqa: PLC0415 - brings the whole engine

    raise typer.Exit(run_daemon(settings))


@app.command(epilog="Example: meltd demo --once --json")
def demo(
    once: Annotated[bool, typer.Option("--once", help="End after the ledger instead of staying up.")] = False,  # noqa: FBT002
    as_json: Json = False,  # noqa: FBT002
    mint: Annotated[
        MintKind, typer.Option("--mint", help="The mint: Nutshell, or a cdk-mintd that is installed beside meltd.")
    ] = MintKind.NUTSHELL,
) -> None:
    """A real mint, a real store and planted drift: see it found, mended and paid with, down to the last sat."""
    from daemon import demo as demonstration  # noqa: PLC0415
    from daemon import guard  # noqa: PLC0415
    from melt.errors import ConfigError  # noqa: PLC0415

    if message := guard.problem(deep=True):
        raise ConfigError(message)
    raise typer.Exit(demonstration.run(once=once, as_json=as_json, mint=mint))


@config_app.command("check", epilog="Example: meltd config check --config /etc/meltd/meltd.toml")
def check(config: Config = None) -> None:
    """Say everything that is wrong with the configuration, or that nothing is. Ends with 78 when it can't be used."""
    from daemon.settings import load  # noqa: PLC0415

    settings = load(config=config)
    settings.require_runnable()
    if not settings.mints:
        typer.echo("meltd: no mints are configured: every document counts as unconfigured", err=True)
    typer.echo("The configuration can be used.")


@config_app.command("show", epilog="Example: meltd config show | jq .melt")
def show(config: Config = None) -> None:
    """Print every setting that is in force as JSON, without secrets."""
    from daemon.cli import tables  # noqa: PLC0415
    from daemon.settings import load  # noqa: PLC0415

    tables.as_json(load(config=config).masked_dump())


def _mint(text: str) -> tuple[str, str]:
    alias, equals, url = text.partition("=")
    if not equals or not alias or not url:
        raise typer.BadParameter(f"--mint wants ALIAS=URL, not {text!r}")
    return alias, url


def _without_none(tree: dict[str, Any]) -> dict[str, Any]:
    """Only what was given: an option that is left out must not cover the other sources."""
    kept: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            if inner := _without_none(value):
                kept[key] = inner
        elif value is not None:
            kept[key] = value
    return kept
