"""``meltd demo``: a real mint, a real store, planted drift, and the daemon that mends it. Importing this is cheap."""

from __future__ import annotations


def run(*, once: bool, as_json: bool) -> int:
    """
    Show the daemon at work on throw-away parts; the exit code: 0 only where everything came out as it must.

    ``once`` ends after the ledger instead of staying up until SIGINT or SIGTERM. Raises ConfigError where the
    embedded store is not installed.
    """
    from daemon.demo.show import run as show  # noqa: PLC0415 - brings the driver, the wallet and the terminal

    return show(once=once, as_json=as_json)
