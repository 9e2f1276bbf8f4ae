"""
What a page's verdicts lead to: records of everything, and corrections where the rule, the guards and the caps let them.

Nothing here decides what is wrong: :mod:`melt.reconcile.judging` does. A correction carries the status and ``rev`` that it
was decided on (:mod:`melt.corrections`); value comes back only by a journaled swap (:mod:`melt.recovery.reclaim`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

import structlog

from melt.beyond import malformed_findings
from melt.corrections import confirmed, finding_of, record_findings, warrant_of
from melt.errors import Code, DuplicateMelt, InvariantBroken, LostRace, MintError, Observing, StoreError
from melt.model import Action, DriftType, MeltState
from melt.reconcile.outcome import TOURED
from melt.recovery.reclaim import reclaim
from melt.settling import CORRECTIVE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from melt.caps import Caps
    from melt.corrections import Corrections, Judged
    from melt.events import CriticalEvents
    from melt.model import Actor, Discrepancy, MalformedToken, Token, TokenId
    from melt.ports import Clock, Entropy, Mint, Store, StoreThreads, Telemetry
    from melt.reconcile.outcome import Outcome, ReconcilePolicy
    from melt.recovery import Recovery
    from melt.sentinels import Sentinels

_log = structlog.get_logger("melt.reconcile")

PENDING_AT_MINT: Final = frozenset(
    {DriftType.DB_UNSPENT_MINT_PENDING, DriftType.DB_PENDING_MINT_PENDING, DriftType.DB_SPENT_MINT_PENDING}
)
"""Types that say that an operation on the document's proofs is under way at the mint."""

Evidence: TypeAlias = "Mapping[str, str | int | bool | None]"


class Acting:
    """Records and corrects for one :class:`melt.reconcile.Reconciler`."""

    def __init__(
        self,
        *,
        store: Store,
        threads: StoreThreads,
        corrections: Corrections,
        recovery: Recovery,
        events: CriticalEvents,
        sentinels: Sentinels,
        clock: Clock,
        entropy: Entropy,
        telemetry: Telemetry,
        policy: ReconcilePolicy,
        caps: Caps,
        holder: str,
        observing: Callable[[], str | None],
    ) -> None:
        self._store = store
        self._threads = threads
        self._corrections = corrections
        self._recovery = recovery
        self._events = events
        self._sentinels = sentinels
        self._clock = clock
        self._entropy = entropy
        self._telemetry = telemetry
        self._policy = policy
        self._caps = caps
        self._holder = holder
        self._observing = observing

    async def malformed(self, mint: Mint, items: Sequence[MalformedToken], outcome: Outcome, *, dry_run: bool) -> None:
        """Note documents that can't be read, and record them unless it is a dry run. Raises StoreError."""
        findings = malformed_findings(items, mint.alias, now=self._clock.now())
        if not findings:
            return
        if dry_run:
            for finding in findings:
                outcome.note(finding)
            return
        records = await record_findings(findings, store=self._store, threads=self._threads, telemetry=self._telemetry)
        for record in records:
            outcome.note(record)
        # What was seen of them while they could be read is no question any more.
        subjects, seen = [f"token:{item.id}" for item in items], [record.id for record in records]
        await self._threads(lambda: self._store.clear_unseen(subjects, seen))

    def plan(self, suspects: Sequence[Judged], outcome: Outcome, asked: Evidence) -> None:
        """Note what a dry run sees, and what it would correct; nothing is written."""
        for one in suspects:
            outcome.note(finding_of(one, asked))
            outcome.planned += one.verdict.action in CORRECTIVE
        if outcome.suspects is not None:
            outcome.suspects.extend(one for one in suspects if one.verdict.action in CORRECTIVE)

    async def act(
        self,
        mint: Mint,
        tokens: Sequence[Token],
        suspects: Sequence[Judged],
        outcome: Outcome,
        actor: Actor,
        asked: Evidence,
        unchecked: Sequence[str],
    ) -> None:
        """
        Record the suspects, correct what may be corrected now, and close the records of ``tokens`` that saw nothing.

        ``unchecked``: ids of records which stay open all the same. Raises StoreError.
        """
        records = await self._corrections.record(suspects, asked)
        in_use = self._in_use(suspects)
        implausible = self._caps.refuses_page(
            marks=len({one.token.id for one in suspects if one.verdict.action is Action.MARK_SPENT}),
            documents=sum(token.status in TOURED for token in tokens),
        )
        for one, record in zip(suspects, records, strict=True):
            outcome.note(record)
            if one.verdict.action not in CORRECTIVE:
                continue
            outcome.planned += 1
            outcome.settling += not record.is_settled
            if not confirmed(record, confirm_after_s=self._policy.confirm_after_s) or one.token.id in in_use:
                continue
            if self._observing() is not None or self._is_frozen(one):
                continue
            if one.verdict.action is Action.MARK_SPENT and implausible is not None:
                self._say_capped(implausible, one, outcome)
                outcome.hold_back(one, record)
                continue
            if self._is_capped(one, outcome):
                outcome.hold_back(one, record)
                continue
            if await self._correct_safely(mint, one, record, actor):
                outcome.corrected_one(one)
                self._caps.count(outcome.totals, value=one.verdict.value, unit=one.unit, now_s=self._clock.monotonic())
                self._say(one)
        subjects = [f"token:{token.id}" for token in tokens]
        seen = [*(record.id for record in records), *unchecked]
        await self._threads(lambda: self._store.clear_unseen(subjects, seen))

    async def correct_planned(
        self, mint: Mint, one: Judged, record: Discrepancy, actor: Actor, *, note: str, at_once: bool = False
    ) -> bool:
        """
        One correction of an approved plan: no cap, but the same door and the same conditional write. False: it moved on
        meanwhile. ``at_once``: a person has said not to wait until it has settled.

        Raises StoreError. A mint that can't be asked leaves a reclaim to the watcher.
        """
        if self._is_frozen(one):
            return False
        done = await self._correct_safely(mint, one, record, actor, note, at_once=at_once)
        if done:
            self._say(one)
        return done

    def _in_use(self, suspects: Sequence[Judged]) -> frozenset[TokenId]:
        """Documents of which somebody spends proofs right now: to split them would take them out of that writer's hands."""
        if not self._policy.shares:
            return frozenset()
        return frozenset(one.token.id for one in suspects if one.verdict.type in PENDING_AT_MINT)

    def _is_capped(self, one: Judged, outcome: Outcome) -> bool:
        """Whether a cap forbids this correction: it stays recorded, and nothing is changed (I12)."""
        cap = self._caps.refuses(
            outcome.totals,
            value=one.verdict.value,
            unit=one.unit,
            documents=max(outcome.expected_documents, outcome.documents),
            now_s=self._clock.monotonic(),
        )
        if cap is None:
            return False
        self._say_capped(cap, one, outcome)
        return True

    def _is_frozen(self, one: Judged) -> bool:
        """Whether nothing may be corrected here now, or given back by a mint that has not shown that it remembers."""
        return (
            self._events.frozen(one.token.npub, one.mint) is not None
            or self._events.distrusted(one.mint) is not None
            or (one.verdict.action is Action.RECLAIM and not self._sentinels.is_proven(one.mint))
        )

    @staticmethod
    def _say_capped(cap: str, one: Judged, outcome: Outcome) -> None:
        if cap not in outcome.capped:
            outcome.capped.add(cap)
            _log.error(
                "over the cap: drift is recorded and not corrected",
                cap=cap,
                mint=one.mint,
                corrected=outcome.corrected,
                next_step="look at `meltd plans`: approve and apply what is right, or raise the cap in [sweep]",
            )

    async def _correct_safely(
        self,
        mint: Mint,
        one: Judged,
        record: Discrepancy,
        actor: Actor,
        note: str | None = None,
        *,
        at_once: bool = False,
    ) -> bool:
        """A correction in which an invariant is found broken freezes its wallet, and the page goes on."""
        try:
            return await self._correct(mint, one, record, actor, note, at_once=at_once)
        except InvariantBroken as error:
            await self._events.invariant_broken(error, npub=one.token.npub, mint=one.mint)
            return False
        except StoreError as error:
            if error.code is not Code.INTERNAL:
                raise
            # The database refuses this document, not the work: the others must not wait for it for ever.
            _log.exception("a correction can't be written", token_id=one.token.id, mint=one.mint)
            return False

    async def _correct(
        self, mint: Mint, one: Judged, record: Discrepancy, actor: Actor, note: str | None, *, at_once: bool
    ) -> bool:
        if one.verdict.action is not Action.RECLAIM:
            return await self._corrections.apply(one, record, actor, note=note, at_once=at_once)
        try:
            entry = await reclaim(
                self._recovery,
                mint,
                one.token,
                one.verdict.ys,
                warrant=warrant_of(one, record, at_once=at_once),
                unit=one.unit,
                actor=actor,
                holder=self._holder,
                clock=self._clock,
                entropy=self._entropy,
                note=note,
            )
        except (DuplicateMelt, LostRace, Observing):
            return False  # another entry holds these proofs and decides, or nothing may begin any more
        except MintError as error:
            _log.warning("a reclaim is left to the watcher", mint=mint.alias, code=error.code.value)
            return False
        if entry is None or entry.state is not MeltState.SETTLED:
            return False
        self._telemetry.drift_corrected(record.type, record.severity, record.mint)
        return True

    @staticmethod
    def _say(one: Judged) -> None:
        _log.info(
            "drift corrected",
            drift=one.verdict.type.value,
            severity=one.verdict.severity.value,
            action=one.verdict.action.value,
            mint=one.mint,
            token_id=one.token.id,
            npub=one.token.npub,
            value=one.verdict.value,
            unit=one.unit,
            proofs=len(one.verdict.ys),
            of_proofs=len(one.token.proofs),
        )
