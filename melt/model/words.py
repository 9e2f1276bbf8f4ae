"""The closed vocabularies and the tables of allowed moves (DESIGN sections 3 to 5). Pure data."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NewType

Y = NewType("Y", str)
"""hash_to_curve(secret) as 66 lower-case hex characters (NUT-00). May be logged."""
TokenId = NewType("TokenId", str)
"""``_id`` of a token document: the 24 hex characters of an ObjectId, or a legacy string id."""
MeltId = NewType("MeltId", str)
QuoteId = NewType("QuoteId", str)
KeysetId = NewType("KeysetId", str)
MintAlias = NewType("MintAlias", str)
"""The operator's short name of a configured mint. Labels carry this, never a URL."""

AMOUNT_MAX: Final = 2**63 - 1
"""The largest amount that is stored: MongoDB's int64."""
PROOFS_PER_DOCUMENT_MAX: Final = 1000
"""The largest number of proofs that meltd writes into one document (I11)."""


class TokenStatus(StrEnum):
    """``status`` of a token document."""

    PENDING = "pending"
    UNSPENT = "unspent"
    SPENT = "spent"
    FAILED = "failed"


TOKEN_MOVES: Final[dict[TokenStatus, frozenset[TokenStatus]]] = {
    TokenStatus.PENDING: frozenset({TokenStatus.UNSPENT, TokenStatus.SPENT, TokenStatus.FAILED}),
    TokenStatus.UNSPENT: frozenset({TokenStatus.PENDING, TokenStatus.SPENT}),
    TokenStatus.SPENT: frozenset(),
    TokenStatus.FAILED: frozenset(),
}
"""Allowed moves of a token's status (DESIGN section 3). ``spent`` and ``failed`` are final (I7)."""

RESERVED_MOVES: Final[dict[TokenStatus, frozenset[TokenStatus]]] = {
    **TOKEN_MOVES,
    TokenStatus.FAILED: frozenset({TokenStatus.SPENT, TokenStatus.UNSPENT}),
}
"""
The moves of a document that still carries the reservation of the entry that ends. Services beside meltd fail what has
been ``pending`` for long, whoever reserved it: the entry takes the document to where it would have gone without that.
``spent`` stays final (I7).
"""


class TransactionType(StrEnum):
    """``transaction_type`` of a token document. ``melted`` is read from old data and never written (I4)."""

    RECEIVED = "received"
    SENT = "sent"
    MINTED = "minted"
    CHANGE = "change"
    MELTED = "melted"


class MintState(StrEnum):
    """State of a proof at the mint (NUT-07)."""

    UNSPENT = "UNSPENT"
    PENDING = "PENDING"
    SPENT = "SPENT"


class QuoteState(StrEnum):
    """State of a melt quote (NUT-05)."""

    UNPAID = "UNPAID"
    PENDING = "PENDING"
    PAID = "PAID"
    FAILED = "FAILED"
    """No NUT has it, and mints say it: the payment failed. Worth as much as UNPAID, and no more."""
    UNKNOWN = "UNKNOWN"
    """Some mints' own word, and ours for every word that no NUT has: nothing is known (I8)."""


class JournalKind(StrEnum):
    """What a journal entry does: pay an invoice, bring value back by a swap, or swap many proofs into fewer."""

    MELT = "melt"
    RECLAIM = "reclaim"
    TOGETHER = "together"


class MeltState(StrEnum):
    """State of a journal entry (DESIGN section 4)."""

    RESERVED = "RESERVED"
    SWAPPING = "SWAPPING"
    READY = "READY"
    MELTING = "MELTING"
    PENDING = "PENDING"
    FENCING = "FENCING"
    SETTLED = "SETTLED"
    RELEASED = "RELEASED"
    HELD = "HELD"


TERMINAL: Final = frozenset({MeltState.SETTLED, MeltState.RELEASED})
"""States that no longer hold any input."""

MELT_MOVES: Final[dict[MeltState, frozenset[MeltState]]] = {
    MeltState.RESERVED: frozenset({MeltState.SWAPPING, MeltState.MELTING, MeltState.RELEASED}),
    MeltState.SWAPPING: frozenset({MeltState.READY, MeltState.RELEASED, MeltState.SETTLED, MeltState.HELD}),
    MeltState.READY: frozenset({MeltState.MELTING, MeltState.RELEASED}),
    MeltState.MELTING: frozenset({MeltState.SETTLED, MeltState.PENDING, MeltState.HELD}),
    MeltState.PENDING: frozenset({MeltState.SETTLED, MeltState.FENCING, MeltState.RELEASED, MeltState.HELD}),
    MeltState.FENCING: frozenset({MeltState.RELEASED, MeltState.PENDING, MeltState.HELD}),
    MeltState.HELD: frozenset({MeltState.SETTLED, MeltState.RELEASED, MeltState.PENDING, MeltState.FENCING}),
    MeltState.SETTLED: frozenset(),
    MeltState.RELEASED: frozenset(),
}
"""Allowed moves of the journal. SWAPPING -> SETTLED is the end of an entry whose swap is its whole work.
A refused POST goes through PENDING too: there is one way to a release, by two signals (I6)."""


class PostOutcome(StrEnum):
    """What is known of the one melt POST of a journal entry (I1, I8)."""

    NOT_SENT = "not_sent"
    IN_FLIGHT = "in_flight"
    """Journaled before the first byte leaves. Found so after a crash, it means: unknown."""
    PAID = "paid"
    PENDING = "pending"
    REFUSED = "refused"
    """A definite no, before any payment was tried."""
    FAILED = "failed"
    """The mint says that the Lightning payment failed (20004 and its elder 20000): a candidate for release."""
    AMBIGUOUS = "ambiguous"


class ResolveAs(StrEnum):
    """What a person may decide about an open melt (DESIGN section 4)."""

    SETTLED = "settled"
    """The money is gone: inputs spent, what change there is collected, the rest booked as shortfall."""
    RELEASED = "released"
    """Nothing was paid: the inputs come back, behind a fencing swap (I7)."""
    INPUTS_GONE = "inputs_gone"
    """The inputs are SPENT, and nobody knows by whom: nothing is called paid, and the invoice stays claimed for good."""
    OBSERVE = "observe"
    """Go on following it as if it had not been held."""


class DriftType(StrEnum):
    """What can be wrong between the store and a mint (DESIGN section 5)."""

    DB_UNSPENT_MINT_SPENT = "DB_UNSPENT_MINT_SPENT"
    DB_UNSPENT_MINT_PENDING = "DB_UNSPENT_MINT_PENDING"
    DB_PENDING_MINT_UNSPENT = "DB_PENDING_MINT_UNSPENT"
    DB_PENDING_MINT_PENDING = "DB_PENDING_MINT_PENDING"
    DB_PENDING_MINT_SPENT = "DB_PENDING_MINT_SPENT"
    DB_SPENT_MINT_UNSPENT = "DB_SPENT_MINT_UNSPENT"
    DB_SPENT_MINT_PENDING = "DB_SPENT_MINT_PENDING"
    DB_FAILED_MINT_UNSPENT = "DB_FAILED_MINT_UNSPENT"
    SENT_TOKEN_REDEEMED = "SENT_TOKEN_REDEEMED"  # noqa: S105 - a name, not a password
    """A ``sent`` document that counts as unspent or pending, whose recipient has redeemed it: how such a payment ends."""
    PROOF_NOT_IN_DB = "PROOF_NOT_IN_DB"
    DUPLICATE_PROOF = "DUPLICATE_PROOF"
    LEGACY_MELTED_DOCUMENT = "LEGACY_MELTED_DOCUMENT"
    AMOUNT_MISMATCH = "AMOUNT_MISMATCH"
    MALFORMED_TOKEN = "MALFORMED_TOKEN"  # noqa: S105 - a name, not a password
    INVALID_SIGNATURE = "INVALID_SIGNATURE"
    UNKNOWN_KEYSET = "UNKNOWN_KEYSET"
    KEYSET_EXPIRING = "KEYSET_EXPIRING"
    RESERVATION_ORPHANED = "RESERVATION_ORPHANED"
    RESERVED_TOKEN_CHANGED = "RESERVED_TOKEN_CHANGED"  # noqa: S105 - a name, not a password
    MINT_UNCONFIGURED = "MINT_UNCONFIGURED"
    MINT_STATE_REGRESSED = "MINT_STATE_REGRESSED"
    QUOTE_PAID_INPUTS_UNSPENT = "QUOTE_PAID_INPUTS_UNSPENT"
    QUOTE_UNPAID_INPUTS_SPENT = "QUOTE_UNPAID_INPUTS_SPENT"
    CHANGE_SHORTFALL = "CHANGE_SHORTFALL"
    PAYMENT_UNPROVED = "PAYMENT_UNPROVED"
    PROOF_REFUSED = "PROOF_REFUSED"
    UNIT_MISMATCH = "UNIT_MISMATCH"


class Action(StrEnum):
    """What a rule does about drift."""

    NONE = "none"
    RECORD = "record"
    """Write it down; nothing in the token may be changed by rule."""
    WATCH = "watch"
    """Write it down and look again: it resolves itself or becomes another type."""
    MARK_SPENT = "mark_spent"
    RELEASE = "release"
    RECLAIM = "reclaim"
    IMPORT = "import"
    """Store what the mint has signed for us and the database lacks (NUT-09)."""


class DiscrepancyState(StrEnum):
    """Life of a discrepancy record."""

    OPEN = "open"
    RECURRED = "recurred"
    """Open again after it had been closed."""
    CORRECTED = "corrected"
    ACKNOWLEDGED = "acknowledged"
    CLEARED = "cleared"
    """Not seen any more although nobody corrected it: it was transient, or the wallet mended it."""


OPEN_DISCREPANCY: Final = frozenset({DiscrepancyState.OPEN, DiscrepancyState.RECURRED})


class EventType(StrEnum):
    """CRITICAL events: each is open until it is resolved (DESIGN sections 3 to 5)."""

    DB_FAILURE_AFTER_MINT_SUCCESS = "DB_FAILURE_AFTER_MINT_SUCCESS"
    MELT_HELD = "MELT_HELD"
    MELT_STUCK = "MELT_STUCK"
    """An open entry does not get on, although store and mint answer."""
    WRONG_PREIMAGE = "WRONG_PREIMAGE"
    QUOTE_PAID_INPUTS_UNSPENT = "QUOTE_PAID_INPUTS_UNSPENT"
    QUOTE_UNPAID_INPUTS_SPENT = "QUOTE_UNPAID_INPUTS_SPENT"
    MINT_STATE_REGRESSED = "MINT_STATE_REGRESSED"
    SENTINEL_FAILED = "SENTINEL_FAILED"
    MINT_UNTRUSTED = "MINT_UNTRUSTED"
    INVARIANT_BROKEN = "INVARIANT_BROKEN"
    DRILL = "DRILL"
    """Raised on purpose by an operator who wants to see the alert fire."""
