"""When a tour passed where: what detection lag is computed from (DESIGN section 5, Sweep). Pure data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from melt.model.words import TokenId


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """
    A stretch of a tour: the documents up to ``position`` that lie behind the mark before.

    ``at`` is when the first page of the stretch was about to be asked about, so none of them was verified earlier.
    """

    position: TokenId
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """
    One tour as marks in the order of their positions; bounded (:data:`melt.detection.MARKS_MAX`).

    ``stride`` is how many pages one mark stands for, ``pages`` how many of them the last mark has so far.
    """

    started_at: datetime
    marks: tuple[Mark, ...] = ()
    stride: int = 1
    pages: int = 0
