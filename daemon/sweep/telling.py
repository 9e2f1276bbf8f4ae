"""What a tour tells of itself: its progress, one line at its end, and what it came to as metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from melt.model import Solvency, TokenStatus
from melt.reconcile import TOURED

if TYPE_CHECKING:
    from datetime import datetime

    from daemon.metrics import Metrics
    from melt.model import MintAlias, SweepRecord
    from melt.reconcile import Outcome

_log = structlog.get_logger("meltd.sweep")


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How the tour under way gets on; None where nothing is known yet."""

    documents_per_s: float | None = None
    eta_s: float | None = None


class Telling:
    """``progress`` is of the tours that are under way."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._units: dict[MintAlias, set[tuple[str, str]]] = {}
        self.progress: dict[MintAlias, Progress] = {}

    def walk_begins(self, alias: MintAlias) -> None:
        """A tour is under way."""
        self.progress[alias] = Progress()

    def walked(self, record: SweepRecord, outcome: Outcome, seconds: float) -> None:
        """A page is done; ``seconds`` since the walk began."""
        left = max(0, record.total_documents - record.documents)
        rate = outcome.documents / seconds if seconds > 0 else 0.0
        eta_s = left / rate if rate else None
        self.progress[record.mint] = Progress(documents_per_s=rate or None, eta_s=eta_s)
        self._metrics.set_sweep_progress(record.mint, done=record.documents, total=record.total_documents, eta_s=eta_s)

    def walk_ended(self, alias: MintAlias) -> None:
        """None is under way."""
        self.progress.pop(alias, None)

    def ended(self, record: SweepRecord, outcome: Outcome, seconds: float, *, dry_run: bool, plan: str | None) -> None:
        """The one line of a tour, and its progress where it came to the end."""
        _say(record, outcome, seconds, dry_run=dry_run, plan=plan)
        if record.finished_at is not None:
            self._metrics.set_sweep_progress(record.mint, done=record.documents, total=record.documents, eta_s=None)

    def liabilities(self, alias: MintAlias, outcome: Outcome) -> None:
        """What a whole tour has seen; what the one before it saw and it did not is 0."""
        toured = {status.value for status in TOURED}
        seen = {key for key in outcome.liabilities if key[1] in toured}
        for unit, status in seen | self._units.get(alias, set()):
            amount = outcome.liabilities.get((unit, status), 0)
            self._metrics.set_liabilities(alias, unit, TokenStatus(status), amount)
        self._units[alias] = seen


def solvency_of(alias: MintAlias, outcome: Outcome, now: datetime) -> tuple[Solvency, ...]:
    """What a whole tour came to, by unit. A page that was repeated after a crash counts once: it is saved with them."""
    return tuple(
        Solvency(mint=alias, unit=unit, owed=owed, honoured=outcome.honoured[unit], at=now)
        for unit, owed in sorted(outcome.owed.items())
    )


def _say(record: SweepRecord, outcome: Outcome, seconds: float, *, dry_run: bool, plan: str | None) -> None:
    said = {
        "mint": record.mint,
        "tour": record.tour,
        "documents": outcome.documents,
        "proofs": outcome.proofs,
        "found": dict(outcome.found_by_type),
        "corrected": dict(outcome.corrected_by_type),
        "seconds": round(seconds, 3),
    }
    if outcome.capped:
        said["capped_by"] = sorted(outcome.capped)
    if plan is not None:
        said["plan"] = plan
    if record.error is not None:
        _log.warning("sweep interrupted", **said, error=record.error)
    elif dry_run:
        _log.info("sweep done while paused: nothing was changed", **said)
    else:
        _log.info("sweep done", **said)
