"""How a melt goes on or ends beside T3: T2, the fencing swap, the reclaim, the release (DESIGN section 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from melt.audit import fence_operation, reclaim_operation, release_operation, swap_operation
from melt.ecash import y_of
from melt.errors import InvariantBroken, LostRace
from melt.model import (
    Action,
    DiscrepancyState,
    InputRef,
    JournalKind,
    MeltState,
    Reservation,
    TokenId,
    TokenStatus,
)
from melt.store.atomic import KEEP, UNPROVED, AtomicMelts, note_of, owner_of, store_rest
from melt.store.core import in_batches, new_mark
from melt.store.faults import AlreadyDone, store_method
from melt.store.findings import close_update
from melt.store.ledger import Ledger
from melt.store.melts import ys_by_token

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from pymongo.client_session import ClientSession

    from melt.model import Melt, NewProof, SwapPlan, Y
    from melt.store.ledger import Held


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
            self._spend(ledger, melt, plan.inputs, "melt_swapped")
            keep = self._store_ours(ledger, melt, keep_proofs, "_keep", TokenStatus.UNSPENT, KEEP)
            reservation = Reservation(melt_id=melt.id, at=now)
            pay = self._store_ours(ledger, melt, pay_proofs, "_send", TokenStatus.PENDING, "melt_send", reservation)
            ledger.finish()
            changes = {"inputs": _refs(pay_proofs, pay), **_kept(melt, plan, keep_proofs, keep)}
            return self._move(session, melt, MeltState.READY, changes, mark, now)

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
            self._spend(ledger, melt, melt.inputs, "melt_fenced", spent_is_fine=True)
            made = self._store_ours(ledger, melt, proofs, "_fenced", TokenStatus.UNSPENT, "melt_fenced")
            ledger.finish()
            changes = _kept(melt, plan, proofs, made)
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
            self._spend(ledger, melt, plan.inputs, "melt_swapped")
            made = self._store_ours(ledger, melt, proofs, "_together", TokenStatus.UNSPENT, KEEP)
            ledger.finish()
            return self._move(session, melt, MeltState.SETTLED, _kept(melt, plan, proofs, made), mark, now)

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
        Documents that somebody else has moved on from pending are left as they are.
        """
        gone = frozenset(spent)
        mark, now = new_mark(), self._now()

        def work(session: ClientSession) -> Melt:
            ledger = self._ledger(session, now, release_operation(melt.id), melt)
            ledger.begin()
            if melt.kind is not JournalKind.RECLAIM:
                for held in ledger.load(ys_by_token(melt.inputs)):
                    _give_back(ledger, held, melt, gone)
            ledger.finish()
            changes = {"error_code": error_code, "error_detail": error_detail}
            return self._move(session, melt, MeltState.RELEASED, changes, mark, now)

        return self._ended(melt, work)

    # --- parts ---

    def _ledger(self, session: ClientSession, now: datetime, operation_id: str, melt: Melt) -> Ledger:
        return self._new_ledger(
            session, now=now, operation_id=operation_id, actor=melt.decided_by, melt_id=melt.id, note=note_of(melt)
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


def _give_back(ledger: Ledger, held: Held, melt: Melt, gone: frozenset[Y]) -> None:
    token = held.token
    if token.status is not TokenStatus.PENDING:
        return
    if token.reservation is not None and token.reservation.melt_id != melt.id:
        msg = f"token {token.id} is reserved by another melt"
        raise LostRace(msg)
    consumed = frozenset(proof.y for proof in token.proofs) & gone
    if not consumed:
        ledger.move(held, TokenStatus.UNSPENT, reason="melt_released")
        return
    rest = ledger.move(held, TokenStatus.SPENT, reason="melt_released_spent", take=consumed)
    store_rest(ledger, held, rest, TokenStatus.UNSPENT, "melt_released")


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
