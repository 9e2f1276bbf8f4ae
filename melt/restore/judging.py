"""From signatures, documents and states to what the database lacks. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from melt.drift import SEVERITIES
from melt.model import Action, DriftType, Finding, MintState
from melt.restore.ranges import OutputRole, believable_change, counter_subject

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from melt.model import Keyset, Melt, MintAlias, Y
    from melt.restore.asking import SignedOutput
    from melt.restore.ranges import Span

NOT_BELIEVED = "a sentinel failed: the mint's word is not believed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lacking:
    """What one subject lacks: the outputs, and the record to make of it."""

    finding: Finding
    outputs: tuple[SignedOutput, ...]
    change_ys: frozenset[Y] = frozenset()


def believed(
    melt: Melt, role_of: Mapping[int, OutputRole], signed: Sequence[SignedOutput]
) -> tuple[tuple[SignedOutput, ...], int]:
    """
    The signatures of an entry that count as value, and how many do not.

    A swap's outputs have planned amounts, which the mint owes. A blank takes the amount that the mint names: without a DLEQ proof that is
    believed only while all change together is no more than was overpaid.
    """
    change = sum(one.proof.amount for one in signed if role_of[one.plan] is OutputRole.BLANKS)
    plausible = believable_change(melt, change)
    kept = tuple(one for one in signed if one.proven or plausible or role_of[one.plan] is not OutputRole.BLANKS)
    return kept, len(signed) - len(kept)


def lacking(
    signed: Sequence[SignedOutput], absent: frozenset[Y], states: Mapping[Y, MintState] | None
) -> tuple[SignedOutput, ...]:
    """
    The signed outputs that no document holds and the mint honours.

    ``states`` None: they could not be believed, so that whatever is absent is reported and nothing is imported.
    """
    return tuple(
        one for one in signed if one.y in absent and (states is None or states.get(one.y) is MintState.UNSPENT)
    )


def melt_lacks(
    melt: Melt, mint: MintAlias, role_of: Mapping[int, OutputRole], outputs: Sequence[SignedOutput]
) -> Lacking:
    """The record of what one journal entry's owner lacks."""
    roles = Counter(role_of[one.plan] for one in outputs)
    finding = Finding(
        type=DriftType.PROOF_NOT_IN_DB,
        severity=SEVERITIES[DriftType.PROOF_NOT_IN_DB],
        action=Action.IMPORT,
        subject=f"melt:{melt.id}",
        npub=melt.npub,
        mint=mint,
        unit=melt.unit,
        value=sum(one.proof.amount for one in outputs),
        token_id=None,
        ys=tuple(sorted(one.y for one in outputs)),
        evidence={
            "kind": melt.kind.value,
            "state": melt.state.value,
            "transaction_id": melt.transaction_id,
            **{str(role): roles[role] for role in OutputRole},
        },
    )
    change = frozenset(one.y for one in outputs if role_of[one.plan] is OutputRole.BLANKS)
    return Lacking(finding=finding, outputs=tuple(outputs), change_ys=change)


def block_lacks(
    seed_id: str,
    keyset: Keyset,
    mint: MintAlias,
    block: Span,
    outputs: Sequence[tuple[int, SignedOutput]],
    *,
    npub: str | None,
) -> Lacking:
    """The record of value at counters of no entry; ``outputs`` are (counter, output). The owner is the operator's or nobody's."""
    counters = sorted(counter for counter, _ in outputs)
    finding = Finding(
        type=DriftType.PROOF_NOT_IN_DB,
        severity=SEVERITIES[DriftType.PROOF_NOT_IN_DB],
        action=Action.RECORD if npub is None else Action.IMPORT,
        subject=counter_subject(seed_id, keyset.id, block),
        npub=npub,
        mint=mint,
        unit=keyset.unit,
        value=sum(one.proof.amount for _, one in outputs),
        token_id=None,
        ys=tuple(sorted(one.y for _, one in outputs)),
        evidence={
            "keyset_id": keyset.id,
            "first_counter": counters[0],
            "last_counter": counters[-1],
            "outputs": len(counters),
        },
    )
    return Lacking(finding=finding, outputs=tuple(one for _, one in outputs))
