"""
Which documents count, and which are history (invariant I4). Pure.

A proof lies in at most one *counted* document: one that is ``unspent`` or ``pending``, of a type whose money is the
user's own. A copy in a ``spent`` or ``failed`` document is *history*: a wallet that needs no swap for a proof keeps it
unchanged, so it lies in the spent source and in the new document at once, and only the new one counts.

The types are ``received``, ``minted`` and ``change``. A type that meltd does not know, or none at all, is read as if it
were one of these: the wallet's own program adds up whatever is ``unspent``, and money is not written off for a word.
``sent`` is somebody else's already, and ``melted`` holds consumed proofs.
"""

from __future__ import annotations

from typing import Final

from melt.model.words import TokenStatus, TransactionType

LIVE_STATUSES: Final = frozenset({TokenStatus.UNSPENT, TokenStatus.PENDING})
"""Statuses under which a document's proofs may still be money."""
HISTORY_STATUSES: Final = frozenset({TokenStatus.SPENT, TokenStatus.FAILED})
"""Final statuses: what such a document holds tells what has been, and counts for nobody."""
COUNTED_TYPES: Final = (TransactionType.RECEIVED, TransactionType.MINTED, TransactionType.CHANGE)
"""The types that an index can name; :func:`is_counted` takes an unknown one for counted, too."""
UNCOUNTED_TYPES: Final = (TransactionType.SENT, TransactionType.MELTED)


def is_live(status: TokenStatus | str | None) -> bool:
    """Whether a document of this status may hold money, whoever's it is."""
    return status in LIVE_STATUSES


def is_history(status: TokenStatus | str | None) -> bool:
    """Whether a document of this status only tells what has been. What is none of the four statuses is not."""
    return status in HISTORY_STATUSES


def is_counted(status: TokenStatus | str | None, transaction_type: object) -> bool:
    """Whether a user's balance counts the document's proofs, so that no other counted one may hold them (I4)."""
    return is_live(status) and transaction_type not in UNCOUNTED_TYPES


def weighs(status: TokenStatus | str | None, transaction_type: object) -> bool:
    """
    Whether a balance that looks at statuses alone counts the document: :func:`is_counted`, and a live ``melted`` one.

    That is what the repair of the double count brings down. What was ``sent`` is left to its recipient.
    """
    return is_live(status) and transaction_type != TransactionType.SENT
