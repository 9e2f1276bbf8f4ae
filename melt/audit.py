"""
Audit entries: one for each change of a token's status, in the transaction that changes it (I9).

What counts as a change: a document that was there moves from one status to another, or a document is made (from
None). A document whose proofs are partly split off and whose own status stays has no entry, since its status did not
change; the sibling that takes them has one, from None to its status. So the entries of a document always begin with
None or with a document that another service made, and follow each other without a gap.

The ids are what makes a transaction safe to repeat. An operation has an id that is known before its transaction
starts, and an entry's id is ``<operation id>/<token id>``. A second run of the same operation collides with the first
one's entries and is known to be done already. The operations are

====================================  ===========================================================
``<melt id>:reserve``                 T1: inputs reserved, the rest split off
``<melt id>:swap``                    T2: a swap's inputs spent, its outputs stored
``<transaction id>:melt``             T3: inputs spent, keep and change stored
``<melt id>:fence``, ``:reclaim``     the other swaps
``<melt id>:gone``                     its inputs are gone, and nobody knows whether it was paid
``<melt id>:release``                 inputs given back
``<discrepancy id>#<occurrence>``     one correction
``repair:<digest of its steps>``      one batch of a repair of the double count (ADR 13)
as given                              :meth:`melt.ports.Store.mark_tokens_spent`
====================================  ===========================================================

A repair of the double count takes proofs out of a document because another one holds them too. That is money moving
as far as a balance goes, and a person ordered it, so it has an entry even where the status stays; its ``ys`` and
``amount`` are of the proofs that left the document or stopped counting in it.

An entry carries Ys, ids and amounts, and never a secret (I10).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from melt.errors import InvariantBroken
from melt.model import RESERVED_MOVES, TOKEN_MOVES, AuditEntry

if TYPE_CHECKING:
    from datetime import datetime

    from melt.model import Actor, Fence, MeltId, TokenId, TokenStatus, Y


def reserve_operation(melt_id: MeltId) -> str:
    """Of T1."""
    return f"{melt_id}:reserve"


def swap_operation(melt_id: MeltId) -> str:
    """Of T2."""
    return f"{melt_id}:swap"


def melt_operation(transaction_id: str) -> str:
    """Of T3."""
    return f"{transaction_id}:melt"


def fence_operation(melt_id: MeltId) -> str:
    """Of a fencing swap that went through."""
    return f"{melt_id}:fence"


def reclaim_operation(melt_id: MeltId) -> str:
    """Of a reclaim that went through."""
    return f"{melt_id}:reclaim"


def release_operation(melt_id: MeltId) -> str:
    """Of a release."""
    return f"{melt_id}:release"


def gone_operation(melt_id: MeltId) -> str:
    """Of an end as *inputs gone, outcome unknown*."""
    return f"{melt_id}:gone"


def correction_operation(discrepancy_id: str, occurrence: int) -> str:
    """Of one correction of one occurrence of a discrepancy."""
    return f"{discrepancy_id}#{occurrence}"


def entry_id(operation_id: str, token_id: TokenId) -> str:
    """The entry of an operation about a document."""
    return f"{operation_id}/{token_id}"


def status_change(
    *,
    operation_id: str,
    at: datetime,
    token_id: TokenId,
    npub: str,
    mint_url: str,
    from_status: TokenStatus | None,
    to_status: TokenStatus,
    amount: int,
    ys: tuple[Y, ...],
    reason: str,
    actor: Actor,
    melt_id: MeltId | None = None,
    discrepancy_id: str | None = None,
    note: str | None = None,
    fence: Fence | None = None,
    reserved: bool = False,
) -> AuditEntry:
    """
    The entry of one status change.

    ``amount`` and ``ys`` are of the proofs that the document holds afterwards. ``reserved`` tells that it carries the
    reservation of ``melt_id``. Raises :class:`melt.errors.InvariantBroken` for a move that
    :data:`melt.model.TOKEN_MOVES` (or, reserved, :data:`melt.model.RESERVED_MOVES`) forbids.
    """
    moves = RESERVED_MOVES if reserved and melt_id is not None else TOKEN_MOVES
    if from_status is not None and to_status not in moves[from_status]:
        msg = f"token {token_id} can't go from {from_status} to {to_status}"
        raise InvariantBroken(msg)
    return AuditEntry(
        id=entry_id(operation_id, token_id),
        at=at,
        token_id=token_id,
        npub=npub,
        mint_url=mint_url,
        from_status=from_status,
        to_status=to_status,
        amount=amount,
        ys=ys,
        reason=reason,
        actor=actor,
        melt_id=melt_id,
        discrepancy_id=discrepancy_id,
        note=note,
        fence=fence,
    )


def repaired(
    *,
    operation_id: str,
    at: datetime,
    token_id: TokenId,
    npub: str,
    mint_url: str,
    from_status: TokenStatus,
    to_status: TokenStatus,
    amount: int,
    ys: tuple[Y, ...],
    reason: str,
    actor: Actor,
    note: str,
) -> AuditEntry:
    """The entry of a repair about one document, whose status may stay as it was. Raises as :func:`status_change`."""
    if from_status is not to_status:
        return status_change(
            operation_id=operation_id,
            at=at,
            token_id=token_id,
            npub=npub,
            mint_url=mint_url,
            from_status=from_status,
            to_status=to_status,
            amount=amount,
            ys=ys,
            reason=reason,
            actor=actor,
            note=note,
        )
    return AuditEntry(
        id=entry_id(operation_id, token_id),
        at=at,
        token_id=token_id,
        npub=npub,
        mint_url=mint_url,
        from_status=from_status,
        to_status=to_status,
        amount=amount,
        ys=ys,
        reason=reason,
        actor=actor,
        melt_id=None,
        discrepancy_id=None,
        note=note,
    )
