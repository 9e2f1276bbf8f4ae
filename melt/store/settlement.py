"""How a melt goes on or ends beside T3: T2, the fencing swap, the reclaim, the release (DESIGN section 4)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from melt.audit import fence_operation, gone_operation, reclaim_operation, release_operation, swap_operation
from melt.ecash import y_of
from melt.errors import Code, InvariantBroken
from melt.model import (
    Action,
    DiscrepancyState,
    InputRef,
    JournalKind,
    MeltState,
    Reservation,
    ResolveAs,
    TokenId,
    TokenStatus,
)
from melt.store.altered import Ending, record_altered
from melt.store.atomic import KEEP, AtomicMelts, note_of, owner_of
from melt.store.core import in_batches, new_mark
from melt.store.documents import raw_proof, read_proofs
from melt.store.door import UNPROVED
from melt.store.faults import AlreadyDone, store_method
from melt.store.findings import close_update
from melt.store.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from pymongo.client_session import ClientSession

    from melt.model import Altered, Melt, NewProof, Resolution, SwapPlan, Y
    from melt.store.connect import Document


class Settlement(AtomicMelts):
    """The part of :class:`melt.ports.Store` that ends melts by other ways than T3."""

    @store_method
    def finish_swap(self, melt: Melt, *, keep_proofs: Sequence[NewProof], pay_proofs: Sequence[NewProof]) -> Melt:
        """T2; see :meth:`melt.ports.Store.finish_swap`. The pay proofs lie in ``<tx>_send``, pending."""
        plan = _checked_plan(melt, melt.swap, (*keep_proofs, *pay_proofs))
        mark, now = new_mark(), self._now()

        def work(session: ClientSession) -> Melt:
            ledger = self._ledger(session, now, swap_operation(melt.id), melt)
            ledger.begin()
            ending = Ending(ledger=ledger, melt=melt, now=now)
            ending.spend(plan.inputs, "melt_swapped")
            keep = self._store_ours(ledger, melt, keep_proofs, "_keep", TokenStatus.UNSPENT, KEEP)
            reservation = Reservation(melt_id=melt.id, at=now)
            pay = self._store_ours(ledger, melt, pay_proofs, "_send", TokenStatus.PENDING, "melt_send", reservation)
            ledger.finish()
            altered = self._altered(session, melt, ending)
            changes = {"inputs": _refs(pay_proofs, pay), **altered, **_kept(melt, plan, keep_proofs, keep)}
            raw = [raw_proof(proof) for proof in pay_proofs]
            return self._move(session, melt, MeltState.READY, changes, mark, now, proofs=raw)

        return self._ended(melt, work)

    @store_method
    def finish_fence(self, melt: Melt, proofs: Sequence[NewProof]) -> Melt:
        """See :meth:`melt.ports.Store.finish_fence`. The new documents are counted among ``keep``."""
        plan = _checked_plan(melt, melt.fence, proofs)
        mark, now = new_mark(), self._now()

        def work(session: ClientSession) -> Melt:
            ledger = self._ledger(session, now, fence_operation(melt.id), melt)
            ledger.begin()
            # Inputs that the fence left out were found spent when it was planned; a stranger may have noted that.
            ending = Ending(ledger=ledger, melt=melt, now=now)
            ending.spend(melt.inputs, "melt_fenced")
            made = self._store_ours(ledger, melt, proofs, "_fenced", TokenStatus.UNSPENT, "melt_fenced")
            ledger.finish()
            changes = {**self._altered(session, melt, ending), **_kept(melt, plan, proofs, made)}
            return self._move(session, melt, MeltState.RELEASED, changes, mark, now)

        return self._ended(melt, work)

    @store_method
    def finish_together(self, melt: Melt, proofs: Sequence[NewProof]) -> Melt:
        """See :meth:`melt.ports.Store.finish_together`."""
        plan = _checked_plan(melt, melt.swap, proofs)
        if melt.kind is not JournalKind.TOGETHER:
            msg = f"melt {melt.id} swaps nothing together"
            raise InvariantBroken(msg)
        mark, now = new_mark(), self._now()

        def work(session: ClientSession) -> Melt:
            ledger = self._ledger(session, now, swap_operation(melt.id), melt)
            ledger.begin()
            ending = Ending(ledger=ledger, melt=melt, now=now)
            ending.spend(plan.inputs, "melt_swapped")
            made = self._store_ours(ledger, melt, proofs, "_together", TokenStatus.UNSPENT, KEEP)
            ledger.finish()
            changes = {**self._altered(session, melt, ending), **_kept(melt, plan, proofs, made)}
            return self._move(session, melt, MeltState.SETTLED, changes, mark, now)

        return self._ended(melt, work)

    @store_method
    def finish_reclaim(self, melt: Melt, proofs: Sequence[NewProof]) -> Melt:
        """See :meth:`melt.ports.Store.finish_reclaim`. The source documents keep their final status (I7)."""
        plan = _checked_plan(melt, melt.swap, proofs)
        if melt.kind is not JournalKind.RECLAIM:
            msg = f"melt {melt.id} is no reclaim"
            raise InvariantBroken(msg)
        mark, now = new_mark(), self._now()

        def work(session: ClientSession) -> Melt:
            ledger = self._ledger(session, now, reclaim_operation(melt.id), melt)
            ledger.begin()
            made = self._store_ours(ledger, melt, proofs, "_reclaimed", TokenStatus.UNSPENT, "reclaimed")
            ledger.finish()
            chosen = {
                "token_id": {"$in": [str(token_id) for token_id in melt.source_token_ids]},
                "action": str(Action.RECLAIM),
                "state": {"$in": [str(DiscrepancyState.OPEN), str(DiscrepancyState.RECURRED)]},
            }
            self._c.discrepancies.update_many(chosen, close_update(DiscrepancyState.CORRECTED, now), session=session)
            self._proved(session, melt, made[0], now)
            changes = _kept(melt, plan, proofs, made)
            return self._move(session, melt, MeltState.SETTLED, changes, mark, now)

        return self._ended(melt, work)

    def _proved(self, session: ClientSession, reclaim: Melt, made: TokenId, now: datetime) -> None:
        """Change that was stored apart as unproved has shown its worth: the books of its melt, which missed it, are right."""
        for token_id in reclaim.source_token_ids:
            stored = self._c.audit.find_one({"token_id": str(token_id), "reason": UNPROVED}, session=session)
            if stored is None or stored.get("melt_id") is None:
                continue
            melt = self._one({"_id": stored["melt_id"]}, session)
            worth = sum(ref.amount for ref in reclaim.inputs if ref.token_id == token_id)
            late = 0 if melt is None else min(worth, melt.shortfall + (melt.fees_paid or 0))
            if melt is not None and melt.state is MeltState.SETTLED and late > 0:
                self._book_late_change(session, melt, late, made, new_mark(), now)

    @store_method
    def release(self, melt: Melt, *, spent: Sequence[Y], error_code: str, error_detail: str) -> Melt:
        """
        See :meth:`melt.ports.Store.release`.

        A document with proofs of both kinds keeps the spent ones; the others go to a sibling ``<its tx>_keep``.
        What others have done to the documents meanwhile keeps nothing from its end (:mod:`melt.store.altered`).
        """
        gone = frozenset(spent)
        mark, now = new_mark(), self._now()

        def work(session: ClientSession) -> Melt:
            ledger = self._ledger(session, now, release_operation(melt.id), melt)
            ledger.begin()
            ending = Ending(ledger=ledger, melt=melt, now=now, kept=self._kept_proofs(session, melt))
            if melt.kind is not JournalKind.RECLAIM:
                ending.give_back(gone)
            ledger.finish()
            altered = self._altered(session, melt, ending)
            changes = {"error_code": error_code, "error_detail": error_detail, **altered}
            return self._move(session, melt, MeltState.RELEASED, changes, mark, now)

        return self._ended(melt, work)

    @store_method
    def finish_gone(self, melt: Melt, decision: Resolution) -> Melt:
        """See :meth:`melt.ports.Store.finish_gone`. The claim on the payment hash stays: the entry is not RELEASED."""
        if decision.outcome is not ResolveAs.INPUTS_GONE:
            msg = f"melt {melt.id} was decided to be {decision.outcome}"
            raise InvariantBroken(msg)
        mark, now = new_mark(), self._now()

        def work(session: ClientSession) -> Melt:
            ledger = self._ledger(session, now, gone_operation(melt.id), replace(melt, resolution=decision))
            ledger.begin()
            ending = Ending(ledger=ledger, melt=melt, now=now)
            ending.spend(melt.inputs, "melt_inputs_gone")
            ledger.finish()
            changes: dict[str, object] = {
                "resolution": decision,
                "fees_paid": None,
                "unaccounted": melt.inputs_amount,
                "error_code": Code.OUTCOME_UNKNOWN.value,
                "error_detail": "the inputs are gone, and nobody knows whether the invoice was paid",
                **self._altered(session, melt, ending),
            }
            return self._move(session, melt, MeltState.SETTLED, changes, mark, now)

        return self._ended(melt, work)

    # --- parts ---

    def _altered(self, session: ClientSession, melt: Melt, ending: Ending) -> dict[str, tuple[Altered, ...]]:
        """What changes in the journal by what others have done; the records of it are written here."""
        if not ending.altered:
            return {}
        record_altered(
            self._c, session, melt, ending.altered, ending.now, settle=self._settle, stopwatch=self._stopwatch
        )
        return {"altered": (*melt.altered, *ending.altered)}

    def _kept_proofs(self, session: ClientSession, melt: Melt) -> list[Document]:
        raw = self._c.melts.find_one({"_id": str(melt.id)}, {"proofs": 1}, session=session) or {}
        return [proof for proof in raw.get("proofs") or () if read_proofs([proof])]

    def _ledger(self, session: ClientSession, now: datetime, operation_id: str, melt: Melt) -> Ledger:
        return self._new_ledger(
            session,
            now=now,
            operation_id=operation_id,
            actor=melt.decided_by,
            melt_id=melt.id,
            note=note_of(melt),
            finishing=True,
        )

    def _ended(self, melt: Melt, work: Callable[[ClientSession], Melt]) -> Melt:
        """Run it; where an earlier run was committed, the entry as it stands now."""
        try:
            return self._run(work)
        except AlreadyDone:
            return self._present(melt.id, None)

    def _store_ours(
        self,
        ledger: Ledger,
        melt: Melt,
        proofs: Sequence[NewProof],
        suffix: str,
        status: TokenStatus,
        reason: str,
        reservation: Reservation | None = None,
    ) -> tuple[TokenId, ...]:
        return ledger.store_new(
            owner_of(melt),
            proofs,
            name=f"{melt.transaction_id}{suffix}",
            parent=melt.transaction_id,
            status=status,
            reason=reason,
            reservation=reservation,
        )


def _checked_plan(melt: Melt, plan: SwapPlan | None, proofs: Sequence[NewProof]) -> SwapPlan:
    if plan is None:
        msg = f"melt {melt.id} has no such swap"
        raise InvariantBroken(msg)
    if sum(ref.amount for ref in plan.inputs) != sum(proof.amount for proof in proofs) + plan.fee:
        msg = f"the swap of melt {melt.id} would not conserve its value (I5)"
        raise InvariantBroken(msg)
    return plan


def _kept(
    melt: Melt, plan: SwapPlan, proofs: Sequence[NewProof], token_ids: Sequence[TokenId]
) -> dict[str, tuple[TokenId, ...] | int]:
    """What changes in the journal when a swap has put these proofs into documents of our own."""
    return {
        "keep_token_ids": (*melt.keep_token_ids, *token_ids),
        "keep_amount": melt.keep_amount + sum(proof.amount for proof in proofs),
        "swap_fee": melt.swap_fee + plan.fee,
    }


def _refs(proofs: Sequence[NewProof], token_ids: Sequence[TokenId]) -> tuple[InputRef, ...]:
    """References to new proofs that lie in consecutive documents of at most 1000."""
    chunks = in_batches(proofs, 1000)
    return tuple(
        InputRef(token_id=token_id, y=y_of(proof.secret), amount=proof.amount, keyset_id=proof.keyset_id)
        for token_id, chunk in zip(token_ids, chunks, strict=True)
        for proof in chunk
    )
