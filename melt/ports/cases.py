"""Discrepancies one by one, and what a person says about them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from melt.model import Actor, CriticalEvent, Discrepancy, MeltId, TokenId


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFigures:
    """
    What is open, in figures. ``oldest`` is when the oldest open record of a severity was opened; ``value`` is by
    (severity, unit), in that unit.

    ``phases`` counts by (type, severity, mint alias or "", phase: :class:`melt.settling.Phase`); ``settling_value`` is by (mint,
    unit) what settling records say of counted proofs that are spent; ``unsettled`` counts by mint what does not come to rest.
    """

    oldest: Mapping[str, datetime] = field(default_factory=dict)
    value: Mapping[tuple[str, str], int] = field(default_factory=dict)
    phases: Mapping[tuple[str, str, str, str], int] = field(default_factory=dict)
    settling_value: Mapping[tuple[str, str], int] = field(default_factory=dict)
    unsettled: Mapping[str, int] = field(default_factory=dict)


class CaseStore(Protocol):
    """Every method raises :class:`melt.errors.StoreError` or what it names."""

    def discrepancy(self, discrepancy_id: str) -> Discrepancy | None: ...

    def acknowledge(self, discrepancy_id: str, *, reason: str, actor: Actor) -> Discrepancy | None:
        """
        An open record becomes ACKNOWLEDGED; None: there is no such record.

        Raises MeltdError WRONG_STATE for one that is not open.
        """
        ...

    def reopen(self, discrepancy_id: str, *, reason: str, actor: Actor) -> Discrepancy | None:
        """
        Take an acknowledgement back: the record is open again, and value comes back by it only after sightings anew.

        None: there is no such record. Raises MeltdError WRONG_STATE for one that is not acknowledged.
        """
        ...

    def discrepancies_of_token(self, token_id: TokenId, limit: int) -> tuple[Discrepancy, ...]:
        """Newest first."""
        ...

    def events_about_melt(self, melt_id: MeltId, limit: int) -> tuple[CriticalEvent, ...]:
        """CRITICAL events of a melt, open and resolved, newest first."""
        ...

    def open_figures(self) -> OpenFigures: ...
