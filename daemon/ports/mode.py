"""The mode, the survey and the adoption, as the socket asks for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from daemon.ports.repairs import RepairProgress
    from melt.model import Actor
    from melt.model.indexes import IndexReport
    from melt.model.mode import Mode, ModeChoice
    from melt.model.survey import Survey


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeReport:
    """The mode in force and why; ``choice`` is what the database says, ``setting`` what this process was told."""

    mode: Mode
    reason: str
    setting: Mode | None
    choice: ModeChoice
    indexes: IndexReport


@dataclass(frozen=True, slots=True, kw_only=True)
class SurveyReport:
    """A survey, with the mode that it was made in and how the two times are set."""

    survey: Survey
    mode: ModeReport
    correct_after_s: float
    advice: tuple[str, ...]
    seconds: float


class ModeService(Protocol):
    """Raises :class:`melt.errors.MeltdError`. One survey at a time; another is refused meanwhile."""

    async def mode(self) -> ModeReport:
        """Asks the database."""
        ...

    async def observe(self, *, actor: Actor, reason: str, end_open: bool) -> ModeReport:
        """Back to ``observe``. WRONG_STATE where entries of the journal are open and may not be ended first."""
        ...

    async def correct(self, *, actor: Actor, reason: str) -> ModeReport:
        """A person's yes to what a survey has shown."""
        ...

    async def survey(self, *, actor: Actor) -> SurveyReport:
        """Look at everything and change nothing."""
        ...

    def survey_progress(self) -> RepairProgress: ...
