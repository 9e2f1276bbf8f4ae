"""
Bugs that somebody might make, planted into the engine or the model store of this process.

The simulation is worth something only where it finds them: ``tests/properties/test_simulation.py`` plants each and expects a
seed to fail. ``python -m tests.simulation --plant NAME --seeds 300`` does the same by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from melt import corrections, settling
from melt.model import Ambiguous, MeltState, MintState, OutputPlan, PostOutcome, Proof, Token
from melt.reconcile import acting, judging
from melt.recovery import decide as rules
from melt.recovery import follow, signatures, swaps
from melt.saga import forward
from tests.simulation import model_ending, model_journal, model_ledger, model_store

Patch = Callable[[], None]


def _release_on_one_signal() -> None:
    real = rules.decide

    def decide(melt: Any, *args: Any, **kwargs: Any) -> rules.Decision:
        found = real(melt, *args, **kwargs)
        return rules.Release(fence=False, spent=()) if isinstance(found, rules.NoteClear) else found

    rules.decide = decide


def _release_without_fence() -> None:
    rules._PLAIN_RELEASE = frozenset(PostOutcome)


def _repost_after_a_lost_answer() -> None:
    real = forward.Forward.pay

    class Again:
        def __init__(self, mint: Any) -> None:
            self._mint = mint

        def __getattr__(self, name: str) -> Any:
            return getattr(self._mint, name)

        async def melt(self, *args: Any, **kwargs: Any) -> Any:
            answer = await self._mint.melt(*args, **kwargs)
            return await self._mint.melt(*args, **kwargs) if isinstance(answer, Ambiguous) else answer

    async def pay(self: Any, mint: Any, melt: Any) -> Any:
        return await real(self, Again(mint), melt)

    forward.Forward.pay = pay  # type: ignore[method-assign]


def _pending_is_taken_for_unspent() -> None:
    real = rules.summarise

    def summarise(melt: Any, states: Any) -> rules.Inputs:
        seen = {y: MintState.UNSPENT if s is MintState.PENDING else s for y, s in states.items()}
        return real(melt, seen)

    rules.summarise = summarise


def _ambiguous_is_taken_for_refused() -> None:
    real = forward._outcome

    def outcome(answer: Any) -> Any:
        return (PostOutcome.REFUSED, 0) if isinstance(answer, Ambiguous) else real(answer)

    forward._outcome = outcome


def _counters_are_used_again() -> None:
    def take(self: Any, seed_id: str, keyset_id: Any, amounts: tuple[int, ...]) -> OutputPlan:
        counter = self.tables.counters.get(keyset_id, 0)
        self.tables.put(self.tables.counters, keyset_id, counter + len(amounts) // 2)
        return OutputPlan(keyset_id=keyset_id, counter=counter, amounts=amounts, seed_id=seed_id)

    model_journal.ModelJournal._take_counters = take  # type: ignore[method-assign]


def _t3_without_the_journal() -> None:
    real = model_journal.ModelJournal._move

    def move(self: Any, melt: Any, to: MeltState, *args: Any) -> Any:
        if to is MeltState.SETTLED and melt.payment_hash is not None:
            return melt
        return real(self, melt, to, *args)

    model_journal.ModelJournal._move = move  # type: ignore[method-assign]


def _change_by_position() -> None:
    async def claim(mint: Any, outputs: Any, plan: Any, found: Any) -> Any:
        keys = await mint.keys(plan.keyset_id)
        return {
            i: outputs.unblind(plan, i, one.amount, one.c_, keys[one.amount], None)
            for i, one in enumerate(found[: len(plan.amounts)])
        }

    signatures.claim_by_dleq = claim


def _change_is_never_restored() -> None:
    async def claim(*_: Any) -> dict[int, Any]:
        return {}

    signatures.claim_by_restore = claim


def _a_split_loses_a_proof() -> None:
    real = model_ledger.Ledger.store_loose

    def store(self: Any, parts: Any, **kwargs: Any) -> Any:
        cut = [
            (owner, proofs[:-1] if len(proofs) > 1 and kwargs["reason"] == "melt_split" else proofs)
            for owner, proofs in parts
        ]
        return real(self, cut, **kwargs)

    model_ledger.Ledger.store_loose = store  # type: ignore[method-assign]


def _spent_inputs_are_given_back() -> None:
    real = model_ending.Ending.give_back

    def give_back(self: Any, _: frozenset[Any], kept: Any) -> None:
        real(self, frozenset(), kept)

    model_ending.Ending.give_back = give_back  # type: ignore[method-assign]


def _a_status_without_its_audit_entry() -> None:
    real = model_ledger.Ledger._note

    def note(self: Any, token: Any, before: Any, to: Any, proofs: tuple[Proof, ...], reason: str) -> None:
        if reason != "melt_released":
            real(self, token, before, to, proofs, reason)

    model_ledger.Ledger._note = note  # type: ignore[method-assign]


def _reserved_whatever_the_status() -> None:
    real = model_ledger.Ledger.load

    def load(self: Any, ids: Any) -> Any:
        found = real(self, ids)
        if not self.operation_id.endswith(":reserve"):
            return found
        return [replace(token, status=model_ledger.TokenStatus.UNSPENT, reservation=None) for token in found]

    model_ledger.Ledger.load = load  # type: ignore[method-assign]
    model_journal.ModelJournal._refuse_held = lambda *_: None  # type: ignore[method-assign]


def _a_held_melt_without_its_event() -> None:
    async def hold(self: Any, melt: Any, event: Any) -> Any:
        del event
        return await self._advance(melt, MeltState.HELD)

    follow.Recovery._hold = hold  # type: ignore[method-assign]


def _the_payment_before_the_journal() -> None:
    real = forward.Forward.pay

    async def pay(self: Any, mint: Any, melt: Any) -> Any:
        proofs = await swaps.load_proofs(self.store, self.threads, melt, melt.inputs)
        blanks = self.outputs.blinded(melt.blanks) if melt.blanks is not None else ()
        await mint.melt(melt.quote_id, proofs, blanks, timeout_s=self.policy.post_timeout_s)
        return await real(self, mint, melt)

    forward.Forward.pay = pay  # type: ignore[method-assign]


def _a_swap_without_a_plan() -> None:
    real = swaps.run_swap

    async def run(mint: Any, outputs: Any, store: Any, threads: Any, melt: Any, plan: Any, **kwargs: Any) -> Any:
        shifted = replace(plan, outputs=replace(plan.outputs, counter=plan.outputs.counter + 1000))
        return await real(mint, outputs, store, threads, melt, shifted, **kwargs)

    follow.run_swap = run  # type: ignore[attr-defined]


def _a_rotated_keyset_is_not_noticed() -> None:
    async def signs_still(*_: Any) -> bool:
        return True

    swaps._signs_still = signs_still


def _what_has_not_settled_is_corrected() -> None:
    model_store.ModelStore.pass_door = lambda *_: None  # type: ignore[method-assign]
    real = corrections.confirmed
    acting.confirmed = lambda record, **more: real(record, **more | {"at_once": True})  # type: ignore[attr-defined]


def _every_daemon_adds_its_time() -> None:
    def added_ms(self: Any, record_id: str, before: Any) -> tuple[int, str]:
        last = self._looks.get(record_id)
        passed = 0 if last is None else round(1000 * (self._monotonic() - last.at))
        return min(passed, self._step_max_ms), self.name

    settling.Stopwatch.added_ms = added_ms  # type: ignore[method-assign]


def _what_lies_elsewhere_is_reclaimed() -> None:
    async def nowhere(*_: Any) -> dict[Any, Any]:
        return {}

    judging.Judging._elsewhere = nowhere  # type: ignore[method-assign]
    model_journal.ModelJournal._refuse_shared = lambda *_: None  # type: ignore[method-assign]


def _what_was_handed_out_is_paid_with() -> None:
    real, load = model_store.ModelStore.spendable, model_ledger.Ledger.load

    def spendable(self: Any, npub: str, mint_urls: Any, unit: str) -> Any:
        tokens = [token for token in self.tables.tokens.values() if isinstance(token, Token)]
        handed = [token for token in tokens if token.is_sent and token.npub == npub and token.mint_url in mint_urls]
        return (*(token for token in handed if token.status == "unspent"), *real(self, npub, mint_urls, unit))

    def as_change(self: Any, ids: Any) -> Any:
        found = load(self, ids)
        is_t1 = self.operation_id.endswith(":reserve")
        return [replace(token, transaction_type="change") if is_t1 else token for token in found]

    model_store.ModelStore.spendable = spendable  # type: ignore[method-assign]
    model_ledger.Ledger.load = as_change  # type: ignore[method-assign]


PLANTED: dict[str, Patch] = {
    "release on one signal": _release_on_one_signal,
    "release without a fence": _release_without_fence,
    "POST again after a lost answer": _repost_after_a_lost_answer,
    "PENDING taken for UNSPENT": _pending_is_taken_for_unspent,
    "an ambiguous answer taken for a refusal": _ambiguous_is_taken_for_refused,
    "counters used again": _counters_are_used_again,
    "T3 without the journal's move": _t3_without_the_journal,
    "change by position": _change_by_position,
    "change never restored": _change_is_never_restored,
    "a split that loses a proof": _a_split_loses_a_proof,
    "spent inputs given back": _spent_inputs_are_given_back,
    "a status without its audit entry": _a_status_without_its_audit_entry,
    "reserved whatever the status": _reserved_whatever_the_status,
    "HELD without an event": _a_held_melt_without_its_event,
    "the payment before the journal": _the_payment_before_the_journal,
    "a rotated keyset not noticed": _a_rotated_keyset_is_not_noticed,
    "a swap that is not the journal's": _a_swap_without_a_plan,
    "what has not settled is corrected": _what_has_not_settled_is_corrected,
    "every daemon adds its time": _every_daemon_adds_its_time,
    "what lies elsewhere is reclaimed": _what_lies_elsewhere_is_reclaimed,
    "what was handed out is paid with": _what_was_handed_out_is_paid_with,
}
"""Name to how to plant it. There is no way back: a process that has planted one is done."""
