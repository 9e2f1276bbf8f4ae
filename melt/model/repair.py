"""The repair of the double count: what is taken out of which document, what is left, what it is worth (ADR 13). Pure data."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from melt.model.counting import is_history, is_live
from melt.model.words import DriftType, TransactionType

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from melt.errors import Severity
    from melt.model.journal import Actor
    from melt.model.words import MintAlias, TokenId, TokenStatus, Y


class RepairType(StrEnum):
    """What a repair is about."""

    DUPLICATE_PROOF = "DUPLICATE_PROOF"
    LEGACY_MELTED_DOCUMENT = "LEGACY_MELTED_DOCUMENT"
    ALL = "all"

    @property
    def duplicates(self) -> bool:
        """Whether every secret that stands twice is repaired, not only those of ``melted`` documents."""
        return self is not RepairType.LEGACY_MELTED_DOCUMENT

    @property
    def melted(self) -> bool:
        """Whether ``melted`` documents that count are looked at."""
        return self is not RepairType.DUPLICATE_PROOF


class LeftReason(StrEnum):
    """Why proofs are left as they are. The first group needs a person, the second one resolves itself."""

    ACROSS_USERS = "ACROSS_USERS"
    """Two users' documents hold the proofs and the mint still honours them: whose they are is no rule's to say."""
    HANDED_OUT = "HANDED_OUT"
    """A ``sent`` document holds them beside one that counts: they may be the recipient's."""
    MELTED_UNSPENT = "MELTED_UNSPENT"
    """Only ``melted`` documents hold them and the mint honours them: money, not leftovers."""
    PROOFS_DIFFER = "PROOFS_DIFFER"
    """One secret with different amounts, keysets or signatures: at most one of them is real."""
    MINTS_DIFFER = "MINTS_DIFFER"
    MINT_UNCONFIGURED = "MINT_UNCONFIGURED"
    UNREADABLE = "UNREADABLE"
    """One of the documents can't be read as a token."""

    RESERVED = "RESERVED"
    """An open melt holds one of the documents."""
    MINT_PENDING = "MINT_PENDING"
    FROZEN = "FROZEN"
    """A CRITICAL event about the wallet is open."""

    @property
    def needs_person(self) -> bool:
        """Whether it will be there in the next run too unless a person decides."""
        return self not in {LeftReason.RESERVED, LeftReason.MINT_PENDING, LeftReason.FROZEN}


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentSecrets:
    """
    What the search for duplicates needs of a document: digests of its distinct secrets, 16 bytes each, and the amount
    of each (0 where it can't be read).

    Texts are "" where they are none. ``value`` is what all of its readable proofs add up to.
    """

    id: TokenId
    digests: tuple[bytes, ...] = field(repr=False)
    amounts: tuple[int, ...] = field(repr=False)
    proofs: int
    status: str
    transaction_type: str
    npub: str = ""
    wallet_id: str = ""
    value: int = 0
    created_at: datetime | None = None
    spent_at: datetime | None = None

    @property
    def is_history(self) -> bool:
        """Whether the document only tells what has been (:mod:`melt.model.counting`)."""
        return is_history(self.status)

    @property
    def melted_counts(self) -> bool:
        """A ``melted`` document that is unspent or pending, so that its proofs weigh on a balance."""
        return is_live(self.status) and self.transaction_type == TransactionType.MELTED


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """
    One proof that leaves a document because ``kept_in`` holds it too. ``amount`` in the step's unit.

    ``kept_status`` is the status that the keeper must still have; None where the mint calls the proof SPENT, since it
    counts for nobody then, whatever becomes of the keeper.
    """

    y: Y
    amount: int
    kept_in: TokenId
    kept_status: TokenStatus | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairStep:
    """
    One change of one document, decided on the version ``(status, rev, ys)``.

    A document whose proofs stay in very many others has several steps, all of the ``rev`` that it was read with.

    Without ``removals`` the document is only marked spent. ``closes`` are ids of discrepancy records that end with
    it. ``key`` is its identity: the same step has the same one in every plan.
    """

    key: str
    token_id: TokenId
    npub: str
    mint: MintAlias
    unit: str
    transaction_type: str
    status: TokenStatus
    rev: int | None
    ys: tuple[Y, ...]
    to_status: TokenStatus
    removals: tuple[Removal, ...]
    amount: int
    """What stops counting in this document, or leaves it where it didn't count, in ``unit``."""
    reason: DriftType
    severity: Severity
    closes: tuple[str, ...] = ()

    @property
    def keepers(self) -> tuple[TokenId, ...]:
        """The documents in which the proofs stay, each once."""
        return tuple(dict.fromkeys(removal.kept_in for removal in self.removals))

    @property
    def touches(self) -> frozenset[TokenId]:
        """Every document that it writes."""
        return frozenset((self.token_id, *self.keepers))


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """Proofs that are left as they are, with the documents and users that hold them, and what is proposed."""

    reason: LeftReason
    mint: MintAlias | None
    unit: str
    value: int
    ys: tuple[Y, ...]
    token_ids: tuple[TokenId, ...]
    npubs: tuple[str, ...]
    type: DriftType
    proposal: TokenId | None = None
    """The document that would keep them: the oldest holder's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UserValue:
    """
    One user's balance at one mint in one unit, in that unit.

    ``counted`` is what unspent and pending documents add up to, each copy counted; ``honoured`` counts each distinct
    secret once, and only where the mint doesn't call it SPENT. ``causes`` sums up to ``counted - honoured``;
    ``after`` is ``counted`` as it will be once the plan is applied.
    """

    npub: str
    mint: MintAlias
    unit: str
    counted: int
    honoured: int
    after: int
    causes: Mapping[str, int]

    @property
    def inflation(self) -> int:
        """How much too high the balance is."""
        return self.counted - self.honoured


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairPlan:
    """
    What a repair would do now. ``complete`` is false where there is more than one plan holds: repair, then look again.

    ``duplicates`` counts secrets that stand in more than one document of the whole collection; ``errors`` are
    sentences about mints that could not be asked: nothing about their documents is in the plan.
    """

    type: RepairType
    across_users: bool
    documents: int
    proofs: int
    duplicates: int
    melted_documents: int
    complete: bool
    steps: tuple[RepairStep, ...]
    left: tuple[Left, ...]
    users: tuple[UserValue, ...]
    errors: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Names the plan by what it would do: another plan with the same id does the same."""
        parts = [step.key for step in self.steps] + [f"{one.reason}:{y}" for one in self.left for y in one.ys]
        return hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairBatch:
    """Steps for one transaction: at most 100 documents, none of them changed by two steps."""

    operation_id: str
    steps: tuple[RepairStep, ...]
    actor: Actor
    note: str
    """The reason that the person gave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UniqueProofsWish:
    """That a person wants the unique index on ``proofs.secret``, made at the next start."""

    at: datetime
    actor: Actor
    reason: str


def repaired_reason(drift: DriftType) -> str:
    """The audit's reason for what a repair did."""
    return f"{drift}_REPAIRED"


def step_key(token_id: TokenId, status: TokenStatus, rev: int | None, to: TokenStatus, ys: tuple[Y, ...]) -> str:
    """The identity of a step: the version that it was decided on, and what it does."""
    told = "|".join((str(token_id), str(status), str(rev), str(to), *sorted(ys)))
    return hashlib.sha256(told.encode()).hexdigest()[:32]
