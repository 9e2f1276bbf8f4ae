"""The engine's log, diverted: what must never be logged fails the seed, the rest becomes part of the trace."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, MutableMapping
from typing import Any

import structlog

from melt.errors import Code, MeltdError

sink: list[Callable[[str, MutableMapping[str, Any]], None]] = []
"""Who listens, at most one."""


def divert(*, everything: bool) -> None:
    """Configure structlog for this process. Below errors nothing is even looked at unless ``everything``."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if everything else logging.ERROR),
        cache_logger_on_first_use=True,
        processors=[_hear],
    )


def _hear(_: object, level: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for listener in sink:
        listener(level, event)
    raise structlog.DropEvent


def complaint(event: MutableMapping[str, Any]) -> str | None:
    """What is wrong where a line must never be logged: an exception that nobody expected, a broken invariant."""
    if event.get("exc_info"):
        found = event["exc_info"]
        error = found if isinstance(found, BaseException) else sys.exc_info()[1]
        if isinstance(error, MeltdError):
            return None
        return f"unexpected {type(error).__name__} in the engine: {error} ({event['event']})"
    if event.get("code") == Code.CRITICAL_MELT_FAILURE.value:
        return f"invariant broken: {event.get('detail')}"
    return None
