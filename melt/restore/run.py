"""What one run of a restore may do, and what it has found so far."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from melt.caps import RunTotals
from melt.model.restore import Discovery, RestoreReport

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from melt.caps import Caps
    from melt.model import Actor
    from melt.restore.asking import Asked

FOUND_MAX: Final = 1_000
ERRORS_MAX: Final = 20
"""How many discoveries and errors a report lists; its counts are of all (I11)."""


async def _no_pace() -> None:
    """As fast as the mint answers."""


@dataclass(slots=True, kw_only=True)
class Run:
    """
    One run at one mint. ``requests_left`` bounds it; a page that was begun is finished.

    ``caps`` is a copy in a dry run, so that the hour's total is predicted and not used up.
    """

    dry_run: bool
    actor: Actor
    requests_left: int
    caps: Caps
    pace: Callable[[], Awaitable[None]] = _no_pace
    totals: RunTotals = field(default_factory=RunTotals)
    entries: int = 0
    blocks: int = 0
    outputs: int = 0
    signed: int = 0
    refused: int = 0
    foreign: int = 0
    discoveries: list[Discovery] = field(default_factory=list)
    imported: int = 0
    imported_amounts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    errors: list[str] = field(default_factory=list)

    @property
    def is_spent(self) -> bool:
        """Whether the bound on requests has been reached."""
        return self.requests_left <= 0

    def count(self, asked: Asked) -> None:
        """Add what one question came to."""
        self.requests_left -= asked.requests
        self.outputs += asked.outputs
        self.signed += len(asked.signed)
        self.refused += asked.refused
        if asked.unanswered:
            self.fail(f"the mint refused to tell about the outputs of {len(asked.unanswered)} plans")

    def fail(self, sentence: str) -> None:
        """Something that could not be asked or believed; each sentence once."""
        if sentence not in self.errors and len(self.errors) < ERRORS_MAX:
            self.errors.append(sentence)

    def note(self, discovery: Discovery) -> None:
        """Keep what was found while there is room, and count what was (or would be) imported."""
        if len(self.discoveries) < FOUND_MAX:
            self.discoveries.append(discovery)
        if discovery.kept_out is None:
            self.imported += 1
            self.imported_amounts[discovery.found.unit] += discovery.found.value

    def report(self, *, seconds: float) -> RestoreReport:
        """The run as it is told."""
        return RestoreReport(
            dry_run=self.dry_run,
            entries=self.entries,
            outputs=self.outputs,
            signed=self.signed,
            refused=self.refused,
            foreign=self.foreign,
            discoveries=tuple(self.discoveries),
            imported=self.imported,
            imported_amounts=dict(self.imported_amounts),
            errors=tuple(self.errors),
            seconds=seconds,
        )
