"""
Whether this daemon corrects or observes: what the setting says and what the database says, the more careful of the two.

The database is asked every few seconds, so that a choice that a person makes at one daemon is every daemon's soon. Nothing rests
on that: each transaction that writes the wallet's collections passes the mode inside itself (:mod:`melt.store.mode`). What is kept
here spares work that would be refused, and tells people why.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from melt.errors import Code, Refusal, StoreError
from melt.model.mode import Mode, ModeChoice, more_careful

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.supervisor import LoopContext
    from melt.model import Actor
    from melt.model.indexes import IndexReport
    from melt.ports import Clock, ModeStore, StoreThreads

_log = structlog.get_logger("meltd.mode")

LOOK_S: Final = 2.0
INDEXES_S_MAX: Final = 30.0
"""How often the indexes are looked at, at most: once a tour where tours are more frequent."""
ENDING_S_MAX: Final = 60.0
"""So long a request to observe waits for open entries to end; they go on ending after it."""


@dataclass(slots=True, kw_only=True)
class ModeKeeper:
    """Keeps what was last read. ``on_change`` is told when the mode has become another one."""

    store: ModeStore
    threads: StoreThreads
    clock: Clock
    setting: Mode | None
    indexes_every_s: float
    on_change: Callable[[Mode], None] = lambda _: None
    on_look: Callable[[IndexReport], None] = lambda _: None
    choice: ModeChoice | None = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def mode(self) -> Mode:
        """The mode in force; ``observe`` until the database has been asked."""
        return Mode.OBSERVE if self.choice is None else more_careful(self.choice.mode, self.setting)

    @property
    def reason(self) -> str:
        """Why it is that mode."""
        if self.choice is None:
            return "the database has not been asked yet"
        if self.setting is not None and self.mode is not self.choice.mode:
            return f"the setting mode = {self.setting}"
        return self.choice.reason

    def observing(self) -> str | None:
        """Why nothing new is begun and nothing corrected; None: meltd corrects."""
        return None if self.mode is Mode.CORRECT else f"meltd observes this database ({self.reason})"

    def refuse(self) -> None:
        """Raise Refusal OBSERVING unless meltd corrects."""
        why = self.observing()
        if why is not None:
            raise Refusal(
                Code.OBSERVING, why, hint="meltd adopt shows what would be changed, and switches to correct on a yes"
            )

    def take(self, choice: ModeChoice) -> None:
        """What the database says now."""
        before, self.choice = self.mode if self.choice is not None else None, choice
        if before is not self.mode:
            if before is not None:
                _log.warning("the mode has changed", mode=self.mode.value, before=before.value, reason=self.reason)
            self.on_change(self.mode)
            self._changed.set()

    # --- what a person decides ---

    async def observe(self, *, actor: Actor, reason: str, end_open: bool) -> ModeChoice:
        """
        Back to ``observe``; with ``end_open`` after open entries have ended, for which it waits a while.

        Raises StoreError with WRONG_STATE where entries are open and may not be ended first.
        """
        self.take(
            await self.threads(partial(self.store.switch_to_observe, actor=actor, reason=reason, end_open=end_open))
        )
        deadline = self.clock.monotonic() + ENDING_S_MAX
        while self._in_database is Mode.ENDING and self.clock.monotonic() < deadline:
            await self.clock.sleep(0.2)
            self.take(await self.threads(self.store.finish_ending))
        return self._known

    async def correct(self, *, actor: Actor, reason: str) -> ModeChoice:
        """Switch to ``correct``, and make the indexes that a server makes under traffic."""
        if self.setting is Mode.OBSERVE:
            raise Refusal(
                Code.WRONG_STATE,
                "the setting mode = observe holds whatever the database says",
                hint="remove it (MELTD_MODE, or mode in the configuration), start again, and adopt then",
            )
        self.take(await self.threads(partial(self.store.switch_to_correct, actor=actor, reason=reason)))
        await self.look_after_indexes()
        return self._known

    @property
    def _in_database(self) -> Mode:
        return self._known.mode

    @property
    def _known(self) -> ModeChoice:
        if self.choice is None:
            raise AssertionError("the mode was taken before")
        return self.choice

    # --- the loop ---

    async def run(self, context: LoopContext) -> None:
        """Follow the database's choice, end an ``ending``, and look after the indexes."""
        looked_at = self.clock.monotonic()
        while not context.stopping.is_set():
            context.beat()
            self._changed.clear()
            try:
                await self.refresh()
                if self.clock.monotonic() - looked_at >= min(INDEXES_S_MAX, self.indexes_every_s):
                    looked_at = self.clock.monotonic()
                    await self.look_after_indexes()
            except StoreError as error:
                _log.warning("the mode can't be read", code=error.code.value, detail=error.detail)
            await self.clock.wait(self._changed, min(LOOK_S, self.indexes_every_s))

    async def refresh(self) -> None:
        """Ask the database now. Raises StoreError."""
        self.take(await self.threads(self.store.mode))
        if self._in_database is Mode.ENDING:
            self.take(await self.threads(self.store.finish_ending))

    async def look_after_indexes(self) -> None:
        """See how they stand, and make what is missing and may be made now. Raises StoreError."""
        self.on_look(await self.threads(partial(self.store.look_after_indexes, make=True)))

    def wake(self) -> None:
        """The loop looks up now."""
        self._changed.set()
