"""
Acting on verdicts: write them down, and change what the rule lets change (DESIGN section 5).

Used by the preflight of a melt and by reconciliation alike, so that both leave the same records. A correction carries
the status and ``rev`` that it was decided on; where the document moved on meanwhile it does nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from melt.model import Action, Correction, DiscrepancyState, Finding, TokenStatus, Warrant

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from melt.model import Actor, Discrepancy, Keyset, KeysetId, MintAlias, MintState, Token, Verdict, Y
    from melt.ports import Store, StoreThreads, Telemetry

_NEW_STATUS = {Action.MARK_SPENT: TokenStatus.SPENT, Action.RELEASE: TokenStatus.UNSPENT}


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A verdict with the document that it is about."""

    token: Token
    verdict: Verdict
    mint: MintAlias
    unit: str
    evidence: Mapping[str, str | int | bool | None] = field(default_factory=dict)
    """What was seen of it besides the verdict; never a secret (I10)."""
    whole: bool = True
    """Whether the mint was asked about every proof of the document."""


def unit_of(token: Token, keysets: Mapping[KeysetId, Keyset]) -> str:
    """The unit of the first of the token's keysets that the mint lists; ``sat`` where it lists none of them."""
    for proof in token.proofs:
        keyset = keysets.get(proof.keyset_id)
        if keyset is not None:
            return keyset.unit
    return "sat"


def mint_said(ys: Iterable[Y], states: Mapping[Y, MintState]) -> str:
    """What the mint said about these proofs: ``"2 SPENT, 1 UNSPENT"``."""
    counts = Counter("not asked" if (state := states.get(y)) is None else state.value for y in ys)
    return ", ".join(f"{number} {state}" for state, number in sorted(counts.items())) or "not asked"


def asked_evidence(seen_by: str, at: datetime, batch: int) -> dict[str, str | int | bool | None]:
    """
    Who looked, when, and at how many proofs in one answer of the mint (none: it was not asked).

    The sentinels have passed where there is an answer: one that fails ends the look before anything is recorded (I6).
    """
    return {
        "seen_by": seen_by,
        "asked_at": at.isoformat(timespec="milliseconds"),
        "batch": batch,
        "sentinels": "passed" if batch else "not asked",
    }


def finding_of(judged: Judged, evidence: Mapping[str, str | int | bool | None]) -> Finding:
    """
    The record of a verdict. Its evidence is what we held (``status``, ``rev``), what the mint said, and ``evidence``: who
    looked, when, in how large a batch, and whether the sentinels passed.
    """
    token, verdict = judged.token, judged.verdict
    return Finding(
        type=verdict.type,
        severity=verdict.severity,
        action=verdict.action,
        subject=f"token:{token.id}",
        npub=token.npub,
        mint=judged.mint,
        unit=judged.unit,
        value=verdict.value,
        token_id=token.id,
        ys=verdict.ys,
        evidence={
            "reason": verdict.reason,
            "status": token.status.value,
            "rev": token.rev,
            "transaction_type": token.transaction_type,
            "transaction_id": token.transaction_id,
            "proofs_in_document": len(token.proofs),
            **judged.evidence,
            **evidence,
        },
        mark=token.mark or None,
        whole=judged.whole,
    )


def warrant_of(judged: Judged, record: Discrepancy, *, at_once: bool = False) -> Warrant:
    """By what a verdict that was written down may be carried out: its record, and the document that was looked at."""
    return Warrant(
        discrepancy_id=record.id,
        occurrence=record.occurrence,
        token_id=judged.token.id,
        mark=judged.token.mark,
        at_once=at_once,
    )


def confirmed(discrepancy: Discrepancy, *, confirm_after_s: float, at_once: bool = False) -> bool:
    """
    Whether what was found may be acted on now.

    Its document must have stood still for as long as a rule waits for (I13), unless a person said not to wait (``at_once``).
    Value is given back (RELEASE, RECLAIM) only after a second sighting of the same, a while after the first: a mint's
    UNSPENT proves little (I6). SPENT needs no second sighting, because the caller has asked the mint twice. Time is what was
    watched (:mod:`melt.settling`), never the difference of two dates.
    """
    if discrepancy.state is DiscrepancyState.ACKNOWLEDGED:
        return False
    if not (discrepancy.is_settled or at_once):
        return False
    if discrepancy.action is Action.MARK_SPENT:
        return True
    since = discrepancy.same_since
    if since is None or discrepancy.sightings < 2 or discrepancy.last_seen <= since:
        return False
    return discrepancy.same_ms >= 1000 * confirm_after_s


async def record_findings(
    findings: Sequence[Finding], *, store: Store, threads: StoreThreads, telemetry: Telemetry
) -> tuple[Discrepancy, ...]:
    """Write findings down, in their order, and tell of those that are seen for the first time. Raises StoreError."""
    records = await threads(lambda: store.record(findings))
    for record in records:
        if record.sightings == 1:
            telemetry.drift_found(record.type, record.severity, record.mint)
            if record.alert_ms == 0:
                telemetry.drift_alerting(record.type, record.severity, record.mint)
    return records


class Corrections:
    """Records findings and applies the corrections that change a document's status."""

    def __init__(self, store: Store, threads: StoreThreads, telemetry: Telemetry) -> None:
        self._store = store
        self._threads = threads
        self._telemetry = telemetry

    async def record(
        self, judged: Sequence[Judged], evidence: Mapping[str, str | int | bool | None]
    ) -> tuple[Discrepancy, ...]:
        """Write verdicts down; the result is in their order. Raises StoreError."""
        if not judged:
            return ()
        findings = [finding_of(one, evidence) for one in judged]
        return await record_findings(findings, store=self._store, threads=self._threads, telemetry=self._telemetry)

    async def apply(
        self, judged: Judged, record: Discrepancy, actor: Actor, *, note: str | None = None, at_once: bool = False
    ) -> bool:
        """
        Mark spent or release, in one transaction with audit entry and the record's end. ``note`` goes into the audit.

        False where the document moved on meanwhile, where it has not stood still for long enough (I13) and nobody said that
        it need not (``at_once``), or where the action changes no status. Raises StoreError.
        """
        new_status = _NEW_STATUS.get(judged.verdict.action)
        if new_status is None:
            return False
        correction = Correction(
            discrepancy_id=record.id,
            occurrence=record.occurrence,
            token_id=judged.token.id,
            expected_status=judged.token.status,
            expected_rev=judged.token.rev,
            new_status=new_status,
            ys=judged.verdict.ys,
            reason=judged.verdict.type,
            actor=actor,
            warrant=warrant_of(judged, record, at_once=at_once),
            note=note,
        )
        done = await self._threads(lambda: self._store.correct(correction))
        if done:
            self._telemetry.drift_corrected(record.type, record.severity, record.mint)
        return done
