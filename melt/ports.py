"""
What the engine needs from outside: a mint, a store, time, randomness, somebody to tell (DESIGN section 2).

Mints are asynchronous. The store is synchronous: each method is bounded, holds at most one transaction and runs
in a worker thread (:class:`StoreThreads`), so that no transaction spans an ``await`` (I3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from datetime import datetime, timedelta

    from melt.errors import Severity
    from melt.model import (
        Actor,
        AtomicResult,
        AuditEntry,
        Balance,
        BlindedMessage,
        Correction,
        CriticalEvent,
        Discrepancy,
        DiscrepancyState,
        DriftType,
        EventType,
        Finding,
        InputRef,
        Keyset,
        KeysetId,
        MalformedToken,
        Melt,
        MeltAnswer,
        MeltId,
        MeltQuote,
        MeltState,
        MintAlias,
        MintInfo,
        NewProof,
        OutputPlan,
        Owner,
        Proof,
        ProofState,
        QuoteId,
        RaisedEvent,
        Restored,
        SwapAnswer,
        SweepRecord,
        Token,
        TokenId,
        TokenStatus,
        Y,
    )

T = TypeVar("T")


class Clock(Protocol):
    """Time. Records use :meth:`now` (aware, UTC); waiting and deadlines use :meth:`monotonic` (seconds)."""

    def now(self) -> datetime: ...
    def monotonic(self) -> float: ...
    async def sleep(self, seconds: float, /) -> None: ...
    async def wait(self, event: asyncio.Event, seconds: float, /) -> bool:
        """Wait until ``event`` is set, ``seconds`` at most; whether it was."""
        ...


class Entropy(Protocol):
    """Randomness. :meth:`token` gives ``n`` random bytes as hex; :meth:`uniform` a float for jitter."""

    def token(self, n: int, /) -> str: ...
    def uniform(self, low: float, high: float, /) -> float: ...


class StoreThreads(Protocol):
    """Runs a store method in the bounded pool. Cancelling the waiter doesn't stop the method (I3)."""

    def __call__(self, work: Callable[[], T], /) -> Awaitable[T]: ...


class Mint(Protocol):
    """
    One configured mint (NUT-01 to 09, 12). Reads raise :class:`melt.errors.MintError`; the two requests that move
    money, :meth:`melt` and :meth:`swap`, never raise for what a mint does: they return a sorted answer.
    """

    @property
    def alias(self) -> MintAlias: ...
    @property
    def url(self) -> str: ...

    async def info(self) -> MintInfo:
        """NUT-06, cached."""
        ...

    async def keysets(self, *, refresh: bool = False) -> Mapping[KeysetId, Keyset]:
        """NUT-02, all keysets, cached; ``refresh`` asks again."""
        ...

    async def keys(self, keyset_id: KeysetId) -> Mapping[int, str]:
        """NUT-01: amount to public key (66 hex), cached for ever since a keyset's keys can't change."""
        ...

    async def melt_quote(self, invoice: str, unit: str) -> MeltQuote: ...
    async def melt_quote_state(self, quote_id: QuoteId) -> MeltQuote:
        """NUT-05 GET. Makes some mints ask their Lightning backend: see DESIGN section 4 on when to call it."""
        ...

    async def melt(
        self, quote_id: QuoteId, inputs: Sequence[Proof], outputs: Sequence[BlindedMessage], *, timeout_s: float
    ) -> MeltAnswer: ...
    async def check_states(self, ys: Sequence[Y]) -> tuple[ProofState, ...]:
        """NUT-07: as many states as ``ys``, in their order, duplicates kept. Split in fixed-size batches inside."""
        ...

    async def swap(
        self, inputs: Sequence[Proof], outputs: Sequence[BlindedMessage], *, timeout_s: float
    ) -> SwapAnswer: ...
    async def restore(self, outputs: Sequence[BlindedMessage]) -> tuple[Restored, ...]:
        """NUT-09: those of ``outputs`` that the mint has signed."""
        ...


class Outputs(Protocol):
    """Deterministic outputs of the operator's seed (NUT-13); implemented by :mod:`melt.ecash`."""

    @property
    def seed_id(self) -> str:
        """Fingerprint of the seed: 16 hex characters, safe to log."""
        ...

    def blinded(self, plan: OutputPlan) -> tuple[BlindedMessage, ...]:
        """The outputs of a plan, in order. Raises InvariantBroken where ``plan.seed_id`` is another seed's."""
        ...

    def unblind(
        self,
        plan: OutputPlan,
        index: int,
        signature_amount: int,
        c_: str,
        public_key: str,
        dleq: tuple[str, str] | None,
    ) -> NewProof:
        """Unblind the signature on output ``index``. With ``dleq`` (e, s) it is verified first; MintUntrusted if wrong."""
        ...

    def match(self, plan: OutputPlan, index: int, c_: str, public_key: str, dleq: tuple[str, str]) -> bool:
        """Whether the DLEQ proof shows that ``c_`` signs output ``index`` of the plan (NUT-12)."""
        ...


class Tour(Protocol):
    """One long cursor over token documents in ``_id`` order; used by one thread at a time."""

    def next_page(self, documents_max: int) -> tuple[Token | MalformedToken, ...]:
        """The next documents, empty at the end. Reopens itself after a lost cursor."""
        ...

    def close(self) -> None: ...


class Store(Protocol):
    """The database (DESIGN section 3). Every method raises :class:`melt.errors.StoreError` and no other."""

    # --- tokens ---
    def npub_known(self, npub: str) -> bool: ...
    def mint_urls(self) -> tuple[str, ...]:
        """Every distinct ``mint_url`` as stored."""
        ...

    def spendable(self, npub: str, mint_urls: Sequence[str], unit: str) -> tuple[Token, ...]:
        """Readable ``unspent`` tokens of a user at a mint whose wallet is of ``unit`` (unknown wallet: any), oldest first."""
        ...

    def tokens(self, ids: Sequence[TokenId]) -> tuple[Token | MalformedToken, ...]: ...
    def balances(self, npub: str) -> tuple[Balance, ...]: ...
    def count_tokens(self, statuses: Sequence[TokenStatus], mint_urls: Sequence[str]) -> int: ...
    def tour(
        self,
        statuses: Sequence[TokenStatus],
        mint_urls: Sequence[str],
        after: TokenId | None,
        *,
        npub: str | None = None,
    ) -> Tour:
        """Documents of these statuses at these URLs (as stored) after a position, of all users or of one."""
        ...

    # --- journal ---
    def melt(self, melt_id: MeltId) -> Melt | None: ...
    def melt_by_key(self, idempotency_key: str) -> Melt | None: ...
    def melt_by_payment_hash(self, payment_hash: str) -> Melt | None:
        """The one entry that claims this payment hash: any state but RELEASED."""
        ...

    def open_melts(self) -> tuple[Melt, ...]: ...
    def list_melts(self, *, npub: str | None, states: Sequence[MeltState], limit: int) -> tuple[Melt, ...]:
        """Newest first; an empty ``states`` means all."""
        ...

    def melts_with_proof(self, y: Y, limit: int) -> tuple[Melt, ...]:
        """Entries that had this proof among their inputs, newest first."""
        ...

    def live_melt_ids(self, ids: Sequence[MeltId]) -> frozenset[MeltId]:
        """Those of ``ids`` whose entry exists and is open."""
        ...

    def reserve(self, melt: Melt, *, blanks: tuple[KeysetId, int] | None, seed_id: str) -> Melt:
        """
        T1: insert the intent, reserve its inputs, split the rest off as ``<tx>_keep``, take the blanks' counters.

        Returns the entry as stored: ``blanks``, ``keep_token_ids``, ``keep_amount`` and ``rev`` filled in. An entry of
        kind RECLAIM reserves nothing (its documents stay as they are) and is refused while another open entry
        holds one of its Ys. Raises LostRace when an input is no longer unspent, DuplicateMelt on key or claim.
        """
        ...

    def advance(self, melt: Melt, to: MeltState, **changes: object) -> Melt:
        """
        Move the journal by one conditional update on ``{_id, state, rev}``; ``to`` may equal the present state.

        Raises LostRace when it matched nothing and InvariantBroken on a move that MELT_MOVES forbids.
        """
        ...

    def plan_swap(
        self,
        melt: Melt,
        to: MeltState,
        *,
        inputs: Sequence[InputRef],
        amounts: Sequence[int],
        keep: int,
        fee: int,
        keyset_id: KeysetId,
        seed_id: str,
        fence: bool,
    ) -> Melt:
        """Take counters and journal a swap plan (``swap`` or, with ``fence``, ``fence``) in one transaction, moving to ``to``."""
        ...

    def counter(self, seed_id: str, keyset_id: KeysetId) -> int:
        """The next counter of this seed for this keyset (NUT-13); 0 where none was ever taken."""
        ...

    def raise_counter(self, seed_id: str, keyset_id: KeysetId, at_least: int) -> None:
        """Move the next counter up to ``at_least``; never down."""
        ...

    def finish_swap(self, melt: Melt, *, keep_proofs: Sequence[NewProof], pay_proofs: Sequence[NewProof]) -> Melt:
        """T2: sources spent, keep stored as ``<tx>_keep``, pay proofs stored as a document reserved by the melt, which becomes READY with new ``inputs``."""
        ...

    def finish_fence(self, melt: Melt, proofs: Sequence[NewProof]) -> Melt:
        """The fencing swap went through: inputs spent, new proofs stored unspent as ``<tx>_fenced``, melt RELEASED."""
        ...

    def finish_reclaim(self, melt: Melt, proofs: Sequence[NewProof]) -> Melt:
        """A reclaim's swap went through: new proofs stored unspent as ``<tx>_reclaimed``, entry SETTLED, its discrepancies corrected."""
        ...

    def settle(
        self, melt: Melt, change: Sequence[NewProof], *, shortfall: int, fees_paid: int, preimage: str | None
    ) -> tuple[Melt, AtomicResult]:
        """T3 through :meth:`execute_atomic_melt`: inputs spent, change stored, melt SETTLED."""
        ...

    def release(self, melt: Melt, *, spent: Sequence[Y], error_code: str, error_detail: str) -> Melt:
        """Inputs back to unspent (those of ``spent`` marked spent, split where needed), melt RELEASED."""
        ...

    def execute_atomic_melt(
        self,
        *,
        source_token_ids: Sequence[TokenId],
        keep_proofs: Sequence[NewProof],
        melt_change_proofs: Sequence[NewProof],
        transaction_id: str,
        owner: Owner,
        actor: Actor,
        melt: Melt | None = None,
        journal_changes: Mapping[str, object] | None = None,
    ) -> AtomicResult:
        """All or nothing: sources spent, keep and change stored, journal moved to SETTLED where ``melt`` is given."""
        ...

    def mark_tokens_spent(self, token_ids: Sequence[TokenId], *, operation_id: str, reason: str, actor: Actor) -> int:
        """Whole documents to ``spent``, one transaction. Returns how many moved; those already spent are left."""
        ...

    # --- findings ---
    def record(self, findings: Sequence[Finding]) -> tuple[Discrepancy, ...]:
        """Open, see again or re-open, in the order of ``findings``."""
        ...

    def clear_unseen(self, subjects: Sequence[str], seen: Sequence[str]) -> int:
        """Close (CLEARED) the open records about ``subjects`` whose id is not in ``seen``; returns how many."""
        ...

    def correct(self, correction: Correction) -> bool:
        """One correction with its audit entry and its discrepancy's end, in one transaction. False: the document had moved on."""
        ...

    def discrepancies(
        self,
        *,
        states: Sequence[DiscrepancyState],
        types: Sequence[DriftType],
        severities: Sequence[Severity],
        npub: str | None,
        limit: int,
    ) -> tuple[Discrepancy, ...]:
        """Newest first; an empty filter means all."""
        ...

    def open_discrepancies_of(
        self, token_ids: Sequence[TokenId], severities: Sequence[Severity]
    ) -> tuple[Discrepancy, ...]: ...
    def count_open_discrepancies(self) -> Mapping[tuple[str, str, str], int]:
        """Keys (type, severity, mint alias or "")."""
        ...

    # --- events, audit, sweeps ---
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
        """Open it (as of ``opened_at``, where it had to wait for the store) or see it again; True: opened now."""
        ...

    def resolve_event(self, event_type: EventType, subject: str, *, reason: str) -> CriticalEvent | None:
        """Close it; the event as it was closed, with its time to recover, or None where none is open."""
        ...

    def events(self, *, open_only: bool, limit: int) -> tuple[CriticalEvent, ...]: ...
    def audit(self, *, token_id: TokenId | None, melt_id: MeltId | None, limit: int) -> tuple[AuditEntry, ...]: ...
    def audit_of_proof(self, y: Y, limit: int) -> tuple[AuditEntry, ...]:
        """The entries that touched this proof, newest first."""
        ...

    def discrepancies_of_proof(self, y: Y, limit: int) -> tuple[Discrepancy, ...]:
        """Records about documents whose drift this proof showed, newest first."""
        ...

    def save_sweep(self, record: SweepRecord) -> None: ...
    def sweeps(self) -> tuple[SweepRecord, ...]: ...
    def known_spent(self, mint_url: str, limit: int) -> tuple[Y, ...]:
        """Ys that the mint called SPENT before (from settled melts): the sentinels."""
        ...

    # --- instances ---
    def renew_instance(self, holder: str) -> None:
        """Bump this instance's ``renewals`` in ``meltd_leases``."""
        ...

    def instances(self) -> Mapping[str, int]:
        """Holder to its ``renewals``."""
        ...

    # --- health ---
    def ping(self) -> None: ...
    def pending_since(self) -> tuple[int, timedelta]:
        """How many melts are open, and the age of the oldest."""
        ...


class EventSpool(Protocol):
    """
    Keeps open CRITICAL events where a crash can't take them while the store is away. Never raises.

    ``keep`` returns once the event is on disk (or could not be written, which is logged).
    """

    async def keep(self, event: RaisedEvent, /) -> None: ...
    async def drop(self, event_type: EventType, subject: str, /) -> None: ...
    async def kept(self) -> tuple[RaisedEvent, ...]:
        """What an earlier run left, oldest first."""
        ...


class EventNotices(Protocol):
    """Tells somebody outside about CRITICAL events. Never raises, never waits."""

    def opened(self, event: RaisedEvent, /) -> None: ...
    def resolved(self, event: CriticalEvent, /) -> None: ...


class Telemetry(Protocol):
    """Who is told what happened, beside the log: the daemon turns it into metrics. Never raises."""

    def drift_found(self, drift: DriftType, severity: Severity, mint: MintAlias | None) -> None: ...
    def drift_corrected(self, drift: DriftType, severity: Severity, mint: MintAlias | None) -> None: ...
    def critical_event(self, event_type: EventType) -> None: ...
    def critical_event_resolved(self, event_type: EventType, seconds: float) -> None:
        """``seconds`` from its opening to its end."""
        ...

    def melt_started(self, mint: MintAlias) -> None: ...
    def melt_ended(self, mint: MintAlias, outcome: str, seconds: float) -> None:
        """``outcome``: settled, released, held, pending (the caller's wait ended first) or refused."""
        ...

    def melt_refused(self, code: str) -> None: ...
    def melt_phase(self, mint: MintAlias, phase: str, seconds: float) -> None:
        """``phase``: quote, preflight, reserve, swap, pay, settle."""
        ...

    def recovered(self, mint: MintAlias, from_state: MeltState, to_state: MeltState) -> None: ...
    def amount_paid(self, mint: MintAlias, unit: str, amount: int, fees: int, shortfall: int) -> None: ...
    def swept_batch(self, mint: MintAlias, documents: int, proofs: int, seconds: float) -> None: ...
    def sweep_finished(self, mint: MintAlias, *, ok: bool, seconds: float) -> None: ...
    def mint_request(self, mint: MintAlias, endpoint: str, outcome: str, seconds: float) -> None:
        """``endpoint``: info, keysets, keys, melt_quote, melt_quote_state, melt, checkstate, swap, restore. ``outcome``: ok, rejected, error."""
        ...

    def store_call(self, method: str, outcome: str, seconds: float) -> None: ...
