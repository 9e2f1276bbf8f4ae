"""Token documents and proofs as the engine sees them (DESIGN section 3)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from melt.model.counting import is_counted, is_history, is_live
from melt.model.words import TransactionType

if TYPE_CHECKING:
    from datetime import datetime

    from melt.model.words import KeysetId, MeltId, TokenId, TokenStatus, Y


@dataclass(frozen=True, slots=True, kw_only=True)
class Dleq:
    """A DLEQ proof as a holder keeps it (NUT-12): hex scalars. ``r`` is the blinding factor, hence secret."""

    e: str = field(repr=False)
    s: str = field(repr=False)
    r: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """
    One proof of a token document (NUT-00). ``secret`` and ``c`` never appear in a representation (I10).

    ``amount`` is in the unit of its keyset. ``y`` is derived from ``secret`` when the document is read.
    """

    keyset_id: KeysetId
    amount: int
    secret: str = field(repr=False)
    c: str = field(repr=False)
    y: Y
    witness: str | None = field(default=None, repr=False)
    dleq: Dleq | None = field(default=None, repr=False)

    @property
    def is_locked(self) -> bool:
        """Whether the secret is a NUT-10 condition (P2PK, HTLC), which needs a witness to be spent."""
        return self.secret.lstrip().startswith("[")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewProof:
    """A proof that meltd made by unblinding and is about to store."""

    keyset_id: KeysetId
    amount: int
    secret: str = field(repr=False)
    c: str = field(repr=False)
    dleq: Dleq | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """Which melt holds a pending document, and since when."""

    melt_id: MeltId
    at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """
    A token document that could be read.

    ``mint_url`` is kept as it is stored; compare with :func:`melt.model.normalise_mint_url`.
    ``transaction_type`` is free text here because old data holds more than DESIGN allows.
    ``total_amount`` is what the document claims, ``amount`` what its proofs add up to.
    ``rev`` is None in a document that meltd has never written. ``sum_mismatch`` tells that the two differ, or that
    ``total_amount`` is something that no sum of proofs can be (``total_is_junk``).
    """

    id: TokenId
    npub: str
    wallet_id: str | None
    mint_url: str
    status: TokenStatus
    transaction_type: str
    transaction_id: str
    proofs: tuple[Proof, ...]
    total_amount: int | None
    total_is_junk: bool = False
    reservation: Reservation | None = None
    rev: int | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    spent_at: datetime | None = None
    mark: str = ""
    """A digest of what has to stand still of the document before a rule writes it (I13); see :mod:`melt.settling`."""

    @property
    def amount(self) -> int:
        """Sum of the proofs' amounts."""
        return sum(proof.amount for proof in self.proofs)

    @property
    def is_counted(self) -> bool:
        """Whether the document counts towards its owner's balance (:mod:`melt.model.counting`)."""
        return is_counted(self.status, self.transaction_type)

    @property
    def is_history(self) -> bool:
        """Whether the document only tells what has been."""
        return is_history(self.status)

    @property
    def is_sent(self) -> bool:
        """Whether it was handed out: its proofs are their recipient's, whatever its status says."""
        return self.transaction_type == TransactionType.SENT

    @property
    def sum_mismatch(self) -> bool:
        """Whether ``total_amount`` claims something else than the proofs add up to."""
        claims_otherwise = self.total_amount is not None and self.total_amount != self.amount
        return bool(self.proofs) and (self.total_is_junk or claims_otherwise)


@dataclass(frozen=True, slots=True, kw_only=True)
class MalformedToken:
    """
    A document of the token collection that can't be read as a token: reported, never changed.

    ``value`` is what those of its proofs that could be read add up to, each once: what may be lost to its owner. ``ys``
    are these proofs, ``repeated`` those among them that lie in the document more than once, by which it counts
    ``repeated_value`` too much.
    """

    id: TokenId
    reasons: tuple[str, ...]
    npub: str | None = None
    mint_url: str | None = None
    status: str | None = None
    value: int = 0
    ys: tuple[Y, ...] = ()
    repeated: tuple[Y, ...] = ()
    repeated_value: int = 0
    mark: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """
    A document that holds a proof. ``status`` and ``npub`` are None where they are none that DESIGN section 3 knows.

    ``is_melted`` tells a legacy ``melted`` document, ``is_sent`` one that was handed out.
    """

    token_id: TokenId
    npub: str | None
    status: TokenStatus | None
    is_melted: bool = False
    is_sent: bool = False

    @property
    def is_counted(self) -> bool:
        """Whether the document counts towards its owner's balance (:mod:`melt.model.counting`)."""
        return is_live(self.status) and not self.is_melted and not self.is_sent

    @property
    def is_history(self) -> bool:
        """Whether the document only tells what has been."""
        return is_history(self.status)


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Whose new documents are: copied from a source document when proofs move or change is stored."""

    npub: str
    wallet_id: str | None
    mint_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """One user's money of one status at one mint in one unit. ``locked`` is the NUT-10 part of ``amount``."""

    npub: str
    mint_url: str
    unit: str
    status: str
    amount: int
    locked: int
    proofs: int
    documents: int
