"""What the loops and jobs are called: in the log, on the status page and as labels of metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from daemon.lease import sweep_loop

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melt.model import MintAlias

WATCH: Final = "watch"
GAUGES: Final = "gauges"
WEBHOOK: Final = "webhook"
LEASE: Final = "lease"
MODE: Final = "mode"
SUMMARY: Final = "summary"
RESTORE: Final = "restore"


def warm_loop(mint: MintAlias) -> str:
    """The rounds of a mint's warm lane."""
    return f"warm-{mint}"


def settle_loop(mint: MintAlias) -> str:
    """The looks at what settles at a mint."""
    return f"settle-{mint}"


def hints_loop(mint: MintAlias) -> str:
    """The subscriptions at a mint."""
    return f"hints-{mint}"


def all_jobs(mints: Sequence[MintAlias]) -> list[str]:
    """What the schedule paces; the loop that a job wakes has its name."""
    of_mints = [name(mint) for name in (sweep_loop, warm_loop, settle_loop) for mint in mints]
    return [*of_mints, SUMMARY, RESTORE]


def all_loops(mints: Sequence[MintAlias], *, subscriptions: bool) -> list[str]:
    """Every loop that there may be."""
    hints = [hints_loop(mint) for mint in mints if subscriptions]
    return [WATCH, GAUGES, WEBHOOK, LEASE, MODE, *all_jobs(mints), *hints]


__all__ = [
    "GAUGES",
    "LEASE",
    "MODE",
    "RESTORE",
    "SUMMARY",
    "WATCH",
    "WEBHOOK",
    "all_jobs",
    "all_loops",
    "hints_loop",
    "settle_loop",
    "sweep_loop",
    "warm_loop",
]
