"""
Which document keeps a proof that stands in several: the rules of ADR 13. Pure.

Nothing here asks or writes. What the rules can't say is :class:`Left`, with the reason and, where there is one, a
proposal that a person may confirm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from melt.model import MintState, Token, TokenStatus, TransactionType, normalise_mint_url, weighs
from melt.model.repair import LeftReason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from melt.model import MalformedToken, MeltId, MintAlias, Proof, TokenId, Y


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """One document keeps the proof; ``keeper`` is its id."""

    keeper: TokenId


@dataclass(frozen=True, slots=True, kw_only=True)
class Undecided:
    """The rules don't say."""

    reason: LeftReason
    proposal: TokenId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One secret and every document that holds it."""

    y: Y
    holders: tuple[Token, ...]

    def proof(self, token: Token) -> Proof:
        """The proof as this document has it."""
        return next(proof for proof in token.proofs if proof.y == self.y)


def is_melted(token: Token) -> bool:
    """Whether old code made the document when it stored consumed proofs once more."""
    return token.transaction_type == TransactionType.MELTED.value


def counts(token: Token) -> bool:
    """Whether a balance that looks at statuses alone counts the document's proofs: ``melted`` ones, too."""
    return weighs(token.status, token.transaction_type)


def concerned(holders: Sequence[Token]) -> tuple[Token, ...]:
    """
    The documents among which is decided: a copy in a ``spent`` or ``failed`` one is history and says nothing.

    Only where ``melted`` copies alone are left it is asked, too: it tells whether they are leftovers or money.
    """
    live = tuple(token for token in holders if not token.is_history)
    return live if any(not is_melted(token) for token in live) else tuple(holders)


def unfit(items: Sequence[Token | MalformedToken], y: Y | None, mint_of: dict[str, MintAlias]) -> LeftReason | None:
    """Why no rule can be applied to what these documents share, whatever the mint says; None: one can."""
    tokens = [item for item in items if isinstance(item, Token)]
    if len(tokens) != len(items) or y is None:
        return LeftReason.UNREADABLE
    urls = {normalise_mint_url(token.mint_url) for token in tokens}
    if len(urls) > 1:
        return LeftReason.MINTS_DIFFER
    if urls.pop() not in mint_of:
        return LeftReason.MINT_UNCONFIGURED
    shapes = {
        (str(proof.keyset_id).lower(), proof.amount, proof.c.lower())
        for token in tokens
        for proof in token.proofs
        if proof.y == y
    }
    return LeftReason.PROOFS_DIFFER if len(shapes) > 1 else None


def decide(
    group: Group, state: MintState, *, live: frozenset[MeltId], frozen: frozenset[str], across_users: bool
) -> Kept | Undecided:
    """
    Who keeps the proof.

    ``live`` are the melts among the holders' reservations that are open, ``frozen`` the users whose wallet at this
    mint is. ``across_users``: a person has confirmed that the oldest holder keeps what two users' documents hold.
    """
    holders = concerned(group.holders)
    if any(token.reservation is not None and token.reservation.melt_id in live for token in holders):
        return Undecided(reason=LeftReason.RESERVED)
    if any(token.npub in frozen for token in holders):
        return Undecided(reason=LeftReason.FROZEN)
    match state:
        case MintState.PENDING:
            return Undecided(reason=LeftReason.MINT_PENDING)
        case MintState.SPENT:
            return Kept(keeper=min(holders, key=_spent_rank).id)
        case MintState.UNSPENT:
            return _decide_unspent(holders, across_users=across_users)


def _decide_unspent(holders: Sequence[Token], *, across_users: bool) -> Kept | Undecided:
    own = [token for token in holders if not is_melted(token)]
    if not own:
        return Undecided(reason=LeftReason.MELTED_UNSPENT)
    counting = [token for token in own if token.is_counted]
    if counting and any(_is_sent(token) for token in own):
        return Undecided(reason=LeftReason.HANDED_OUT)
    keeper = min(counting or own, key=_unspent_rank)
    if len({token.npub for token in holders}) > 1 and not across_users:
        return Undecided(reason=LeftReason.ACROSS_USERS, proposal=keeper.id)
    return Kept(keeper=keeper.id)


def _is_sent(token: Token) -> bool:
    return token.transaction_type == TransactionType.SENT.value


def _age(token: Token) -> tuple[float, str]:
    """Oldest first; a document without any date is older than the code that dates them."""
    return (0.0 if token.created_at is None else token.created_at.timestamp(), str(token.id))


def _spent_rank(token: Token) -> tuple[bool, bool, int, float, str]:
    """
    Its own document before a ``melted`` copy, and one that was handed out, which loses nothing, before any other; one that
    is spent already before one that is still to be marked.
    """
    order = {TokenStatus.SPENT: 0, TokenStatus.UNSPENT: 1, TokenStatus.PENDING: 1, TokenStatus.FAILED: 2}
    return (is_melted(token), not _is_sent(token), order[token.status], *_age(token))


def _unspent_rank(token: Token) -> tuple[bool, bool, float, str]:
    """
    The oldest. Among documents that count nowhere, ``sent`` first: what was handed out is then recorded as unclaimed,
    and no rule takes it back.
    """
    return (not _is_sent(token), token.status is TokenStatus.FAILED, *_age(token))
