"""What the double count is worth: how much too high each user's balance is, and why (ADR 13). Pure."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from melt.model import MintState
from melt.model.repair import UserValue
from melt.repair.decide import counts, is_melted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from melt.model import MintAlias, Token, TokenId, Y
    from melt.model.repair import Left, RepairStep

DUPLICATE: Final = "duplicate"
"""Counted a second time for the same user."""
ACROSS: Final = "across_users"
"""Counted for a user although another one's older document holds it."""
MELTED: Final = "melted"
"""Counted in a ``melted`` document: consumed, or a copy."""
SPENT: Final = "spent"
"""Counted once, but the mint calls it SPENT: the next sweep marks it."""


def elsewhere(steps: Iterable[RepairStep], left: Iterable[Left]) -> dict[Y, TokenId]:
    """Which document keeps a proof that stands in several, decided or proposed."""
    kept: dict[Y, TokenId] = {}
    for one in left:
        if one.proposal is not None:
            kept |= dict.fromkeys(one.ys, one.proposal)
    kept |= {removal.y: removal.kept_in for step in steps for removal in step.removals}
    return kept


def value_user(
    npub: str,
    tokens: Sequence[Token],
    *,
    mint: MintAlias,
    unit: str,
    states: Mapping[Y, MintState],
    kept: Mapping[Y, TokenId],
    owners: Mapping[TokenId, str],
    steps: Sequence[RepairStep],
) -> UserValue:
    """
    One user's documents at one mint in one unit; those that don't count are passed over.

    ``owners`` are the users of the documents in ``kept``: a proof that another user's document keeps is honoured there.
    """
    causes: dict[str, int] = defaultdict(int)
    counted = 0
    seen: set[Y] = set()
    counting = [token for token in tokens if counts(token)]
    for token in sorted(counting, key=lambda token: (is_melted(token), token.id)):
        for proof in token.proofs:
            counted += proof.amount
            keeper_owner = owners.get(kept[proof.y]) if proof.y in kept else npub
            if proof.y in seen:
                causes[MELTED if is_melted(token) else DUPLICATE] += proof.amount
            elif states.get(proof.y) is MintState.SPENT:
                causes[MELTED if is_melted(token) else SPENT] += proof.amount
            elif keeper_owner not in {npub, None}:
                causes[ACROSS] += proof.amount
            seen.add(proof.y)
    stops = sum(step.amount for step in steps if step.npub == npub and counts_in(step))
    return UserValue(
        npub=npub,
        mint=mint,
        unit=unit,
        counted=counted,
        honoured=counted - sum(causes.values()),
        after=counted - stops,
        causes=dict(sorted(causes.items())),
    )


def counts_in(step: RepairStep) -> bool:
    """Whether what a step takes away was counted."""
    return step.status.value in {"unspent", "pending"}
