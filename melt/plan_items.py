"""
What a plan holds of a correction, and whether it still stands. Pure.

A plan is a dry run that is kept: its items are the same verdicts (:class:`melt.corrections.Judged`) with the version
of the document that each was made on.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from typing import TYPE_CHECKING

from melt.model import DiscrepancyState, PlanItem, PlanTotal
from melt.settling import CORRECTIVE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from melt.corrections import Judged
    from melt.model import Discrepancy, Token


def item_of(judged: Judged, record: Discrepancy) -> PlanItem:
    """The item of a verdict that has been written down."""
    token, verdict = judged.token, judged.verdict
    return PlanItem(
        token_id=token.id,
        npub=token.npub,
        mint=judged.mint,
        unit=judged.unit,
        type=verdict.type,
        severity=verdict.severity,
        action=verdict.action,
        ys=verdict.ys,
        value=verdict.value,
        discrepancy_id=record.id,
        occurrence=record.occurrence,
        expected_status=token.status,
        expected_rev=token.rev,
        digest=token.mark,
    )


def items_of(
    judged: Sequence[Judged], records: Sequence[Discrepancy], *, at_once: bool = False
) -> tuple[list[PlanItem], int]:
    """
    The items of what changes something, and how many are left out: a person has acknowledged them, or they have not settled.

    ``at_once``: a person has said not to wait for the latter (I13).
    """
    items: list[PlanItem] = []
    left_out = 0
    for one, record in zip(judged, records, strict=True):
        if one.verdict.action not in CORRECTIVE:
            continue
        if record.state is DiscrepancyState.ACKNOWLEDGED or not (record.is_settled or at_once):
            left_out += 1
        else:
            items.append(item_of(one, record))
    return items, left_out


def digest_of(items: Iterable[PlanItem]) -> str:
    """One digest over all items, whatever their order: two plans of the same are known by it. 32 hex characters."""
    told = sorted(
        [item.token_id, item.type.value, item.action.value, sorted(item.ys), item.occurrence, item.digest]
        for item in items
    )
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32]


def totals_of(items: Iterable[PlanItem]) -> tuple[PlanTotal, ...]:
    """Numbers and values by mint, unit, type and action, sorted. Units are never summed."""
    groups: dict[tuple[str, str, str, str], list[PlanItem]] = defaultdict(list)
    for item in items:
        groups[item.mint, item.unit, item.type, item.action].append(item)
    return tuple(
        PlanTotal(
            mint=group[0].mint,
            unit=group[0].unit,
            type=group[0].type,
            action=group[0].action,
            items=len(group),
            value=sum(item.value for item in group),
        )
        for _, group in sorted(groups.items())
    )


def why_stale(item: PlanItem, token: Token | None, judged: Sequence[Judged], record: Discrepancy | None) -> str | None:
    """
    Why an item no longer stands, or None: its document as it lies there, what is judged of it now, its record.

    ``judged`` are the verdicts about this document.
    """
    where = f"token {item.token_id}"
    if token is None:
        return f"{where} is not there, or can't be read any more"
    if (token.status, token.rev) != (item.expected_status, item.expected_rev) or token.mark != item.digest:
        return f"{where} has been changed since the plan was made"
    same = [
        one
        for one in judged
        if (one.verdict.type, one.verdict.action) == (item.type, item.action) and set(one.verdict.ys) == set(item.ys)
    ]
    if not same:
        now = ", ".join(sorted(f"{one.verdict.type}: {one.verdict.action}" for one in judged)) or "no drift"
        return f"{where} is judged otherwise now ({now})"
    if record is None or record.occurrence != item.occurrence:
        return f"the record of {where} is another one now"
    if record.state is DiscrepancyState.ACKNOWLEDGED:
        return f"the record of {where} was acknowledged by a person"
    if record.closed_at is not None:
        return f"the record of {where} was closed ({record.state})"
    return None
