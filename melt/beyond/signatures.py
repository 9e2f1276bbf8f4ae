"""
Whether a mint has signed what is stored as its ecash (NUT-12, Carol's check; DESIGN section 5, INVALID_SIGNATURE).

Offline and pure: a proof that carries its DLEQ proof is verified against the mint's key. One that carries none can't be
told and is no finding; one whose ``C`` is no point of the curve, or whose amount its keyset does not sign, is worth nothing
whatever it carries.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from melt.drift import SEVERITIES
from melt.ecash import is_point, proof_dleq_holds
from melt.model import Action, DriftType, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from melt.model import KeysetId, Proof, TokenId


class Flaw(StrEnum):
    """What is wrong with a proof."""

    NO_POINT = "C is no point of the curve"
    NO_KEY = "its keyset signs no such amount"
    NOT_SIGNED = "its DLEQ does not verify with the mint's key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Flawed:
    """A proof that fails, and why."""

    proof: Proof
    flaw: Flaw


def verify(proofs: Sequence[Proof], keys: Mapping[KeysetId, Mapping[int, str]]) -> tuple[Flawed, ...]:
    """
    Those of ``proofs`` that fail, about 0.1 ms each. ``keys`` are by keyset, amount to public key.

    Of a keyset that is not in ``keys`` only ``C`` is looked at.
    """
    return tuple(Flawed(proof=proof, flaw=flaw) for proof in proofs if (flaw := _flaw(proof, keys)) is not None)


def _flaw(proof: Proof, keys: Mapping[KeysetId, Mapping[int, str]]) -> Flaw | None:
    if not is_point(proof.c):
        return Flaw.NO_POINT
    known = keys.get(proof.keyset_id)
    if known is None:
        return None
    key = known.get(proof.amount)
    if key is None:
        return Flaw.NO_KEY
    dleq = proof.dleq
    if dleq is None or dleq.r is None or proof_dleq_holds(proof.secret, proof.c, dleq.e, dleq.s, dleq.r, key):
        return None
    return Flaw.NOT_SIGNED


def signature_verdict(flawed: Sequence[Flawed]) -> Verdict:
    """The verdict about the proofs of one document that fail."""
    flaws = sorted({one.flaw.value for one in flawed})
    return Verdict(
        type=DriftType.INVALID_SIGNATURE,
        severity=SEVERITIES[DriftType.INVALID_SIGNATURE],
        action=Action.RECORD,
        ys=tuple(one.proof.y for one in flawed),
        value=sum(one.proof.amount for one in flawed),
        reason="the mint has not signed these proofs: " + "; ".join(flaws),
    )


def is_due(token_id: TokenId, share: float, turn: int) -> bool:
    """
    Whether a document's signatures are checked in the tour number ``turn``.

    Each document has its place in a round of ``1 / share`` tours, so that after a round every one has been checked.
    """
    if share <= 0:
        return False
    tours = max(1, math.ceil(1 / share))
    place = int.from_bytes(hashlib.blake2b(token_id.encode("utf-8", "surrogatepass"), digest_size=8).digest())
    return place % tours == turn % tours
