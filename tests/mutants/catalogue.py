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
SETTLING: Final = ("tests/unit/test_settling.py",)
SETTLED: Final = ("tests/contract/test_settling_contract.py", "-k", "mongo")
LEFT_ALONE: Final = ("tests/unit/test_left_alone.py",)
MODE: Final = ("tests/integration/test_store_mode.py",)
OBSERVE: Final = ("tests/e2e/test_observe.py",)
INDEXES: Final = ("tests/integration/test_store_indexes.py",)
COUNTING: Final = ("tests/unit/test_survey.py", "tests/unit/test_beyond.py", "tests/unit/test_repair_rules.py")
READING: Final = ("tests/integration/test_store_reading.py",)
BESIDE: Final = ("tests/neighbour/test_observed.py",)
COMPANY: Final = ("tests/company",)
KEPT: Final = ("tests/contract/test_store_contract.py", "-k", "others or company or kept or gone")
STANDING: Final = ("tests/unit/test_standing.py", "tests/unit/test_watcher_nudge.py")
VERDICTS: Final = ("tests/unit/test_verdicts.py",)
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
        old="        return _contradiction(melt, EventType.QUOTE_UNPAID_INPUTS_SPENT, now, patience)\n",
        new="        pass\n",
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
        old="            case MeltState.RESERVED | MeltState.READY:\n                after = await self.never_sent(mint, melt)\n"
        "            case MeltState.SWAPPING:\n                after = await self._swapping(mint, melt)\n"
        "            case MeltState.MELTING | MeltState.PENDING | MeltState.HELD:\n",
        new="            case MeltState.RESERVED | MeltState.READY | MeltState.MELTING:\n"
        "                melt = await self._advance(melt, MeltState.PENDING) if melt.state is MeltState.MELTING else melt\n"
        "                after = await self.never_sent(mint, melt)\n"
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
        old="    if token.reservation is not None and context.reservation_live:\n",
        new="    if False:\n",
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
        old="            if held.token.status is not TokenStatus.UNSPENT or self._is_reserved(session, held.token):\n",
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
        old="                ending.spend(melt.inputs, SPENT)\n",
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
        old="(token.status, token.rev) != (item.expected_status, item.expected_rev) or token.mark != item.digest",
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
    Mutant(
        name="a melt's check marks spent what has not settled",
        file="melt/preflight.py",
        old="            at_once = record.needs_ms == 0 and one.verdict.action is Action.MARK_SPENT\n",
        new="            at_once = one.verdict.action is Action.MARK_SPENT\n",
        also=(
            "if at_once and confirmed(record, confirm_after_s=0) and await self.corrections.apply(one, record, actor):",
            "if at_once and await self.corrections.apply(one, record, actor, at_once=True):",
        ),
        suites=(LEFT_ALONE,),
    ),
    Mutant(
        name="a document with one spent proof is paid from with the others",
        file="melt/preflight.py",
        old="            if any(states[proof.y] is not MintState.UNSPENT for proof in token.proofs)\n",
        new="            if all(states[proof.y] is not MintState.UNSPENT for proof in token.proofs)\n",
        suites=(LEFT_ALONE,),
    ),
    Mutant(
        name="what was seen in a melt's way is not written down",
        file="melt/preflight.py",
        old='        records = await self.corrections.record(judged, asked_evidence("preflight", self.clock.now(), len(ys)))\n',
        new="        judged, records = [], ()\n",
        suites=(LEFT_ALONE,),
    ),
    Mutant(
        name="what was handed out is paid with",
        file="melt/store/tokens.py",
        old="            if not token.is_counted or normalise_mint_url",
        new="            if not (token.is_counted or token.is_sent) or normalise_mint_url",
        suites=(STORES,),
    ),
    Mutant(
        name="what was handed out is reserved",
        file="melt/store/melts.py",
        old="            if held.token.is_sent:\n",
        new="            if False:\n",
        suites=(STORES,),
    ),
    Mutant(
        name="what is split from a token that was handed out is its sender's again",
        file="melt/store/ledger.py",
        old="        return TransactionType.SENT if self.is_sent else TransactionType.CHANGE\n",
        new="        return TransactionType.CHANGE\n",
        suites=(STORES,),
    ),
    Mutant(
        name="what was handed out is released from pending",
        file="melt/drift.py",
        old="        case MintState.UNSPENT if token.is_sent:\n",
        new="        case MintState.UNSPENT if False:\n",
        suites=(DRIFT, LEFT_ALONE),
    ),
    Mutant(
        name="a redeemed token pages like stolen money",
        file="melt/settling.py",
        old="        if severity is Severity.CRITICAL or drift in NEVER_ALERTS:\n",
        new="        if severity is Severity.CRITICAL:\n",
        suites=(LEFT_ALONE, SETTLED),
    ),
    Mutant(
        name="the proofs of a document need not stand still",
        file="melt/store/documents.py",
        old='    "status",\n    "proofs",\n    "transaction_type",\n',
        new='    "status",\n    "transaction_type",\n',
        suites=(SETTLED,),
    ),
    Mutant(
        name="the wallet of a document need not stand still",
        file="melt/store/documents.py",
        old='    "wallet_id",\n    "mint_url",\n',
        new='    "mint_url",\n',
        suites=(SETTLED,),
    ),
    Mutant(
        name="any field has to stand still",
        file="melt/store/documents.py",
        old="    chosen: Document = {name: document[name] for name in STANDS_STILL if name in document}\n",
        new="    chosen: Document = dict(document)\n",
        suites=(SETTLED,),
    ),
    Mutant(
        name="watched time is counted by the wall clock",
        file="melt/store/mongo.py",
        old="clock.monotonic, self._settle.step_max_ms)",
        new="lambda: clock.now().timestamp(), self._settle.step_max_ms)",
        suites=(SETTLED,),
    ),
    Mutant(
        name="a correction does not pass the door",
        file="melt/store/findings.py",
        old="        pass_door(self._c, session, correction.warrant, token, self._settle)\n",
        new="",
        suites=(SETTLED,),
    ),
    Mutant(
        name="a reclaim does not pass the door",
        file="melt/store/melts.py",
        old="                pass_door(self._c, session, warrant, token, self._settle)\n",
        new="",
        suites=(SETTLED,),
    ),
    Mutant(
        name="the door lets a document pass that was touched",
        file="melt/store/door.py",
        old="    if token.id != warrant.token_id or token.mark != warrant.mark:\n",
        new="    if token.id != warrant.token_id:\n",
        suites=(SETTLED,),
    ),
    Mutant(
        name="the door lets pass what was settled for another document",
        file="melt/store/door.py",
        old='    return watched.get("mark") == token.mark and int(',
        new="    return int(",
        suites=(SETTLED,),
    ),
    Mutant(
        name="the door lets a record pass that is over",
        file="melt/store/door.py",
        old='    if record is None or DiscrepancyState(record["state"]) not in OPEN_DISCREPANCY:\n',
        new="    if record is None:\n",
        also=("OPEN_DISCREPANCY, Action, DiscrepancyState", "Action"),
        suites=(SETTLED,),
    ),
    Mutant(
        name="the door lets another occurrence pass",
        file="melt/store/door.py",
        old='    if int(record["occurrence"]) != warrant.occurrence:\n',
        new="    if False:\n",
        suites=(SETTLED,),
    ),
    Mutant(
        name="a person's word not to wait is not heard",
        file="melt/store/door.py",
        old="    if warrant.at_once or _has_settled(record, token, settle):\n",
        new="    if _has_settled(record, token, settle):\n",
        suites=(SETTLED,),
    ),
    Mutant(
        name="nothing is waited for",
        file="melt/store/door.py",
        old="    if warrant.at_once or _has_settled(record, token, settle):\n",
        new="    if True:\n",
        suites=(SETTLED,),
    ),
    Mutant(
        name="every planned correction is one that a person said not to wait for",
        file="melt/reconcile/acting.py",
        old="        done = await self._correct_safely(mint, one, record, actor, note, at_once=at_once)\n",
        new="        done = await self._correct_safely(mint, one, record, actor, note, at_once=True)\n",
        suites=(LEFT_ALONE,),
    ),
    Mutant(
        name="pending documents are released as soon as others are corrected",
        file="melt/settling.py",
        old="        grace_s = self.pending_grace_s if action is Action.RELEASE and self.waits else 0.0\n",
        new="        grace_s = 0.0\n",
        suites=(SETTLING, SETTLED),
    ),
    Mutant(
        name="a document that moved goes on settling",
        file="melt/store/settling.py",
        old="            moved = mark != before.mark\n",
        new="            moved = False\n",
        suites=(SETTLED,),
    ),
    Mutant(
        name="another document is the same occurrence",
        file="melt/store/findings.py",
        old="    if seen.anew and state is not DiscrepancyState.ACKNOWLEDGED:\n",
        new="    if False:\n",
        suites=(SETTLED,),
    ),
    Mutant(
        name="what the mint says otherwise goes on settling",
        file="melt/settling.py",
        old="    says_otherwise = finding.whole and set(ys) != {str(y) for y in finding.ys}\n",
        new="    says_otherwise = False\n",
        suites=(SETTLING,),
    ),
    Mutant(
        name="a partial look begins anew",
        file="melt/settling.py",
        old="    says_otherwise = finding.whole and set(ys) != {str(y) for y in finding.ys}\n",
        new="    says_otherwise = set(ys) != {str(y) for y in finding.ys}\n",
        suites=(SETTLING,),
    ),
    Mutant(
        name="a partial look takes the words of a whole one",
        file="melt/store/findings.py",
        old="    if seen.keeps_words:\n",
        new="    if False:\n",
        suites=(SETTLED,),
    ),
    Mutant(
        name="what turns from good to gone has settled already",
        file="melt/settling.py",
        old="moved=anew or first or says_otherwise or is_gone_now,",
        new="moved=anew or first or says_otherwise,",
        suites=(SETTLING,),
    ),
    Mutant(
        name="a second daemon adds its time too",
        file="melt/settling.py",
        old="        if before.watcher == self.name:\n",
        new="        if before.watcher is not None:\n",
        suites=(SETTLING,),
    ),
    Mutant(
        name="a second daemon takes over at first sight",
        file="melt/settling.py",
        old="        return 0, self.name if passed_ms >= self._step_max_ms else before.watcher\n",
        new="        return 0, self.name\n",
        suites=(SETTLING,),
    ),
    Mutant(
        name="nobody goes on counting for a daemon that is gone",
        file="melt/settling.py",
        old="        return 0, self.name if passed_ms >= self._step_max_ms else before.watcher\n",
        new="        return 0, before.watcher\n",
        suites=(SETTLING,),
    ),
    Mutant(
        name="a look adds whatever has passed",
        file="melt/settling.py",
        old="            return min(passed_ms, self._step_max_ms), self.name\n",
        new="            return passed_ms, self.name\n",
        suites=(SETTLING,),
    ),
    Mutant(
        name="a look whose commit was not heard of is counted twice",
        file="melt/settling.py",
        old="round(1000 * (now - last.at))) if stands and last is not None else 0\n",
        new="round(1000 * (now - last.at))) if last is not None else 0\n",
        suites=(SETTLING,),
    ),
    Mutant(
        name="those who only look pass for the one that counts",
        file="melt/settling.py",
        old="            looks=self.looks + (added_ms > 0 or watcher != self.watcher),\n",
        new="            looks=self.looks + 1,\n",
        suites=(SETTLING,),
    ),
    Mutant(
        name="what never comes to rest is told to nobody",
        file="melt/settling.py",
        old="        return open_ms >= UNSETTLED_FACTOR * self.needs_ms(action)\n",
        new="        return False\n",
        suites=(SETTLING,),
    ),
    Mutant(
        name="what has settled is never carried out",
        file="daemon/settle.py",
        old="        return record.watched_ms + self._policy.step_max_ms // 2 >= record.needs_ms\n",
        new="        return False\n",
        suites=(LEFT_ALONE,),
    ),
    Mutant(
        name="a record outlives its document's question",
        file="daemon/settle.py",
        old="                moved[record.token_id] = None\n",
        new="                pass\n",
        suites=(LEFT_ALONE,),
    ),
    Mutant(
        name="a record outlives its document",
        file="daemon/settle.py",
        old="        await self._end([record for record in records if record.token_id not in marks])\n",
        new="",
        suites=(LEFT_ALONE,),
    ),
    Mutant(
        name="open records are not watched",
        file="daemon/settle.py",
        old="            await self._threads(partial(self._desk.settling.watch, looked))\n",
        new="            pass\n",
        suites=(LEFT_ALONE,),
    ),
    Mutant(
        name="a document is split while somebody pays with another of its proofs",
        file="melt/reconcile/acting.py",
        old="        if not self._policy.shares:\n",
        new="        if True:\n",
        suites=(LEFT_ALONE,),
    ),
    Mutant(
        name="a proof that was kept unchanged is written off by its spent copy",
        file="melt/reconcile/judging.py",
        old="                elsewhere=elsewhere.get(token.id, frozenset()),\n",
        new="",
        suites=(LEFT_ALONE,),
    ),
    Mutant(
        name="what was handed out does not count as living elsewhere",
        file="melt/reconcile/judging.py",
        old="    return holder.is_sent or holder.is_counted\n",
        new="    return holder.is_counted\n",
        suites=(LEFT_ALONE,),
    ),
    Mutant(
        name="a proof that another document holds is swapped away from it",
        file="melt/store/melts.py",
        old="            self._refuse_shared(session, entry)\n",
        new="",
        suites=(SETTLED,),
    ),
    Mutant(
        name="a sighting by another instance's clock counts",
        file="melt/recovery/decide.py",
        old="        changes |= {name: None for name, since in sightings.items() if since is not None}\n",
        new="",
        suites=(DECIDE,),
    ),
    Mutant(
        name="the journal does not keep its inputs' proofs",
        file="melt/store/journal.py",
        old='        document["proofs"] = list(proofs)\n    if melt.state',
        new='        document["proofs"] = []\n    if melt.state',
        suites=(KEPT, COMPANY),
    ),
    Mutant(
        name="the proofs stay in the journal after the end",
        file="melt/store/journal.py",
        old='        gone["proofs"] = ""\n',
        new="        pass\n",
        suites=(KEPT, COMPANY),
    ),
    Mutant(
        name="T3 writes a document that carries the reservation no more",
        file="melt/store/altered.py",
        old="if not isinstance(found, Held) or not self.ledger.is_ours(found.token):\n",
        new="if not isinstance(found, Held):\n",
        suites=(KEPT, COMPANY),
    ),
    Mutant(
        name="a document that others have failed stops T3",
        file="melt/model/words.py",
        old="    TokenStatus.FAILED: frozenset({TokenStatus.SPENT, TokenStatus.UNSPENT}),\n",
        new="",
        suites=(KEPT, COMPANY),
    ),
    Mutant(
        name="a deleted document stops T3",
        file="melt/store/altered.py",
        old="for token_id, found in self.ledger.find(wanted).items()]",
        new="for token_id, found in {h.token.id: h for h in self.ledger.load(wanted)}.items()]",
        suites=(KEPT, COMPANY),
    ),
    Mutant(
        name="proofs that others have dropped are not put back",
        file="melt/store/altered.py",
        old="        self._put_back(lost)\n",
        new="",
        suites=(KEPT, COMPANY),
    ),
    Mutant(
        name="proofs that lie in another document are put back as well",
        file="melt/store/altered.py",
        old="if proof.secret not in taken]",
        new="if taken is not None]",
        suites=(KEPT, COMPANY),
    ),
    Mutant(
        name="what others did is not written down",
        file="melt/store/altered.py",
        old="    write_findings(collections, session, findings, now, ",
        new="    write_findings(collections, session, [], now, ",
        suites=(KEPT,),
    ),
    Mutant(
        name="a document that others have taken is paid with",
        file="melt/saga/forward.py",
        old="            return await self._leave(mint, melt)\n        proofs",
        new="        proofs",
        suites=(COMPANY,),
    ),
    Mutant(
        name="the claim is dropped by inputs_gone",
        file="melt/store/journal.py",
        old='    if new.state is MeltState.RELEASED:\n        gone["claim"] = ""\n',
        new='    if new.state is MeltState.RELEASED or new.inputs_gone:\n        gone["claim"] = ""\n',
        suites=(KEPT, COMPANY, HELD),
    ),
    Mutant(
        name="an amount is called paid although nobody knows",
        file="melt/model/journal.py",
        old="        if self.is_open or self.inputs_gone:\n            return None\n",
        new="        if self.is_open:\n            return None\n",
        suites=(KEPT, COMPANY),
    ),
    Mutant(
        name="inputs that are gone after a failed payment are released",
        file="melt/recovery/decide.py",
        old="_NEVER_TRIED = frozenset({PostOutcome.NOT_SENT, PostOutcome.REFUSED})",
        new="_NEVER_TRIED = frozenset({PostOutcome.NOT_SENT, PostOutcome.REFUSED, PostOutcome.FAILED, PostOutcome.AMBIGUOUS})",
        suites=(DECIDE, COMPANY),
    ),
    Mutant(
        name="settled on nothing but a person's word",
        file="melt/recovery/verdicts.py",
        old="    if paid or sight.change_signed:\n",
        new="    if True:\n",
        suites=(VERDICTS, HELD),
    ),
    Mutant(
        name="a decision while the POST may still run",
        file="melt/recovery/verdicts.py",
        old="    if sight.may_run:\n",
        new="    if False:\n",
        suites=(VERDICTS,),
    ),
    Mutant(
        name="a lost race is swallowed, and looked at again at once",
        file="melt/saga/watcher.py",
        old="        except LostRace as error:\n            refused = error\n",
        new="        except LostRace:\n            pass\n",
        suites=(STANDING,),
    ),
    Mutant(
        name="nothing tells of an entry that stands still",
        file="melt/saga/standing.py",
        old="        refused = place.equal >= self._policy.refusals\n",
        new="        return None\n",
        suites=(STANDING,),
    ),
    Mutant(
        name="to and fro counts as progress",
        file="melt/saga/standing.py",
        old="        if melt.state in place.visited:\n            return False\n",
        new="        if melt.state in place.visited and len(place.visited) < 2:\n            return False\n",
        suites=(STANDING,),
    ),
    Mutant(
        name="a stuck entry is asked about at the usual pace",
        file="melt/saga/watcher.py",
        old="        if stuck_looks := self._standing.looks(melt.id):\n",
        new="        if stuck_looks := 0:\n",
        suites=(STANDING,),
    ),
    Mutant(
        name="hints may ask a mint without end",
        file="melt/saga/watcher.py",
        old="            soonest = max(self._clock.monotonic(), due.looked_at + self._policy.look_min_s)\n",
        new="            soonest = self._clock.monotonic()\n",
        suites=(("tests/unit/test_watcher_nudge.py",),),
    ),
    Mutant(
        name="the mode is read in a writing transaction and not written",
        file="melt/store/mode.py",
        old='if self._c.mode.update_one(open_for, {"$inc": {"writes": 1}}, session=session).modified_count != 1:',
        new="if self._c.mode.find_one(open_for, session=session) is None:",
        suites=(MODE,),
    ),
    Mutant(
        name="the mode is read once, at the start",
        file="melt/store/mode.py",
        old='        gate = f"gate:{random.randrange(GATES)}"',
        new="        if self.setting_mode is not Mode.OBSERVE:\n            return\n"
        '        gate = f"gate:{random.randrange(GATES)}"',
        suites=(MODE,),
    ),
    Mutant(
        name="a reclaim begins while meltd observes",
        file="melt/store/melts.py",
        old="            self._pass_gate(session, finishing=False)\n            self._require_warrant",
        new="            self._require_warrant",
        suites=(MODE,),
    ),
    Mutant(
        name="entries that are open are left behind by a switch",
        file="melt/store/mode.py",
        old="            if present.mode is not Mode.ENDING or self._open_entries_in(session):\n",
        new="            if present.mode is not Mode.ENDING:\n",
        suites=(MODE,),
    ),
    Mutant(
        name="something new begins on the way to observe",
        file="melt/store/mode.py",
        old="_BEGINS: Final = (Mode.CORRECT.value,)",
        new="_BEGINS: Final = (Mode.CORRECT.value, Mode.ENDING.value)",
        suites=(MODE,),
    ),
    Mutant(
        name="somebody else's documents are corrected from the first start on",
        file="melt/store/mode.py",
        old="            return Mode.OBSERVE, False, ",
        new="            return Mode.CORRECT, False, ",
        suites=(MODE,),
    ),
    Mutant(
        name="the setting overrules what a person has chosen",
        file="melt/store/mode.py",
        old='            if head is not None and head["chosen"]:\n',
        new='            if head is not None and head["chosen"] and setting is None:\n',
        suites=(MODE,),
    ),
    Mutant(
        name="indexes are made while meltd observes",
        file="melt/store/mongo.py",
        old="        changes = more_careful(choice.mode, mode) is Mode.CORRECT\n",
        new="        changes = True\n",
        suites=(MODE, OBSERVE),
    ),
    Mutant(
        name="a survey takes kept copies in spent documents for a double count",
        file="melt/survey.py",
        old="    live = [kind for kind in kinds if not is_history(kind.status)]\n",
        new="    live = list(kinds)\n",
        suites=(COUNTING,),
    ),
    Mutant(
        name="a copy in a spent document is a duplicate",
        file="melt/beyond/duplicates.py",
        old="            and not holder.is_history\n",
        new="",
        suites=(COUNTING,),
    ),
    Mutant(
        name="the most final status of a proof counts, not the live one",
        file="melt/store/tokens.py",
        old='_COUNTED_FIRST = ("pending", "unspent", SENT_LINE, "spent", "failed")',
        new='_COUNTED_FIRST = ("spent", "failed", SENT_LINE, "pending", "unspent")',
        suites=(READING,),
    ),
    Mutant(
        name="the unique index covers every document",
        file="melt/store/indexes.py",
        old='    "status": {"$in": sorted(status.value for status in LIVE_STATUSES)},\n',
        new="",
        suites=(INDEXES,),
    ),
    Mutant(
        name="two pending documents without proofs collide under the unique index",
        file="melt/store/indexes.py",
        old='    "proofs.secret": {"$exists": True},\n}',
        new="}",
        suites=(INDEXES,),
    ),
    Mutant(
        name="the unique index is made without a yes",
        file="melt/store/schema.py",
        old='        return collections.wishes.find_one({"_id": UNIQUE_PROOFS_WISH}, {"_id": 1}) is not None\n',
        new="        return True\n",
        suites=(INDEXES,),
    ),
    Mutant(
        name="a journal whose unique index is none is taken as it is",
        file="melt/store/indexes.py",
        old='        if index.unique and not (found is not None and found.get("unique")):\n',
        new="        if index.unique and found is None:\n",
        suites=(INDEXES,),
    ),
    Mutant(
        name="an index of the wallet's own program is made under another name",
        file="melt/store/indexes.py",
        old='    name="transaction_id_1",\n',
        new='    name="meltd_transactions",\n',
        suites=(INDEXES,),
    ),
    Mutant(
        name="an embedded store makes indexes under traffic",
        file="melt/store/mode.py",
        old="        allowed = make and not self._indexes.embedded and self._may_change()\n",
        new="        allowed = make and self._may_change()\n",
        suites=(INDEXES,),
    ),
    Mutant(
        name="the unique index stands for as long as it is remembered",
        file="melt/store/indexes.py",
        old="            unique_proofs=known_duplicates == 0 and self._unique_is_listed(),\n",
        new="            unique_proofs=self.report.unique_proofs or (known_duplicates == 0 and self._unique_is_listed()),\n",
        suites=(INDEXES,),
    ),
    Mutant(
        name="a repair empties a document all of whose proofs live elsewhere",
        file="melt/store/repairs.py",
        old="        if not kept and step.to_status is TokenStatus.SPENT:\n",
        new="        if False:\n",
        suites=(BESIDE,),
    ),
)
