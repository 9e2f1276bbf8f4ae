"""What a survey of a database finds before meltd changes anything in it (pure data)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from melt.errors import Severity
    from melt.model.indexes import IndexStanding
    from melt.model.words import Action, DriftType, MintAlias, TokenId, TokenStatus, Y


class Copies(StrEnum):
    """How one proof lies in several documents."""

    KEPT = "kept"
    """One counts, the others are ``spent`` or ``failed``: a wallet has kept it unchanged. As it should be."""
    HISTORY = "history"
    """All of them are ``spent`` or ``failed``: nobody counts it."""
    COUNTED_TWICE = "counted_twice"
    """Several documents count it: a balance is too high."""
    HANDED_OUT = "handed_out"
    """A ``sent`` document that is not spent holds it: beside one that counts it may be spent under its recipient's hands."""
    MELTED = "melted"
    """A ``melted`` document that weighs on a balance holds it once more."""
    UNCLEAR = "unclear"
    """One of the documents has a status that is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """Documents of one status and type, and what they come to in one unit."""

    status: str
    transaction_type: str
    unit: str
    documents: int
    proofs: int
    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """Drift of one type at one mint in one unit. ``action`` is what a rule would do about it."""

    type: DriftType
    severity: Severity
    action: Action
    mint: MintAlias | None
    unit: str
    number: int
    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """
    One correction that ``correct`` would make, if nothing moves until then.

    ``in_s``: after how many seconds of watching at the earliest; tours and caps may make it later.
    """

    token_id: TokenId
    npub: str
    mint: MintAlias
    unit: str
    type: DriftType
    action: Action
    status: TokenStatus
    proofs: int
    of_proofs: int
    ys: tuple[Y, ...]
    value: int
    in_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyGroup:
    """How many proofs lie in several documents in one way. ``value`` sums amounts of all units."""

    copies: Copies
    proofs: int
    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Others:
    """
    Whether somebody else spends from this database, as far as the records show.

    ``cleared``: documents that drifted, and that somebody else put right while meltd watched. ``recurred``: those that were
    marked spent and drifted once more. ``rolled_back``: documents that are unspent and carry a date of being spent.
    """

    cleared: int
    settling: int
    recurred: int
    rolled_back: int

    @property
    def somebody_spends(self) -> bool:
        """Whether the records show another writer at work; False says that they show none."""
        return self.cleared > 0

    @property
    def somebody_rolls_back(self) -> bool:
        """Whether a program seems to turn spent documents back to unspent."""
        return self.rolled_back > 0 or self.recurred > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexWish:
    """An index that meltd wants in the wallet's collections, how it stands, and about how long it takes to make."""

    standing: IndexStanding
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """
    What is there, and what ``correct`` would do about it.

    ``users`` counts owners of documents. ``drift`` is everything found, ``changes`` the part that a rule acts on (the first
    :data:`melt.survey.CHANGES_MAX`; ``changes_count`` is of all). ``keeps_before_source`` are proofs whose new document is
    older than the moment its source was spent: the order that a unique index would refuse. ``complete`` is false where
    more proofs lie in several documents than are looked at, or where ``errors`` tell of mints that could not be asked.
    """

    documents: int
    proofs: int
    users: int
    holdings: tuple[Holding, ...]
    drift: tuple[Drift, ...]
    changes: tuple[Change, ...]
    changes_count: int
    capped: tuple[MintAlias, ...]
    sent_as_unspent: Mapping[str, int]
    sent_as_unspent_documents: int
    copies: tuple[CopyGroup, ...]
    keeps_before_source: int
    others: Others
    indexes: tuple[IndexWish, ...]
    complete: bool
    errors: tuple[str, ...] = ()
