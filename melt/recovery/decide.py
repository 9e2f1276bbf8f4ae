"""
What to do with a melt whose payment is not known to be settled (DESIGN section 4). Pure.

The invariants that hold here, and nowhere else:

- I8: an unknown outcome is not a failure. Nothing is released because time has passed or a quote has expired.
- I6: a release needs two agreeing signals, the quote UNPAID and no input PENDING or taken by the payment, seen twice
  some seconds apart, after the POST is provably over.
- After anything but a definite refusal the release is made final by a fencing swap, so that a late payment can't
  consume inputs that are being spent again.
- Inputs that are all SPENT under an UNPAID quote were taken by somebody else, or by a payment that the mint has lost
  track of: the entry is released only where no payment of ours can have been tried.
- A refusal that is about another quote of the invoice ("paid", "being paid") is an answer about ours only where our own
  quote and inputs say that nothing of ours is under way.
- A state that no NUT knows is an unknown outcome.
- A contradiction is seen twice before the melt is HELD, because a mint in the middle of its own bookkeeping shows one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, TypeAlias, assert_never

from melt.model import EventType, MeltState, MintState, PostOutcome, QuoteState
from melt.refusals import ANOTHERS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from melt.model import Melt, MeltQuote, Y


class Inputs(StrEnum):
    """The inputs' states in one word."""

    UNSPENT = "unspent"
    SPENT = "spent"
    PENDING = "pending"
    """At least one is PENDING."""
    MIXED = "mixed"
    """Some SPENT and some UNSPENT: a melt takes all or none, so somebody else took the spent ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """
    How long to wait before believing, in seconds.

    ``post_grace_s``: how long after its start a POST whose answer was lost may still be on its way or running.
    ``confirm_s``: the least time between two sightings of the same thing.
    """

    post_grace_s: float
    confirm_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """
    Look again later. ``forget`` drops an earlier sighting, which what was seen now contradicts. ``unknown``: the mint
    answers, and its answer says nothing.
    """

    reason: str
    forget: bool = True
    unknown: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Settle:
    """The mint says PAID and the inputs are gone."""

    quote: MeltQuote


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteClear:
    """First sighting of UNPAID with free inputs: write down when."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Second sighting. ``fence``: swap the inputs first. ``spent``: inputs that somebody else took."""

    fence: bool
    spent: tuple[Y, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteContradiction:
    """First sighting of a contradiction: write down what and when."""

    event: EventType


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Second sighting of a contradiction: CRITICAL, keep observing, a person may resolve."""

    event: EventType


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """HELD because the mint said nothing, or was not believed; now it says something: it is followed as before."""


Decision: TypeAlias = Wait | Settle | NoteClear | Release | NoteContradiction | Hold | Resume

REFUSALS_MAX: Final = 5
"""After so many equal refusals of a swap nobody goes on asking: a person decides."""
_ANSWERED = frozenset({PostOutcome.PAID, PostOutcome.PENDING, PostOutcome.REFUSED, PostOutcome.FAILED})
_PLAIN_RELEASE = frozenset({PostOutcome.REFUSED, PostOutcome.FAILED})
_NEVER_TRIED = frozenset({PostOutcome.NOT_SENT, PostOutcome.REFUSED})
"""No payment can have been tried: the POST never left, or was refused before any."""


def summarise(melt: Melt, states: Mapping[Y, MintState]) -> Inputs:
    """The inputs' states in one word. Every input of the melt must be in ``states``."""
    seen = {states[ref.y] for ref in melt.inputs}
    if MintState.PENDING in seen:
        return Inputs.PENDING
    if seen == {MintState.SPENT}:
        return Inputs.SPENT
    if seen == {MintState.UNSPENT}:
        return Inputs.UNSPENT
    return Inputs.MIXED


def post_is_over(melt: Melt, inputs: Inputs, *, now: datetime, patience: Patience) -> bool:
    """
    Whether our POST can no longer be running at the mint, so that asking for the quote can't disturb it.

    A GET of the quote in the middle of a payment makes some mints roll it back wrongly, so after a lost answer only
    NUT-07 is asked until the inputs are SPENT (the payment is through) or the grace time is over.
    """
    if inputs is Inputs.UNSPENT and _about_another_quote(melt):
        return True
    return inputs in {Inputs.SPENT, Inputs.MIXED} or answered_or_late(melt, now, patience)


def _about_another_quote(melt: Melt) -> bool:
    """
    Whether our POST was answered with "paid" or "being paid".

    With inputs UNSPENT and the quote UNPAID that was said about another quote of the same invoice, so it was a no to
    ours. With inputs or quote PENDING it was a second copy of our own request that was answered.
    """
    return melt.post is PostOutcome.AMBIGUOUS and melt.post_code in ANOTHERS


def answered_or_late(melt: Melt, now: datetime, patience: Patience) -> bool:
    """Whether the POST was never sent, has an answer that we know of, or has had its grace time."""
    if melt.post in _ANSWERED or melt.post is PostOutcome.NOT_SENT:
        return True
    # Without its time the last write of the entry stands for it, which was not before it.
    since = melt.posted_at or melt.updated_at
    return (now - since).total_seconds() >= patience.post_grace_s


def by_another_clock(melt: Melt, now: datetime) -> dict[str, datetime | None]:
    """
    What changes in an entry that another instance's clock has dated, for whoever takes it over by its own.

    A sighting is forgotten: the time since then can't be told. A request that seems to leave only later, because that clock
    was ahead, has left by now; else nothing would be asked for as long as the clocks differ.
    """
    changes: dict[str, datetime | None] = {}
    if melt.state not in {MeltState.FENCING, MeltState.HELD}:  # there both sightings were had
        sightings = {"clear_since": melt.clear_since, "contradiction_since": melt.contradiction_since}
        changes |= {name: None for name, since in sightings.items() if since is not None}
    if melt.posted_at is not None and melt.posted_at > now:
        changes["posted_at"] = now
    return changes


def decide(  # one table, read from top to bottom
    melt: Melt, states: Mapping[Y, MintState], quote: MeltQuote | None, *, now: datetime, patience: Patience
) -> Decision:
    """
    One decision from one look at the mint. ``quote`` is None where it was not asked or could not be read.

    A HELD melt settles by itself when the contradiction is gone; it is never released by itself. One that was HELD because
    the mint said nothing is followed again when it does.
    """
    inputs = summarise(melt, states)
    if quote is None:
        return Wait(reason="the quote was not asked", forget=inputs is not Inputs.UNSPENT)
    match quote.state:
        case QuoteState.PAID:
            if inputs is Inputs.SPENT:
                if not quote.change and melt.blanks is not None and not answered_or_late(melt, now, patience):
                    # Nutshell 0.16.5 marks inputs SPENT before it signs the change, and calls the quote PAID with none
                    # to whoever asks in between: to settle now would give the change up.
                    return Wait(reason="paid, and the mint may still be signing the change", forget=False)
                return Settle(quote=quote)
            if inputs is Inputs.PENDING:
                return Wait(reason="paid, and the mint has not yet marked the inputs")
            return _contradiction(melt, EventType.QUOTE_PAID_INPUTS_UNSPENT, now, patience)
        case QuoteState.PENDING:
            return Resume() if _held_for_want_of_words(melt) else Wait(reason="the payment is under way")
        case QuoteState.UNKNOWN:
            return Wait(reason="the mint gives the quote a state that no NUT knows", unknown=True)
        case QuoteState.UNPAID | QuoteState.FAILED:
            pass  # FAILED stands in no NUT for this: it is worth what UNPAID is
        case _:
            assert_never(quote.state)
    if inputs is Inputs.PENDING:
        return Wait(reason="unpaid, and the mint has not yet freed the inputs")
    if not post_is_over(melt, inputs, now=now, patience=patience):
        return Wait(reason="the request may still be on its way", forget=False)
    if inputs is Inputs.SPENT and melt.post not in _NEVER_TRIED:
        # No proof that nothing was paid: mints have said so after a payment that went out.
        return _contradiction(melt, EventType.QUOTE_UNPAID_INPUTS_SPENT, now, patience)
    if melt.state is MeltState.HELD:
        return Resume() if _held_for_want_of_words(melt) else Wait(reason="held: a person decides")
    if melt.clear_since is None:
        return NoteClear()
    if (now - melt.clear_since).total_seconds() < patience.confirm_s:
        return Wait(reason="seen once as unpaid and unspent, confirming", forget=False)
    spent = tuple(ref.y for ref in melt.inputs if states[ref.y] is MintState.SPENT)
    fence = melt.post not in _PLAIN_RELEASE and not _about_another_quote(melt)
    return Release(fence=fence, spent=spent)


def _held_for_want_of_words(melt: Melt) -> bool:
    """HELD because the mint said nothing clear: not by a contradiction, and not since it is not believed."""
    return melt.state is MeltState.HELD and melt.contradiction == EventType.MELT_HELD


def _contradiction(melt: Melt, event: EventType, now: datetime, patience: Patience) -> Decision:
    if melt.state is MeltState.HELD:
        return Wait(reason="held: the mint still contradicts itself", forget=False)
    if melt.contradiction != event or melt.contradiction_since is None:
        return NoteContradiction(event=event)
    if (now - melt.contradiction_since).total_seconds() < patience.confirm_s:
        return Wait(reason="a contradiction, seen once, confirming", forget=False)
    return Hold(event=event)
