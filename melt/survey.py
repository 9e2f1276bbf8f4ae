"""
The survey: what is in a database, and what meltd would do about it, before it does anything (ADR 23).

One pass over all documents for what they hold and which proofs lie in several of them, and one dry run of reconciliation
over every document of every configured mint, whatever its status. Both read in ``_id`` order and write nothing; mints are
asked in their turn. What it calls a change is what ``correct`` would do by rule if nothing moved until then.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from melt.duplicates import digest_of
from melt.errors import InvariantBroken, MintError
from melt.model import (
    DiscrepancyState,
    DriftType,
    Holder,
    TokenStatus,
    TransactionType,
    is_counted,
    is_history,
    is_live,
)
from melt.model.survey import Change, Copies, CopyGroup, Drift, Holding, IndexWish, Others, Survey
from melt.reconcile import Outcome, sort_urls
from melt.repair.find import find, keeps_before_source
from melt.settling import CORRECTIVE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from melt.caps import CapPolicy
    from melt.corrections import Judged
    from melt.errors import Severity
    from melt.model import Action, Actor, Discrepancy, Finding, MalformedToken, MintAlias, Proof, Token, TokenId, Y
    from melt.model.indexes import IndexReport
    from melt.model.repair import DocumentSecrets
    from melt.ports import Holdings, Mint, RepairStore, Store, StoreThreads, SurveyStore, Tour
    from melt.reconcile import Reconciler
    from melt.repair.find import Found, Kind, Progress
    from melt.settling import SettlePolicy

CHANGES_MAX: Final = 10_000
"""So many changes are told one by one (I11)."""
PAGE_DOCUMENTS: Final = 125
EMBEDDED_S_PER_KEY: Final = 0.0007
SERVER_S_PER_KEY: Final = 0.00002
"""About how long a key of an index takes to make: measured on an embedded store; a replica set makes some 50,000 a second."""
_STATUSES: Final = frozenset(status.value for status in TokenStatus)
_SOMEBODY: Final = frozenset(
    {DriftType.DB_UNSPENT_MINT_SPENT, DriftType.DB_UNSPENT_MINT_PENDING, DriftType.DB_PENDING_MINT_SPENT}
)
"""Types that a service beside meltd brings about while it pays, and ends itself."""


class InTurn(Protocol):
    """Runs one page's work when its mint's lanes allow it."""

    async def __call__(self, mint: MintAlias, work: Work, outcome: Outcome, /) -> None: ...


class Work(Protocol):
    """A page's work."""

    async def __call__(self) -> None: ...


@dataclass(slots=True)
class _Seen:
    """What the pass over all documents has counted."""

    units: Mapping[str, str]
    documents: int = 0
    proofs: int = 0
    rolled_back: int = 0
    users: set[bytes] = field(default_factory=set)
    holdings: dict[tuple[str, str, str], list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0, 0]))
    sent: Counter[str] = field(default_factory=Counter)
    sent_documents: int = 0

    def see(self, item: DocumentSecrets) -> None:
        """One document."""
        unit = self.units.get(item.wallet_id, "sat")
        self.documents += 1
        self.proofs += item.proofs
        if item.npub:
            self.users.add(hashlib.blake2b(item.npub.encode("utf-8", "surrogatepass"), digest_size=8).digest())
        sums = self.holdings[item.status[:40] or "?", item.transaction_type[:40] or "?", unit]
        sums[0] += 1
        sums[1] += item.proofs
        sums[2] += item.value
        if is_live(item.status) and item.spent_at is not None:
            self.rolled_back += 1
        if item.status == TokenStatus.UNSPENT and item.transaction_type == TransactionType.SENT:
            self.sent[unit] += item.value
            self.sent_documents += 1


class _Known:
    """Implements :class:`melt.ports.Holdings` by what the search has found, so that no document is looked up once more."""

    secrets_indexed = True
    reads_once = False

    def __init__(self, found: Found, holdings: Holdings) -> None:
        self._found = found
        self._holdings = holdings

    def holders(self, proofs: Sequence[Proof]) -> Mapping[Y, tuple[Holder, ...]]:
        """See :meth:`melt.ports.Holdings.holders`; as of the search."""
        groups, kinds = self._found.groups, self._found.kinds
        found = ((proof.y, groups.get(digest_of(proof.secret))) for proof in proofs)
        return {y: tuple(_holder(token_id, kinds[token_id]) for token_id in ids) for y, ids in found if ids is not None}

    def wallet_units(self, wallet_ids: Sequence[str]) -> Mapping[str, str]:
        """See :meth:`melt.ports.Holdings.wallet_units`: looked up by ``_id``, in the wallets' own collection."""
        return self._holdings.wallet_units(wallet_ids)

    def strays(self, mint_urls: Sequence[str], *, homeless: bool) -> Tour:
        """Nobody asks it: the database tells."""
        raise NotImplementedError


def _holder(token_id: TokenId, kind: Kind) -> Holder:
    return Holder(
        token_id=token_id,
        npub=kind.npub or None,
        status=TokenStatus(kind.status) if kind.status in _STATUSES else None,
        is_melted=kind.transaction_type == TransactionType.MELTED,
        is_sent=kind.transaction_type == TransactionType.SENT,
    )


@dataclass(slots=True)
class _Dry:
    """What the dry run has found so far."""

    sums: dict[tuple[DriftType, Severity, Action, MintAlias | None, str], list[int]] = field(
        default_factory=lambda: defaultdict(lambda: [0, 0])
    )
    changes: list[Judged] = field(default_factory=list)
    count: int = 0
    by_mint: Counter[MintAlias] = field(default_factory=Counter)
    documents: int = 0
    errors: list[str] = field(default_factory=list)

    def take(self, outcome: Outcome) -> None:
        """One page."""
        for one in outcome.found:
            self._note(one)
        suspects = [one for one in outcome.suspects or () if one.verdict.action in CORRECTIVE]
        self.count += len(suspects)
        self.by_mint.update(one.mint for one in suspects)
        self.changes.extend(suspects[: max(0, CHANGES_MAX - len(self.changes))])
        self.documents += outcome.documents

    def _note(self, one: Discrepancy | Finding) -> None:
        sums = self.sums[one.type, one.severity, one.action, one.mint, one.unit]
        sums[0] += 1
        sums[1] += one.value


class Surveyor:
    """Makes surveys. One at a time is the caller's promise."""

    def __init__(
        self,
        *,
        store: Store,
        repairs: RepairStore,
        surveys: SurveyStore,
        holdings: Holdings,
        threads: StoreThreads,
        mints: Mapping[MintAlias, Mint],
        reconciler: Reconciler,
        in_turn: InTurn,
        settle: SettlePolicy,
        caps: CapPolicy,
    ) -> None:
        self._store = store
        self._repairs = repairs
        self._surveys = surveys
        self._holdings = holdings
        self._threads = threads
        self._mints = mints
        self._reconciler = reconciler
        self._in_turn = in_turn
        self._settle = settle
        self._caps = caps

    async def survey(self, *, actor: Actor, progress: Progress) -> Survey:
        """
        Look at everything; changes nothing.

        A mint that can't be asked or believed is an error in the survey, and nothing of it is among the changes. Raises
        StoreError.
        """
        seen = _Seen(units=await self._threads(self._surveys.other_units))
        found = await find(self._repairs, self._threads, progress, history=True, see=seen.see)
        dry = await self._dry_run(actor, _Known(found, self._holdings), seen.documents, progress)
        records = await self._threads(self._surveys.records_by_state)
        indexes = await self._threads(partial(self._surveys.look_after_indexes, make=False))
        return Survey(
            documents=seen.documents,
            proofs=seen.proofs,
            users=len(seen.users),
            holdings=tuple(
                Holding(status=key[0], transaction_type=key[1], unit=key[2], documents=n[0], proofs=n[1], value=n[2])
                for key, n in sorted(seen.holdings.items())
            ),
            drift=tuple(
                Drift(type=key[0], severity=key[1], action=key[2], mint=key[3], unit=key[4], number=n[0], value=n[1])
                for key, n in sorted(dry.sums.items(), key=lambda item: tuple(map(str, item[0])))
            ),
            changes=await self._changes(dry.changes),
            changes_count=dry.count,
            capped=tuple(sorted(alias for alias, n in dry.by_mint.items() if n > self._caps.count_per_run)),
            sent_as_unspent=dict(seen.sent),
            sent_as_unspent_documents=seen.sent_documents,
            copies=_copies(found),
            keeps_before_source=keeps_before_source(found),
            others=_others(records, seen.rolled_back),
            indexes=self._wishes(indexes, seen),
            complete=found.complete and not dry.errors,
            errors=tuple(dry.errors),
        )

    # --- the dry run ---

    async def _dry_run(self, actor: Actor, known: _Known, documents: int, progress: Progress) -> _Dry:
        dry = _Dry()
        urls = sort_urls(await self._threads(self._store.mint_urls), self._mints).by_alias
        for alias, mint in self._mints.items():
            try:
                # One that has shown that it is up and sane; a mint that is not believed says nothing about a document.
                await self._reconciler.meet(mint)
                tours = [self._store.tour(tuple(TokenStatus), urls[alias] or (mint.url,), None)]
                tours.append(self._holdings.strays(urls[alias] or (mint.url,), homeless=alias == min(self._mints)))
                for tour in tours:
                    await self._walk(mint, tour, dry, actor, known, documents, progress)
            except (MintError, InvariantBroken) as error:
                dry.errors.append(f"{alias}: {error.code}: {error.detail}")
        return dry

    async def _walk(
        self, mint: Mint, tour: Tour, dry: _Dry, actor: Actor, known: _Known, documents: int, progress: Progress
    ) -> None:
        try:
            while page := await self._threads(partial(tour.next_page, PAGE_DOCUMENTS)):
                outcome = Outcome(suspects=[])
                await self._in_turn(mint.alias, _page(self._reconciler, mint, page, outcome, actor, known), outcome)
                dry.take(outcome)
                progress(f"comparing with {mint.alias}", dry.documents, documents)
        finally:
            await self._threads(tour.close)

    async def _changes(self, judged: Sequence[Judged]) -> tuple[Change, ...]:
        """With the time that each has still to be watched, as the records tell it."""
        ids = [f"{one.verdict.type}:token:{one.token.id}" for one in judged]
        known = (
            {record.id: record for record in await self._threads(partial(self._surveys.records, ids))} if ids else {}
        )
        return tuple(
            Change(
                token_id=one.token.id,
                npub=one.token.npub,
                mint=one.mint,
                unit=one.unit,
                type=one.verdict.type,
                action=one.verdict.action,
                status=one.token.status,
                proofs=len(one.verdict.ys),
                of_proofs=len(one.token.proofs),
                ys=one.verdict.ys,
                value=one.verdict.value,
                in_s=self._waits_s(one, known.get(record_id)),
            )
            for one, record_id in zip(judged, ids, strict=True)
            if record_id not in known or known[record_id].state is not DiscrepancyState.ACKNOWLEDGED
        )

    def _waits_s(self, judged: Judged, record: Discrepancy | None) -> float:
        if record is None or record.closed_at is not None or record.mark != judged.token.mark:
            return self._settle.needs_ms(judged.verdict.action) / 1000
        return record.settles_in_s

    def _wishes(self, report: IndexReport, seen: _Seen) -> tuple[IndexWish, ...]:
        per_key = EMBEDDED_S_PER_KEY if self._surveys.makes_indexes_at_start_only else SERVER_S_PER_KEY
        return tuple(
            IndexWish(
                standing=one,
                seconds=0.0
                if one.serves
                else round(per_key * (seen.proofs if one.keys[0] == "proofs.secret" else seen.documents), 3),
            )
            for one in report.standings
        )


def _page(
    reconciler: Reconciler,
    mint: Mint,
    page: Sequence[Token | MalformedToken],
    outcome: Outcome,
    actor: Actor,
    known: _Known,
) -> Work:
    async def work() -> None:
        await reconciler.page(mint, page, outcome, dry_run=True, actor=actor, holdings=known)

    return work


# --- pure ---


def _copies(found: Found) -> tuple[CopyGroup, ...]:
    numbers: dict[Copies, list[int]] = defaultdict(lambda: [0, 0])
    for digest, ids in found.groups.items():
        sums = numbers[copies_of([found.kinds[token_id] for token_id in ids])]
        sums[0] += 1
        sums[1] += found.values[digest]
    return tuple(CopyGroup(copies=copies, proofs=n[0], value=n[1]) for copies, n in sorted(numbers.items()))


def copies_of(kinds: Sequence[Kind]) -> Copies:
    """In which way documents of these kinds hold one proof."""
    live = [kind for kind in kinds if not is_history(kind.status)]
    counted = [kind for kind in live if is_counted(kind.status, kind.transaction_type)]
    if not live:
        return Copies.HISTORY
    if any(not is_live(kind.status) for kind in live):
        return Copies.UNCLEAR
    if any(kind.transaction_type == TransactionType.MELTED for kind in live):
        return Copies.MELTED
    if any(kind.transaction_type == TransactionType.SENT for kind in live):
        return Copies.HANDED_OUT
    return Copies.COUNTED_TWICE if len(counted) > 1 else Copies.KEPT


def _others(records: Mapping[tuple[str, str], int], rolled_back: int) -> Others:
    def number(*states: DiscrepancyState, types: frozenset[DriftType] = _SOMEBODY) -> int:
        return sum(records.get((drift.value, state.value), 0) for drift in types for state in states)

    return Others(
        cleared=number(DiscrepancyState.CLEARED),
        settling=number(DiscrepancyState.OPEN, DiscrepancyState.RECURRED),
        recurred=number(DiscrepancyState.RECURRED, types=frozenset({DriftType.DB_UNSPENT_MINT_SPENT})),
        rolled_back=rolled_back,
    )
