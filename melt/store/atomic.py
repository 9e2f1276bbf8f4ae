"""T3: a melt that was paid, all or nothing (DESIGN section 4); and whole documents marked spent."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from melt.audit import melt_operation
from melt.errors import Code, InvariantBroken, LostRace, StoreError
from melt.model import (
    OPEN_DISCREPANCY,
    AtomicResult,
    DiscrepancyState,
    DriftType,
    MeltState,
    Owner,
    TokenId,
    TokenStatus,
    normalise_mint_url,
)
from melt.store.altered import Ending, record_altered
from melt.store.core import new_mark
from melt.store.door import UNPROVED
from melt.store.faults import AlreadyDone, store_method
from melt.store.findings import close_update
from melt.store.inputs import ys_by_token
from melt.store.melts import Melts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from pymongo.client_session import ClientSession

    from melt.model import Actor, Melt, MeltId, NewProof
    from melt.store.connect import Document
    from melt.store.ledger import Held, Ledger

_NOT_ENDED = sorted({*OPEN_DISCREPANCY, DiscrepancyState.ACKNOWLEDGED})
SOURCES_MAX = 1000
"""The most documents that one transaction may spend (I11)."""
SPENT, KEEP, CHANGE = "melt_settled", "melt_keep", "melt_change"
"""The reasons by which the audit tells what T3 did to a document."""


class AtomicMelts(Melts):
    """The part of :class:`melt.ports.Store` with ``execute_atomic_melt``."""

    @store_method
    def settle(
        self,
        melt: Melt,
        change: Sequence[NewProof],
        *,
        shortfall: int,
        fees_paid: int,
        preimage: str | None,
        unproved: Sequence[NewProof] = (),
    ) -> tuple[Melt, AtomicResult]:
        """
        T3; see :meth:`melt.ports.Store.settle`. A repeated call answers what the first one did.

        Raises :class:`melt.errors.InvariantBroken` where value would vanish or be made (I5), before anything is
        written and again for what then stands in the journal.
        """
        check_books(melt, change=sum(proof.amount for proof in change), shortfall=shortfall, fees_paid=fees_paid)
        result = self.execute_atomic_melt(
            source_token_ids=tuple(ys_by_token(melt.inputs)),
            keep_proofs=(),
            melt_change_proofs=change,
            transaction_id=melt.transaction_id,
            owner=owner_of(melt),
            actor=melt.decided_by,
            melt=melt,
            journal_changes={
                "shortfall": shortfall,
                "fees_paid": fees_paid,
                "preimage": preimage,
                "error_code": None,
                "error_detail": None,
            },
            unproved_proofs=unproved,
        )
        settled = self._present(melt.id, MeltState.SETTLED)
        check_books(
            settled, change=settled.change_amount, shortfall=settled.shortfall, fees_paid=settled.fees_paid or 0
        )
        return settled, result

    @store_method
    def execute_atomic_melt(
        self,
        *,
        source_token_ids: Sequence[TokenId],
        keep_proofs: Sequence[NewProof],
        melt_change_proofs: Sequence[NewProof],
        transaction_id: str,
        owner: Owner,
        actor: Actor,
        melt: Melt | None = None,
        journal_changes: Mapping[str, object] | None = None,
        unproved_proofs: Sequence[NewProof] = (),
    ) -> AtomicResult:
        """
        T3: sources spent, keep and change stored as ``<tx>_keep`` and ``<tx>_melt_change``, all or nothing.

        With ``melt`` its entry becomes SETTLED in the same transaction, whatever other writers have done to its
        documents (:mod:`melt.store.altered`): the mint has consumed them. Without, each source must be unspent or pending and
        reserved by no open melt. A second call with the same ``transaction_id`` writes nothing and answers what the
        first one did. Raises :class:`melt.errors.LostRace`, :class:`melt.errors.DuplicateSecret` for a proof that
        lies in any document already, :class:`melt.errors.StoreError` with TOKEN_ALREADY_SPENT.
        """
        if not 0 < len(source_token_ids) <= SOURCES_MAX:
            raise StoreError(Code.INVALID_REQUEST, f"a melt spends 1 to {SOURCES_MAX} token documents")
        mark, now = new_mark(), self._now()
        operation_id = melt_operation(transaction_id)

        def work(session: ClientSession) -> AtomicResult:
            ledger = self._new_ledger(
                session,
                now=now,
                operation_id=operation_id,
                actor=actor,
                melt_id=None if melt is None else melt.id,
                note=None if melt is None else note_of(melt),
                finishing=melt is not None,
            )
            ledger.begin()
            ending: Ending | None = None
            if melt is None:
                self._spend_whole(session, ledger, source_token_ids, owner)
            else:
                ending = Ending(ledger=ledger, melt=melt, now=now)
                ending.spend(melt.inputs, SPENT)
            keep = ledger.store_new(
                owner,
                keep_proofs,
                name=f"{transaction_id}_keep",
                parent=transaction_id,
                status=TokenStatus.UNSPENT,
                reason=KEEP,
            )
            change = ledger.store_new(
                owner,
                melt_change_proofs,
                name=f"{transaction_id}_melt_change",
                parent=transaction_id,
                status=TokenStatus.UNSPENT,
                reason=CHANGE,
            )
            ledger.store_new(
                owner,
                unproved_proofs,
                name=f"{transaction_id}_unproved",
                parent=transaction_id,
                status=TokenStatus.FAILED,
                reason=UNPROVED,
            )
            ledger.finish()
            if melt is not None and ending is not None:
                record_altered(
                    self._c, session, melt, ending.altered, now, settle=self._settle, stopwatch=self._stopwatch
                )
                changes = {
                    **(journal_changes or {}),
                    "altered": (*melt.altered, *ending.altered),
                    "change_token_id": change[0] if change else None,
                    "change_amount": sum(proof.amount for proof in melt_change_proofs),
                    "keep_token_ids": (*melt.keep_token_ids, *keep),
                    "keep_amount": melt.keep_amount + sum(proof.amount for proof in keep_proofs),
                }
                self._move(session, melt, MeltState.SETTLED, changes, mark, now)
            return _result(ledger)

        try:
            return self._run(work)
        except AlreadyDone:
            pass
        except LostRace:
            # T3 of a melt whose sources were all spent before and that had no change leaves no audit entry to
            # know it by: the journal says whether it is done.
            stored = None if melt is None else self._one({"_id": str(melt.id)})
            if stored is None or stored.state is not MeltState.SETTLED or stored.inputs_gone:
                raise
        return self._result_of(operation_id)

    @store_method
    def mark_tokens_spent(
        self,
        token_ids: Sequence[TokenId],
        *,
        operation_id: str,
        reason: str,
        actor: Actor,
        note: str | None = None,
        reserved_too: bool = False,
    ) -> int:
        """
        See :meth:`melt.ports.Store.mark_tokens_spent`; a repeated operation moves nothing and answers 0.

        Raises :class:`melt.errors.LostRace` for a document that is gone or (unless ``reserved_too``) reserved by an open
        melt, and :class:`melt.errors.StoreError` with PROOF_STATE_INCONSISTENCY for a failed one.
        """
        if not 0 < len(token_ids) <= SOURCES_MAX:
            raise StoreError(Code.INVALID_REQUEST, f"1 to {SOURCES_MAX} token documents at a time")
        now = self._now()

        def work(session: ClientSession) -> int:
            ledger = self._new_ledger(session, now=now, operation_id=operation_id, actor=actor, note=note)
            ledger.begin()
            for held in ledger.load(token_ids):
                if held.token.status is TokenStatus.SPENT:
                    continue
                if held.token.status is TokenStatus.FAILED:
                    detail = f"token {held.token.id} is failed, which is final"
                    raise StoreError(Code.PROOF_STATE_INCONSISTENCY, detail)
                if not reserved_too:
                    self._refuse_reserved(session, held)
                # An open entry's mark stays: it must see that the document was its own.
                mark = held.token.reservation if self._is_reserved(session, held.token) else None
                ledger.move(held, TokenStatus.SPENT, reason=reason, reservation=mark)
            ledger.finish()
            return len(ledger.entries)

        try:
            return self._run(work)
        except AlreadyDone:
            return 0

    # --- parts ---

    def _book_late_change(
        self, session: ClientSession, melt: Melt, late: int, made: TokenId, mark: str, now: datetime
    ) -> tuple[int, int]:
        """
        Change that comes after the settlement (I5): it makes up the shortfall first, what is above that was taken for a fee.

        How much of the shortfall is paid by it, and how much is left.
        """
        paid = min(late, melt.shortfall)
        gone = {"unaccounted": melt.unaccounted - late, "fees_paid": None} if melt.inputs_gone else {}
        changes: dict[str, Any] = {
            "change_amount": melt.change_amount + late,
            "shortfall": melt.shortfall - paid,
            "fees_paid": max(0, (melt.fees_paid or 0) - (late - paid)),
            "change_token_id": melt.change_token_id or made,
            **gone,
        }
        after = replace(melt, **changes)
        check_books(after, change=after.change_amount, shortfall=after.shortfall, fees_paid=after.fees_paid or 0)
        self._move(session, melt, melt.state, changes, mark, now)
        if paid:
            record = {"_id": f"{DriftType.CHANGE_SHORTFALL}:melt:{melt.id}", "state": {"$in": _NOT_ENDED}}
            update: Document = {"$set": {"value": after.shortfall, "last_seen": now}}
            if after.shortfall == 0:
                update = close_update(DiscrepancyState.CORRECTED, now)
            update["$inc"] = {"evidence.came_back": late}
            self._c.discrepancies.update_one(record, update, session=session)
        return paid, after.shortfall

    def _present(self, melt_id: MeltId, state: MeltState | None) -> Melt:
        found = self._one({"_id": str(melt_id)})
        if found is None or (state is not None and found.state is not state):
            msg = f"melt {melt_id} was ended in the audit and not in the journal"
            raise InvariantBroken(msg)
        return found

    def _spend_whole(self, session: ClientSession, ledger: Ledger, token_ids: Sequence[TokenId], owner: Owner) -> None:
        for held in ledger.load(token_ids):
            token = held.token
            same_mint = normalise_mint_url(token.mint_url) == normalise_mint_url(owner.mint_url)
            if token.npub != owner.npub or not same_mint:
                raise StoreError(Code.INVALID_REQUEST, f"token {token.id} is not of this user and mint")
            if token.status not in {TokenStatus.PENDING, TokenStatus.UNSPENT}:
                raise StoreError(Code.TOKEN_ALREADY_SPENT, f"token {token.id} is {token.status}")
            if not token.proofs:
                raise StoreError(Code.INVALID_REQUEST, f"token {token.id} has no proofs")
            if token.is_sent:
                raise StoreError(Code.INVALID_REQUEST, f"token {token.id} was handed out: it is its recipient's")
            self._refuse_reserved(session, held)
            ledger.move(held, TokenStatus.SPENT, reason=SPENT)

    def _refuse_reserved(self, session: ClientSession, held: Held) -> None:
        if self._is_reserved(session, held.token):
            msg = f"token {held.token.id} is reserved by an open melt"
            raise LostRace(msg)

    def _result_of(self, operation_id: str) -> AtomicResult:
        """What an earlier run did, from its audit entries."""
        spent = entries = 0
        made: list[tuple[str, str, int]] = []
        for raw in self._c.audit.find({"operation": operation_id}):
            entries += 1
            if raw["reason"] == SPENT:
                spent += 1
            else:
                made.append((raw["token_id"], raw["reason"], int(raw["amount"])))
        first = _first_of_each(made)
        return AtomicResult(
            source_tokens_spent=spent,
            keep_token_id=first.get(KEEP),
            keep_amount=sum(amount for _, why, amount in made if why == KEEP),
            melt_change_token_id=first.get(CHANGE),
            melt_change_amount=sum(amount for _, why, amount in made if why == CHANGE),
            operations=entries,
            unproved_token_id=first.get(UNPROVED),
        )


def _first_of_each(made: Iterable[tuple[str, str, int]]) -> dict[str, TokenId]:
    """The first document made for each reason: the one whose ``_id`` is lowest, since they are made in order."""
    first: dict[str, TokenId] = {}
    for token_id, reason, _ in sorted(made):
        first.setdefault(reason, TokenId(token_id))
    return first


def _result(ledger: Ledger) -> AtomicResult:
    keep = [entry for entry in ledger.entries if entry.reason == KEEP]
    change = [entry for entry in ledger.entries if entry.reason == CHANGE]
    return AtomicResult(
        source_tokens_spent=sum(1 for entry in ledger.entries if entry.reason == SPENT),
        keep_token_id=keep[0].token_id if keep else None,
        keep_amount=sum(entry.amount for entry in keep),
        melt_change_token_id=change[0].token_id if change else None,
        melt_change_amount=sum(entry.amount for entry in change),
        operations=ledger.writes,
        unproved_token_id=next((entry.token_id for entry in ledger.entries if entry.reason == UNPROVED), None),
    )


def owner_of(melt: Melt) -> Owner:
    """Whose a melt's new documents are."""
    return Owner(npub=melt.npub, wallet_id=melt.wallet_id, mint_url=melt.mint_url)


def note_of(melt: Melt) -> str | None:
    """What a person who decided about a melt gave as the reason, else what it was begun for."""
    return melt.note if melt.resolution is None else melt.resolution.reason


def check_books(melt: Melt, *, change: int, shortfall: int, fees_paid: int) -> None:
    """
    I5: inputs = amount + input fee + Lightning fee + change + shortfall, in the melt's unit.

    A mint may give more than it had to (change above what was overpaid, an input fee that it did not take); then
    nothing may be booked as a fee or as missing. Where inputs are gone and nobody knows whether it was paid, nothing is
    booked but change that came back: all else is ``unaccounted``. Raises :class:`melt.errors.InvariantBroken`.
    """
    if min(change, shortfall, fees_paid) < 0:
        msg = f"melt {melt.id} would settle with a negative amount"
        raise InvariantBroken(msg)
    if melt.inputs_gone:
        if shortfall or fees_paid or change + melt.unaccounted != melt.inputs_amount:
            msg = f"melt {melt.id} books a payment that nobody knows of (I5)"
            raise InvariantBroken(msg)
        return
    left = melt.overpaid - change - shortfall - fees_paid
    if left > 0 or (left < 0 and (shortfall or fees_paid)):
        msg = (
            f"melt {melt.id} does not add up (I5): inputs {melt.inputs_amount}, amount {melt.amount}, input fee "
            f"{melt.input_fee}, Lightning fee {fees_paid}, change {change}, shortfall {shortfall}"
        )
        raise InvariantBroken(msg)
