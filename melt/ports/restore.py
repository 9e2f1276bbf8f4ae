"""What a restore asks of the database beside :class:`melt.ports.Store`, and whom it tells (DESIGN section 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from melt.ports.telling import Telemetry

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from melt.model import KeysetId, Melt, MintAlias, MintState, NewProof, TokenId, Y
    from melt.model.restore import ImportResult, JournalPosition, RestoreImport, RestoreRecord
    from melt.ports.outside import Mint


class EndedMelts(Protocol):
    """One long cursor over journal entries that have ended, in the order (``ended_at``, ``_id``); one thread at a time."""

    def next_page(self, entries_max: int) -> tuple[Melt, ...]:
        """The next entries, empty at the end. One that can't be read is passed over."""
        ...

    def close(self) -> None: ...


class RestoreStore(Protocol):
    """The database as a restore asks for it. Every method raises :class:`melt.errors.StoreError` and no other."""

    def ended_melts(
        self, mint_url: str, *, after: JournalPosition | None, since: datetime | None, until: datetime | None
    ) -> EndedMelts:
        """Entries at a mint that ended at ``since`` or later, before ``until``, behind a position."""
        ...

    def planned_counters(self, seed_id: str, keyset_id: KeysetId, first: int, end: int) -> tuple[tuple[int, int], ...]:
        """The (counter, how many) of every plan in the journal that may touch the counters ``first .. end - 1``."""
        ...

    def absent(self, proofs: Sequence[NewProof], *, likely: Sequence[TokenId]) -> frozenset[Y]:
        """
        The Ys of those proofs that no token document of any user and status holds.

        Looked up by secret, which does not leave the store; ``likely`` are documents that are read first.
        """
        ...

    def acknowledged(self, discrepancy_ids: Sequence[str]) -> frozenset[str]:
        """Those of these records that a person has acknowledged: they are left as they are."""
        ...

    def import_restored(self, restored: RestoreImport) -> ImportResult:
        """
        Store proofs as an unspent ``change`` document, in one transaction with audit entries and the record's end.

        Change that had been booked as missing corrects the journal entry and its CHANGE_SHORTFALL record in the same
        transaction (I5). A repeated call writes nothing. Raises LostRace where the record is no longer open at
        this occurrence or the entry has moved, DuplicateSecret where a document holds one of the proofs.
        """
        ...

    def clear_not_in_db(self, subjects: Sequence[str]) -> int:
        """Close (CLEARED) the open PROOF_NOT_IN_DB records about these subjects; how many."""
        ...

    def wallet_of(self, npub: str, mint_url: str, unit: str) -> str | None:
        """The wallet document of a user at a mint for a unit."""
        ...

    def save_restore(self, record: RestoreRecord) -> None: ...
    def restores(self) -> tuple[RestoreRecord, ...]: ...


class StateQuestion(Protocol):
    """NUT-07 with sentinels: raises :class:`melt.errors.MintUntrusted`, with a CRITICAL event, where one fails."""

    async def __call__(self, mint: Mint, ys: Sequence[Y], /) -> Mapping[Y, MintState]: ...


class RestoreTelemetry(Telemetry, Protocol):
    """Who is told what a restore did. Never raises."""

    def restore_asked(self, mint: MintAlias, outputs: int) -> None: ...
    def restored(self, mint: MintAlias, unit: str, amount: int, late_change: int) -> None:
        """``late_change`` is the part of ``amount`` that had been booked as missing, in the unit."""
        ...
