"""The database as the engine asks for it (DESIGN section 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime, timedelta

    from melt.errors import Severity
    from melt.model import (
        Actor,
        AtomicResult,
        AuditEntry,
        Balance,
        Correction,
        CriticalEvent,
        Discrepancy,
        DiscrepancyState,
        DriftType,
        EventType,
        Finding,
        InputRef,
        KeysetId,
        MalformedToken,
        Melt,
        MeltId,
        MeltState,
        MintAlias,
        NewProof,
        Owner,
        Proof,
        Resolution,
        SweepRecord,
        Token,
        TokenId,
        TokenStatus,
        Warrant,
        Y,
    )


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

    def spendable(self, npub: str, mint_urls: Sequence[str], unit: str | None = None) -> tuple[Token, ...]:
        """
        Readable ``unspent`` tokens of a user at a mint, oldest first.

        With ``unit`` only those whose wallet's settings say so (unknown wallet: any); what the proofs are of, their
        keysets say.
        """
        ...

    def tokens(self, ids: Sequence[TokenId]) -> tuple[Token | MalformedToken, ...]: ...
    def balances(self, npub: str, keyset_units: Mapping[KeysetId, str] | None = None) -> tuple[Balance, ...]: ...
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

    def input_proofs(self, melt: Melt, ys: Sequence[Y]) -> tuple[Proof, ...]:
        """Those of ``ys`` that could be found, in their order: from the open entry, which keeps its inputs' proofs."""
        ...

    def strayed_inputs(self, melt: Melt) -> tuple[Y, ...]:
        """Inputs that no document holds any more which is still its owner's, reserved by the melt and not spent."""
        ...

    def live_melt_ids(self, ids: Sequence[MeltId]) -> frozenset[MeltId]:
        """Those of ``ids`` whose entry exists and is open."""
        ...

    def reserve(
        self, melt: Melt, *, blanks: tuple[KeysetId, int] | None, seed_id: str, warrant: Warrant | None = None
    ) -> Melt:
        """
        T1: insert the intent, reserve its inputs, split the rest off as ``<tx>_keep``, take the blanks' counters.

        Returns the entry as stored: ``blanks``, ``keep_token_ids``, ``keep_amount`` and ``rev`` filled in. An entry of
        kind RECLAIM reserves nothing (its documents stay as they are) and is refused while another open entry
        holds one of its Ys; it passes the door by its ``warrant`` (I13). Raises LostRace when an input is no longer unspent, DuplicateMelt on key or claim.
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

    def finish_together(self, melt: Melt, proofs: Sequence[NewProof]) -> Melt:
        """Many proofs were swapped into fewer: inputs spent, new proofs stored unspent as ``<tx>_together``, entry SETTLED."""
        ...

    def renew_blanks(self, melt: Melt, *, keyset_id: KeysetId, count: int, seed_id: str) -> Melt:
        """
        Blanks of another keyset for a melt whose POST was refused before any payment: counters taken, POST not sent.

        Only for an entry that is MELTING and whose POST is REFUSED; raises InvariantBroken for any other (I1).
        """
        ...

    def finish_reclaim(self, melt: Melt, proofs: Sequence[NewProof]) -> Melt:
        """A reclaim's swap went through: new proofs stored unspent as ``<tx>_reclaimed``, entry SETTLED, its discrepancies corrected."""
        ...

    def settle(
        self,
        melt: Melt,
        change: Sequence[NewProof],
        *,
        shortfall: int,
        fees_paid: int,
        preimage: str | None,
        unproved: Sequence[NewProof] = (),
    ) -> tuple[Melt, AtomicResult]:
        """
        T3 through :meth:`execute_atomic_melt`: inputs spent, change stored, melt SETTLED.

        ``unproved`` is stored apart, as ``<tx>_unproved`` in status ``failed``, where nobody counts it.
        """
        ...

    def finish_gone(self, melt: Melt, decision: Resolution) -> Melt:
        """A person ended it as *inputs gone, outcome unknown*: inputs spent, nothing called paid, SETTLED, claim kept."""
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
        unproved_proofs: Sequence[NewProof] = (),
    ) -> AtomicResult:
        """All or nothing: sources spent, keep and change stored, journal moved to SETTLED where ``melt`` is given."""
        ...

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
        """
        Whole documents to ``spent``, one transaction. Returns how many moved; those already spent are left.

        What an open melt has reserved is refused unless ``reserved_too``. ``note`` stands in the audit beside the reason.
        """
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
    ) -> tuple[Discrepancy, ...]:
        """
        The records that keep these documents from being spent: open ones, and acknowledged ones whose proofs the
        mint has taken, since a person's word brings no money back.
        """
        ...

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
