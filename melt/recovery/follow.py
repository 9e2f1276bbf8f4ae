"""One step of recovery: look at the mint, decide, act (see the package's documentation for the table)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, assert_never

import structlog

from melt.errors import (
    Code,
    InvariantBroken,
    MintRejected,
)
from melt.model import (
    EventType,
    JournalKind,
    MeltState,
    MintState,
    PostOutcome,
    QuoteState,
    ResolveAs,
)
from melt.recovery import alarms, contradictions, planning, settling, suspects
from melt.recovery import decide as rules
from melt.recovery.counters import FreshCounters
from melt.recovery.entries import plan_keeping
from melt.recovery.keysets import signing_keyset
from melt.recovery.swaps import (
    Swapped,
    SwapRefused,
    SwapTaken,
    SwapUnknown,
    plan_amounts,
    run_swap,
)
from melt.refusals import BAD_PROOF, reason_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from melt.events import CriticalEvents
    from melt.model import KeysetId, Melt, MeltId, MeltQuote, MintAlias, NewProof, Resolution, SwapPlan, Y
    from melt.ports import Clock, Mint, Outputs, Store, StoreThreads, Telemetry
    from melt.recovery.swaps import SwapOutcome

_log = structlog.get_logger("melt.recovery")

UNDECIDED: Final[Mapping[str, None]] = {"resolution": None, "error_code": None, "error_detail": None}
"""What a melt that is followed again has lost: what a person decided about it, and why it was to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryPolicy:
    """
    Budgets of recovery, in seconds. ``unknown_s``: how long a mint may say nothing clear about a payment before the melt
    is HELD with its event.
    """

    patience: rules.Patience
    swap_timeout_s: float
    unknown_s: float = 600.0


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
        if melt.kind is not JournalKind.MELT:
            code, detail = Code.CONCURRENT_OPERATION, "interrupted before its swap was planned"
        if melt.kind is JournalKind.RECLAIM:
            return await self.release(melt, code, detail, ())
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
        outcome = await self._run_swap(mint, melt, plan)
        match outcome:
            case Swapped(proofs=proofs):
                return await self._swapped(melt, plan, proofs)
            case SwapRefused(mint_code=code):
                counted = await self._count_refusal(melt, code)
                planned = await planning.anew(self, mint, counted, plan, code)
                return planned or await self._release_unswapped(counted, code)
            case SwapTaken(spent=spent, pending=pending):
                if pending:
                    return melt
                if melt.clear_since is None:
                    return await self._advance(melt, melt.state, clear_since=self.clock.now())
                if not self._confirmed(melt):
                    return melt
                detail = "somebody else has spent the proofs; nothing was paid"
                return await self.release(melt, Code.TOKEN_ALREADY_SPENT, detail, spent)
            case SwapUnknown(mint_code=code):
                if code is None:
                    return melt
                counted = await self._count_refusal(melt, code)
                if counted.refusals < rules.REFUSALS_MAX:
                    return counted
                # Each was answered, and nothing was signed or taken: whatever the code means, it is a no.
                return await self._release_unswapped(counted, code)
            case _:
                assert_never(outcome)

    async def _swapped(self, melt: Melt, plan: SwapPlan, proofs: Sequence[NewProof]) -> Melt:
        match melt.kind:
            case JournalKind.RECLAIM:
                done = await self.threads(lambda: self.store.finish_reclaim(melt, proofs))
            case JournalKind.TOGETHER:
                done = await self.threads(lambda: self.store.finish_together(melt, proofs))
            case JournalKind.MELT:
                keep, pay = proofs[: plan.keep], proofs[plan.keep :]
                return await self.threads(lambda: self.store.finish_swap(melt, keep_proofs=keep, pay_proofs=pay))
            case _:
                assert_never(melt.kind)
        _log.info(
            "swapped",
            kind=melt.kind.value,
            melt_id=melt.id,
            mint=melt.mint,
            amount=plan.outputs.amount,
            fee=plan.fee,
            unit=melt.unit,
        )
        return done

    async def _release_unswapped(self, melt: Melt, mint_code: int) -> Melt:
        reason = reason_of(mint_code)
        code = Code.MINT_REJECTED if reason is None else reason.code
        detail = f"the mint refused the swap before the payment (code {mint_code}); nothing was paid"
        if reason is not None:
            detail = f"{reason.text}: it refused the swap before the payment (code {mint_code}); nothing was paid"
        return await self.release(melt, code, detail, ())

    async def _run_swap(self, mint: Mint, melt: Melt, plan: SwapPlan) -> SwapOutcome:
        return await run_swap(
            mint, self.outputs, self.store, self.threads, melt, plan, timeout_s=self.policy.swap_timeout_s
        )

    async def _count_refusal(self, melt: Melt, mint_code: int) -> Melt:
        """The same answer once more, with all inputs free; another one begins the count anew."""
        refusals = melt.refusals + 1 if melt.refused_code == mint_code else 1
        return await self._advance(melt, melt.state, refusals=refusals, refused_code=mint_code)

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
            case rules.Resume():
                return await self._resume(melt)
            case rules.Wait(unknown=True) if self._is_late(melt):
                return await self._hold(melt, EventType.MELT_HELD, contradiction=EventType.MELT_HELD.value)
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

    async def _hold(self, melt: Melt, event: EventType, **changes: object) -> Melt:
        what = {
            EventType.QUOTE_PAID_INPUTS_UNSPENT: "the mint says that the invoice is paid, but honours the inputs",
            EventType.QUOTE_UNPAID_INPUTS_SPENT: "the mint says that the invoice is unpaid, but has taken the inputs",
            EventType.MELT_HELD: "the mint says that nothing was paid, and it is not believed now"
            if self.events.distrusted(melt.mint) is not None
            else "the mint gives the payment a state that no NUT knows",
        }.get(event, "the mint contradicts itself")
        held = await self._advance(
            melt, MeltState.HELD, error_code=Code.CRITICAL_MELT_FAILURE.value, error_detail=what, **changes
        )
        await self._tell_held(held)
        return held

    def _is_late(self, melt: Melt) -> bool:
        """Whether the mint has been saying nothing for so long that somebody should know; once."""
        since = melt.posted_at or melt.created_at
        late = (self.clock.now() - since).total_seconds() >= self.policy.unknown_s
        return late and melt.state is not MeltState.HELD

    async def _resume(self, melt: Melt) -> Melt:
        """Followed again, unless the mint is not believed: then what it says now is no more than before."""
        if self.events.distrusted(melt.mint) is not None:
            return melt
        await self.events.resolve(EventType.MELT_HELD, f"melt:{melt.id}", reason="the mint says something again")
        return await self._advance(melt, MeltState.PENDING, clear_since=None, contradiction=None, **UNDECIDED)

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
        keyset = await signing_keyset(mint, melt.unit, now=self.clock.now())
        amounts, fee = await plan_amounts(mint, keyset, refs)
        if not amounts:
            # What is left is worth less than the fee for moving it: there is nothing to protect.
            return await self._release_unpaid(melt, spent)
        await self.fresh_counters(mint, keyset.id)
        return await plan_keeping(self, melt, MeltState.FENCING, refs, amounts, fee=fee, keyset_id=keyset.id)

    async def _fencing(self, mint: Mint, melt: Melt) -> Melt:
        plan = melt.fence
        if plan is None:
            raise InvariantBroken(f"melt {melt.id} is FENCING without a plan")
        outcome = await self._run_swap(mint, melt, plan)
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
            case SwapRefused(mint_code=code):
                counted = await self._count_refusal(melt, code)
                planned = await planning.anew(self, mint, counted, plan, code)
                if planned is not None:
                    return planned
                back = await self._advance(counted, MeltState.PENDING, clear_since=None, fence=None, **UNDECIDED)
                return await self._hold_refused(back)
            case SwapUnknown(mint_code=code):
                return melt if code is None else await self._hold_refused(await self._count_refusal(melt, code))
            case _:
                assert_never(outcome)

    async def _hold_refused(self, melt: Melt) -> Melt:
        """A fence that is refused for ever is no reason to ask for ever: after REFUSALS_MAX of the same a person decides."""
        if melt.refusals < rules.REFUSALS_MAX:
            return melt
        what = (
            f"the mint has refused {melt.refusals} times, with code {melt.refused_code}, the swap that would make the "
            "release final: nothing was paid, and the inputs stay reserved"
        )
        held = await self._advance(
            melt, MeltState.HELD, error_code=Code.CRITICAL_MELT_FAILURE.value, error_detail=what, clear_since=None
        )
        await self._tell_held(held)
        return held

    # --- ends ---

    async def settle(self, melt: Melt, quote: MeltQuote) -> Melt:
        """
        T3 of a melt that the mint calls PAID: change collected, inputs spent, all in one transaction.

        Raises MintError where the change can't be told yet, StoreUnavailable after raising the CRITICAL event.
        """
        if melt.resolution is not None and melt.resolution.outcome is not ResolveAs.SETTLED:
            melt = await self._advance(melt, melt.state, **UNDECIDED)  # decided otherwise, and settled by itself
        return await settling.settle(self, melt, quote)

    async def _release_unpaid(self, melt: Melt, spent: tuple[Y, ...]) -> Melt:
        if spent:
            return await self.release(
                melt, Code.TOKEN_ALREADY_SPENT, "some of the proofs were spent elsewhere; nothing was paid", spent
            )
        reason = None if melt.post is PostOutcome.FAILED else reason_of(melt.post_code)
        if reason is None:
            return await self.release(melt, Code.PAYMENT_FAILED, "the Lightning payment failed; nothing was paid", ())
        detail = f"{reason.text} (code {melt.post_code}); nothing was paid"
        released = await self.release(melt, reason.code, detail, ())
        if melt.post_code in BAD_PROOF:
            await suspects.sort_out(self, melt)
        return released

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
