"""
The store as a model: the semantics of :class:`melt.store.MongoStore` in memory, a few hundred times as fast.

``tests/contract/test_store_contract.py`` runs the same tests on both. Every method is one transaction that runs whole
(the simulation calls it from one thread); faults come from outside, see :mod:`tests.simulation.ports`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from melt.audit import (
    correction_operation,
)
from melt.errors import Code, LostRace, Severity, StoreError
from melt.model import (
    OPEN_DISCREPANCY,
    SANE_AGAIN,
    TERMINAL,
    Action,
    Actor,
    AuditEntry,
    Balance,
    Correction,
    CriticalEvent,
    Discrepancy,
    DiscrepancyState,
    DriftType,
    EventType,
    Finding,
    Holder,
    KeysetId,
    MalformedToken,
    MeltId,
    MeltState,
    MintAlias,
    Owner,
    Proof,
    SpentMemory,
    SweepRecord,
    Token,
    TokenId,
    TokenStatus,
    Warrant,
    Y,
    normalise_mint_url,
)
from melt.ports import Clock
from melt.settling import SettlePolicy, Stopwatch, Watched, sighting
from tests.simulation.model_journal import SOURCES_MAX, ModelJournal
from tests.simulation.model_ledger import AlreadyDone, Ledger, Tables, Wallet

LIMIT_MAX = 1000
_MARKED = (DriftType.DB_UNSPENT_MINT_SPENT, DriftType.DB_PENDING_MINT_SPENT, DriftType.RESERVATION_ORPHANED)
_REASONS = (*_MARKED, "melt_released_spent", "melt_swapped", "melt_fenced")
_MOST_FINAL_FIRST = ("spent", "failed", "sent", "pending", "unspent")


def _line(token: Token) -> str:
    """The line of a balance that a document belongs to."""
    counted = token.status in {TokenStatus.UNSPENT, TokenStatus.PENDING}
    return "sent" if token.is_sent and counted else token.status.value


class ModelTour:
    """Implements :class:`melt.ports.Tour`."""

    def __init__(self, tables: Tables, chosen: Callable[[Token | MalformedToken], bool], after: TokenId | None) -> None:
        self._tables = tables
        self._chosen = chosen
        self._after = after or TokenId("")

    def next_page(self, documents_max: int) -> tuple[Token | MalformedToken, ...]:
        """See the port."""
        later = sorted(token_id for token_id in self._tables.tokens if token_id > self._after)
        page = [self._tables.tokens[token_id] for token_id in later if self._chosen(self._tables.tokens[token_id])]
        page = page[:documents_max]
        if page:
            self._after = page[-1].id
        return tuple(page)

    def close(self) -> None:
        """There is no cursor."""


_NOT_OVER = frozenset({*OPEN_DISCREPANCY, DiscrepancyState.ACKNOWLEDGED})


def _keeps_from_melts(record: Discrepancy) -> bool:
    known = record.state is DiscrepancyState.ACKNOWLEDGED and record.action is Action.MARK_SPENT
    return record.state in OPEN_DISCREPANCY or known


class ModelStore(ModelJournal):
    """Implements :class:`melt.ports.Store` in memory."""

    def __init__(self, *, clock: Clock, y_of: Callable[[str], Y], settle: SettlePolicy | None = None) -> None:
        self._clock = clock
        self.tables = Tables(y_of)
        self.settle_policy = settle or SettlePolicy()
        self.stopwatch = self.new_stopwatch("model", "0")

    def new_stopwatch(self, holder: str, life: str, monotonic: Callable[[], float] | None = None) -> Stopwatch:
        """Of one process; whoever asks the store with several in turn says :meth:`called_by` before each call."""
        return Stopwatch(holder, life, monotonic or self._clock.monotonic, self.settle_policy.step_max_ms)

    def called_by(self, stopwatch: Stopwatch, clock: Clock) -> None:
        """The next call is of this process: each has its own clock, and its own memory of what it looked at."""
        self.stopwatch, self._clock = stopwatch, clock

    def _now(self) -> datetime:
        now = self._clock.now()
        return now.replace(microsecond=now.microsecond // 1000 * 1000)

    # --- what a wallet service writes ---

    def plant_wallet(self, npub: str, mint_url: str, unit: str = "sat") -> str:
        """A wallet document; its id."""
        wallet_id = str(self.tables.new_id())
        self.tables.wallets.append(Wallet(id=wallet_id, npub=npub, mint_url=mint_url, unit=unit))
        return wallet_id

    def plant(self, token: Token | MalformedToken) -> TokenId:
        """A token document, as it is."""
        with self.tables.transaction():
            self.tables.put_token(token.id, token)
        return token.id

    # --- tokens ---

    def npub_known(self, npub: str) -> bool:
        return any(wallet.npub == npub for wallet in self.tables.wallets) or any(
            token.npub == npub for token in self.tables.tokens.values()
        )

    def mint_urls(self) -> tuple[str, ...]:
        return tuple(sorted({token.mint_url for token in self.tables.tokens.values() if token.mint_url is not None}))

    def _units(self, npub: str) -> dict[str | None, str]:
        return {wallet.id: wallet.unit for wallet in self.tables.wallets if wallet.npub == npub}

    def spendable(self, npub: str, mint_urls: Sequence[str], unit: str | None = None) -> tuple[Token, ...]:
        units = self._units(npub)
        wanted = {normalise_mint_url(url) for url in mint_urls}
        found = [
            token
            for token in self.tables.tokens.values()
            if isinstance(token, Token)
            and token.npub == npub
            and token.status is TokenStatus.UNSPENT
            and token.proofs
            and token.transaction_type not in {"melted", "sent"}
            and normalise_mint_url(token.mint_url) in wanted
            and (unit is None or units.get(token.wallet_id, unit) == unit)
        ]
        found.sort(key=lambda token: (token.created_at.timestamp() if token.created_at else 0.0, token.id))
        seen: set[Y] = set()
        once: list[Token] = []
        for token in found:
            ys = {proof.y for proof in token.proofs}
            if not ys & seen:
                seen |= ys
                once.append(token)
        return tuple(once)

    def tokens(self, ids: Sequence[TokenId]) -> tuple[Token | MalformedToken, ...]:
        return tuple(self.tables.tokens[i] for i in dict.fromkeys(ids) if i in self.tables.tokens)

    def balances(self, npub: str, keyset_units: Mapping[KeysetId, str] | None = None) -> tuple[Balance, ...]:
        of_keyset = keyset_units or {}
        units = self._units(npub)
        mine = [t for t in self.tables.tokens.values() if isinstance(t, Token) and t.npub == npub]
        mine = [token for token in mine if token.transaction_type != "melted"]
        mine.sort(key=lambda token: _MOST_FINAL_FIRST.index(_line(token)))
        seen: set[str] = set()
        sums: dict[tuple[str, str, str], list[int]] = {}
        for token in mine:
            url, own, line = normalise_mint_url(token.mint_url), units.get(token.wallet_id, "sat"), _line(token)
            for unit in {of_keyset.get(proof.keyset_id, own) for proof in token.proofs} or {own}:
                sums.setdefault((url, unit, line), [0, 0, 0, 0])[3] += 1
            for proof in token.proofs:
                if proof.secret not in seen:
                    seen.add(proof.secret)
                    total = sums[url, of_keyset.get(proof.keyset_id, own), line]
                    total[0] += proof.amount
                    total[1] += proof.amount if proof.is_locked else 0
                    total[2] += 1
        return tuple(
            Balance(npub=npub, mint_url=url, unit=unit, status=status, amount=a, locked=locked, proofs=p, documents=d)
            for (url, unit, status), (a, locked, p, d) in sorted(sums.items())
        )

    def _toured(
        self, statuses: Sequence[TokenStatus], mint_urls: Sequence[str], npub: str | None
    ) -> Callable[[Token | MalformedToken], bool]:
        words = {str(status) for status in statuses}
        forms = {form for url in mint_urls for form in _forms(url)}
        return lambda token: (
            str(token.status) in words and token.mint_url in forms and (npub is None or token.npub == npub)
        )

    def count_tokens(self, statuses: Sequence[TokenStatus], mint_urls: Sequence[str]) -> int:
        return sum(map(self._toured(statuses, mint_urls, None), self.tables.tokens.values()))

    def tour(
        self,
        statuses: Sequence[TokenStatus],
        mint_urls: Sequence[str],
        after: TokenId | None,
        *,
        npub: str | None = None,
    ) -> ModelTour:
        return ModelTour(self.tables, self._toured(statuses, mint_urls, npub), after)

    def mark_tokens_spent(
        self,
        token_ids: Sequence[TokenId],
        *,
        operation_id: str,
        reason: str,
        actor: Actor,
        note: str | None = None,
        reserved_too: bool = False,
    ) -> int:
        if not 0 < len(token_ids) <= SOURCES_MAX:
            raise StoreError(Code.INVALID_REQUEST, f"1 to {SOURCES_MAX} token documents at a time")
        try:
            with self.tables.transaction() as commit:
                ledger = Ledger(self.tables, operation_id, self._now(), actor, note=note)
                ledger.begin()
                for token in ledger.load(token_ids):
                    if token.status is TokenStatus.SPENT:
                        continue
                    if token.status is TokenStatus.FAILED:
                        raise StoreError(Code.PROOF_STATE_INCONSISTENCY, f"token {token.id} is failed, which is final")
                    if not reserved_too:
                        self._refuse_reserved(token)
                    mark = token.reservation
                    live = mark is not None and self._is_live(mark.melt_id)
                    ledger.move(token, TokenStatus.SPENT, reason=reason, reservation=mark if live else None)
                return len(commit.entries)
        except AlreadyDone:
            return 0

    # --- findings ---

    def record(self, findings: Sequence[Finding]) -> tuple[Discrepancy, ...]:
        now = self._now()
        with self.tables.transaction():
            self.require_fence()
            self._write_findings(findings, now)
        for key in dict.fromkeys(map(_identity, findings)):
            self.stopwatch.noted(key, self.tables.watched[key])
        return tuple(self.tables.discrepancies[_identity(finding)] for finding in findings)

    def _write_findings(self, findings: Sequence[Finding], now: datetime) -> list[Discrepancy]:
        """In a transaction that is under way."""
        by_id = {_identity(finding): finding for finding in findings}
        for key, finding in by_id.items():
            before = self.tables.watched.get(key, Watched())
            added_ms, watcher = self.stopwatch.added_ms(key, before)
            present = self.tables.discrepancies.get(key)
            record, after = _seen(present, before, finding, now, self.settle_policy, added_ms=added_ms, watcher=watcher)
            self.tables.put(self.tables.discrepancies, key, record)
            self.tables.put(self.tables.watched, key, after)
        return [self.tables.discrepancies[_identity(finding)] for finding in findings]

    def clear_unseen(self, subjects: Sequence[str], seen: Sequence[str]) -> int:
        now, wanted, spared = self._now(), set(subjects), set(seen)
        with self.tables.transaction():
            unseen = [
                record
                for record in self.tables.discrepancies.values()
                if record.subject in wanted and record.state in OPEN_DISCREPANCY and record.id not in spared
            ]
            if unseen:
                self.require_fence()
            for record in unseen:
                self._close(record, DiscrepancyState.CLEARED, now)
        return len(unseen)

    def correct(self, correction: Correction) -> bool:
        now = self._now()
        try:
            with self.tables.transaction():
                return self._correct(correction, now)
        except AlreadyDone:
            return True
        except LostRace:
            return False

    def _correct(self, correction: Correction, now: datetime) -> bool:
        operation = correction_operation(correction.discrepancy_id, correction.occurrence)
        fence = self.require_fence()
        ledger = Ledger(
            self.tables,
            operation,
            now,
            correction.actor,
            discrepancy_id=correction.discrepancy_id,
            note=correction.note,
            fence=fence,
        )
        ledger.begin()
        token = ledger.load([correction.token_id])[0]
        if token.status is not correction.expected_status or token.rev != correction.expected_rev:
            return False
        self.pass_door(correction.warrant, token)
        if token.reservation is not None and self._is_live(token.reservation.melt_id):
            return False
        take = frozenset(correction.ys)
        rest = ledger.move(token, correction.new_status, reason=str(correction.reason), take=take or None)
        if rest:
            ledger.store_loose(
                [(Owner(npub=token.npub, wallet_id=token.wallet_id, mint_url=token.mint_url), rest)],
                name=f"{token.transaction_id}_keep",
                status=token.status,
                reason="correction_split",
                kind="sent" if token.is_sent else "change",
            )
        record = self.tables.discrepancies.get(correction.discrepancy_id)
        if record is None or record.occurrence != correction.occurrence or record.state not in OPEN_DISCREPANCY:
            raise LostRace(f"discrepancy {correction.discrepancy_id} is no longer open")
        self._close(record, DiscrepancyState.CORRECTED, now)
        return True

    def pass_door(self, warrant: Warrant, token: Token) -> None:
        """See :func:`melt.store.door.pass_door`."""
        record = self.tables.discrepancies.get(warrant.discrepancy_id)
        if token.id != warrant.token_id or token.mark != warrant.mark:
            raise LostRace(f"token {token.id} is not what was looked at")
        if record is None or record.state not in OPEN_DISCREPANCY or record.occurrence != warrant.occurrence:
            raise LostRace(f"discrepancy {warrant.discrepancy_id} is not open any more")
        needs_ms = self.settle_policy.needs_ms(record.action)
        watched = self.tables.watched.get(record.id, Watched())
        settled = needs_ms == 0 or (watched.mark == token.mark and watched.watched_ms >= needs_ms)
        if not (warrant.at_once or settled):
            raise LostRace(f"discrepancy {record.id} has not settled")

    # --- who else holds a proof (:class:`melt.ports.Holdings`) ---

    @property
    def secrets_indexed(self) -> bool:
        """Every look is served: nothing here is large."""
        return True

    @property
    def reads_once(self) -> bool:
        """Likewise."""
        return False

    def holders(self, proofs: Sequence[Proof]) -> Mapping[Y, tuple[Holder, ...]]:
        found = {proof.y: tuple(map(self._holder, self.tables.secrets.get(proof.secret, ()))) for proof in proofs}
        return {y: held for y, held in found.items() if len(held) > 1}

    def _holder(self, token_id: TokenId) -> Holder:
        token = self.tables.token(token_id)
        return Holder(
            token_id=token_id,
            npub=token.npub,
            status=token.status,
            is_melted=token.transaction_type == "melted",
            is_sent=token.is_sent,
        )

    # --- what settles ---

    def open_about_tokens(self, mint: MintAlias, limit: int) -> tuple[Discrepancy, ...]:
        found = [
            record
            for record in self.tables.discrepancies.values()
            if record.mint == mint and record.token_id is not None and record.state in _NOT_OVER
        ]
        return tuple(sorted(found, key=lambda record: (record.watched_ms, record.id))[:limit])

    def marks(self, ids: Sequence[TokenId]) -> Mapping[TokenId, str]:
        return {token_id: self.tables.tokens[token_id].mark for token_id in ids if token_id in self.tables.tokens}

    def watch(self, looked: Mapping[str, str]) -> None:
        noted: list[tuple[str, Watched]] = []
        with self.tables.transaction():
            self.require_fence()
            for key, mark in looked.items():
                record = self.tables.discrepancies.get(key)
                if record is None or record.state not in _NOT_OVER:
                    continue
                before = self.tables.watched.get(key, Watched())
                added_ms, watcher = self.stopwatch.added_ms(key, before)
                after = before.after(added_ms, watcher, moved=mark != before.mark, mark=mark, same=True)
                self.tables.put(self.tables.watched, key, after)
                self.tables.put(self.tables.discrepancies, key, replace(record, **_times(after)))
                noted.append((key, after))
        for key, after in noted:
            self.stopwatch.noted(key, after)

    def discrepancies(
        self,
        *,
        states: Sequence[DiscrepancyState],
        types: Sequence[DriftType],
        severities: Sequence[Severity],
        npub: str | None,
        limit: int,
    ) -> tuple[Discrepancy, ...]:
        return self._listed(
            record
            for record in self.tables.discrepancies.values()
            if (not states or record.state in states)
            and (not types or record.type in types)
            and (not severities or record.severity in severities)
            and (npub is None or record.npub == npub)
        )[: _bounded(limit)]

    def open_discrepancies_of(
        self, token_ids: Sequence[TokenId], severities: Sequence[Severity]
    ) -> tuple[Discrepancy, ...]:
        return tuple(
            record
            for record in self.tables.discrepancies.values()
            if record.token_id in token_ids and _keeps_from_melts(record) and record.severity in severities
        )

    def count_open_discrepancies(self) -> Mapping[tuple[str, str, str], int]:
        counts: dict[tuple[str, str, str], int] = {}
        for record in self.tables.discrepancies.values():
            if record.state in OPEN_DISCREPANCY:
                key = (record.type.value, record.severity.value, record.mint or "")
                counts[key] = counts.get(key, 0) + 1
        return counts

    def discrepancies_of_proof(self, y: Y, limit: int) -> tuple[Discrepancy, ...]:
        return self._listed(r for r in self.tables.discrepancies.values() if y in r.ys)[: _bounded(limit)]

    @staticmethod
    def _listed(records: Iterable[Discrepancy]) -> tuple[Discrepancy, ...]:
        return tuple(sorted(records, key=lambda record: record.last_seen, reverse=True))

    # --- events, audit, sweeps, instances ---

    def raise_event(
        self,
        event_type: EventType,
        subject: str,
        *,
        mint: MintAlias | None,
        detail: str,
        requires_manual_intervention: bool,
        evidence: Mapping[str, str | int | bool | None],
        opened_at: datetime | None = None,
    ) -> tuple[CriticalEvent, bool]:
        now = self._now()
        for index, event in enumerate(self.tables.events):
            if event.type is event_type and event.subject == subject and event.resolved_at is None:
                seen = replace(
                    event,
                    mint=mint,
                    detail=detail,
                    requires_manual_intervention=requires_manual_intervention,
                    evidence=dict(evidence),
                    last_seen=now,
                    sightings=event.sightings + 1,
                )
                self.tables.events[index] = seen
                return seen, False
        opened = CriticalEvent(
            id=f"e{len(self.tables.events)}",
            type=event_type,
            subject=subject,
            mint=mint,
            detail=detail,
            opened_at=opened_at or now,
            last_seen=now,
            resolved_at=None,
            sightings=1,
            requires_manual_intervention=requires_manual_intervention,
            evidence=dict(evidence),
        )
        self.tables.events.append(opened)
        return opened, True

    def resolve_event(self, event_type: EventType, subject: str, *, reason: str) -> CriticalEvent | None:
        for index, event in enumerate(self.tables.events):
            if event.type is event_type and event.subject == subject and event.resolved_at is None:
                self.tables.events[index] = replace(event, resolved_at=self._now(), resolution=reason)
                return self.tables.events[index]
        return None

    def events(self, *, open_only: bool, limit: int) -> tuple[CriticalEvent, ...]:
        found = [event for event in self.tables.events if not open_only or event.resolved_at is None]
        return tuple(sorted(found, key=lambda event: event.last_seen, reverse=True)[: _bounded(limit)])

    def audit(self, *, token_id: TokenId | None, melt_id: MeltId | None, limit: int) -> tuple[AuditEntry, ...]:
        found = [
            entry
            for entry in self.tables.audit
            if (token_id is None or entry.token_id == token_id) and (melt_id is None or entry.melt_id == melt_id)
        ]
        return self._entries(found, limit)

    def audit_of_proof(self, y: Y, limit: int) -> tuple[AuditEntry, ...]:
        return self._entries([entry for entry in self.tables.audit if y in entry.ys], limit)

    @staticmethod
    def _entries(found: Sequence[AuditEntry], limit: int) -> tuple[AuditEntry, ...]:
        return tuple(sorted(found, key=lambda entry: (entry.at, entry.id), reverse=True)[: _bounded(limit)])

    def save_sweep(self, record: SweepRecord) -> None:
        self.require_fence()
        self.tables.sweeps[record.mint] = record

    def sweeps(self) -> tuple[SweepRecord, ...]:
        return tuple(self.tables.sweeps[alias] for alias in sorted(self.tables.sweeps))

    # --- what mints have called SPENT (:class:`melt.ports.SpentRecords`) ---

    def spent_memory(self, mint: MintAlias, mint_url: str, limit: int) -> SpentMemory:
        subject = f"mint:{mint}"
        told = [e for e in self.tables.events if (e.type, e.subject) == (EventType.MINT_STATE_REGRESSED, subject)]
        resolved = [e.resolved_at for e in told if e.resolved_at is not None and e.resolution != SANE_AGAIN]
        accepted_at = max(resolved, default=None)
        regressed = next((str(e.evidence["ys"]) for e in told if e.resolved_at is None and e.evidence.get("ys")), "")
        url = normalise_mint_url(mint_url)
        dated = [
            (melt.updated_at, [ref.y for ref in melt.inputs])
            for melt in self.tables.melts.values()
            if melt.state is MeltState.SETTLED and normalise_mint_url(melt.mint_url) == url
        ]
        dated += [
            (record.closed_at, list(record.ys))
            for record in self.tables.discrepancies.values()
            if record.state is DiscrepancyState.CORRECTED
            and record.mint == mint
            and record.action is Action.MARK_SPENT
            and record.type in _MARKED
            and record.closed_at is not None
        ]
        dated.sort(key=lambda pair: pair[0], reverse=True)
        known = dict.fromkeys(y for at, ys in dated if accepted_at is None or at > accepted_at for y in ys)
        spent = [t for t in self.tables.tokens.values() if isinstance(t, Token) and t.status is TokenStatus.SPENT]
        spent = [token for token in spent if token.proofs and normalise_mint_url(token.mint_url) == url]
        return SpentMemory(
            known=tuple(known)[: max(0, limit)],
            hints=() if known else tuple(token.proofs[0].y for token in spent[:8]),
            accepted_at=accepted_at,
            regressed=tuple(Y(y) for y in regressed.split(",")) if regressed else (),
        )

    def once_spent(self, ys: Sequence[Y]) -> Mapping[Y, datetime]:
        seen: list[tuple[datetime, Iterable[Y]]] = [
            (melt.updated_at, [ref.y for ref in melt.inputs])
            for melt in self.tables.melts.values()
            if melt.state is MeltState.SETTLED
        ]
        seen += [
            (entry.at, entry.ys)
            for entry in self.tables.audit
            if entry.to_status is TokenStatus.SPENT and entry.reason in _REASONS
        ]
        found: dict[Y, datetime] = {}
        for at, those in seen:
            for y in set(those).intersection(ys):
                found[y] = max(at, found.get(y, at))
        return found

    def renew_instance(self, holder: str) -> None:
        self.tables.leases[holder] = self.tables.leases.get(holder, 0) + 1

    def instances(self) -> Mapping[str, int]:
        return dict(self.tables.leases)

    def ping(self) -> None:
        """It is there."""

    def pending_since(self) -> tuple[int, timedelta]:
        created = [melt.created_at for melt in self.tables.melts.values() if melt.state not in TERMINAL]
        if not created:
            return 0, timedelta()
        return len(created), max(self._clock.now() - min(created), timedelta())


def _forms(url: str) -> tuple[str, ...]:
    bare = url.rstrip("/")
    return url, bare, f"{bare}/", normalise_mint_url(url)


def _bounded(limit: int) -> int:
    return max(1, min(limit, LIMIT_MAX))


def _identity(finding: Finding) -> str:
    return f"{finding.type}:{finding.subject}"


def _times(watched: Watched) -> dict[str, Any]:
    """What a record shows of its time."""
    return {
        "mark": watched.mark,
        "watched_ms": watched.watched_ms,
        "same_ms": watched.same_ms,
        "open_ms": watched.open_ms,
    }


def _seen(
    present: Discrepancy | None,
    before: Watched,
    finding: Finding,
    now: datetime,
    settle: SettlePolicy,
    *,
    added_ms: int,
    watcher: str,
) -> tuple[Discrepancy, Watched]:
    fields: dict[str, Any] = {
        "severity": finding.severity,
        "action": finding.action,
        "npub": finding.npub,
        "mint": finding.mint,
        "unit": finding.unit,
        "value": finding.value,
        "token_id": finding.token_id,
        "ys": finding.ys,
        "evidence": dict(finding.evidence),
        "last_seen": now,
        "needs_ms": settle.needs_ms(finding.action),
    }
    again = {"sightings": 1, "first_seen": now, "closed_at": None, "same_since": now}
    if present is None:
        began = Watched(mark=finding.mark, watcher=watcher, looks=1)
        record = Discrepancy(
            id=_identity(finding),
            type=finding.type,
            subject=finding.subject,
            state=DiscrepancyState.OPEN,
            occurrence=1,
            **again,
            **fields,
            **_times(began),
        )
        return _weighed(record, finding, settle), began
    anew = {"state": DiscrepancyState.RECURRED, "occurrence": present.occurrence + 1, **again, **fields}
    if present.state in {DiscrepancyState.CORRECTED, DiscrepancyState.CLEARED}:
        began = Watched(mark=finding.mark, watcher=watcher, looks=before.looks + 1)
        return _weighed(replace(present, **anew, **_times(began)), finding, settle), began
    seen = sighting(before, finding, action=present.action, ys=present.ys, added_ms=added_ms, watcher=watcher)
    if seen.anew and present.state is not DiscrepancyState.ACKNOWLEDGED:
        return _weighed(replace(present, **anew, **_times(seen.watched)), finding, settle), seen.watched
    if seen.keeps_words:
        fields |= {"value": present.value, "ys": present.ys}
    same = present.action is finding.action and set(present.ys) == set(fields["ys"])
    since = (present.same_since or now) if same else now
    record = replace(present, sightings=present.sightings + 1, same_since=since, **fields, **_times(seen.watched))
    return _weighed(record, finding, settle), seen.watched


def _weighed(record: Discrepancy, finding: Finding, settle: SettlePolicy) -> Discrepancy:
    """With the severity of what does not come to rest, and with its time."""
    if settle.is_unsettled(drift=finding.type, action=finding.action, open_ms=record.open_ms):
        told = {**record.evidence, "unsettled_s": record.open_ms // 1000}
        record = replace(record, severity=Severity.HIGH, evidence=told)
    alert_ms = settle.alert_ms(finding.type, record.severity) if finding.token_id is not None else 0
    return replace(record, alert_ms=alert_ms)


__all__ = ["ModelStore", "Proof", "Wallet"]
