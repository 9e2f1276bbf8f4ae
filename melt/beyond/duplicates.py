"""
One proof in several documents: the double count (DESIGN section 5, DUPLICATE_PROOF). Pure.

Which document is right is not guessed here. A proof may lie in one counted document (:mod:`melt.model.counting`); a copy
in a ``spent`` or ``failed`` one is history, as a wallet leaves it that keeps a proof unchanged. Reported is a counted
document whose proof another one holds that is not history, and that other one: it may count too, it may have been handed
to somebody (``sent``), or nobody can tell (a status that is none).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from melt.drift import SEVERITIES
from melt.model import Action, DriftType, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from melt.model import Holder, Proof, Token, Y

NAMED_MAX: Final = 5
"""How many of the other documents the evidence names."""

Evidence = dict[str, str | int | bool | None]


def duplicate_verdict(token: Token, holders: Mapping[Y, tuple[Holder, ...]]) -> tuple[Verdict, Evidence] | None:
    """The verdict about the proofs that ``token`` shares with other documents, with the others as evidence."""
    shared: list[Proof] = []
    others: dict[str, Holder] = {}
    for proof in token.proofs:
        found = [
            holder
            for holder in holders.get(proof.y, ())
            if holder.token_id != token.id
            and not holder.is_history
            and not token.is_history
            and (token.is_counted or holder.is_counted)
        ]
        others.update((holder.token_id, holder) for holder in found)
        shared += [proof] if found else []
    if not shared:
        return None
    verdict = Verdict(
        type=DriftType.DUPLICATE_PROOF,
        severity=SEVERITIES[DriftType.DUPLICATE_PROOF],
        action=Action.RECORD,
        ys=tuple(proof.y for proof in shared),
        value=sum(proof.amount for proof in shared),
        reason="other documents hold the same proofs: their value is counted more than once",
    )
    return verdict, _evidence(token, list(others.values()))


def _evidence(token: Token, others: Sequence[Holder]) -> Evidence:
    return {
        "other_documents": len(others),
        "other_token_ids": ", ".join(holder.token_id for holder in others[:NAMED_MAX]),
        "other_statuses": statuses_of(others),
        "other_npubs": len({holder.npub for holder in others} - {token.npub}),
    }


def elsewhere(token: Token, holders: Mapping[Y, tuple[Holder, ...]] | None) -> Evidence:
    """Whether the proofs of a legacy ``melted`` document also stand in others; ``holders`` None: nobody could look."""
    if holders is None:
        return {"stands_elsewhere": "not looked for: no index serves look-ups by secret"}
    known = holders
    twice = [proof for proof in token.proofs if any(holder.token_id != token.id for holder in known.get(proof.y, ()))]
    others = {holder.token_id: holder for proof in twice for holder in known[proof.y] if holder.token_id != token.id}
    return {
        "stands_elsewhere": f"{len(twice)} of {len(token.proofs)} proofs",
        "value_elsewhere": sum(proof.amount for proof in twice),
        **(_evidence(token, list(others.values())) if others else {}),
    }


def statuses_of(holders: Iterable[Holder]) -> str:
    """``"2 spent, 1 unspent"``."""
    counts = Counter("unknown" if holder.status is None else holder.status.value for holder in holders)
    return ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
