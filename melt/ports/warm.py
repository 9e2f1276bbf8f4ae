"""What the warm lane asks of the database beyond a tour (DESIGN section 5, Sweep)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melt.model import TokenId, TokenStatus


class LargeTokens(Protocol):
    """Implemented by :mod:`melt.store`."""

    def large_tokens(
        self, statuses: Sequence[TokenStatus], mint_urls: Sequence[str], amount_min: int, limit: int
    ) -> tuple[TokenId, ...]:
        """Ids of documents whose ``total_amount`` is at least ``amount_min`` (each in its own unit), ``limit`` at most."""
        ...
