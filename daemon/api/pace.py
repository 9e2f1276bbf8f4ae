"""The sweep's pace at one mint, in the answer of ``GET /v1/status``."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Self

from pydantic import Field

from daemon.api.answers import Answer

if TYPE_CHECKING:
    from daemon.ports import PaceStatus


class PaceAnswer(Answer):
    """How the sweep of one mint gets on now."""

    lane: str | None = Field(description="Who asks the mint in this moment: cold, warm or asked; null: nobody.")
    touring: bool = Field(description="A tour is under way.")
    detection_lag_s: float = Field(description="How old the oldest verification of an unspent sat is.")
    lag_target_s: float
    duty: float = Field(description="Share of the mint's time that the sweep takes.")
    resting_s: float = Field(description="How long the tour still rests before its next page.")
    documents_per_s: float | None
    eta_s: float | None = Field(description="To the end of the tour under way.")
    warm_at: datetime | None = Field(description="When the last round over new and large documents ended well.")
    warm_documents: int
    warm_error: str | None

    @classmethod
    def of(cls, pace: PaceStatus) -> Self:
        return cls(
            lane=None if pace.lane is None else pace.lane.value,
            touring=pace.touring,
            detection_lag_s=round(pace.detection_lag_s, 1),
            lag_target_s=pace.lag_target_s,
            duty=round(pace.duty, 3),
            resting_s=round(pace.resting_s, 2),
            documents_per_s=None if pace.documents_per_s is None else round(pace.documents_per_s, 1),
            eta_s=None if pace.eta_s is None else round(pace.eta_s, 1),
            warm_at=pace.warm_at,
            warm_documents=pace.warm_documents,
            warm_error=pace.warm_error,
        )
