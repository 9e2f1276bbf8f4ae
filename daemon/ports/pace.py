"""How a sweep gets on at one mint, as the status page shows it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime


class Lane(StrEnum):
    """
    Who asks a mint about states: the whole tour, new and large documents, what has settled or moved, a mint's hint, or a person's
    request.
    """

    COLD = "cold"
    WARM = "warm"
    SETTLE = "settle"
    HINT = "hint"
    ASKED = "asked"


@dataclass(frozen=True, slots=True, kw_only=True)
class PaceStatus:
    """
    The sweep of one mint now.

    ``lane`` has the turn; None: nobody asks the mint. ``resting_s`` is how long the tour still rests. ``touring``: a
    tour is under way in this process. ``documents_per_s`` and ``eta_s`` are of that tour, None where nothing is known.
    ``duty`` is the share of the mint's time that the sweep takes.
    """

    lane: Lane | None
    touring: bool
    detection_lag_s: float
    lag_target_s: float
    duty: float
    resting_s: float = 0.0
    documents_per_s: float | None = None
    eta_s: float | None = None
    warm_at: datetime | None = None
    """When the last round of the warm lane ended well."""
    warm_documents: int = 0
    """Documents of that round."""
    warm_error: str | None = None
