"""
Named points at every boundary of effect, where a test can end the process (I2, I8).

There is one before and one after each commit of the store, before each request to a mint and after each answer. They do
nothing unless armed, and a daemon arms one only when its settings say twice that this is wanted
(``debug.failpoint`` and ``debug.break_payments_on_purpose``).

A boundary that is passed without being listed here is an error wherever names are checked, which the tests do: a new
boundary without a case in the fault tests can't slip in.
"""

from __future__ import annotations

import os
import signal
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from melt.errors import ConfigError, InvariantBroken

if TYPE_CHECKING:
    from collections.abc import Callable

COMMITTING: Final = frozenset(
    {
        "acknowledge",
        "advance",
        "announce",
        "apply_repairs",
        "balances",
        "clear_not_in_db",
        "clear_unseen",
        "correct",
        "drop_plan_items",
        "ensure_schema",
        "execute_atomic_melt",
        "expire_plans",
        "finish_ending",
        "finish_fence",
        "finish_gone",
        "finish_reclaim",
        "finish_swap",
        "finish_together",
        "holders",
        "import_restored",
        "leave",
        "mark_tokens_spent",
        "move_plan",
        "plan_swap",
        "raise_counter",
        "raise_event",
        "record",
        "release",
        "release_lease",
        "renew_instance",
        "renew_lease",
        "reopen",
        "reserve",
        "resolve_event",
        "save_plan",
        "save_restore",
        "save_sweep",
        "settle",
        "switch_to_correct",
        "switch_to_observe",
        "take_lease",
        "watch",
        "wish_unique_proofs",
    }
)
"""The store's methods that commit a transaction."""
ENDPOINTS: Final = frozenset(
    {"checkstate", "info", "keys", "keysets", "melt", "melt_quote", "melt_quote_state", "restore", "swap"}
)
"""The requests to a mint."""
BOUNDARIES: Final = frozenset(
    {f"store.{method}.{when}" for method in COMMITTING for when in ("before_commit", "after_commit")}
    | {f"mint.{endpoint}.{when}" for endpoint in ENDPOINTS for when in ("before_request", "after_answer")}
)

store_method: ContextVar[str] = ContextVar("store_method", default="")
"""The store's method that runs in this thread; its outermost one where they call each other."""

_on_hit: Callable[[str], None] | None = None


def hit(name: str) -> None:
    """Pass a boundary."""
    if _on_hit is not None:
        if name not in BOUNDARIES:
            raise InvariantBroken(f"boundary {name} is not listed in melt.failpoints")
        _on_hit(name)


def watch(on_hit: Callable[[str], None] | None) -> None:
    """Call ``on_hit`` at every boundary, or (None) at none. For tests in the same process."""
    global _on_hit  # noqa: PLW0603 - one switch for the process is the point
    _on_hit = on_hit


def arm(where: str) -> None:
    """
    End this process with SIGKILL at a boundary: ``name``, or ``name@3`` for the third time it is passed.

    Raises ConfigError for a name that is none.
    """
    name, _, count = where.partition("@")
    if name not in BOUNDARIES or (count and not count.isdecimal()):
        raise ConfigError(f"there is no failpoint {where!r}; there are: {', '.join(sorted(BOUNDARIES))}")
    left = int(count or 1)

    def on_hit(passed: str) -> None:
        nonlocal left
        if passed == name:
            left -= 1
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)

    watch(on_hit)
