"""
Bugs that have cost other services money, planted here one at a time: each must be killed by a test.

A mutant is a replacement of one text, which stands exactly once in its file, by another. ``suites`` are the tests that
should see it, the cheapest first; the runner stops at the first that fails.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

UNIT: Final = (
    "tests/unit",
    "--ignore=tests/unit/test_mutants.py",
    "-k",
    "not embedded and not guard and not cli and not supervisor and not schedule",
)
DECIDE: Final = ("tests/unit/test_decide.py",)
DRIFT: Final = ("tests/unit/test_drift.py", "tests/unit/test_corrections.py")
SELECTION: Final = ("tests/unit/test_selection.py", "tests/properties")
SIGNATURES: Final = ("tests/unit/test_signatures.py",)
STORE: Final = (
    "tests/unit/test_melt_accounting_bug_fix.py",
    "tests/unit/test_token_status_management.py",
    "tests/integration/test_store_melts.py",
    "tests/integration/test_store_findings.py",
    "tests/integration/test_store_transactions.py",
)
FLOW: Final = ("tests/e2e/test_melt_operation_flow.py",)
SWEEP: Final = ("tests/e2e/test_sweep_flow.py",)
TWO: Final = ("tests/e2e/test_two_daemons.py",)
SIMULATION: Final = ("tests/properties/test_simulation.py", "-k", "no_seed_breaks")
HELD: Final = ("tests/e2e/test_held_melts.py",)
GUARDS: Final = ("tests/unit/test_sentinels.py",)
HOSTILE: Final = ("tests/e2e/test_hostile_mints.py",)
PLANS: Final = ("tests/unit/test_plan_items.py", "tests/e2e/test_plans_flow.py")
RESTORE: Final = ("tests/integration/test_restore.py",)
STORES: Final = ("tests/contract/test_store_contract.py",)
MINT: Final = ("tests/contract/test_mint_hostile.py", "tests/contract/test_mint_real.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One planted bug."""

    name: str
    file: str
    old: str
    new: str
    suites: tuple[tuple[str, ...], ...]
    also: tuple[str, str] | None = None
    """A second replacement in the same file, where a check is held twice."""


MUTANTS: Final = (
    Mutant(
        name="an ambiguous answer is taken for a refusal",
        file="melt/saga/forward.py",
        old="return PostOutcome.AMBIGUOUS, code",
        new="return PostOutcome.REFUSED, code",
        suites=(SIMULATION, FLOW),
    ),
    Mutant(
        name="an ambiguous answer is answered by a second POST",
        file="melt/saga/forward.py",
        old='        self.telemetry.melt_phase(mint.alias, "pay", self.clock.monotonic() - started)\n',
        new='        self.telemetry.melt_phase(mint.alias, "pay", self.clock.monotonic() - started)\n'
        "        if isinstance(answer, Ambiguous | Refused):\n"
        "            answer = await mint.melt(melting.quote_id, proofs, blanks, timeout_s=self.policy.post_timeout_s)\n",
        suites=(SIMULATION, FLOW),
    ),
    Mutant(
        name="the POST leaves before the journal says so",
        file="melt/saga/forward.py",
        old="                melt, MeltState.MELTING, post=PostOutcome.IN_FLIGHT, posted_at=self.clock.now(), input_fee=fee\n",
        new="                melt, MeltState.MELTING, input_fee=fee\n",
        suites=(SIMULATION, FLOW),
    ),
    Mutant(
        name="released on one signal",
        file="melt/recovery/decide.py",
        old="    if melt.clear_since is None:\n        return NoteClear()\n",
        new="    if melt.clear_since is None:\n        return Release(fence=False, spent=())\n",
        suites=(DECIDE, SIMULATION),
    ),
    Mutant(
        name="released when the quote has expired",
        file="melt/recovery/decide.py",
        old="    if quote is None:\n        return Wait(",
        new="    if melt.quote_expiry is not None and melt.quote_expiry < now.timestamp() and quote is None:\n"
        "        return Release(fence=False, spent=())\n"
        "    if quote is None:\n        return Wait(",
        suites=(DECIDE, SIMULATION),
    ),
    Mutant(
        name="released without a fence after a lost answer",
        file="melt/recovery/decide.py",
        old="return Release(fence=fence, spent=spent)",
        new="return Release(fence=False, spent=spent)",
        suites=(DECIDE, SIMULATION, FLOW),
    ),
    Mutant(
        name="PENDING is taken for UNSPENT",
        file="melt/recovery/decide.py",
        old="    if MintState.PENDING in seen:\n        return Inputs.PENDING\n",
        new="    seen = {MintState.UNSPENT if state is MintState.PENDING else state for state in seen}\n",
        suites=(DECIDE, SIMULATION),
    ),
    Mutant(
        name="the quote is asked in the middle of our own payment",
        file="melt/recovery/decide.py",
        old="    return (now - since).total_seconds() >= patience.post_grace_s",
        new="    return True",
        suites=(DECIDE, SIMULATION),
    ),
    Mutant(
        name="UNPAID with spent inputs is released",
        file="melt/recovery/decide.py",
        old="    if inputs is Inputs.SPENT:\n        return _contradiction(melt, EventType.QUOTE_UNPAID_INPUTS_SPENT, now, patience)\n",
        new="",
        suites=(DECIDE, SIMULATION),
    ),
    Mutant(
        name="a held melt is released by itself",
        file="melt/recovery/decide.py",
        old='return Resume() if _held_for_want_of_words(melt) else Wait(reason="held: a person decides")',
        new="pass",
        suites=(DECIDE, SIMULATION),
    ),
    Mutant(
        name="a payment that may have left is taken for one that was never sent",
        file="melt/recovery/follow.py",
        old="            case MeltState.RESERVED | MeltState.READY:\n                after = await self._never_sent(melt)\n"
        "            case MeltState.SWAPPING:\n                after = await self._swapping(mint, melt)\n"
        "            case MeltState.MELTING | MeltState.PENDING | MeltState.HELD:\n",
        new="            case MeltState.RESERVED | MeltState.READY | MeltState.MELTING:\n"
        "                melt = await self._advance(melt, MeltState.PENDING) if melt.state is MeltState.MELTING else melt\n"
        "                after = await self._never_sent(melt)\n"
        "            case MeltState.SWAPPING:\n                after = await self._swapping(mint, melt)\n"
        "            case MeltState.PENDING | MeltState.HELD:\n",
        suites=(SIMULATION, FLOW),
    ),
    Mutant(
        name="a wrong preimage is believed",
        file="melt/recovery/preimages.py",
        old="    return (Preimage.IS_HASH if text == payment_hash else Preimage.WRONG), None\n",
        new="    return Preimage.PROVES, text\n",
        suites=(SIMULATION, HELD, ("tests/faults",)),
    ),
    Mutant(
        name="change is matched by position",
        file="melt/recovery/signatures.py",
        old="                and outputs.match(plan, i, signature.c_, public_key, dleq)\n",
        new="",
        also=(
            (
                "plan, index, signature.amount, signature.c_, public_key, dleq, keyset_id=signature.keyset_id\n"
                "            )\n        except MintUntrusted:\n            # An amount"
            ),
            (
                "plan, index, signature.amount, signature.c_, public_key, None, keyset_id=signature.keyset_id\n"
                "            )\n        except MintUntrusted:\n            # An amount"
            ),
        ),
        suites=(SIGNATURES, SIMULATION),
    ),
    Mutant(
        name="change that is missing from the answer is never fetched",
        file="melt/recovery/signatures.py",
        old="    restored, unproved = await claim_by_restore(mint, outputs, melt.blanks, melt.unit)\n",
        new="    restored, unproved = {}, {}\n",
        suites=(SIGNATURES, SIMULATION),
    ),
    Mutant(
        name="a shortfall is swallowed",
        file="melt/recovery/signatures.py",
        old="    shortfall = max(0, owed_at_least - amount)\n",
        new="    shortfall = 0\n",
        suites=(SIGNATURES, SIMULATION),
    ),
    Mutant(
        name="a swap that somebody else's spending stopped is taken for done",
        file="melt/recovery/swaps.py",
        old="    if spent or pending:\n        return SwapTaken(spent=spent, pending=pending)\n",
        new="",
        suites=(("tests/unit/test_swaps.py",), SIMULATION),
    ),
    Mutant(
        name="selection forgets the input fees",
        file="melt/selection.py",
        old="    worth = [1000 * c.amount - ppk[c.keyset_id] for c in pool]\n",
        new="    worth = [1000 * c.amount for c in pool]\n",
        suites=(SELECTION, FLOW),
    ),
    Mutant(
        name="selection under-pays by one",
        file="melt/selection.py",
        old="    target = 1000 * need\n",
        new="    target = 1000 * (need - 1)\n",
        suites=(SELECTION, FLOW),
    ),
    Mutant(
        name="one blank output too few",
        file="melt/selection.py",
        old="    return max(1, (overpaid - 1).bit_length())\n",
        new="    return max(1, (overpaid - 1).bit_length() - 1)\n",
        suites=(SELECTION, FLOW),
    ),
    Mutant(
        name="spent proofs are only watched",
        file="melt/drift.py",
        old="                DriftType.DB_UNSPENT_MINT_SPENT,\n                Action.MARK_SPENT,\n",
        new="                DriftType.DB_UNSPENT_MINT_SPENT,\n                Action.WATCH,\n",
        suites=(DRIFT, FLOW),
    ),
    Mutant(
        name="sent ecash is taken back",
        file="melt/drift.py",
        old="UNCLAIMED_TYPES: Final = frozenset({TransactionType.SENT.value, TransactionType.MELTED.value})",
        new="UNCLAIMED_TYPES: Final = frozenset({TransactionType.MELTED.value})",
        suites=(DRIFT, SWEEP),
    ),
    Mutant(
        name="a live melt's documents are released by the sweep",
        file="melt/drift.py",
        old="        if context.reservation_live:\n",
        new="        if False:\n",
        suites=(DRIFT, SWEEP),
    ),
    Mutant(
        name="pending documents are released without a grace time",
        file="melt/drift.py",
        old="            old_enough = since is None or (context.now - since).total_seconds() >= context.pending_grace_s\n",
        new="            old_enough = True\n",
        suites=(DRIFT, SWEEP),
    ),
    Mutant(
        name="value comes back after one sighting",
        file="melt/corrections.py",
        old="    if discrepancy.action is Action.MARK_SPENT:\n        return True\n",
        new="    return True\n",
        suites=(DRIFT, SWEEP),
    ),
    Mutant(
        name="a mint that lies to the sentinels is believed",
        file="melt/mint/client.py",
        old="        if wrong:\n",
        new="        if False:\n",
        suites=(MINT, SWEEP),
    ),
    Mutant(
        name="what a mint has forgotten is taken back",
        file="melt/sentinels.py",
        old="        if not once:\n",
        new="        if True:\n",
        suites=(GUARDS, HOSTILE),
    ),
    Mutant(
        name="a regression ends with any good answer",
        file="melt/sentinels.py",
        old="        known.failed = (known.failed or known.memory.regressed[:FAILED_MAX]) if regressed else ()\n",
        new="        known.failed = ()\n",
        suites=(GUARDS, HOSTILE),
    ),
    Mutant(
        name="a melt is begun at a mint that is not believed",
        file="melt/saga/engine.py",
        old="        if distrusted is not None:\n",
        new="        if False:\n",
        suites=(HOSTILE,),
    ),
    Mutant(
        name="a page of which everything reads spent is marked",
        file="melt/reconcile/acting.py",
        old="            if one.verdict.action is Action.MARK_SPENT and implausible is not None:\n",
        new="            if False:\n",
        suites=(HOSTILE,),
    ),
    Mutant(
        name="value is taken back from a mint that has never said spent",
        file="melt/reconcile/acting.py",
        old="            or (one.verdict.action is Action.RECLAIM and not self._sentinels.is_proven(one.mint))\n",
        new="",
        suites=(HOSTILE,),
    ),
    Mutant(
        name="a proof is reserved twice",
        file="melt/store/melts.py",
        old="            if held.token.status is not TokenStatus.UNSPENT or held.token.reservation is not None:\n",
        new="            if held.token.status is TokenStatus.SPENT:\n",
        suites=(STORE, FLOW),
    ),
    Mutant(
        name="the journal is moved whatever its revision",
        file="melt/store/melts.py",
        old='        present = {"_id": str(melt.id), "state": str(melt.state), "rev": melt.rev}\n',
        new='        present = {"_id": str(melt.id)}\n',
        suites=(STORE, SIMULATION),
    ),
    Mutant(
        name="counters are given out twice",
        file="melt/store/melts.py",
        old='                {"$inc": {"next": len(amounts)}},\n',
        new='                {"$inc": {"next": max(1, len(amounts) - 1)}},\n',
        suites=(STORE, FLOW),
    ),
    Mutant(
        name="a payment hash may be paid under two keys",
        file="melt/store/journal.py",
        old="    if melt.state is not MeltState.RELEASED and melt.payment_hash is not None:\n",
        new="    if False:\n",
        suites=(STORE, FLOW),
    ),
    Mutant(
        name="T3 leaves the journal where it was",
        file="melt/store/atomic.py",
        old="                self._move(session, melt, MeltState.SETTLED, changes, mark, now)\n            return _result(ledger)",
        new="            return _result(ledger)",
        suites=(STORE, FLOW),
    ),
    Mutant(
        name="consumed proofs stay unspent",
        file="melt/store/atomic.py",
        old="                self._spend(ledger, melt, melt.inputs, SPENT, spent_is_fine=True)\n",
        new="                pass\n",
        suites=(STORE, FLOW),
    ),
    Mutant(
        name="a split loses a proof",
        file="melt/store/ledger.py",
        old="        self.entries.append(entry)\n        return rest\n",
        new="        self.entries.append(entry)\n"
        "        if rest is not None and len(rest.proofs) > 1:\n"
        "            rest = type(rest)(**{**{f: getattr(rest, f) for f in rest.__dataclass_fields__}, 'proofs': rest.proofs[1:]})\n"
        "        return rest\n",
        suites=(STORE, FLOW),
    ),
    Mutant(
        name="a correction is applied to a document that has moved on",
        file="melt/store/findings.py",
        old="        if token.status is not correction.expected_status or token.rev != correction.expected_rev:\n",
        new="        if False:\n",
        suites=(STORE,),
    ),
    Mutant(
        name="a status change without its audit entry",
        file="melt/store/ledger.py",
        old="        self.entries.append(entry)\n        return rest\n",
        new="        return rest\n",
        suites=(STORE, FLOW),
    ),
    Mutant(
        name="an unknown commit runs the whole callback again",
        file="melt/store/transactions.py",
        old='            if error.has_error_label("UnknownTransactionCommitResult") and not expired and _pause(attempt, deadline):\n'
        "                continue\n",
        new='            if error.has_error_label("UnknownTransactionCommitResult") and not expired and _pause(attempt, deadline):\n'
        "                return False\n",
        suites=(STORE,),
    ),
    Mutant(
        # To forget the look at the key alone changes nothing: the claim on the invoice and the unique key stand behind it.
        name="a request that came first elsewhere is refused as its own duplicate",
        file="melt/saga/engine.py",
        old="            if earlier is None or earlier.request_digest != digest:\n                raise\n",
        new="            raise\n",
        suites=(TWO,),
    ),
    Mutant(
        name="another body under the same key is answered with the first melt",
        file="melt/saga/engine.py",
        old="        if earlier.request_digest != digest:\n",
        new="        if False:\n",
        suites=(FLOW,),
    ),
    Mutant(
        name="an instance that lives is robbed of its melts",
        file="melt/saga/watcher.py",
        old="        return now - since >= self._policy.lease_s\n",
        new="        return True\n",
        suites=(SIMULATION, TWO),
    ),
    Mutant(
        name="a stale holder of a lease may write",
        file="melt/store/core.py",
        old='{"$inc": {"writes": 1}}, session=session).modified_count != 1:',
        new='{"$inc": {"writes": 1}}, session=session).modified_count > 1:',
        suites=(STORES,),
    ),
    Mutant(
        name="a plan is applied to a document that has moved on",
        file="melt/plan_items.py",
        old="(token.status, token.rev) != (item.expected_status, item.expected_rev) or version_digest(token) != item.digest",
        new="False",
        suites=(PLANS,),
    ),
    Mutant(
        name="what is spent at the mint is restored",
        file="melt/restore/judging.py",
        old="one for one in signed if one.y in absent and (states is None or states.get(one.y) is MintState.UNSPENT)",
        new="one for one in signed if one.y in absent",
        suites=(RESTORE,),
    ),
)
