"""What is remembered of what a mint has called SPENT (DESIGN section 5, Guards). Pure data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import datetime

    from melt.model.words import Y

SANE_AGAIN: Final = "the sentinels read as they should again"
"""The resolution of events that end by themselves. Any other is a person's, who takes the mint as it is now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpentMemory:
    """
    What the records of one mint say.

    ``known`` are Ys that the mint itself called SPENT, newest first: inputs of settled entries, and proofs that a rule
    marked on the mint's word. ``hints`` are Ys of documents that are recorded as spent by whoever, looked up only where
    ``known`` is empty. ``accepted_at`` is when a person last resolved a MINT_STATE_REGRESSED event of the mint: older
    evidence is not in ``known``. ``regressed`` are the Ys that the open event of that type names.
    """

    known: tuple[Y, ...] = ()
    hints: tuple[Y, ...] = ()
    accepted_at: datetime | None = None
    regressed: tuple[Y, ...] = ()
