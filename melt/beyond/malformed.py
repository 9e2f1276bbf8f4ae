"""
Documents that can't be read as a token (DESIGN section 5, MALFORMED_TOKEN). Pure.

The record says why in our own words, and what the proofs in it that could be read are worth, so that no value is lost
silently. A proof that lies twice in one document is a double count besides (DUPLICATE_PROOF).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from melt.drift import SEVERITIES
from melt.model import AMOUNT_MAX, Action, DriftType, Finding, MalformedToken

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from melt.model import KeysetId, MintAlias, Token, Y

_REASONS_CHARS: Final = 500
REASONS_MAX: Final = 8


def with_sane_amounts(
    tokens: Sequence[Token], keys: Mapping[KeysetId, Mapping[int, str]]
) -> tuple[list[Token], list[MalformedToken]]:
    """
    The documents whose proofs have amounts of their keysets, and the others as what they are: no token.

    An amount that its keyset does not sign can't be spent, and would spoil every sum. Of keysets that are not in
    ``keys`` every amount is taken as it is.
    """
    sane: list[Token] = []
    odd: list[MalformedToken] = []
    for token in tokens:
        wrong = [
            position
            for position, proof in enumerate(token.proofs)
            if proof.keyset_id in keys and proof.amount not in keys[proof.keyset_id]
        ]
        if wrong:
            odd.append(_malformed(token, wrong))
        else:
            sane.append(token)
    return sane, odd


def _malformed(token: Token, wrong: Sequence[int]) -> MalformedToken:
    good = [proof for position, proof in enumerate(token.proofs) if position not in set(wrong)]
    return MalformedToken(
        id=token.id,
        reasons=tuple(f"proofs[{position}]: its keyset signs no such amount" for position in wrong[:REASONS_MAX]),
        npub=token.npub,
        mint_url=token.mint_url,
        status=token.status.value,
        value=min(sum(proof.amount for proof in good), AMOUNT_MAX),
        ys=tuple(proof.y for proof in token.proofs),
    )


def malformed_findings(items: Sequence[MalformedToken], mint: MintAlias, *, now: datetime) -> tuple[Finding, ...]:
    """The findings about these documents of ``mint``; one without a readable ``mint_url`` belongs to no mint."""
    found: list[Finding] = []
    for item in items:
        found.append(_finding(DriftType.MALFORMED_TOKEN, item, mint, now, ys=item.ys, value=item.value))
        if item.repeated:
            twice = _finding(DriftType.DUPLICATE_PROOF, item, mint, now, ys=item.repeated, value=item.repeated_value)
            found.append(twice)
    return tuple(found)


def _finding(
    drift: DriftType, item: MalformedToken, mint: MintAlias, now: datetime, *, ys: tuple[Y, ...], value: int
) -> Finding:
    return Finding(
        type=drift,
        severity=SEVERITIES[drift],
        action=Action.RECORD,
        subject=f"token:{item.id}",
        npub=item.npub,
        mint=None if item.mint_url is None else mint,
        unit="sat",
        value=value,
        token_id=item.id,
        ys=ys,
        evidence={
            "reasons": "; ".join(item.reasons)[:_REASONS_CHARS],
            "status": item.status,
            "readable_proofs": len(item.ys),
            "mint_said": "not asked: the document can't be read",
            "seen_at": now.isoformat(timespec="seconds"),
        },
        mark=item.mark or None,
    )
