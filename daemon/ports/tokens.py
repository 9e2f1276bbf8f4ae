"""What the socket asks about single token documents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from melt.model import Actor, MintState, TokenId, TokenStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkedToken:
    """
    One document that was marked spent, or was so before. ``at_mint`` counts its proofs by what the mint calls them now;
    None where it could not be asked, and then ``mint_error`` says why. ``amount`` is in the unit of its keysets.
    """

    token_id: TokenId
    npub: str
    status_before: TokenStatus
    amount: int
    at_mint: Mapping[MintState, int] | None
    mint_error: str | None


class TokenService(Protocol):
    """Implemented by :class:`daemon.tokens.Tokens`."""

    async def mark_spent(
        self, *, token_ids: Sequence[TokenId], reason: str, now: bool, actor: Actor
    ) -> tuple[MarkedToken, ...]:
        """
        Mark whole documents spent, all or none, on a person's word.

        Raises MeltdError: NOT_FOUND, or WRONG_STATE for documents that are failed, or (without ``now``) reserved by an open
        melt, in question, or of type ``sent``.
        """
        ...
