"""The journal part of the model store: T1, moves, swaps, T3 and the other ends of a melt (DESIGN section 4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from datetime import datetime
from typing import Any

from melt.audit import (
    fence_operation,
    gone_operation,
    melt_operation,
    reclaim_operation,
    release_operation,
    reserve_operation,
    swap_operation,
)
from melt.errors import Code, DuplicateMelt, InvariantBroken, LostRace, StoreError
from melt.model import (
    MELT_MOVES,
    OPEN_DISCREPANCY,
    TERMINAL,
    Action,
    Actor,
    AtomicResult,
    Discrepancy,
    DiscrepancyState,
    Finding,
    InputRef,
    JournalKind,
    KeysetId,
    Melt,
    MeltId,
    MeltState,
    MintAlias,
    NewProof,
    OutputPlan,
    Owner,
    PostOutcome,
    Proof,
    Reservation,
    Resolution,
    ResolveAs,
    SwapPlan,
    Token,
    TokenId,
    TokenStatus,
    Warrant,
    Y,
    normalise_mint_url,
)
from melt.store.altered import findings_of
from melt.store.inputs import is_untouched
from tests.simulation.model_ending import Ending
from tests.simulation.model_leases import ModelLeases
from tests.simulation.model_ledger import AlreadyDone, Ledger, Tables

SOURCES_MAX = 1000
COUNTER_MAX = 2**31 - 1
_FIXED = frozenset({"id", "rev", "state", "created_at", "updated_at"})
_CHANGEABLE = frozenset(field.name for field in fields(Melt)) - _FIXED


class ModelJournal(ModelLeases):
    """Melts, from T1 to their end."""

    tables: Tables

    def _now(self) -> datetime:
        raise NotImplementedError

    def _write_findings(self, findings: Sequence[Finding], now: datetime) -> list[Discrepancy]:
        raise NotImplementedError

    # --- reading ---

    def melt(self, melt_id: MeltId) -> Melt | None:
        return self.tables.melts.get(melt_id)

    def melt_by_key(self, idempotency_key: str) -> Melt | None:
        return next((m for m in self.tables.melts.values() if m.idempotency_key == idempotency_key), None)

    def melt_by_payment_hash(self, payment_hash: str) -> Melt | None:
        return next((m for m in self.tables.melts.values() if _claim(m) == payment_hash), None)

    def open_melts(self) -> tuple[Melt, ...]:
        found = [melt for melt in self.tables.melts.values() if melt.state not in TERMINAL]
        return tuple(sorted(found, key=lambda melt: (melt.created_at, melt.id)))

    def unreadable_melts(self) -> tuple[tuple[MeltId, str | None, MintAlias | None], ...]:
        return ()  # nobody else writes here

    def list_melts(self, *, npub: str | None, states: Sequence[MeltState], limit: int) -> tuple[Melt, ...]:
        found = [
            melt
            for melt in self.tables.melts.values()
            if (npub is None or melt.npub == npub) and (not states or melt.state in states)
        ]
        return tuple(sorted(found, key=lambda melt: melt.created_at, reverse=True)[: max(1, min(limit, 1000))])

    def melts_with_proof(self, y: Y, limit: int) -> tuple[Melt, ...]:
        found = [melt for melt in self.tables.melts.values() if any(ref.y == y for ref in melt.inputs)]
        return tuple(sorted(found, key=lambda melt: melt.created_at, reverse=True)[: max(1, min(limit, 1000))])

    def input_proofs(self, melt: Melt, ys: Sequence[Y]) -> tuple[Proof, ...]:
        found = {proof.y: proof for proof in self.tables.kept.get(melt.id, ())}
        return tuple(found[y] for y in ys if y in found)

    def strayed_inputs(self, melt: Melt) -> tuple[Y, ...]:
        tokens = [self.tables.tokens.get(ref.token_id) for ref in melt.inputs]
        at_home = {proof.y for t in tokens if isinstance(t, Token) and is_untouched(melt, t) for proof in t.proofs}
        return tuple(ref.y for ref in melt.inputs if ref.y not in at_home)

    def live_melt_ids(self, ids: Sequence[MeltId]) -> frozenset[MeltId]:
        return frozenset(melt_id for melt_id in ids if self._is_live(melt_id))

    def _is_live(self, melt_id: MeltId) -> bool:
        found = self.tables.melts.get(melt_id)
        return found is not None and found.is_open

    def _refuse_reserved(self, token: Token) -> None:
        if token.reservation is not None and self._is_live(token.reservation.melt_id):
            raise LostRace(f"token {token.id} is reserved by an open melt")

    # --- T1 and moves ---

    def reserve(
        self, melt: Melt, *, blanks: tuple[KeysetId, int] | None, seed_id: str, warrant: Warrant | None = None
    ) -> Melt:
        if melt.state is not MeltState.RESERVED:
            raise InvariantBroken(f"melt {melt.id} starts as RESERVED, not {melt.state}")
        now = self._now()
        created = melt.created_at.replace(microsecond=melt.created_at.microsecond // 1000 * 1000)
        entry = replace(melt, created_at=created, updated_at=now)
        with self.tables.transaction():
            if blanks is None:
                self.require_fence()
            self._refuse_claimed(entry)
            if blanks is not None:
                entry = replace(entry, blanks=self._take_counters(seed_id, blanks[0], (0,) * blanks[1]))
            kept = self._proofs_of(entry.inputs)
            if entry.kind is not JournalKind.RECLAIM:
                entry = self._reserve_inputs(entry, now)
            else:
                self._require_warrant(entry, warrant)
                self._refuse_shared(entry)
            if not entry.source_token_ids:
                entry = replace(entry, source_token_ids=tuple(dict.fromkeys(ref.token_id for ref in entry.inputs)))
            self.tables.put_melt(entry)
            self.tables.put(self.tables.kept, entry.id, kept)
        return entry

    def _proofs_of(self, inputs: Sequence[InputRef]) -> tuple[Proof, ...]:
        ys = {ref.y for ref in inputs}
        tokens = [self.tables.tokens.get(token_id) for token_id in _ys_by_token(inputs)]
        return tuple(proof for t in tokens if isinstance(t, Token) for proof in t.proofs if proof.y in ys)

    def _refuse_claimed(self, melt: Melt) -> None:
        for other in self.tables.melts.values():
            same_key = melt.idempotency_key is not None and other.idempotency_key == melt.idempotency_key
            same_hash = melt.payment_hash is not None and _claim(other) == melt.payment_hash
            if other.id == melt.id or same_key or same_hash:
                raise DuplicateMelt("the idempotency key or the payment hash is taken", melt_id=other.id)
        self._refuse_held(melt)

    def _refuse_held(self, melt: Melt) -> None:
        held = _held(melt)
        for other in self.tables.melts.values():
            if other.id != melt.id and other.is_open and held & _held(other):
                raise LostRace(f"open melt {other.id} holds one of the proofs")

    def pass_door(self, warrant: Warrant, token: Token) -> None:
        raise NotImplementedError

    def _require_warrant(self, melt: Melt, warrant: Warrant | None) -> None:
        if warrant is None:
            if not all(self._is_unproved(token_id) for token_id in {ref.token_id for ref in melt.inputs}):
                raise InvariantBroken(f"reclaim {melt.id} comes without a warrant")
            return
        token = self.tables.tokens.get(warrant.token_id)
        if not isinstance(token, Token) or {ref.token_id for ref in melt.inputs} != {token.id}:
            raise LostRace(f"token {warrant.token_id} is not what reclaim {melt.id} is about")
        self.pass_door(warrant, token)

    def _is_unproved(self, token_id: TokenId) -> bool:
        """Change that a melt has stored apart and nobody has touched since."""
        token = self.tables.tokens.get(token_id)
        made = next((e for e in self.tables.audit if e.token_id == token_id and e.reason == "melt_unproved"), None)
        if made is None or not isinstance(token, Token) or token.status is not TokenStatus.FAILED:
            return False
        return set(made.ys) == {proof.y for proof in token.proofs} and made.npub == token.npub

    def _refuse_shared(self, melt: Melt) -> None:
        """LostRace where another document holds one of the proofs too; a user's own ``melted`` copy counts for nothing."""
        ids, ys = set(_ys_by_token(melt.inputs)), {ref.y for ref in melt.inputs}
        for token in self.tables.tokens.values():
            if not isinstance(token, Token) or token.id in ids or ys.isdisjoint(proof.y for proof in token.proofs):
                continue
            if token.npub != melt.npub or token.transaction_type != "melted":
                raise LostRace(f"token {token.id} holds one of the proofs too")

    def _reserve_inputs(self, melt: Melt, now: datetime) -> Melt:
        ledger = self._ledger(melt, reserve_operation(melt.id), now)
        wanted = _ys_by_token(melt.inputs)
        rests: list[tuple[Owner, tuple[Proof, ...]]] = []
        for token in ledger.load(wanted):
            _check_owner(melt, token)
            reserved = token.reservation is not None and self._is_live(token.reservation.melt_id)
            if token.status is not TokenStatus.UNSPENT or reserved or token.is_sent:
                raise LostRace(f"token {token.id} is {token.status} and can't be reserved")
            amounts = {proof.y: proof.amount for proof in token.proofs}
            if any(amounts.get(r.y, r.amount) != r.amount for r in melt.inputs if r.token_id == token.id):
                raise LostRace(f"token {token.id} holds a proof with another amount now")
            rest = ledger.move(
                token,
                TokenStatus.PENDING,
                reason="melt_reserved",
                take=wanted[token.id],
                reservation=Reservation(melt_id=melt.id, at=now),
            )
            if rest:
                rests.append((_owner_of(token), rest))
        kept = ledger.store_loose(
            rests, name=f"{melt.transaction_id}_keep", status=TokenStatus.UNSPENT, reason="melt_split"
        )
        amount = sum(proof.amount for _, proofs in rests for proof in proofs)
        return replace(melt, keep_token_ids=(*melt.keep_token_ids, *kept), keep_amount=melt.keep_amount + amount)

    def advance(self, /, melt: Melt, to: MeltState, **changes: object) -> Melt:
        if to in TERMINAL and to is not melt.state:
            raise InvariantBroken(f"melt {melt.id} can't become {to} without its tokens")
        with self.tables.transaction():
            return self._move(melt, to, changes, self._now())

    def plan_swap(
        self,
        melt: Melt,
        to: MeltState,
        *,
        inputs: Sequence[InputRef],
        amounts: Sequence[int],
        keep: int,
        fee: int,
        keyset_id: KeysetId,
        seed_id: str,
        fence: bool,
    ) -> Melt:
        if sum(ref.amount for ref in inputs) != sum(amounts) + fee or not 0 <= keep <= len(amounts):
            raise InvariantBroken(f"the swap of melt {melt.id} does not add up")
        with self.tables.transaction():
            outputs = self._take_counters(seed_id, keyset_id, tuple(amounts))
            plan = SwapPlan(inputs=tuple(inputs), outputs=outputs, keep=keep, fee=fee)
            return self._move(melt, to, {"fence" if fence else "swap": plan}, self._now())

    def _move(self, melt: Melt, to: MeltState, changes: Mapping[str, Any], now: datetime) -> Melt:
        if to is not melt.state and to not in MELT_MOVES[melt.state]:
            raise InvariantBroken(f"melt {melt.id} can't go from {melt.state} to {to}")
        unknown = set(changes) - _CHANGEABLE
        if unknown:
            raise InvariantBroken(f"a move of melt {melt.id} can't change {min(unknown)}")
        stored = self.tables.melts.get(melt.id)
        if stored is None or stored.state is not melt.state or stored.rev != melt.rev:
            raise LostRace(f"melt {melt.id} is no longer {melt.state} at revision {melt.rev}")
        new = replace(stored, **changes, state=to, rev=stored.rev + 1, updated_at=now)
        if to in TERMINAL:
            new = replace(new, ended_at=now)
            self.tables.put(self.tables.kept, melt.id, ())
        else:
            self._refuse_held(new)
        self.tables.put_melt(new)
        return new

    def counter(self, seed_id: str, keyset_id: KeysetId) -> int:
        """The next counter."""
        return self.tables.counters.get(f"{seed_id}:{keyset_id}", 0)

    def raise_counter(self, seed_id: str, keyset_id: KeysetId, at_least: int) -> None:
        """Up, never down."""
        if not 0 <= at_least <= COUNTER_MAX:
            raise InvariantBroken(f"keyset {keyset_id} can't have {at_least} counters")
        key = f"{seed_id}:{keyset_id}"
        with self.tables.transaction():
            self.tables.put(self.tables.counters, key, max(at_least, self.tables.counters.get(key, 0)))

    def _take_counters(self, seed_id: str, keyset_id: KeysetId, amounts: tuple[int, ...]) -> OutputPlan:
        key = f"{seed_id}:{keyset_id}"
        counter = self.tables.counters.get(key, 0)
        if counter + len(amounts) > COUNTER_MAX:
            raise InvariantBroken(f"keyset {keyset_id} has no counters left")
        self.tables.put(self.tables.counters, key, counter + len(amounts))
        return OutputPlan(keyset_id=keyset_id, counter=counter, amounts=amounts, seed_id=seed_id)

    # --- ends ---

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
        given = sum(proof.amount for proof in change)
        left = melt.overpaid - given - shortfall - fees_paid
        surplus = left < 0 and not shortfall and not fees_paid  # the mint gave more than it had to
        if min(shortfall, fees_paid) < 0 or not (left == 0 or surplus):
            raise InvariantBroken(f"melt {melt.id} does not add up (I5)")
        result = self.execute_atomic_melt(
            source_token_ids=tuple(_ys_by_token(melt.inputs)),
            keep_proofs=(),
            melt_change_proofs=change,
            transaction_id=melt.transaction_id,
            owner=_owner_of(melt),
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
        settled = self.tables.melts[melt.id]
        if settled.state is not MeltState.SETTLED:
            raise InvariantBroken(f"melt {melt.id} was ended in the audit and not in the journal")
        return settled, result

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
        if not 0 < len(source_token_ids) <= SOURCES_MAX:
            raise StoreError(Code.INVALID_REQUEST, f"a melt spends 1 to {SOURCES_MAX} token documents")
        operation, now = melt_operation(transaction_id), self._now()
        unspent = TokenStatus.UNSPENT
        try:
            with self.tables.transaction() as commit:
                ledger = Ledger(self.tables, operation, now, actor)
                if melt is not None:
                    ledger = self._ledger(melt, operation, now, actor)
                ledger.begin()
                ending = None if melt is None else Ending(ledger, melt)
                if ending is None:
                    self._spend_whole(ledger, source_token_ids, owner)
                else:
                    ending.spend(ending.melt.inputs, "melt_settled")
                keep = ledger.store_new(
                    owner, keep_proofs, name=f"{transaction_id}_keep", status=unspent, reason="melt_keep"
                )
                change = ledger.store_new(
                    owner,
                    melt_change_proofs,
                    name=f"{transaction_id}_melt_change",
                    status=unspent,
                    reason="melt_change",
                )
                ledger.store_new(
                    owner,
                    unproved_proofs,
                    name=f"{transaction_id}_unproved",
                    status=TokenStatus.FAILED,
                    reason="melt_unproved",
                )
                if melt is not None and ending is not None:
                    changes = {
                        **(journal_changes or {}),
                        **self._altered(ending),
                        "change_token_id": change[0] if change else None,
                        "change_amount": sum(proof.amount for proof in melt_change_proofs),
                        "keep_token_ids": (*melt.keep_token_ids, *keep),
                        "keep_amount": melt.keep_amount + sum(proof.amount for proof in keep_proofs),
                    }
                    self._move(melt, MeltState.SETTLED, changes, now)
                return _result(commit.entries, ledger.writes)
        except AlreadyDone:
            pass
        except LostRace:
            stored = None if melt is None else self.tables.melts[melt.id]
            if stored is None or stored.state is not MeltState.SETTLED or stored.inputs_gone:
                raise
        entries = self.tables.operations.get(operation, [])
        return _result(entries, len(entries))

    def finish_swap(self, melt: Melt, *, keep_proofs: Sequence[NewProof], pay_proofs: Sequence[NewProof]) -> Melt:
        plan = _checked_plan(melt, melt.swap, (*keep_proofs, *pay_proofs))

        def work(ledger: Ledger) -> Melt:
            ending = Ending(ledger, melt)
            ending.spend(plan.inputs, "melt_swapped")
            keep = self._store_ours(ledger, melt, keep_proofs, "_keep", TokenStatus.UNSPENT, "melt_keep")
            reservation = Reservation(melt_id=melt.id, at=ledger.now)
            pay = self._store_ours(ledger, melt, pay_proofs, "_send", TokenStatus.PENDING, "melt_send", reservation)
            changes = {
                **self._altered(ending),
                "inputs": self._refs(pay),
                "keep_token_ids": (*melt.keep_token_ids, *keep),
                "keep_amount": melt.keep_amount + sum(proof.amount for proof in keep_proofs),
                "swap_fee": melt.swap_fee + plan.fee,
            }
            self.tables.put(self.tables.kept, melt.id, self._proofs_of(self._refs(pay)))
            return self._move(melt, MeltState.READY, changes, ledger.now)

        return self._ended(melt, swap_operation(melt.id), work)

    def finish_fence(self, melt: Melt, proofs: Sequence[NewProof]) -> Melt:
        plan = _checked_plan(melt, melt.fence, proofs)

        def work(ledger: Ledger) -> Melt:
            ending = Ending(ledger, melt)
            ending.spend(melt.inputs, "melt_fenced")
            made = self._store_ours(ledger, melt, proofs, "_fenced", TokenStatus.UNSPENT, "melt_fenced")
            changes = {**self._altered(ending), **_kept(melt, plan, made, proofs)}
            return self._move(melt, MeltState.RELEASED, changes, ledger.now)

        return self._ended(melt, fence_operation(melt.id), work)

    def finish_together(self, melt: Melt, proofs: Sequence[NewProof]) -> Melt:
        plan = _checked_plan(melt, melt.swap, proofs)
        if melt.kind is not JournalKind.TOGETHER:
            raise InvariantBroken(f"melt {melt.id} swaps nothing together")

        def work(ledger: Ledger) -> Melt:
            ending = Ending(ledger, melt)
            ending.spend(plan.inputs, "melt_swapped")
            made = self._store_ours(ledger, melt, proofs, "_together", TokenStatus.UNSPENT, "melt_keep")
            changes = {**self._altered(ending), **_kept(melt, plan, made, proofs)}
            return self._move(melt, MeltState.SETTLED, changes, ledger.now)

        return self._ended(melt, swap_operation(melt.id), work)

    def renew_blanks(self, melt: Melt, *, keyset_id: KeysetId, count: int, seed_id: str) -> Melt:
        if melt.state is not MeltState.MELTING or melt.post is not PostOutcome.REFUSED:
            raise InvariantBroken(f"melt {melt.id} was not refused before its payment, so it is not sent again (I1)")
        with self.tables.transaction():
            blanks = self._take_counters(seed_id, keyset_id, (0,) * count)
            changes = {"blanks": blanks, "post": PostOutcome.NOT_SENT, "posted_at": None}
            return self._move(melt, MeltState.MELTING, changes, self._now())

    def finish_reclaim(self, melt: Melt, proofs: Sequence[NewProof]) -> Melt:
        plan = _checked_plan(melt, melt.swap, proofs)
        if melt.kind is not JournalKind.RECLAIM:
            raise InvariantBroken(f"melt {melt.id} is no reclaim")

        def work(ledger: Ledger) -> Melt:
            made = self._store_ours(ledger, melt, proofs, "_reclaimed", TokenStatus.UNSPENT, "reclaimed")
            for record in list(self.tables.discrepancies.values()):
                ours = record.token_id in melt.source_token_ids and record.action is Action.RECLAIM
                if ours and record.state in OPEN_DISCREPANCY:
                    self._close(record, DiscrepancyState.CORRECTED, ledger.now)
            return self._move(melt, MeltState.SETTLED, _kept(melt, plan, made, proofs), ledger.now)

        return self._ended(melt, reclaim_operation(melt.id), work)

    def release(self, melt: Melt, *, spent: Sequence[Y], error_code: str, error_detail: str) -> Melt:
        gone = frozenset(spent)

        def work(ledger: Ledger) -> Melt:
            ending = Ending(ledger, melt)
            if melt.kind is not JournalKind.RECLAIM:
                ending.give_back(gone, self.tables.kept.get(melt.id, ()))
            changes = {"error_code": error_code, "error_detail": error_detail, **self._altered(ending)}
            return self._move(melt, MeltState.RELEASED, changes, ledger.now)

        return self._ended(melt, release_operation(melt.id), work)

    def finish_gone(self, melt: Melt, decision: Resolution) -> Melt:
        if decision.outcome is not ResolveAs.INPUTS_GONE:
            raise InvariantBroken(f"melt {melt.id} was decided to be {decision.outcome}")

        def work(ledger: Ledger) -> Melt:
            ending = Ending(replace(ledger, actor=decision.actor, note=decision.reason), melt)
            ending.spend(melt.inputs, "melt_inputs_gone")
            changes = {
                "resolution": decision,
                "fees_paid": None,
                "unaccounted": melt.inputs_amount,
                "error_code": Code.OUTCOME_UNKNOWN.value,
                "error_detail": "the inputs are gone, and nobody knows whether the invoice was paid",
                **self._altered(ending),
            }
            return self._move(melt, MeltState.SETTLED, changes, ledger.now)

        return self._ended(melt, gone_operation(melt.id), work)

    # --- parts ---

    def _altered(self, ending: Ending) -> dict[str, Any]:
        if not ending.altered:
            return {}
        now, found = ending.ledger.now, findings_of(ending.melt, ending.altered)
        for record, one in zip(self._write_findings(found, now), ending.altered, strict=True):
            if one.written or one.deleted:
                self._close(record, DiscrepancyState.CORRECTED, now)
        return {"altered": (*ending.melt.altered, *ending.altered)}

    def _close(self, record: Discrepancy, state: DiscrepancyState, now: datetime) -> None:
        self.tables.put(self.tables.discrepancies, record.id, replace(record, state=state, closed_at=now))

    def _ledger(self, melt: Melt, operation: str, now: datetime, actor: Actor | None = None) -> Ledger:
        note = melt.note if melt.resolution is None else melt.resolution.reason
        return Ledger(self.tables, operation, now, actor or melt.decided_by, melt.id, note=note)

    def _ended(self, melt: Melt, operation: str, work: Callable[[Ledger], Melt]) -> Melt:
        try:
            with self.tables.transaction():
                ledger = self._ledger(melt, operation, self._now())
                ledger.begin()
                return work(ledger)
        except AlreadyDone:
            return self.tables.melts[melt.id]

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
        name = f"{melt.transaction_id}{suffix}"
        return ledger.store_new(
            _owner_of(melt), proofs, name=name, status=status, reason=reason, reservation=reservation
        )

    def _refs(self, token_ids: Iterable[TokenId]) -> tuple[InputRef, ...]:
        return tuple(
            InputRef(token_id=token_id, y=proof.y, amount=proof.amount, keyset_id=proof.keyset_id)
            for token_id in token_ids
            for proof in self.tables.token(token_id).proofs
        )

    def _spend_whole(self, ledger: Ledger, token_ids: Sequence[TokenId], owner: Owner) -> None:
        for token in ledger.load(token_ids):
            if token.npub != owner.npub or normalise_mint_url(token.mint_url) != normalise_mint_url(owner.mint_url):
                raise StoreError(Code.INVALID_REQUEST, f"token {token.id} is not of this user and mint")
            if token.status not in {TokenStatus.PENDING, TokenStatus.UNSPENT}:
                raise StoreError(Code.TOKEN_ALREADY_SPENT, f"token {token.id} is {token.status}")
            if not token.proofs:
                raise StoreError(Code.INVALID_REQUEST, f"token {token.id} has no proofs")
            self._refuse_reserved(token)
            ledger.move(token, TokenStatus.SPENT, reason="melt_settled")


def _claim(melt: Melt) -> str | None:
    return None if melt.state is MeltState.RELEASED else melt.payment_hash


def _held(melt: Melt) -> set[Y]:
    held = {ref.y for ref in melt.inputs}
    for plan in (melt.swap, melt.fence):
        if plan is not None:
            held |= {ref.y for ref in plan.inputs}
    return held


def _ys_by_token(inputs: Iterable[InputRef]) -> dict[TokenId, frozenset[Y]]:
    grouped: dict[TokenId, set[Y]] = {}
    for ref in inputs:
        grouped.setdefault(ref.token_id, set()).add(ref.y)
    return {token_id: frozenset(ys) for token_id, ys in grouped.items()}


def _owner_of(owned: Token | Melt) -> Owner:
    return Owner(npub=owned.npub, wallet_id=owned.wallet_id, mint_url=owned.mint_url)


def _check_owner(melt: Melt, token: Token) -> None:
    if token.npub != melt.npub or normalise_mint_url(token.mint_url) != normalise_mint_url(melt.mint_url):
        raise LostRace(f"token {token.id} is not of the user and mint of melt {melt.id}")


def _checked_plan(melt: Melt, plan: SwapPlan | None, proofs: Sequence[NewProof]) -> SwapPlan:
    if plan is None:
        raise InvariantBroken(f"melt {melt.id} has no such swap")
    if sum(ref.amount for ref in plan.inputs) != sum(proof.amount for proof in proofs) + plan.fee:
        raise InvariantBroken(f"the swap of melt {melt.id} would not conserve its value (I5)")
    return plan


def _kept(melt: Melt, plan: SwapPlan, made: Sequence[TokenId], proofs: Sequence[NewProof]) -> dict[str, object]:
    return {
        "keep_token_ids": (*melt.keep_token_ids, *made),
        "keep_amount": melt.keep_amount + sum(proof.amount for proof in proofs),
        "swap_fee": melt.swap_fee + plan.fee,
    }


def _result(entries: Sequence[Any], operations: int) -> AtomicResult:
    keep = [entry for entry in entries if entry.reason == "melt_keep"]
    change = [entry for entry in entries if entry.reason == "melt_change"]
    return AtomicResult(
        source_tokens_spent=sum(1 for entry in entries if entry.reason == "melt_settled"),
        keep_token_id=keep[0].token_id if keep else None,
        keep_amount=sum(entry.amount for entry in keep),
        melt_change_token_id=change[0].token_id if change else None,
        melt_change_amount=sum(entry.amount for entry in change),
        operations=operations,
    )
