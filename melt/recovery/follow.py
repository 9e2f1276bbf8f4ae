"""One step of recovery: look at the mint, decide, act (see the package's documentation for the table)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, assert_never

import structlog

from melt.drift import SEVERITIES
from melt.errors import (
    Code,
    InvariantBroken,
    LostRace,
    MintRejected,
    StoreError,
    StoreLostAfterPayment,
)
from melt.model import (
    Action,
    DriftType,
    EventType,
    Finding,
    JournalKind,
    MeltState,
    MintState,
    QuoteState,
    ResolveAs,
)
from melt.recovery import alarms, contradictions
from melt.recovery import decide as rules
from melt.recovery.counters import FreshCounters
from melt.recovery.signatures import collect_change
from melt.recovery.swaps import (
    Swapped,
    SwapRefused,
    SwapTaken,
    SwapUnknown,
    active_keyset,
    plan_amounts,
    run_swap,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from melt.events import CriticalEvents
    from melt.model import KeysetId, Melt, MeltId, MeltQuote, MintAlias, Resolution, Y
    from melt.ports import Clock, Mint, Outputs, Store, StoreThreads, Telemetry
    from melt.recovery.signatures import Change

_log = structlog.get_logger("melt.recovery")

UNDECIDED: Final[Mapping[str, None]] = {"resolution": None, "error_code": None, "error_detail": None}
"""What a melt that is followed again has lost: what a person decided about it, and why it was to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryPolicy:
    """Budgets of recovery, in seconds."""

    patience: rules.Patience
    swap_timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """Takes open journal entries to their end. Holds no state of its own: everything is in the journal."""

    store: Store
    threads: StoreThreads
    mints: Mapping[MintAlias, Mint]
    outputs: Outputs
    clock: Clock
    telemetry: Telemetry
    events: CriticalEvents
    policy: RecoveryPolicy
    counters: FreshCounters = field(default_factory=FreshCounters)
    waits: dict[MeltId, str] = field(default_factory=dict)
    """What each entry waited for at its last look that changed nothing; for whoever tells of it."""

    async def fresh_counters(self, mint: Mint, keyset_id: KeysetId) -> None:
        """Before counters of a keyset are taken: see :mod:`melt.recovery.counters`."""
        await self.counters.ensure(mint, self.outputs, self.store, self.threads, keyset_id)

    async def step(self, melt: Melt) -> Melt:
        """
        Look once, act at most once; the entry as it is afterwards.

        Raises:
            MintError: the mint could not be asked; look again later.
            LostRace: somebody else moved the entry; read it again.
            StoreError: the store is away; look again later.
        """
        mint = self.mints.get(melt.mint)
        if mint is None:
            raise MintRejected(f"mint {melt.mint!r} is no longer configured, but an open melt needs it")
        before = melt.state
        self.waits.pop(melt.id, None)
        match melt.state:
            case MeltState.RESERVED | MeltState.READY:
                after = await self.never_sent(mint, melt)
            case MeltState.SWAPPING:
                after = await self._swapping(mint, melt)
            case MeltState.MELTING | MeltState.PENDING | MeltState.HELD:
                after = await self._observe(mint, melt)
            case MeltState.FENCING:
                after = await self._fencing(mint, melt)
            case MeltState.SETTLED | MeltState.RELEASED:
                return melt
            case _:
                assert_never(melt.state)
        if after.state is not before:
            self.telemetry.recovered(melt.mint, before, after.state)
        if not after.is_open:
            await self.contradiction_over(melt)
        return after

    async def contradiction_over(self, melt: Melt) -> None:
        """Close the record of a contradiction: the melt has ended, or a person has decided. Raises nothing."""
        await contradictions.close(self.store, self.threads, melt)

    async def _tell_held(self, melt: Melt) -> None:
        await alarms.tell_held(self.events, melt)
        await contradictions.record(self.store, self.threads, self.telemetry, self.clock, melt)

    # --- states in which the melt POST has not left ---

    async def never_sent(
        self,
        mint: Mint,
        melt: Melt,
        code: Code = Code.PAYMENT_FAILED,
        detail: str = "interrupted before the payment was sent; nothing was paid",
    ) -> Melt:
        """
        Release an entry whose POST never left; unchanged where the mint has to be seen once more first.

        Inputs whose documents others have dropped are put back, unless the mint calls them SPENT. Raises MintError
        where there are such and it can't be asked.
        """
        if melt.kind is JournalKind.RECLAIM:
            return await self.release(melt, Code.CONCURRENT_OPERATION, "interrupted before its swap was planned", ())
        strayed = await self.threads(lambda: self.store.strayed_inputs(melt))
        spent: tuple[Y, ...] = ()
        if strayed:
            states = {one.y: one.state for one in await mint.check_states(strayed)}
            if MintState.PENDING in states.values():
                return melt
            spent = tuple(y for y, state in states.items() if state is MintState.SPENT)
        if spent and melt.clear_since is None:
            return await self._advance(melt, melt.state, clear_since=self.clock.now())
        if spent and not self._confirmed(melt):
            return melt
        return await self.release(melt, code, detail, spent)

    async def _swapping(self, mint: Mint, melt: Melt) -> Melt:
        plan = melt.swap
        if plan is None:
            raise InvariantBroken(f"melt {melt.id} is SWAPPING without a plan")
        outcome = await run_swap(
            mint, self.outputs, self.store, self.threads, melt, plan, timeout_s=self.policy.swap_timeout_s
        )
        reclaim = melt.kind is JournalKind.RECLAIM
        match outcome:
            case Swapped(proofs=proofs):
                if reclaim:
                    done = await self.threads(lambda: self.store.finish_reclaim(melt, proofs))
                    _log.info("reclaimed", melt_id=melt.id, mint=melt.mint, amount=plan.outputs.amount, unit=melt.unit)
                    return done
                keep, pay = proofs[: plan.keep], proofs[plan.keep :]
                return await self.threads(lambda: self.store.finish_swap(melt, keep_proofs=keep, pay_proofs=pay))
            case SwapRefused(mint_code=code):
                detail = f"the mint refused the swap before the payment (code {code}); nothing was paid"
                return await self.release(melt, Code.MINT_REJECTED, detail, ())
            case SwapTaken(spent=spent, pending=pending):
                if pending:
                    return melt
                if melt.clear_since is None:
                    return await self._advance(melt, melt.state, clear_since=self.clock.now())
                if not self._confirmed(melt):
                    return melt
                detail = "somebody else has spent the proofs; nothing was paid"
                return await self.release(melt, Code.TOKEN_ALREADY_SPENT, detail, spent)
            case SwapUnknown():
                return melt
            case _:
                assert_never(outcome)

    # --- states in which it has, or may have ---

    async def _observe(self, mint: Mint, melt: Melt) -> Melt:
        if melt.state is MeltState.HELD:
            await self._tell_held(melt)
        ys = [ref.y for ref in melt.inputs]
        asked_at = self.clock.now()  # a slow answer must not make two looks of one moment seem some seconds apart
        states = {one.y: one.state for one in await mint.check_states(ys)}
        quote = await self._quote_if_safe(mint, melt, states)
        if quote is not None and quote.state is not QuoteState.PENDING:
            # The GET itself may have moved the inputs at the mint: judge what it left behind.
            states = {one.y: one.state for one in await mint.check_states(ys)}
        decision = rules.decide(melt, states, quote, now=asked_at, patience=self.policy.patience)
        following = MeltState.HELD if melt.state is MeltState.HELD else MeltState.PENDING
        match decision:
            case rules.Wait(reason=reason, forget=forget):
                self.waits[melt.id] = reason
                seen_before = melt.clear_since is not None or melt.contradiction_since is not None
                if melt.state is MeltState.HELD or not (melt.state is MeltState.MELTING or (forget and seen_before)):
                    return melt
                changes: dict[str, object] = (
                    {"clear_since": None, "contradiction": None, "contradiction_since": None} if forget else {}
                )
                return await self._advance(melt, following, **changes)
            case rules.Settle(quote=paid):
                return await self.settle(melt, paid)
            case rules.NoteClear():
                return await self._advance(
                    melt, following, clear_since=self.clock.now(), contradiction=None, contradiction_since=None
                )
            case rules.Release(fence=fence, spent=spent):
                if self.events.distrusted(melt.mint) is not None:
                    # What such a mint calls unpaid and unspent is no signal (I6). Should it stay so, a person decides.
                    return await self._hold_distrusted(melt)
                if fence:
                    return await self._fence(mint, melt, spent)
                return await self._release_unpaid(melt, spent)
            case rules.NoteContradiction(event=event):
                # Our own fencing swap may have arrived late: its outputs tell, once, since SPENT is for good.
                fenced = event is EventType.QUOTE_UNPAID_INPUTS_SPENT and melt.fence is not None
                return await self._advance(
                    melt,
                    MeltState.FENCING if fenced else following,
                    contradiction=event.value,
                    contradiction_since=self.clock.now(),
                    clear_since=None,
                )
            case rules.Hold(event=event):
                return await self._hold(melt, event)
            case _:
                assert_never(decision)

    async def _quote_if_safe(self, mint: Mint, melt: Melt, states: Mapping[Y, MintState]) -> MeltQuote | None:
        inputs = rules.summarise(melt, states)
        if melt.quote_id is None or not rules.post_is_over(
            melt, inputs, now=self.clock.now(), patience=self.policy.patience
        ):
            return None
        try:
            return await mint.melt_quote_state(melt.quote_id)
        except MintRejected:
            # Its backend could not be asked, or it has forgotten the quote. Neither is evidence of anything (I8).
            _log.warning("the mint does not tell the quote's state", melt_id=melt.id, quote_id=melt.quote_id)
            return None

    async def _hold(self, melt: Melt, event: EventType) -> Melt:
        what = {
            EventType.QUOTE_PAID_INPUTS_UNSPENT: "the mint says that the invoice is paid, but honours the inputs",
            EventType.QUOTE_UNPAID_INPUTS_SPENT: "the mint says that the invoice is unpaid, but has taken the inputs",
            EventType.MELT_HELD: "the mint says that nothing was paid, and it is not believed now",
        }.get(event, "the mint contradicts itself")
        held = await self._advance(melt, MeltState.HELD, error_code=Code.CRITICAL_MELT_FAILURE.value, error_detail=what)
        await self._tell_held(held)
        return held

    async def _hold_distrusted(self, melt: Melt) -> Melt:
        clear_s = 0.0 if melt.clear_since is None else (self.clock.now() - melt.clear_since).total_seconds()
        if melt.state is MeltState.HELD or clear_s < self.policy.patience.post_grace_s:
            return melt
        return await self._hold(melt, EventType.MELT_HELD)

    # --- fencing ---

    async def fence(self, melt: Melt, spent: tuple[Y, ...]) -> Melt:
        """Plan the swap that makes a release final, for a person who has decided so; FENCING, or RELEASED at once."""
        return await self._fence(self.mints[melt.mint], melt, spent)

    async def _fence(self, mint: Mint, melt: Melt, spent: tuple[Y, ...]) -> Melt:
        planned = melt.fence
        if planned is not None and not any(ref.y in spent for ref in planned.inputs):
            return await self._advance(melt, MeltState.FENCING)
        # A plan with an input that somebody else took can't go through any more, nor can a late copy of it: plan anew.
        refs = tuple(ref for ref in melt.inputs if ref.y not in spent)
        keyset = active_keyset(await mint.keysets(), melt.unit)
        amounts, fee = await plan_amounts(mint, keyset, refs)
        if not amounts:
            # What is left is worth less than the fee for moving it: there is nothing to protect.
            return await self._release_unpaid(melt, spent)
        await self.fresh_counters(mint, keyset.id)
        return await self.threads(
            lambda: self.store.plan_swap(
                melt,
                MeltState.FENCING,
                inputs=refs,
                amounts=amounts,
                keep=len(amounts),
                fee=fee,
                keyset_id=keyset.id,
                seed_id=self.outputs.seed_id,
                fence=True,
            )
        )

    async def _fencing(self, mint: Mint, melt: Melt) -> Melt:
        plan = melt.fence
        if plan is None:
            raise InvariantBroken(f"melt {melt.id} is FENCING without a plan")
        outcome = await run_swap(
            mint, self.outputs, self.store, self.threads, melt, plan, timeout_s=self.policy.swap_timeout_s
        )
        match outcome:
            case Swapped(proofs=proofs):
                done = await self.threads(lambda: self.store.finish_fence(melt, proofs))
                _log.info(
                    "melt released behind a fence",
                    melt_id=melt.id,
                    mint=melt.mint,
                    amount=plan.outputs.amount,
                    fee=plan.fee,
                    unit=melt.unit,
                )
                return done
            case SwapTaken():
                # The payment is alive after all, or somebody else took the inputs: follow the quote again. The plan
                # stays, since this very swap may still arrive.
                return await self._advance(melt, MeltState.PENDING, clear_since=None, **UNDECIDED)
            case SwapRefused():
                return await self._advance(melt, MeltState.PENDING, clear_since=None, fence=None, **UNDECIDED)
            case SwapUnknown():
                return melt
            case _:
                assert_never(outcome)

    # --- ends ---

    async def settle(self, melt: Melt, quote: MeltQuote) -> Melt:
        """
        T3 of a melt that the mint calls PAID: change collected, inputs spent, all in one transaction.

        Raises MintError where the change can't be told yet, StoreUnavailable after raising the CRITICAL event.
        """
        mint = self.mints[melt.mint]
        if melt.resolution is not None and melt.resolution.outcome is not ResolveAs.SETTLED:
            melt = await self._advance(melt, melt.state, **UNDECIDED)  # decided otherwise, and settled by itself
        change = await collect_change(mint, self.outputs, melt, quote)
        await alarms.check_surplus(self.events, melt, change)
        preimage = await self._checked_preimage(melt, quote)
        started = self.clock.monotonic()
        try:
            settled, _ = await self.threads(
                lambda: self.store.settle(
                    melt, change.proofs, shortfall=change.shortfall, fees_paid=change.fees_paid, preimage=preimage
                )
            )
        except LostRace:
            raise  # somebody else has moved the entry: read it again
        except StoreError as error:
            await alarms.lost_after_payment(self.events, melt, quote, change, error)
            raise StoreLostAfterPayment("the mint has paid; the database has not been updated yet") from error
        self.telemetry.melt_phase(melt.mint, "settle", self.clock.monotonic() - started)
        await self._after_settling(melt, settled, change)
        return settled

    async def _after_settling(self, melt: Melt, settled: Melt, change: Change) -> None:
        self.telemetry.amount_paid(melt.mint, melt.unit, melt.amount, change.fees_paid, change.shortfall)
        subject = f"melt:{melt.id}"
        if change.shortfall:
            await self._book_shortfall(settled, change.shortfall)
        for event in (
            EventType.DB_FAILURE_AFTER_MINT_SUCCESS,
            EventType.QUOTE_PAID_INPUTS_UNSPENT,
            EventType.QUOTE_UNPAID_INPUTS_SPENT,
        ):
            contradicted = melt.contradiction == event and melt.resolution is None
            if event is EventType.DB_FAILURE_AFTER_MINT_SUCCESS or contradicted:
                await self.events.resolve(event, subject, reason="the melt has settled")

    async def _book_shortfall(self, melt: Melt, shortfall: int) -> None:
        drift = DriftType.CHANGE_SHORTFALL
        finding = Finding(
            type=drift,
            severity=SEVERITIES[drift],
            action=Action.RECORD,
            subject=f"melt:{melt.id}",
            npub=melt.npub,
            mint=melt.mint,
            unit=melt.unit,
            value=shortfall,
            token_id=melt.change_token_id,
            ys=(),
            evidence={"quote_id": melt.quote_id, "overpaid": melt.overpaid, "fee_reserve": melt.fee_reserve},
        )
        try:
            await self.threads(lambda: self.store.record([finding]))
        except StoreError:
            _log.exception("a change shortfall could not be recorded", melt_id=melt.id, shortfall=shortfall)
            return
        self.telemetry.drift_found(drift, finding.severity, melt.mint)
        self.telemetry.drift_alerting(drift, finding.severity, melt.mint)

    async def _checked_preimage(self, melt: Melt, quote: MeltQuote) -> str | None:
        """The preimage where it proves the payment; a wrong one is a CRITICAL event, the money counts as spent."""
        if not quote.preimage or melt.payment_hash is None:
            return None
        try:
            proves = hashlib.sha256(bytes.fromhex(quote.preimage)).hexdigest() == melt.payment_hash
        except ValueError:
            proves = False
        if proves:
            return quote.preimage
        await self.events.open(
            EventType.WRONG_PREIMAGE,
            f"melt:{melt.id}",
            mint=melt.mint,
            detail="the mint says PAID with a preimage that does not belong to the invoice; the money counts as spent",
            requires_manual_intervention=True,
            evidence={"quote_id": melt.quote_id, "payment_hash": melt.payment_hash},
        )
        return None

    async def _release_unpaid(self, melt: Melt, spent: tuple[Y, ...]) -> Melt:
        if spent:
            return await self.release(
                melt, Code.TOKEN_ALREADY_SPENT, "some of the proofs were spent elsewhere; nothing was paid", spent
            )
        return await self.release(melt, Code.PAYMENT_FAILED, "the Lightning payment failed; nothing was paid", ())

    async def inputs_gone(self, melt: Melt, decision: Resolution) -> Melt:
        """End it as a person has decided: inputs gone, outcome unknown. The invoice stays claimed."""
        return await self.threads(lambda: self.store.finish_gone(melt, decision))

    async def release(self, melt: Melt, code: Code, detail: str, spent: tuple[Y, ...]) -> Melt:
        """Inputs back to unspent (those of ``spent`` to spent), the melt RELEASED."""
        return await self.threads(
            lambda: self.store.release(melt, spent=spent, error_code=code.value, error_detail=detail)
        )

    def _confirmed(self, melt: Melt) -> bool:
        if melt.clear_since is None:
            return False
        return (self.clock.now() - melt.clear_since).total_seconds() >= self.policy.patience.confirm_s

    async def _advance(self, melt: Melt, to: MeltState, **changes: object) -> Melt:
        return await self.threads(lambda: self.store.advance(melt, to, **changes))
