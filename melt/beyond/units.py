"""
Wallets whose settings name another unit than their ecash has (NUT-02; UNIT_MISMATCH). Pure.

The unit is the keyset's: nothing is paid or summed by what the settings say. But whoever does go by them shows a wrong
balance: a thousand times too much where msat are taken for sat.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from melt.drift import SEVERITIES
from melt.model import Action, DriftType, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from melt.model import Keyset, KeysetId, Token


def unit_verdict(
    token: Token, wallet_unit: str, keysets: Mapping[KeysetId, Keyset]
) -> tuple[Verdict, Mapping[str, str | int | bool | None]] | None:
    """The verdict about the proofs of a document whose keysets are of another unit than its wallet says."""
    other = [
        proof for proof in token.proofs if proof.keyset_id in keysets and keysets[proof.keyset_id].unit != wallet_unit
    ]
    if not other:
        return None
    units = sorted({keysets[proof.keyset_id].unit for proof in other})
    drift = DriftType.UNIT_MISMATCH
    verdict = Verdict(
        type=drift,
        severity=SEVERITIES[drift],
        action=Action.RECORD,
        ys=tuple(proof.y for proof in other),
        value=sum(proof.amount for proof in other),
        reason="the wallet's settings name another unit than these proofs have",
    )
    return verdict, {"wallet_unit": wallet_unit[:16], "keyset_units": ", ".join(units)[:80]}
