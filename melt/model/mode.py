"""Whether meltd may change the wallet's collections: a choice that lives in the database (pure)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import datetime

    from melt.model.journal import Actor


class Mode(StrEnum):
    """What meltd does with what it finds."""

    OBSERVE = "observe"
    """Not one byte of the wallet's two collections, and none of their indexes, is changed."""
    ENDING = "ending"
    """On the way to ``observe``: what is open in the journal is brought to its end, and nothing new is begun."""
    CORRECT = "correct"


CAREFUL_FIRST: Final = (Mode.OBSERVE, Mode.ENDING, Mode.CORRECT)


def more_careful(*modes: Mode | None) -> Mode:
    """The most careful of those that speak; ``correct`` where none does."""
    return min((mode for mode in modes if mode is not None), key=CAREFUL_FIRST.index, default=Mode.CORRECT)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeChoice:
    """
    What the database says.

    ``chosen``: a person has decided it (``meltd adopt``, ``meltd mode``, an explicit setting), or the journal shows that
    somebody did. What was not chosen is decided anew at the next start.
    """

    mode: Mode
    chosen: bool
    at: datetime
    actor: Actor
    reason: str
