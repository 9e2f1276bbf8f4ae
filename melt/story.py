"""
The story of one proof, melt or document in plain words, from our records alone. Pure: reading is the caller's.

Nothing here sees a proof's secret: documents come in as :class:`Sight` (I10). Records may be partial (old data, entries
beyond a listing's limit); what is there is told, and that something is left out is said.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from melt.model import (
    OPEN_DISCREPANCY,
    DiscrepancyState,
    JournalKind,
    MeltState,
    PostOutcome,
    TokenStatus,
)
from melt.waiting import waits_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from melt.model import Actor, AuditEntry, CriticalEvent, Discrepancy, Melt, TokenId

LINES_MAX: Final = 500
"""The most lines of one story (I11): the newest are kept."""
TEXT_MAX: Final = 300
"""The longest text of somebody else's that a line carries."""


class Kind(StrEnum):
    """What a story is about."""

    PROOF = "proof"
    MELT = "melt"
    TOKEN = "token"  # noqa: S105 - a word, not a password


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """A token document as it lies there now, without its proofs. ``holds`` tells whether it holds the proof asked for."""

    token_id: TokenId
    npub: str
    mint_url: str
    status: TokenStatus
    transaction_type: str
    amount: int
    proofs: int
    reserved_by: str | None
    created_at: datetime | None
    updated_at: datetime | None
    spent_at: datetime | None
    holds: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class StoryRecords:
    """All that the records say. ``cut`` names the kinds of records of which there were more than were read."""

    kind: Kind
    subject: str
    tokens: tuple[Sight, ...] = ()
    unreadable: tuple[str, ...] = ()
    """Documents that can't be read as tokens, each with why."""
    melts: tuple[Melt, ...] = ()
    audit: tuple[AuditEntry, ...] = ()
    discrepancies: tuple[Discrepancy, ...] = ()
    events: tuple[CriticalEvent, ...] = ()
    cut: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One thing that happened."""

    at: datetime
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """Lines in order of time, where it stands now, and what was left out."""

    kind: Kind
    subject: str
    lines: tuple[Line, ...]
    now: tuple[str, ...]
    left_out: tuple[str, ...]


def tell(records: StoryRecords) -> Story:
    """The story of these records."""
    # Of what happened in one moment, what led to it comes first: the sort is stable.
    told = [
        *_made(records),
        *_journal(records.melts),
        *_found(records.discrepancies),
        *_changes([entry for entry in records.audit if entry.from_status is not None], records.melts),
        *_changes([entry for entry in records.audit if entry.from_status is None], records.melts),
        *_events(records.events),
        *_ends(records.melts),
    ]
    told.sort(key=lambda line: line.at)
    left_out = [f"there are more {kind} than were read: the oldest are not told" for kind in records.cut]
    if len(told) > LINES_MAX:
        left_out.append(f"{len(told) - LINES_MAX} older lines")
    return Story(
        kind=records.kind,
        subject=records.subject,
        lines=tuple(told[-LINES_MAX:]),
        now=tuple(_now(records)),
        left_out=tuple(left_out),
    )


# --- what happened ---


def _made(records: StoryRecords) -> Iterator[Line]:
    """Documents that another service stored: our audit has no beginning of theirs."""
    ours = {entry.token_id for entry in records.audit if entry.from_status is None}
    for sight in records.tokens:
        if sight.created_at is not None and sight.token_id not in ours:
            kind = f" ({_plain(sight.transaction_type)})" if sight.transaction_type else ""
            yield Line(at=sight.created_at, text=f"document {sight.token_id}{kind} was stored by the wallet service")


def _journal(melts: Sequence[Melt]) -> Iterator[Line]:
    for melt in melts:
        name, by = _name(melt), _by(melt.actor)
        if melt.kind is JournalKind.RECLAIM:
            note = f" ({_plain(melt.note)})" if melt.note else ""
            text = f"meltd began to bring {melt.inputs_amount} {melt.unit} back by a swap to new proofs as {name}{by}{note}"
            yield Line(at=melt.created_at, text=text)
            continue
        if melt.kind is JournalKind.TOGETHER:
            note = f" ({_plain(melt.note)})" if melt.note else ""
            text = f"meltd began to swap {melt.inputs_amount} {melt.unit} to new proofs as {name}{by}{note}"
            yield Line(at=melt.created_at, text=text)
            continue
        text = f"{name} was asked for{by}: pay an invoice of {melt.amount} {melt.unit} at {melt.mint}"
        yield Line(at=melt.created_at, text=text)
        if melt.posted_at is not None:
            answer = {
                PostOutcome.PAID: "the mint answered that it is paid",
                PostOutcome.PENDING: "the mint answered that it is under way",
                PostOutcome.REFUSED: "the mint refused it",
                PostOutcome.FAILED: "the mint answered that the payment failed",
                PostOutcome.AMBIGUOUS: "no usable answer came, so its outcome was not known",
            }.get(melt.post, "no answer is recorded")
            yield Line(at=melt.posted_at, text=f"the payment request of {name} left for the mint; {answer}")
        if melt.contradiction_since is not None:
            what = f": {_plain(melt.contradiction)}" if melt.contradiction else ""
            yield Line(at=melt.contradiction_since, text=f"the mint contradicted itself about {name}{what}")
        if melt.clear_since is not None:
            yield Line(at=melt.clear_since, text=f"the mint called the quote of {name} unpaid and its inputs unspent")
        for one in melt.altered:
            dated = f", last on {_date(one.changed_at)} by its own date" if one.changed_at is not None else ""
            text = (
                f"meltd saw that another writer had changed document {one.token_id}, which {name} had reserved{dated}: "
                f"{_plain(one.what)}; {_plain(one.done)}"
            )
            yield Line(at=one.seen_at, text=text)
        if melt.resolution is not None:
            decided = melt.resolution
            text = f'a person{_by(decided.actor)} decided that {name} is {decided.outcome}: "{_plain(decided.reason)}"'
            yield Line(at=decided.at, text=text)


def _ends(melts: Sequence[Melt]) -> Iterator[Line]:
    for melt in melts:
        if melt.ended_at is not None:
            yield Line(at=melt.ended_at, text=_end(melt))


def _end(melt: Melt) -> str:
    name, unit = _name(melt), melt.unit
    if melt.state is MeltState.RELEASED:
        why = f" ({_plain(melt.error_detail or melt.error_code)})" if melt.error_detail or melt.error_code else ""
        what = {
            JournalKind.RECLAIM: "brought nothing back",
            JournalKind.TOGETHER: "swapped nothing; its inputs are free again",
            JournalKind.MELT: "paid nothing; its inputs are free again",
        }[melt.kind]
        return f"{name} ended: it {what}{why}"
    if melt.kind is JournalKind.RECLAIM:
        return f"{name} ended: {melt.keep_amount} {unit} came back as new proofs, for a fee of {melt.swap_fee} {unit}"
    if melt.inputs_gone:
        return (
            f"{name} ended without an answer: its inputs, {melt.inputs_amount} {unit}, are gone at the mint, nobody knows whether "
            f"the invoice was paid, and it stays claimed so that it is never paid twice"
        )
    if melt.kind is JournalKind.TOGETHER:
        return f"{name} ended: {melt.keep_amount} {unit} in new proofs, for a fee of {melt.swap_fee} {unit}"
    parts = [f"{melt.amount} {unit} paid", f"{melt.fees_paid or 0} {unit} Lightning fee"]
    if melt.input_fee or melt.swap_fee:
        parts.append(f"{melt.input_fee + melt.swap_fee} {unit} of fees to the mint")
    parts.append(f"{melt.change_amount} {unit} of change came back")
    if melt.shortfall:
        parts.append(f"{melt.shortfall} {unit} of change is missing")
    return f"{name} ended: {', '.join(parts)}"


_MINT_SAYS: Final = {
    "DB_UNSPENT_MINT_SPENT": "SPENT",
    "DB_UNSPENT_MINT_PENDING": "PENDING",
    "DB_PENDING_MINT_UNSPENT": "UNSPENT",
    "DB_PENDING_MINT_PENDING": "PENDING",
    "DB_PENDING_MINT_SPENT": "SPENT",
    "DB_SPENT_MINT_UNSPENT": "UNSPENT",
    "DB_SPENT_MINT_PENDING": "PENDING",
    "DB_FAILED_MINT_UNSPENT": "UNSPENT",
    "SENT_TOKEN_REDEEMED": "SPENT",
}
"""What the mint called the proofs, where the type says it."""


def _found(discrepancies: Sequence[Discrepancy]) -> Iterator[Line]:
    for record in discrepancies:
        turns = record.history
        if not any(turn.what in {*OPEN_DISCREPANCY} for turn in turns):
            yield Line(at=record.first_seen, text=_finding(record))
        for turn in turns:
            yield Line(at=turn.at, text=_turn(record, turn.what, turn.by, turn.reason))
        if record.sightings > 1 and record.last_seen > record.first_seen:
            text = f"{record.type} of {record.subject} has been seen {record.sightings} times"
            yield Line(at=record.last_seen, text=text)


def _finding(record: Discrepancy) -> str:
    said = _MINT_SAYS.get(record.type)
    of, status = record.evidence.get("proofs_in_document"), record.evidence.get("status")
    worth = f", worth {record.value} {record.unit}" if record.value else ""
    kind = f"{record.type}, {record.severity}"
    if said is not None and isinstance(of, int) and record.token_id is not None:
        count = f"{len(record.ys)} of its {of} proofs" if len(record.ys) != of else f"its {_proofs(of)}"
        held = f", which said {_plain(status)}" if isinstance(status, str) else ""
        return f"document {record.token_id}{held}: the mint called {count} {said}{worth} ({kind})"
    reason = record.evidence.get("reason")
    why = f": {_plain(reason)}" if isinstance(reason, str) else ""
    return f"{record.subject} was found wrong{worth} ({kind}){why}"


def _turn(record: Discrepancy, what: str, by: Actor | None, reason: str | None) -> str:
    person = f"{_by(by)}" if by is not None else ""
    because = f': "{_plain(reason)}"' if reason else ""
    match what:
        case DiscrepancyState.OPEN:
            return _finding(record)
        case DiscrepancyState.RECURRED:
            return f"again, {_finding(record)}"
        case DiscrepancyState.CORRECTED:
            return f"{record.type} of {record.subject} was corrected"
        case DiscrepancyState.CLEARED:
            return f"{record.type} of {record.subject} was not seen any more"
        case DiscrepancyState.ACKNOWLEDGED:
            return f"{record.type} of {record.subject} was acknowledged{person}{because}"
        case _:
            return f"{record.type} of {record.subject} was {_plain(what)}{person}{because}"


_REASONS: Final = {
    "melt_settled": "paid with",
    "melt_keep": "what the melt did not need",
    "melt_change": "change that the mint returned",
    "melt_split": "split off, because a melt needed only a part of its document",
    "melt_released": "the melt paid nothing",
    "melt_released_spent": "the melt is over, and the mint had taken these proofs",
    "correction_split": "split off, because only a part of its document had to be corrected",
    "reclaimed": "value brought back by a swap",
    "melt_returned": "put back, because another writer had dropped their document while it was reserved and nothing was paid",
    "melt_freed": "given back, because another writer had put other proofs in the place of the reserved ones",
    "melt_inputs_gone": "the mint has taken these proofs, and nobody knows what for",
}


def _changes(audit: Sequence[AuditEntry], melts: Sequence[Melt]) -> Iterator[Line]:
    by_id = {melt.id: melt for melt in melts}
    for entry in audit:
        melt = None if entry.melt_id is None else by_id.get(entry.melt_id)
        amount = f"{entry.amount} {melt.unit}" if melt is not None else str(entry.amount)
        holding = f"{_proofs(len(entry.ys))} worth {amount}"
        note = f' ("{_plain(entry.note)}")' if entry.note else ""
        if entry.from_status is None:
            text = f"meltd made document {entry.token_id}, {entry.to_status}, with {holding}"
        elif entry.reason == "melt_reserved" and entry.melt_id is not None:
            invoice = f" (invoice of {melt.amount} {melt.unit})" if melt is not None else ""
            yield Line(
                at=entry.at,
                text=f"meltd reserved document {entry.token_id} ({holding}) for melt {entry.melt_id}{invoice}",
            )
            continue
        else:
            text = f"meltd moved document {entry.token_id} from {entry.from_status} to {entry.to_status} ({holding})"
        for_melt = f", for {entry.melt_id}" if entry.melt_id is not None else ""
        why = _REASONS.get(entry.reason, _plain(entry.reason))
        yield Line(at=entry.at, text=f"{text}: {why}{for_melt}{_by(entry.actor)}{note}")


def _events(events: Sequence[CriticalEvent]) -> Iterator[Line]:
    for event in events:
        yield Line(at=event.opened_at, text=f"CRITICAL event {event.type} was opened: {_plain(event.detail)}")
        if event.resolved_at is not None:
            why = f": {_plain(event.resolution)}" if event.resolution else ""
            yield Line(at=event.resolved_at, text=f"CRITICAL event {event.type} was resolved{why}")


# --- where it stands ---


def _now(records: StoryRecords) -> Iterator[str]:
    for sight in records.tokens:
        if not sight.holds:
            continue
        reserved = f", reserved by {sight.reserved_by}" if sight.reserved_by is not None else ""
        yield (
            f"document {sight.token_id} of {sight.npub} is {sight.status}{reserved}, "
            f"with {_proofs(sight.proofs)} worth {sight.amount}"
        )
    if records.kind is Kind.PROOF and not any(sight.holds for sight in records.tokens):
        yield "no document that our records name holds the proof"
    for why in records.unreadable:
        yield _plain(why)
    for melt in records.melts:
        if melt.is_open or records.kind is Kind.MELT:
            what = "" if not melt.is_open else "; it still holds its inputs"
            yield f"{_name(melt)} is {melt.state}{what}"
    for record in records.discrepancies:
        if record.state in {*OPEN_DISCREPANCY, DiscrepancyState.ACKNOWLEDGED}:
            waits = waits_for(record)
            yield f"discrepancy {record.id} is {record.state} ({record.severity})" + (f": {waits}" if waits else "")
    for event in records.events:
        if event.resolved_at is None:
            yield f"CRITICAL event {event.type} is open"


# --- words ---


def _name(melt: Melt) -> str:
    words = {JournalKind.RECLAIM: "reclaim", JournalKind.TOGETHER: "swap", JournalKind.MELT: "melt"}
    return f"{words[melt.kind]} {melt.id}"


def _by(actor: Actor) -> str:
    if actor.uid is not None:
        return f" by uid {actor.uid}"
    return f" by the {_plain(actor.name)}" if actor.name else ""


def _date(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")


def _proofs(count: int) -> str:
    return "1 proof" if count == 1 else f"{count} proofs"


def _plain(text: object) -> str:
    """Somebody else's words, printable and bounded."""
    shown = str(text)
    cut = shown if len(shown) <= TEXT_MAX else shown[: TEXT_MAX - 1] + "\N{HORIZONTAL ELLIPSIS}"
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in cut)
