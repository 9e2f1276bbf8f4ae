"""Asking about given proofs or documents: what the database and the mint say side by side; nothing is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melt.errors import Severity
    from melt.model import Actor, Discrepancy, Finding, MintAlias, MintState, Token, TokenId, Y


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedDocument:
    """
    One document. ``states`` are the mint's of its proofs, in their order; None where the mint could not be asked.

    ``found`` is what is wrong with it now and what is open about it; ``severity`` the worst of that. ``blocked``: meltd would
    pay with none of its proofs.
    """

    token: Token
    mint: MintAlias | None
    states: tuple[MintState | None, ...]
    found: tuple[Discrepancy | Finding, ...]
    severity: Severity | None
    blocked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """``strangers`` are Ys that no record of meltd leads to a document from, with what the mint named says of them."""

    documents: tuple[CheckedDocument, ...]
    strangers: tuple[tuple[Y, MintState | None], ...]
    missing: tuple[TokenId, ...]
    """Documents that are not there or can't be read."""
    errors: tuple[str, ...]


class CheckService(Protocol):
    """Raises :class:`melt.errors.MeltdError`."""

    async def check(
        self, *, ys: Sequence[Y], token_ids: Sequence[TokenId], mint: MintAlias | None, actor: Actor
    ) -> CheckReport:
        """``mint`` is asked about Ys that lead to no document. MINT_UNKNOWN where it is not configured."""
        ...
