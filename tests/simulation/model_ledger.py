"""
The model store's tables and its transactions: everything of one transaction happens, or nothing.

A write goes through :class:`Tables`, which remembers what was there before; a transaction that ends in an error puts it
back. ``on_commit`` is told what each transaction has changed: the books hang there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime

from melt.audit import status_change
from melt.errors import DuplicateSecret, InvariantBroken, LostRace
from melt.model import (
    PROOFS_PER_DOCUMENT_MAX,
    Actor,
    AuditEntry,
    CriticalEvent,
    Discrepancy,
    Fence,
    Lease,
    MalformedToken,
    Melt,
    MeltId,
    Member,
    NewProof,
    Owner,
    Proof,
    Reservation,
    Shard,
    SweepRecord,
    Token,
    TokenId,
    TokenStatus,
    Y,
)
from melt.settling import Watched


def mark_of(token: Token | MalformedToken) -> str:
    """A digest of what has to stand still of a document (:func:`melt.store.documents.mark_of`)."""
    told: tuple[object, ...] = (token.status, token.npub, token.mint_url)
    if isinstance(token, Token):
        proofs = tuple((proof.keyset_id, proof.amount, proof.secret, proof.c, proof.witness) for proof in token.proofs)
        told += (token.transaction_type, token.transaction_id, token.wallet_id, token.reservation, proofs)
    else:
        told += (token.reasons, token.ys)
    return hashlib.blake2b(repr(told).encode(), digest_size=16).hexdigest()


class AlreadyDone(Exception):
    """An operation's entries are in the audit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wallet:
    """A ``cashu_wallets`` document."""

    id: str
    npub: str
    mint_url: str
    unit: str


@dataclass(slots=True)
class Commit:
    """What one transaction changed: the state before it by id, and the audit entries that it wrote."""

    tokens: dict[TokenId, Token | MalformedToken | None] = field(default_factory=dict)
    melts: dict[MeltId, Melt | None] = field(default_factory=dict)
    entries: list[AuditEntry] = field(default_factory=list)
    others: list[Callable[[], None]] = field(default_factory=list)
    """How to undo what is neither a token nor an entry of the journal."""


class Tables:
    """The collections."""

    def __init__(self, y_of: Callable[[str], Y]) -> None:
        self.y_of = y_of
        self.tokens: dict[TokenId, Token | MalformedToken] = {}
        self.wallets: list[Wallet] = []
        self.melts: dict[MeltId, Melt] = {}
        self.kept: dict[MeltId, tuple[Proof, ...]] = {}
        """The proofs of open entries' inputs."""
        self.audit: list[AuditEntry] = []
        self.operations: dict[str, list[AuditEntry]] = {}
        self.counters: dict[str, int] = {}
        self.discrepancies: dict[str, Discrepancy] = {}
        self.watched: dict[str, Watched] = {}
        self.events: list[CriticalEvent] = []
        self.leases: dict[str, int] = {}
        self.shards: dict[Shard, Lease] = {}
        self.members: dict[str, Member] = {}
        self.sweeps: dict[str, SweepRecord] = {}
        self.secrets: dict[str, dict[TokenId, None]] = {}
        """By secret the documents that hold it."""
        self.on_commit: Callable[[Commit], None] | None = None
        self.commits = 0
        self._made = 0
        self._open: Commit | None = None

    def new_id(self) -> TokenId:
        """24 hex characters, rising."""
        self._made += 1
        return TokenId(f"{self._made:024x}")

    @contextmanager
    def transaction(self) -> Iterator[Commit]:
        """All or nothing."""
        if self._open is not None:
            raise InvariantBroken("a transaction in a transaction")
        commit = self._open = Commit()
        try:
            yield commit
        except BaseException:
            self._undo(commit)
            raise
        finally:
            self._open = None
        for entry in commit.entries:
            self.audit.append(entry)
            self.operations.setdefault(entry.id.rsplit("/", 1)[0], []).append(entry)
        self.commits += 1
        if self.on_commit is not None:
            self.on_commit(commit)

    def drop_token(self, token_id: TokenId) -> None:
        """Another writer deletes a document."""
        self.writing.tokens.setdefault(token_id, self.tokens.get(token_id))
        self._index(token_id, None)
        self.tokens.pop(token_id, None)

    def _undo(self, commit: Commit) -> None:
        for undo in reversed(commit.others):
            undo()
        for token_id, token in commit.tokens.items():
            self._index(token_id, token)
            if token is None:
                self.tokens.pop(token_id, None)
            else:
                self.tokens[token_id] = token
        for melt_id, melt in commit.melts.items():
            if melt is None:
                del self.melts[melt_id]
            else:
                self.melts[melt_id] = melt

    @property
    def writing(self) -> Commit:
        """The transaction that is open."""
        if self._open is None:
            raise InvariantBroken("a write outside of any transaction")
        return self._open

    def put_token(self, token_id: TokenId, token: Token | MalformedToken) -> None:
        """Insert or replace a document. Its digest follows from what it is, as on the real store."""
        token = replace(token, mark=mark_of(token))
        self.writing.tokens.setdefault(token_id, self.tokens.get(token_id))
        self._index(token_id, token)
        self.tokens[token_id] = token

    def _index(self, token_id: TokenId, token: Token | MalformedToken | None) -> None:
        old = self.tokens.get(token_id)
        if isinstance(old, Token):
            for proof in old.proofs:
                holders = self.secrets.get(proof.secret, {})
                holders.pop(token_id, None)
                if not holders:
                    self.secrets.pop(proof.secret, None)
        if isinstance(token, Token):
            for proof in token.proofs:
                self.secrets.setdefault(proof.secret, {})[token_id] = None

    def put_melt(self, melt: Melt) -> None:
        """Insert or replace a journal entry."""
        self.writing.melts.setdefault(melt.id, self.melts.get(melt.id))
        self.melts[melt.id] = melt

    def put(self, table: dict, key: object, value: object) -> None:  # type: ignore[type-arg]
        """Insert or replace in one of the other tables."""
        missing = object()
        old = table.get(key, missing)
        table[key] = value
        self.writing.others.append(lambda: table.pop(key) if old is missing else table.__setitem__(key, old))

    def token(self, token_id: TokenId) -> Token:
        """A document that must be there and readable; LostRace otherwise."""
        found = self.tokens.get(token_id)
        if not isinstance(found, Token):
            raise LostRace(f"token {token_id} is not there or can't be read")
        return found


@dataclass(slots=True)
class Ledger:
    """The token writes of one operation."""

    tables: Tables
    operation_id: str
    now: datetime
    actor: Actor
    melt_id: MeltId | None = None
    discrepancy_id: str | None = None
    note: str | None = None
    fence: Fence | None = None
    writes: int = 0

    @property
    def entries(self) -> list[AuditEntry]:
        """What the audit will say."""
        return self.tables.writing.entries

    def begin(self) -> None:
        """Raises AlreadyDone where the operation has entries."""
        if self.operation_id in self.tables.operations:
            raise AlreadyDone

    def load(self, ids: Iterable[TokenId]) -> list[Token]:
        """The documents, each once."""
        return [self.tables.token(token_id) for token_id in dict.fromkeys(ids)]

    def is_ours(self, token: Token) -> bool:
        """Whether it carries the reservation of the entry that this operation belongs to."""
        return self.melt_id is not None and token.reservation is not None and token.reservation.melt_id == self.melt_id

    def unreserve(self, token: Token) -> None:
        """Take our reservation off."""
        self.tables.put_token(token.id, replace(token, reservation=None, rev=(token.rev or 0) + 1, updated_at=self.now))

    def move(
        self,
        token: Token,
        to: TokenStatus,
        *,
        reason: str,
        take: frozenset[Y] | None = None,
        reservation: Reservation | None = None,
    ) -> tuple[Proof, ...]:
        """Change a status; with ``take`` the document keeps these proofs alone and the others come back."""
        if take is not None and not take <= {proof.y for proof in token.proofs}:
            raise LostRace(f"token {token.id} no longer holds a proof that was chosen")
        kept = tuple(proof for proof in token.proofs if take is None or proof.y in take)
        rest = tuple(proof for proof in token.proofs if take is not None and proof.y not in take)
        if rest and not kept:
            raise InvariantBroken(f"token {token.id} was to be split into nothing and itself")
        amount = sum(proof.amount for proof in kept)
        self._note(token, token.status, to, kept, reason)
        self.tables.put_token(
            token.id,
            replace(
                token,
                status=to,
                proofs=kept,
                total_amount=amount if rest else token.total_amount,
                rev=(token.rev or 0) + 1,
                updated_at=self.now,
                spent_at=self.now if to is TokenStatus.SPENT else token.spent_at,
                reservation=reservation,
            ),
        )
        self.writes += 1
        return rest

    def _note(
        self, token: Token, before: TokenStatus | None, to: TokenStatus, proofs: Sequence[Proof], reason: str
    ) -> None:
        self.entries.append(
            status_change(
                operation_id=self.operation_id,
                at=self.now,
                token_id=token.id,
                npub=token.npub,
                mint_url=token.mint_url,
                from_status=before,
                to_status=to,
                amount=sum(proof.amount for proof in proofs),
                ys=tuple(proof.y for proof in proofs),
                reason=reason,
                actor=self.actor,
                melt_id=self.melt_id,
                discrepancy_id=self.discrepancy_id,
                note=self.note,
                fence=self.fence,
                reserved=before is not None and self.is_ours(token),
            )
        )

    def store_new(
        self,
        owner: Owner,
        proofs: Sequence[NewProof],
        *,
        name: str,
        status: TokenStatus,
        reason: str,
        reservation: Reservation | None = None,
    ) -> tuple[TokenId, ...]:
        """Proofs that were just unblinded, as new documents; DuplicateSecret where one lies anywhere already."""
        if len({proof.secret for proof in proofs}) != len(proofs):
            raise DuplicateSecret("one proof was to be stored twice")
        if any(proof.secret in self.tables.secrets for proof in proofs):
            raise DuplicateSecret("a proof that was to be stored already lies in a token")
        held = tuple(
            Proof(
                keyset_id=proof.keyset_id,
                amount=proof.amount,
                secret=proof.secret,
                c=proof.c,
                y=self.tables.y_of(proof.secret),
                dleq=proof.dleq,
            )
            for proof in proofs
        )
        parts = [(owner, held)] if held else []
        return self.store_loose(parts, name=name, status=status, reason=reason, reservation=reservation)

    def store_loose(
        self,
        parts: Sequence[tuple[Owner, tuple[Proof, ...]]],
        *,
        name: str,
        status: TokenStatus,
        reason: str,
        reservation: Reservation | None = None,
        kind: str = "change",
    ) -> tuple[TokenId, ...]:
        """Loose proofs, those of one wallet together."""
        wallets: dict[Owner, list[Proof]] = {}
        for owner, proofs in parts:
            wallets.setdefault(owner, []).extend(proofs)
        made: list[TokenId] = []
        for owner, proofs in wallets.items():
            for start in range(0, len(proofs), PROOFS_PER_DOCUMENT_MAX):
                chunk = tuple(proofs[start : start + PROOFS_PER_DOCUMENT_MAX])
                made.append(self._insert(owner, chunk, self._free_name(name), status, reason, reservation, kind))
        return tuple(made)

    def _insert(
        self,
        owner: Owner,
        proofs: tuple[Proof, ...],
        transaction_id: str,
        status: TokenStatus,
        reason: str,
        reservation: Reservation | None,
        kind: str = "change",
    ) -> TokenId:
        if any(proof.amount <= 0 for proof in proofs):
            raise InvariantBroken("a proof that is about to be written has no positive amount")
        token = Token(
            id=self.tables.new_id(),
            npub=owner.npub,
            wallet_id=owner.wallet_id,
            mint_url=owner.mint_url,
            status=status,
            transaction_type=kind,
            transaction_id=transaction_id,
            proofs=proofs,
            total_amount=sum(proof.amount for proof in proofs),
            reservation=reservation,
            rev=1,
            created_at=self.now,
            updated_at=self.now,
            spent_at=self.now if status is TokenStatus.SPENT else None,
        )
        self._note(token, None, status, proofs, reason)
        self.tables.put_token(token.id, token)
        self.writes += 1
        return token.id

    def _free_name(self, base: str) -> str:
        used = {token.transaction_id for token in self.tables.tokens.values() if isinstance(token, Token)}
        number, name = 1, base
        while name in used:
            number += 1
            name = f"{base}_{number}"
        return name
