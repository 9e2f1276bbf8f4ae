"""Surveys and the mode on request: implements :class:`daemon.ports.ModeService` (ADR 23)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog

from daemon.ports import ModeReport, RepairProgress, SurveyReport
from melt.errors import Code, Refusal
from melt.model.survey import Copies

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from daemon.mode import ModeKeeper
    from melt.model import Actor
    from melt.model.survey import Survey
    from melt.ports import Clock, ModeStore, StoreThreads
    from melt.settling import SettlePolicy
    from melt.survey import Surveyor

_log = structlog.get_logger("meltd.survey")

LONG_INDEX_S: Final = 30.0


@dataclass(slots=True, kw_only=True)
class DaemonSurvey:
    """Makes one survey at a time, and switches the mode on a person's word."""

    keeper: ModeKeeper
    store: ModeStore
    threads: StoreThreads
    surveyor: Surveyor
    settle: SettlePolicy
    clock: Clock
    draining: Callable[[], bool]
    on_change: Callable[[], None]
    _busy: asyncio.Lock = field(default_factory=asyncio.Lock)
    _progress: RepairProgress = field(default_factory=RepairProgress)
    _since: float = 0.0

    async def mode(self) -> ModeReport:
        """See :meth:`daemon.ports.ModeService.mode`."""
        await self.keeper.refresh()
        return self._report()

    async def observe(self, *, actor: Actor, reason: str, end_open: bool) -> ModeReport:
        """See :meth:`daemon.ports.ModeService.observe`."""
        await self.keeper.observe(actor=actor, reason=reason, end_open=end_open)
        self.on_change()
        return self._report()

    async def correct(self, *, actor: Actor, reason: str) -> ModeReport:
        """See :meth:`daemon.ports.ModeService.correct`."""
        await self.keeper.correct(actor=actor, reason=reason)
        _log.warning("this database is corrected from now on", uid=actor.uid, reason=reason)
        self.on_change()
        return self._report()

    async def survey(self, *, actor: Actor) -> SurveyReport:
        """See :meth:`daemon.ports.ModeService.survey`."""
        if self.draining():
            raise Refusal(Code.SHUTTING_DOWN, "meltd is stopping and takes no new work")
        if self._busy.locked():
            raise Refusal(Code.CONCURRENT_OPERATION, "a survey is being made", hint="try again after it")
        async with self._busy:
            self._since = self.clock.monotonic()
            try:
                self._tell("starting", 0, None)
                await self.keeper.refresh()
                survey = await self.surveyor.survey(actor=actor, progress=self._tell)
            finally:
                self._progress = RepairProgress()
        return SurveyReport(
            survey=survey,
            mode=self._report(),
            correct_after_s=self.settle.correct_after_s,
            advice=tuple(advice(survey, self.settle, at_start_only=self.store.makes_indexes_at_start_only)),
            seconds=self._seconds(),
        )

    def survey_progress(self) -> RepairProgress:
        """What runs now."""
        return self._progress

    def _report(self) -> ModeReport:
        keeper = self.keeper
        if keeper.choice is None:
            raise AssertionError("the mode was read before")
        return ModeReport(
            mode=keeper.mode,
            reason=keeper.reason,
            setting=keeper.setting,
            choice=keeper.choice,
            indexes=self.store.indexes,
        )

    def _tell(self, phase: str, done: int, total: int | None) -> None:
        self._progress = RepairProgress(running=True, phase=phase, done=done, total=total, seconds=self._seconds())

    def _seconds(self) -> float:
        return round(self.clock.monotonic() - self._since, 3)


def advice(survey: Survey, settle: SettlePolicy, *, at_start_only: bool) -> Iterator[str]:
    """What a person should know before a yes, in sentences. Pure."""
    copies = {group.copies: group for group in survey.copies}
    if survey.others.somebody_spends and not settle.waits:
        yield (
            "another service spends from this database, and sweep.correct_after_s is 0: meltd would correct documents that it "
            "is paying with right now"
        )
    if survey.others.somebody_rolls_back:
        yield (
            f"{survey.others.rolled_back} documents are unspent and carry the date of being spent: a program seems to turn spent "
            "documents back to unspent, and would undo corrections"
        )
    for what, text in (
        (Copies.COUNTED_TWICE, "proofs are counted twice: meltd reconcile --repair DUPLICATE_PROOF shows what to do"),
        (Copies.MELTED, "proofs lie in melted documents that count: meltd reconcile --repair LEGACY_MELTED_DOCUMENT"),
        (Copies.HANDED_OUT, "proofs were handed out and lie in another document, too: they may be their recipient's"),
    ):
        if what in copies:
            yield f"{copies[what].proofs} {text}"
    if survey.keeps_before_source:
        yield (
            f"no unique index: {survey.keeps_before_source} proofs were stored anew before their source was spent, which it would "
            "refuse after the mint has paid"
        )
    elif Copies.COUNTED_TWICE in copies:
        yield "no unique index before the repair: duplicates forbid it"
    missing = [wish for wish in survey.indexes if not wish.standing.serves and not wish.standing.on_a_yes]
    long_s = sum(wish.seconds for wish in missing)
    if missing and (at_start_only or long_s > LONG_INDEX_S):
        when = "at the next start" if at_start_only else "at once, while the service goes on"
        yield f"{len(missing)} indexes are made {when}, which takes about {max(1, round(long_s))} s"
    if survey.capped:
        yield f"over the cap of one tour at {', '.join(survey.capped)}: the rest is offered as a plan to approve"


__all__ = ["DaemonSurvey", "advice"]
