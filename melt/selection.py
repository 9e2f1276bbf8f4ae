"""
Which proofs pay an amount (DESIGN section 4, Select). Pure.

Exact match first, then least overpay, then fewest inputs; among equal sets and proofs those of inactive or soon
expiring keysets go first. Every input costs its keyset's ``input_fee_ppk`` (NUT-02), so a proof is worth
``1000 * amount - ppk`` thousandths, and a set pays iff the sum of these reaches ``1000 * need``:
``sum(amount) - ceil(sum(ppk) / 1000) >= need`` says the same, because both sides are whole units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from melt.model import KeysetId

SEARCH_NODES_MAX: Final = 20_000
"""Bound of the exact search (I11); the best answer so far stands where it runs out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A proof that may be chosen. ``index`` is the caller's; ``leaving`` marks an inactive or expiring keyset."""

    index: int
    amount: int
    keyset_id: KeysetId
    leaving: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The chosen candidates, their sum, their input fee and what they pay beyond ``need``; all in the unit."""

    chosen: tuple[Candidate, ...]
    amount: int
    input_fee: int
    overpay: int


def input_fee(keysets: Sequence[KeysetId], ppk: Mapping[KeysetId, int]) -> int:
    """The fee for spending one proof of each of ``keysets`` (with repeats), in the unit (NUT-02)."""
    return -(-sum(ppk[keyset] for keyset in keysets) // 1000)


def blank_count(overpaid: int) -> int:
    """How many blank outputs a melt needs so that any change up to ``overpaid`` can be signed (NUT-08)."""
    if overpaid <= 0:
        return 0
    return max(1, (overpaid - 1).bit_length())


def split_amount(amount: int, denominations: Sequence[int]) -> tuple[int, ...]:
    """
    ``amount`` in the keyset's denominations, largest first; ValueError where they can't make it up.

    Greedy is the fewest proofs for powers of two, which is what mints issue.
    """
    parts: list[int] = []
    left = amount
    for value in sorted((d for d in denominations if d > 0), reverse=True):
        count, left = divmod(left, value)
        parts.extend([value] * count)
    if left:
        raise ValueError("the keyset's denominations do not make up the amount")
    return tuple(parts)


def select(
    candidates: Sequence[Candidate], *, need: int, ppk: Mapping[KeysetId, int], inputs_max: int
) -> Selection | None:
    """
    The cheapest set of at most ``inputs_max`` candidates that pays ``need`` after its input fee, or None.

    ``need`` is amount plus fee reserve, without input fees. Candidates whose fee eats their amount, or whose keyset
    is not in ``ppk``, are never chosen. None means that no set pays; the best is the best of a bounded search.
    """
    if need <= 0:
        raise ValueError("need must be positive")
    pool = sorted(
        (c for c in candidates if c.keyset_id in ppk and 1000 * c.amount > ppk[c.keyset_id]),
        key=lambda c: (-(1000 * c.amount - ppk[c.keyset_id]), not c.leaving, c.index),
    )
    worth = [1000 * c.amount - ppk[c.keyset_id] for c in pool]
    target = 1000 * need
    greedy = _greedy(worth, target, inputs_max)
    if greedy is None:
        return None
    best = _improve(_groups(pool, worth), target, inputs_max, [pool[i] for i in greedy], sum(worth[i] for i in greedy))
    return _selection(best, need, ppk)


def _selection(chosen: list[Candidate], need: int, ppk: Mapping[KeysetId, int]) -> Selection:
    amount = sum(c.amount for c in chosen)
    fee = input_fee([c.keyset_id for c in chosen], ppk)
    return Selection(chosen=tuple(chosen), amount=amount, input_fee=fee, overpay=amount - fee - need)


def _greedy(worth: list[int], target: int, inputs_max: int) -> list[int] | None:
    """
    Walk from the largest down, taking what still fits below the target and remembering, at each proof that would
    go over, the set that it would complete. For denominations that divide each other the best of these is optimal.

    None only where the largest ``inputs_max`` together don't reach the target, so where no set does.
    """
    taken: list[int] = []
    total = 0
    best: tuple[int, int] | None = None
    best_key: tuple[int, int] | None = None
    for i, value in enumerate(worth):
        if len(taken) >= inputs_max:
            break
        if total + value >= target:
            key = ((total + value - target) // 1000, len(taken) + 1)
            if best_key is None or key < best_key:
                best, best_key = (len(taken), i), key
            if total + value == target:
                break
        else:
            taken.append(i)
            total += value
    return None if best is None else [*taken[: best[0]], best[1]]


@dataclass(frozen=True, slots=True)
class _Group:
    """Candidates of one worth, which are interchangeable; those that should leave come first."""

    worth: int
    members: tuple[Candidate, ...]
    leaving: int


def _groups(pool: list[Candidate], worth: list[int]) -> list[_Group]:
    groups: list[_Group] = []
    start = 0
    for end in range(1, len(pool) + 1):
        if end == len(pool) or worth[end] != worth[start]:
            members = tuple(pool[start:end])
            groups.append(_Group(worth[start], members, sum(c.leaving for c in members)))
            start = end
    return groups


def _improve(
    groups: list[_Group], target: int, inputs_max: int, greedy: list[Candidate], greedy_worth: int
) -> list[Candidate]:
    """
    Branch and bound from the greedy answer, within SEARCH_NODES_MAX nodes: how many of each group, most first.

    Better is less overpay in whole units, then fewer inputs, then fewer that could stay. The input fee is rounded up
    once, so worth below a unit is no overpay.
    """
    best = greedy
    best_key = ((greedy_worth - target) // 1000, len(greedy), sum(not c.leaving for c in greedy))
    rest = [0] * (len(groups) + 1)
    for g in range(len(groups) - 1, -1, -1):
        rest[g] = rest[g + 1] + groups[g].worth * len(groups[g].members)
    path: list[tuple[int, int]] = []  # group and how many of it, none of them zero
    total = used = g = 0
    for _ in range(SEARCH_NODES_MAX):
        left = target - total
        if left <= 0:
            overpay = -left // 1000
            if (overpay, used) <= best_key[:2]:
                key = (overpay, used, sum(max(0, k - groups[i].leaving) for i, k in path))
                if key < best_key:
                    best, best_key = [c for i, k in path for c in groups[i].members[:k]], key
        elif g < len(groups):
            worth, slots = groups[g].worth, inputs_max - used
            fewest = -(-left // worth)
            reachable = rest[g] >= left and slots >= fewest
            if reachable and (best_key[0] > 0 or (used + fewest, 0) < best_key[1:]):
                k = min(fewest, len(groups[g].members))
                path.append((g, k))
                total, used, g = total + k * worth, used + k, g + 1
                continue
        if not path:
            break
        g, k = path.pop()
        total, used = total - groups[g].worth, used - 1
        if k > 1:
            path.append((g, k - 1))
        g += 1
    return best
