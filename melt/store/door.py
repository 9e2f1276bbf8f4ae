"""
The one door through which a rule may write what another writer may still need (I13).

It is passed inside the writing transaction, on the record and on the raw document as they are in that moment, so that neither a
look of a while ago nor a caller's promise counts. What a melt does with documents that it has reserved itself does not come
through here; everything else that marks, releases, splits or repairs by rule, or swaps proofs at a mint, does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from melt.errors import LostRace
from melt.model import OPEN_DISCREPANCY, Action, DiscrepancyState, TokenStatus

UNPROVED = "melt_unproved"
"""The reason by which the audit tells that T3 stored change apart, since nothing proves it."""

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession

    from melt.model import Token, Warrant
    from melt.settling import SettlePolicy
    from melt.store.connect import Collections, Document


def pass_door(
    collections: Collections, session: ClientSession, warrant: Warrant, token: Token, settle: SettlePolicy
) -> None:
    """
    Let a correction of ``token`` pass, or raise :class:`melt.errors.LostRace`, which aborts the transaction.

    ``token`` must have been read in this transaction. A person who said not to wait (``at_once``) does not wait; that the
    document is the one which was looked at is asked of everybody.
    """
    if token.id != warrant.token_id or token.mark != warrant.mark:
        msg = f"token {token.id} is not what was looked at"
        raise LostRace(msg)
    record = collections.discrepancies.find_one({"_id": warrant.discrepancy_id}, session=session)
    if record is None or DiscrepancyState(record["state"]) not in OPEN_DISCREPANCY:
        msg = f"discrepancy {warrant.discrepancy_id} is not open"
        raise LostRace(msg)
    if int(record["occurrence"]) != warrant.occurrence:
        msg = f"discrepancy {warrant.discrepancy_id} is another occurrence now"
        raise LostRace(msg)
    if warrant.at_once or _has_settled(record, token, settle):
        return
    msg = f"discrepancy {warrant.discrepancy_id} has not settled"
    raise LostRace(msg)


def is_unproved_change(collections: Collections, session: ClientSession, token: Token) -> bool:
    """
    Whether ``token`` is change that a melt of ours has stored apart and nobody has touched since.

    It was made ``failed`` by T3, of signatures that nobody else has ever seen, so that no other writer may need it: whether it
    is money is asked with a swap at once (:mod:`melt.recovery.settling`), without a record that settles first.
    """
    made = collections.audit.find_one({"token_id": str(token.id), "reason": UNPROVED}, session=session)
    if made is None or token.status is not TokenStatus.FAILED:
        return False
    return {str(y) for y in made["ys"]} == {str(proof.y) for proof in token.proofs} and made["npub"] == token.npub


def _has_settled(record: Document, token: Token, settle: SettlePolicy) -> bool:
    """By what the record itself says: watched for long enough, and this document all the while."""
    needs_ms = settle.needs_ms(Action(record["action"]))
    if needs_ms == 0:
        return True
    watched = record.get("watched") or {}
    return watched.get("mark") == token.mark and int(watched.get("ms") or 0) >= needs_ms
