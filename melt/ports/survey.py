"""What a survey asks of the database, beside the repair's search (:mod:`melt.survey`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from melt.model import Discrepancy
    from melt.model.indexes import IndexReport


class SurveyStore(Protocol):
    """Implemented by the MongoDB store. Every method raises :class:`melt.errors.StoreError` and no other."""

    @property
    def makes_indexes_at_start_only(self) -> bool: ...

    def look_after_indexes(self, *, make: bool) -> IndexReport: ...

    def other_units(self) -> Mapping[str, str]:
        """Wallet id to unit, for the wallets that are not of sat."""
        ...

    def records_by_state(self) -> Mapping[tuple[str, str], int]:
        """How many records there are about token documents, by type and state."""
        ...

    def records(self, ids: Sequence[str]) -> tuple[Discrepancy, ...]:
        """Those of these records that exist."""
        ...
