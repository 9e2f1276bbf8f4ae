"""
The demo's books: what each user has, by the mint's word alone, and whether it adds up to the sat. Pure.

**What a user has** is the sum of the distinct proofs in that user's documents, of whatever status, that the mint calls
UNSPENT or PENDING. Left out on both sides are the proofs *elsewhere*: those of ``sent`` documents, which belong to
their recipients, and those that the mint called PENDING before the daemon was started, which another operation holds.

So nothing of meltd's own arithmetic enters ``before`` and ``after``. What left in between is counted at the other end:
payments and Lightning fees by the node that paid them, input fees from the mint's price list and the proofs that
the mint calls SPENT. A change that was lost makes ``after`` too small; one that was made up is not signed by the mint,
and the mint's UNSPENT says nothing about that (DESIGN, I6), so each new proof must carry a signature that can be
checked; a proof that is stored twice would be counted twice by its service, and is a fault by itself.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from melt.model import Y

HONOURED: Final = frozenset({"UNSPENT", "PENDING"})
COUNTED: Final = frozenset({"unspent", "pending"})
"""Statuses that the wallet service shows as a balance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A proof where it lies, without anything that could spend it. ``signed``: the mint's signature was checked."""

    npub: str
    document: str
    status: str
    kind: str
    y: Y
    amount: int
    keyset: str
    signed: bool


@dataclass(slots=True, kw_only=True)
class Count:
    """
    One user's money. ``honoured``: by the mint; ``counted``: by the documents' statuses, over the same proofs.

    ``gone`` is counted but spent, ``missed`` is honoured but not counted: what there is to mend.
    """

    honoured: int = 0
    counted: int = 0
    gone: int = 0
    missed: int = 0
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What meltd did at the mint in one request: the keysets of its inputs, and their Ys."""

    npub: str
    ys: tuple[Y, ...]
    keysets: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """One user's account over the demo, in sat."""

    npub: str
    before: Count
    after: Count
    paid: int
    lightning_fees: int
    input_fees: int
    shortfall: int

    @property
    def difference(self) -> int:
        """What is missing (positive) or too much: 0."""
        left = self.paid + self.lightning_fees + self.input_fees + self.shortfall
        return self.before.honoured - self.after.honoured - left

    @property
    def conserved(self) -> bool:
        """Whether every sat is accounted for (DESIGN, I5), with no proof stored twice and none that nobody signed."""
        return self.difference == 0 and not self.before.faults and not self.after.faults

    @property
    def agreed(self) -> bool:
        """Whether the database counts exactly what the mint honours."""
        return self.after.counted == self.after.honoured


def elsewhere(stored: Iterable[Stored], states: Mapping[Y, str]) -> frozenset[Y]:
    """The proofs that are another party's, told before the daemon is started (see the module's text)."""
    return frozenset(proof.y for proof in stored if proof.kind == "sent" or states[proof.y] == "PENDING")


def count(stored: Sequence[Stored], states: Mapping[Y, str], others: frozenset[Y]) -> dict[str, Count]:
    """Everybody's money; a proof without a state in ``states`` is a KeyError."""
    counts: dict[str, Count] = defaultdict(Count)
    places: dict[Y, list[Stored]] = defaultdict(list)
    for proof in stored:
        places[proof.y].append(proof)
    for y, held in places.items():
        state = states[y]
        if len(held) > 1:
            for npub in {proof.npub for proof in held}:
                counts[npub].faults.append(f"proof {y} lies in {len(held)} places")
        _add(counts[held[0].npub], held, state, is_other=y in others)
    return dict(counts)


def _add(to: Count, held: Sequence[Stored], state: str, *, is_other: bool) -> None:
    first = held[0]
    if state not in HONOURED | {"SPENT"}:
        to.faults.append(f"the mint calls proof {first.y} {state!r}")
        return
    if is_other:
        return
    honoured = state in HONOURED
    counted = sum(proof.amount for proof in held if proof.status in COUNTED)
    to.counted += counted
    if honoured:
        to.honoured += first.amount
        if not counted:
            to.missed += first.amount
        if not first.signed:
            to.faults.append(f"proof {first.y} carries no signature of the mint that can be checked")
    else:
        to.gone += counted


def input_fees(
    operations: Iterable[Operation], states: Mapping[Y, str], ppk: Mapping[str, int], owners: Mapping[Y, str]
) -> tuple[dict[str, int], list[str]]:
    """
    By user, what the mint took for inputs (NUT-02: the sum of their ``ppk``, rounded up to whole units once a request).

    Also what contradicts mint or documents, so that no fee can be made up: an input that the mint does not call SPENT,
    that is no proof of the user's documents (``owners``), or that more than one operation has consumed.
    """
    fees: dict[str, int] = defaultdict(int)
    faults: list[str] = []
    consumed: set[Y] = set()
    for operation in operations:
        for y in operation.ys:
            if states.get(y) != "SPENT":
                faults.append(f"input {y} is not spent at the mint")
            if owners.get(y) != operation.npub:
                faults.append(f"input {y} is not in its user's documents")
            if y in consumed:
                faults.append(f"input {y} was consumed by two operations")
            consumed.add(y)
        fees[operation.npub] += -(-sum(ppk[keyset] for keyset in operation.keysets) // 1000)
    return dict(fees), faults
