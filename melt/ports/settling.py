"""What looking at open records' documents asks of the database (I13, :mod:`melt.settling`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from melt.model import Discrepancy, MintAlias, TokenId


class SettleStore(Protocol):
    """Implemented by the MongoDB store alone. Every method raises :class:`melt.errors.StoreError` and no other."""

    def open_about_tokens(self, mint: MintAlias, limit: int) -> tuple[Discrepancy, ...]:
        """The open and acknowledged records about documents of a mint, those that have been looked at longest ago first."""
        ...

    def marks(self, ids: Sequence[TokenId]) -> Mapping[TokenId, str]:
        """The digests of those documents that are there (``Token.mark``), read or unreadable."""
        ...

    def watch(self, looked: Mapping[str, str]) -> None:
        """
        Records whose documents were looked at, by id, each with its document's digest as it is.

        Where that is still the record's own, what has passed since the last look is added; else its time begins anew.
        """
        ...
