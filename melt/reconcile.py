"""
One page of reconciliation: documents, the mint's states, verdicts, corrections (DESIGN section 5).

The order of looking matters. Documents are read, the mint is asked, and what looks like drift is then read again: only
what still stands as it was read is judged, so that a melt that ran in between is not taken for drift. What the mint
calls SPENT is asked about once more, some seconds later, before it is marked, and value comes back only after sightings in
two rounds, from a mint that has shown that it remembers what was spent (:mod:`melt.sentinels`).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

import structlog

from melt import drift
from melt.beyond import Looked, malformed_findings, report_expiring
from melt.caps import RunTotals
from melt.corrections import Corrections, Judged, asked_evidence, confirmed, finding_of, mint_said, unit_of
from melt.errors import Code, DuplicateMelt, InvariantBroken, LostRace, MintError, StoreError
from melt.model import (
    PLAN_ITEMS_MAX,
    Action,
    Actor,
    DriftType,
    Finding,
    MalformedToken,
    MeltState,
    MintState,
    Token,
    TokenStatus,
    TransactionType,
    normalise_mint_url,
)
from melt.plan_items import CORRECTIVE, items_of
from melt.recovery.reclaim import reclaim

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from melt.beyond import Beyond
    from melt.caps import Caps
    from melt.events import CriticalEvents
    from melt.model import Discrepancy, Keyset, KeysetId, MintAlias, PlanItem, Y
    from melt.ports import Clock, Entropy, Mint, Store, StoreThreads, Telemetry
    from melt.recovery import Recovery
    from melt.sentinels import Sentinels

_log = structlog.get_logger("melt.reconcile")

Evidence: TypeAlias = "Mapping[str, str | int | bool | None]"

TOURED: Final = (TokenStatus.UNSPENT, TokenStatus.PENDING)
"""Statuses that every tour looks at; the others are sampled (DESIGN section 5)."""
FOUND_MAX: Final = 1_000
"""How many findings of one run are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcileScope:
    """What to reconcile on request: everything, one mint (alias), one user, some statuses (empty: TOURED)."""

    mint: str | None = None
    npub: str | None = None
    statuses: tuple[TokenStatus, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcilePolicy:
    """
    ``pending_grace_s``: how old a pending document must be before it may be released. ``confirm_after_s``: the least
    time between the two sightings that giving value back needs. ``spent_confirm_s``: the time between the two looks
    that marking spent needs.
    """

    pending_grace_s: float = 3600.0
    confirm_after_s: float = 60.0
    spent_confirm_s: float = 0.0


@dataclass(slots=True)
class Outcome:
    """
    What the pages of one run have found and done so far. ``liabilities`` is by (unit, status); amounts in the unit.
    ``owed`` is by unit what counts as somebody's money, ``honoured`` the part of it that the mint did not call SPENT.

    ``expected_documents`` is how many the run is about, for the cap on their share. ``turn`` is the tour's number: whose
    signatures are checked follows from it (None: at random). ``capped`` names the caps that kept corrections from being
    made, ``held_back`` those corrections (the first PLAN_ITEMS_MAX; ``held_back_count`` is of all). ``by_keyset`` is what
    lies on each keyset, unspent or pending and not SPENT at the mint. ``found`` holds the first FOUND_MAX; the counts are
    of all. ``suspects``, where it is a list, takes what a dry run would correct: the caller empties it. ``dry_pages``
    counts the pages that were only looked at.
    """

    expected_documents: int = 0
    turn: int | None = None
    documents: int = 0
    proofs: int = 0
    found: list[Discrepancy | Finding] = field(default_factory=list)
    planned: int = 0
    corrected: int = 0
    found_by_type: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    totals: RunTotals = field(default_factory=RunTotals)
    capped: set[str] = field(default_factory=set)
    held_back: list[PlanItem] = field(default_factory=list)
    held_back_count: int = 0
    suspects: list[Judged] | None = None
    dry_pages: int = 0
    corrected_by_type: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    liabilities: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    owed: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    honoured: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    by_keyset: dict[KeysetId, int] = field(default_factory=lambda: defaultdict(int))

    def note(self, found: Discrepancy | Finding) -> None:
        """Count what was found, and keep it while there is room (I11)."""
        self.found_by_type[found.type.value] += 1
        if len(self.found) < FOUND_MAX:
            self.found.append(found)

    def hold_back(self, judged: Judged, record: Discrepancy) -> None:
        """Keep what a cap forbids, for a plan, while there is room (I11)."""
        items, _ = items_of([judged], [record])
        self.held_back_count += len(items)
        if len(self.held_back) < PLAN_ITEMS_MAX:
            self.held_back.extend(items)


class Reconciler:
    """Compares pages of documents with their mint and corrects by rule."""

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
        beyond: Beyond | None = None,
    ) -> None:
        self._beyond = beyond
        self._store = store
        self._threads = threads
        self._corrections = corrections
        self._recovery = recovery
        self._events = events
        self._sentinels = sentinels
        self._clock = clock
        self._entropy = entropy
        self._telemetry = telemetry
        self.policy = policy
        self._caps = caps
        self._holder = holder

    async def page(
        self,
        mint: Mint,
        items: Sequence[Token | MalformedToken],
        outcome: Outcome,
        *,
        dry_run: bool,
        actor: Actor,
    ) -> None:
        """
        Reconcile documents of one mint, adding to ``outcome``.

        With ``dry_run`` nothing is written: ``outcome.found`` and ``outcome.planned`` tell what a run would do.

        Raises:
            MintError: the mint could not be asked or can't be believed; nothing of the page was changed.
            StoreError: the store is away; what was corrected so far is corrected.
        """
        started = self._clock.monotonic()
        tokens = [item for item in items if isinstance(item, Token)]
        await self._malformed(mint, [i for i in items if isinstance(i, MalformedToken)], outcome, dry_run=dry_run)
        keysets, listed = await self._keysets(mint, tokens)
        states = await self._sentinels.states(mint, [proof.y for token in tokens for proof in token.proofs])
        self._learn(mint, tokens, states)
        asked = asked_evidence("dry run" if dry_run else actor.name, self._clock.now(), len(states))
        suspects = await self._judge(mint, tokens, states, keysets, listed=listed)
        looked = Looked()
        if self._beyond is not None:
            looked = await self._beyond.look(mint, tokens, states, keysets, turn=outcome.turn)
        if suspects or looked.judged:
            suspects = await self._judge_again(mint, suspects, looked, states, keysets, listed=listed)
            suspects = await self._sentinels.regressions(mint, suspects)
        _count(tokens, states, keysets, outcome)
        outcome.documents += len(items)
        outcome.proofs += sum(len(token.proofs) for token in tokens)
        outcome.dry_pages += dry_run
        if dry_run:
            await self._plan(suspects, outcome, asked)
        else:
            # Records whose documents were not looked at for it must not be closed because nothing was seen.
            unchecked = [*looked.unchecked, *(() if listed else _about_keysets(tokens))]
            await self._act(mint, tokens, suspects, outcome, actor, asked, unchecked)
        self._telemetry.swept_batch(
            mint.alias,
            len(items),
            sum(len(token.proofs) for token in tokens),
            self._clock.monotonic() - started,
        )

    async def freeze(self, mint: MintAlias, error: InvariantBroken) -> None:
        """Nothing new is begun or corrected at this mint until a person resolves the event."""
        await self._events.invariant_broken(error, npub=None, mint=mint)

    async def keysets_expiring(self, mint: Mint, outcome: Outcome, *, dry_run: bool) -> None:
        """
        Report keysets that end soon, by what a whole tour has seen on them, and close the records of the others.

        Raises MintError, StoreError.
        """
        found = await report_expiring(
            mint,
            outcome.by_keyset,
            now=self._clock.now(),
            dry_run=dry_run,
            store=self._store,
            threads=self._threads,
            telemetry=self._telemetry,
        )
        for one in found:
            outcome.note(one)

    # --- asking ---

    async def states(self, mint: Mint, ys: Sequence[Y]) -> dict[Y, MintState]:
        """
        The mint's states as a page gets them: with sentinels, and what reads SPENT asked about once more.

        Raises MintError where the mint can't be asked or can't be believed.
        """
        states = await self._sentinels.states(mint, ys)
        states.update(await self._sentinels.states(mint, [y for y in ys if states[y] is MintState.SPENT]))
        return states

    @staticmethod
    def unit_of(token: Token, keysets: Mapping[KeysetId, Keyset]) -> str:
        """The unit of a document's proofs: that of the first keyset which the mint knows, else sat."""
        return unit_of(token, keysets)

    async def _keysets(self, mint: Mint, tokens: Sequence[Token]) -> tuple[Mapping[KeysetId, Keyset], bool]:
        if self._beyond is None:
            return await mint.keysets(), True
        return await self._beyond.keysets(mint, tokens)

    async def meet(self, mint: Mint) -> None:
        """
        Before a tour: the mint's keysets, asked anew, so that one without documents shows that it is up.

        Raises MintError.
        """
        await self._sentinels.keysets(mint)

    def _learn(self, mint: Mint, tokens: Sequence[Token], states: Mapping[Y, MintState]) -> None:
        """What both sides call spent tells later whether the mint still remembers it."""
        agreed = [
            proof.y
            for token in tokens
            if token.status is TokenStatus.SPENT
            for proof in token.proofs
            if states[proof.y] is MintState.SPENT
        ]
        self._sentinels.learn(mint.alias, agreed)

    # --- judging ---

    async def _judge(
        self,
        mint: Mint,
        tokens: Sequence[Token],
        states: Mapping[Y, MintState],
        keysets: Mapping[KeysetId, Keyset],
        *,
        listed: bool,
    ) -> list[Judged]:
        """``listed``: whether a keyset that is not in ``keysets`` is unknown to the mint."""
        reserved = [token.reservation.melt_id for token in tokens if token.reservation is not None]
        live = await self._threads(lambda: self._store.live_melt_ids(reserved)) if reserved else frozenset()
        judged: list[Judged] = []
        now = self._clock.now()
        for token in tokens:
            context = drift.Context(
                now=now,
                pending_grace_s=self.policy.pending_grace_s,
                reservation_live=token.reservation is not None and token.reservation.melt_id in live,
                known_keysets=frozenset(keysets) if listed else frozenset(),
            )
            unit = unit_of(token, keysets)
            judged.extend(
                Judged(
                    token=token,
                    verdict=verdict,
                    mint=mint.alias,
                    unit=unit,
                    evidence={"mint_said": mint_said(verdict.ys, states)},
                )
                for verdict in drift.classify(token, states, context)
            )
        return judged

    async def _judge_again(
        self,
        mint: Mint,
        suspects: Sequence[Judged],
        looked: Looked,
        states: dict[Y, MintState],
        keysets: Mapping[KeysetId, Keyset],
        *,
        listed: bool,
    ) -> list[Judged]:
        """Read the suspects and ask the mint about their SPENT proofs once more; judge what still stands."""
        spent = [y for one in suspects if one.verdict.action is Action.MARK_SPENT for y in one.verdict.ys]
        if spent and self.policy.spent_confirm_s > 0:
            await self._clock.sleep(self.policy.spent_confirm_s)
        before = {one.token.id: one.token for one in (*suspects, *looked.judged)}
        ids = list(before)
        fresh = await self._threads(lambda: self._store.tokens(ids))
        standing = [
            token
            for token in fresh
            if isinstance(token, Token)
            and token.status is before[token.id].status
            and token.rev == before[token.id].rev
            and token.proofs == before[token.id].proofs
        ]
        states.update(await self._sentinels.states(mint, spent))
        judged = await self._judge(mint, standing, states, keysets, listed=listed)
        stands = {token.id for token in standing}
        return looked.weighed(judged) + [one for one in looked.judged if one.token.id in stands]

    # --- acting ---

    async def _plan(self, suspects: Sequence[Judged], outcome: Outcome, asked: Evidence) -> None:
        for one in suspects:
            outcome.note(finding_of(one, asked))
            outcome.planned += one.verdict.action in CORRECTIVE
        if outcome.suspects is not None:
            outcome.suspects.extend(one for one in suspects if one.verdict.action in CORRECTIVE)

    async def _act(
        self,
        mint: Mint,
        tokens: Sequence[Token],
        suspects: Sequence[Judged],
        outcome: Outcome,
        actor: Actor,
        asked: Evidence,
        unchecked: Sequence[str],
    ) -> None:
        records = await self._corrections.record(suspects, asked)
        implausible = self._caps.refuses_page(
            marks=len({one.token.id for one in suspects if one.verdict.action is Action.MARK_SPENT}),
            documents=sum(token.status in TOURED for token in tokens),
        )
        for one, record in zip(suspects, records, strict=True):
            outcome.note(record)
            if one.verdict.action not in CORRECTIVE:
                continue
            outcome.planned += 1
            if not confirmed(record, now=self._clock.now(), confirm_after_s=self.policy.confirm_after_s):
                continue
            if self._is_frozen(one):
                continue
            if one.verdict.action is Action.MARK_SPENT and implausible is not None:
                self._say_capped(implausible, one, outcome)
                outcome.hold_back(one, record)
                continue
            if self._is_capped(one, outcome):
                outcome.hold_back(one, record)
                continue
            if await self._correct_safely(mint, one, record, actor):
                outcome.corrected += 1
                self._caps.count(outcome.totals, value=one.verdict.value, unit=one.unit, now_s=self._clock.monotonic())
                outcome.corrected_by_type[record.type.value] += 1
                self._say(one)
        subjects = [f"token:{token.id}" for token in tokens]
        seen = [*(record.id for record in records), *unchecked]
        await self._threads(lambda: self._store.clear_unseen(subjects, seen))

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

    async def correct_planned(self, mint: Mint, one: Judged, record: Discrepancy, actor: Actor, *, note: str) -> bool:
        """
        One correction of an approved plan: no cap, but the same conditional write. False: it moved on meanwhile.

        Raises StoreError. A mint that can't be asked leaves a reclaim to the watcher.
        """
        if self._events.frozen(one.token.npub, one.mint) is not None:
            return False
        done = await self._correct_safely(mint, one, record, actor, note)
        if done:
            self._say(one)
        return done

    async def _correct_safely(
        self, mint: Mint, one: Judged, record: Discrepancy, actor: Actor, note: str | None = None
    ) -> bool:
        """A correction in which an invariant is found broken freezes its wallet, and the page goes on."""
        try:
            return await self._correct(mint, one, record, actor, note)
        except InvariantBroken as error:
            await self._events.invariant_broken(error, npub=one.token.npub, mint=one.mint)
            return False
        except StoreError as error:
            if error.code is not Code.INTERNAL:
                raise
            # The database refuses this document, not the work: the others must not wait for it for ever.
            _log.exception("a correction can't be written", token_id=one.token.id, mint=one.mint)
            return False

    async def _correct(self, mint: Mint, one: Judged, record: Discrepancy, actor: Actor, note: str | None) -> bool:
        if one.verdict.action is not Action.RECLAIM:
            return await self._corrections.apply(one, record, actor, note=note)
        try:
            entry = await reclaim(
                self._recovery,
                mint,
                one.token,
                one.verdict.ys,
                unit=one.unit,
                actor=actor,
                holder=self._holder,
                clock=self._clock,
                entropy=self._entropy,
                note=note,
            )
        except (DuplicateMelt, LostRace):
            return False  # another entry holds these proofs and decides
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

    async def _malformed(self, mint: Mint, items: Sequence[MalformedToken], outcome: Outcome, *, dry_run: bool) -> None:
        findings = malformed_findings(items, mint.alias, now=self._clock.now())
        if not findings:
            return
        if dry_run:
            for finding in findings:
                outcome.note(finding)
            return
        for record in await self._threads(lambda: self._store.record(findings)):
            outcome.note(record)
            if record.sightings == 1:
                self._telemetry.drift_found(record.type, record.severity, record.mint)


def _count(
    tokens: Sequence[Token], states: Mapping[Y, MintState], keysets: Mapping[KeysetId, Keyset], outcome: Outcome
) -> None:
    """Add what these documents hold to the run's sums."""
    for token in tokens:
        unit = unit_of(token, keysets)
        outcome.liabilities[unit, token.status.value] += token.amount
        if token.status not in TOURED:
            continue
        is_owed = token.transaction_type != TransactionType.MELTED
        outcome.owed[unit] += token.amount if is_owed else 0
        for proof in token.proofs:
            if states.get(proof.y) is not MintState.SPENT:
                outcome.by_keyset[proof.keyset_id] += proof.amount
                outcome.honoured[unit] += proof.amount if is_owed else 0


def _about_keysets(tokens: Sequence[Token]) -> list[str]:
    """The ids of the records that these documents may have about unknown keysets."""
    return [f"{DriftType.UNKNOWN_KEYSET}:token:{token.id}" for token in tokens]


@dataclass(frozen=True, slots=True, kw_only=True)
class MintUrls:
    """Which stored ``mint_url`` texts mean which configured mint (compared normalised), and which mean none."""

    by_alias: Mapping[MintAlias, tuple[str, ...]]
    unconfigured: tuple[str, ...]


def sort_urls(stored: Sequence[str], mints: Mapping[MintAlias, Mint]) -> MintUrls:
    """Sort stored URLs by configured mint. A URL that no mint is configured for is never contacted."""
    alias_of = {normalise_mint_url(mint.url): alias for alias, mint in mints.items()}
    by_alias: dict[MintAlias, list[str]] = {alias: [] for alias in mints}
    unconfigured: list[str] = []
    for url in stored:
        alias = alias_of.get(normalise_mint_url(url))
        if alias is None:
            unconfigured.append(url)
        else:
            by_alias[alias].append(url)
    return MintUrls(by_alias={a: tuple(u) for a, u in by_alias.items()}, unconfigured=tuple(unconfigured))
