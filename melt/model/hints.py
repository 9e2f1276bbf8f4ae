"""What a mint's subscriptions (NUT-17) tell, and what is worth watching. Pure data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

from melt.model.words import MintState, QuoteState

if TYPE_CHECKING:
    from datetime import datetime

    from melt.model.words import TokenId, Y


class HintKind(StrEnum):
    """A kind of subscription (NUT-17) that meltd uses; the value is the protocol's word."""

    MELT_QUOTE = "bolt11_melt_quote"
    """Watched by quote id."""
    PROOF_STATE = "proof_state"
    """Watched by Y."""


HintState: TypeAlias = MintState | QuoteState


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """
    A mint has said that something it was asked to watch is in another state than before.

    It is a reason to look, never evidence (DESIGN section 4): nobody has checked it, and it may be late, wrong or made up.
    """

    kind: HintKind
    key: str
    state: HintState


class HintDrop(StrEnum):
    """Why a message of a subscription was dropped."""

    MALFORMED = "malformed"
    """It can't be read."""
    UNASKED = "unasked"
    """It is about something that was not subscribed."""


class HintLink(StrEnum):
    """How the connection of one mint's subscriptions is."""

    OFF = "off"
    IDLE = "idle"
    """There is nothing to watch."""
    CONNECTING = "connecting"
    """Not connected now; tried again with growing pauses."""
    CONNECTED = "connected"
    UNSUPPORTED = "unsupported"
    """The mint does not offer NUT-17, or refuses the connection; tried again rarely."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HintStatus:
    """
    One mint's subscriptions on the status page.

    ``watched`` counts Ys and quotes that are subscribed now; the others count since the start of the process.
    """

    link: HintLink
    watched: int = 0
    hints: int = 0
    dropped: int = 0
    reconnects: int = 0
    last_hint: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedDocument:
    """An unspent token document that is worth watching, by its proofs' Ys."""

    token_id: TokenId
    ys: tuple[Y, ...]
