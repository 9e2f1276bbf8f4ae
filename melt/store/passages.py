"""When tours passed where, as ``meltd_sweeps`` keeps it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from melt.model import Mark, Passage, TokenId
from melt.store.journal import record_time

if TYPE_CHECKING:
    from melt.store.connect import Document


def raw_passage(passage: Passage | None) -> Document | None:
    """A passage as a document; a mark is a position and a time."""
    if passage is None:
        return None
    return {
        "started_at": passage.started_at,
        "marks": [{"position": str(mark.position), "at": mark.at} for mark in passage.marks],
        "stride": passage.stride,
        "pages": passage.pages,
    }


def read_passage(raw: Any) -> Passage | None:
    """A passage as the model has it; None where a record has none, as those of earlier versions."""
    if not raw:
        return None
    return Passage(
        started_at=record_time(raw["started_at"]),
        marks=tuple(Mark(position=TokenId(mark["position"]), at=record_time(mark["at"])) for mark in raw["marks"]),
        stride=int(raw["stride"]),
        pages=int(raw["pages"]),
    )
