"""What the repair of the double count asks of the database, beside :class:`melt.ports.Store` (ADR 13)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from melt.model import Actor, Token
    from melt.model.repair import DocumentSecrets, RepairBatch, UniqueProofsWish


class SecretTour(Protocol):
    """One long cursor over the secrets of all documents in ``_id`` order; used by one thread at a time."""

    def next_page(self, documents_max: int) -> tuple[DocumentSecrets, ...]:
        """The next documents, empty at the end. Reopens itself after a lost cursor."""
        ...

    def close(self) -> None: ...


class RepairStore(Protocol):
    """Implemented by the MongoDB store. Every method raises :class:`melt.errors.StoreError` and no other."""

    @property
    def unique_proofs_indexed(self) -> bool:
        """Whether the unique index on ``proofs.secret`` stands, as found at start."""
        ...

    def secret_tour(self) -> SecretTour:
        """Every document of the token collection, whatever its status and mint."""
        ...

    def documents_estimated(self) -> int:
        """About how many documents there are; cheap."""
        ...

    def counting_documents(self, npub: str) -> tuple[Token, ...]:
        """A user's readable documents that a balance counts, ``unspent`` and ``pending``, at every mint, in no order."""
        ...

    def apply_repairs(self, batch: RepairBatch) -> tuple[str | None, ...]:
        """
        Carry out the steps of a batch in one transaction; for each None, or why it was left undone.

        A step is left undone where one of its documents is no longer as it was planned on. Applying a batch twice
        equals once, and both answer the same.
        """
        ...

    def unique_proofs_wish(self) -> UniqueProofsWish | None:
        """Who asked for the unique index, and when."""
        ...

    def wish_unique_proofs(self, *, actor: Actor, reason: str) -> UniqueProofsWish:
        """Have the index made at the next start. The first wish stays; asking again changes nothing."""
        ...
