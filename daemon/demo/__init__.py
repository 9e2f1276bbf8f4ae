"""``meltd demo``: a real mint, a real store, planted drift, and the daemon that mends it. Importing this is cheap."""

from __future__ import annotations

from enum import StrEnum


class MintKind(StrEnum):
    """Which implementation the demo's mint is."""

    NUTSHELL = "nutshell"
    CDK = "cdk"


def run(*, once: bool, as_json: bool, mint: MintKind = MintKind.NUTSHELL) -> int:
    """
    Show the daemon at work on throw-away parts; the exit code: 0 only where everything came out as it must.

    ``once`` ends after the ledger instead of staying up until SIGINT or SIGTERM. Raises ConfigError where the
    embedded store or the mint is not installed.
    """
    from daemon.demo.show import run as show  # noqa: PLC0415 - brings the driver, the wallet and the terminal

    return show(once=once, as_json=as_json, mint=mint)
