"""What the drift beyond states asks of the database: who else holds a proof, and what no tour reaches (DESIGN section 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from melt.model import Holder, Proof, Y
    from melt.ports.store import Tour


class Holdings(Protocol):
    """
    Implemented by the MongoDB store alone. Every method raises :class:`melt.errors.StoreError` and no other.

    No secret comes out of it (I10): answers are by Y.
    """

    @property
    def secrets_indexed(self) -> bool:
        """Whether an index serves look-ups by secret: without one :meth:`holders` would read the whole collection."""
        ...

    @property
    def reads_once(self) -> bool:
        """Whether meltd's indexes are missing, so that a tour reads in ``_id`` order and asks for nothing besides."""
        ...

    def holders(self, proofs: Sequence[Proof]) -> Mapping[Y, tuple[Holder, ...]]:
        """
        Those of ``proofs`` that lie in two documents or more, of any user, mint and status, as of one moment.

        All documents that hold the proof are named, the one it was read from too, at most a few hundred of them.
        """
        ...

    def wallet_units(self, wallet_ids: Sequence[str]) -> Mapping[str, str]:
        """The units that these wallets' settings name; a wallet that names none is left out."""
        ...

    def strays(self, mint_urls: Sequence[str], *, homeless: bool) -> Tour:
        """
        Documents at these URLs (as stored) whose status is none of the four, so that no tour passes them.

        With ``homeless`` also those of any status but spent and failed whose ``mint_url`` is no text.
        """
        ...
