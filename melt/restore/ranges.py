"""
Ranges of counters, and which outputs a journal entry has planned (NUT-13). Pure.

The counters of a seed and keyset are one line of numbers. The journal's plans cover most of it; what they leave uncovered,
below the next counter and for a gap behind it, belongs to no entry that this database knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from melt.model import JournalKind, MeltState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from melt.model import KeysetId, Melt, OutputPlan

BLOCK: Final = 100
"""Counters without an entry are recorded by blocks of so many, aligned: so the same value is the same record in each round."""
GAP: Final = 300
"""So many counters behind the last one are asked about: what wallets take for the end (ADR 7)."""


class OutputRole(StrEnum):
    """What a journal entry wanted outputs for."""

    BLANKS = "blanks"
    SWAP = "swap"
    FENCE = "fence"


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """The counters ``first .. end - 1``."""

    first: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.first <= self.end:
            raise ValueError(f"no counters lie from {self.first} to {self.end}")

    def __len__(self) -> int:
        return self.end - self.first


def plans_of(melt: Melt) -> tuple[tuple[OutputRole, OutputPlan], ...]:
    """Everything that an entry has ever planned and still knows of, with what it was for."""
    swaps = ((OutputRole.SWAP, melt.swap), (OutputRole.FENCE, melt.fence))
    planned = [] if melt.blanks is None else [(OutputRole.BLANKS, melt.blanks)]
    planned += [(role, swap.outputs) for role, swap in swaps if swap is not None]
    return tuple((role, plan) for role, plan in planned if plan.amounts)


def span_of(plan: OutputPlan) -> Span:
    """The counters of a plan."""
    return Span(plan.counter, plan.counter + len(plan.amounts))


def merged(spans: Iterable[Span]) -> tuple[Span, ...]:
    """The same counters in as few spans as can be, ascending. Counters are taken in a row, so these are few."""
    found: list[Span] = []
    for span in sorted(spans):
        if found and span.first <= found[-1].end:
            found[-1] = Span(found[-1].first, max(found[-1].end, span.end))
        elif len(span):
            found.append(span)
    return tuple(found)


def uncovered(within: Span, planned: Iterable[Span]) -> tuple[Span, ...]:
    """What of ``within`` no planned span covers, ascending. Spans may overlap, touch and come in any order."""
    found: list[Span] = []
    position = within.first
    for span in sorted(planned):
        if span.end <= position or not len(span):
            continue
        if span.first >= within.end:
            break
        if span.first > position:
            found.append(Span(position, span.first))
        position = min(span.end, within.end)
    if position < within.end:
        found.append(Span(position, within.end))
    return tuple(found)


def covers(planned: Iterable[Span], counter: int) -> bool:
    """Whether one of the spans holds this counter."""
    return any(span.first <= counter < span.end for span in planned)


def block_of(counter: int) -> Span:
    """The aligned block that a counter lies in."""
    first = counter - counter % BLOCK
    return Span(first, first + BLOCK)


def blocks_in(within: Span) -> tuple[Span, ...]:
    """The aligned blocks that ``within`` touches, ascending."""
    start = block_of(within.first).first
    return tuple(block_of(first) for first in range(start, within.end, BLOCK))


def counter_subject(seed_id: str, keyset_id: KeysetId, block: Span) -> str:
    """The subject of a record about counters of no entry: the last number is inclusive."""
    return f"counter:{seed_id}:{keyset_id}:{block.first}-{block.end - 1}"


def may_hold_late_change(melt: Melt) -> bool:
    """Whether change that comes back later corrects the books of this entry: a payment that was settled."""
    return melt.kind is JournalKind.MELT and melt.state is MeltState.SETTLED


def believable_change(melt: Melt, signed: int) -> bool:
    """
    Whether change of ``signed`` in all may be believed without DLEQ proofs: no more than was overpaid, and paid at all.

    A signature without proof may be of another key than its amount says, and then it can never be spent.
    """
    return may_hold_late_change(melt) and signed <= melt.overpaid
