"""Stories: in order, in plain words, from partial records, bounded, without a secret."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from melt.errors import Severity
from melt.model import (
    Actor,
    Altered,
    AuditEntry,
    CriticalEvent,
    DiscrepancyState,
    DriftType,
    EventType,
    JournalKind,
    MeltId,
    MeltState,
    MintAlias,
    PostOutcome,
    Resolution,
    ResolveAs,
    TokenId,
    TokenStatus,
    Turn,
)
from melt.story import LINES_MAX, TEXT_MAX, Kind, Sight, StoryRecords, tell
from tests.support.scripted import AT, NPUB, PREIMAGE, Y_HEX, make_discrepancy, make_melt

TOKEN = TokenId("aa" * 12)
PERSON = Actor(name="socket", uid=1000, gid=1000)


def at(seconds):
    return AT + timedelta(seconds=seconds)


def entry(seconds, to, *, before=TokenStatus.UNSPENT, reason="melt_reserved", **changes):
    base = AuditEntry(
        id=f"a-{seconds}",
        at=at(seconds),
        token_id=TOKEN,
        npub=NPUB,
        mint_url="http://mint",
        from_status=before,
        to_status=to,
        amount=16,
        ys=(Y_HEX,),
        reason=reason,
        actor=Actor(name="socket", uid=1),
        melt_id=MeltId("m-1"),
        discrepancy_id=None,
    )
    return replace(base, **changes)


def sight(**changes):
    base = Sight(
        token_id=TOKEN,
        npub=NPUB,
        mint_url="http://mint",
        status=TokenStatus.SPENT,
        transaction_type="received",
        amount=16,
        proofs=1,
        reserved_by=None,
        created_at=at(-100),
        updated_at=None,
        spent_at=None,
    )
    return replace(base, **changes)


def texts(story):
    return [line.text for line in story.lines]


def told(**records):
    given = {"kind": Kind.PROOF, "subject": Y_HEX} | records
    return tell(StoryRecords(**given))


def test_a_payment_is_told_in_order_from_the_deposit_to_the_change():
    melt = make_melt(posted_at=at(2), post=PostOutcome.PAID, ended_at=at(4), input_fee=1)
    audit = (
        entry(4, TokenStatus.SPENT, before=TokenStatus.PENDING, reason="melt_settled"),
        entry(1, TokenStatus.PENDING),
    )
    story = told(tokens=(sight(),), melts=(melt,), audit=audit)
    assert texts(story) == [
        f"document {TOKEN} (received) was stored by the wallet service",
        "melt m-1 was asked for by uid 1: pay an invoice of 10 sat at main",
        f"meltd reserved document {TOKEN} (1 proof worth 16 sat) for melt m-1 (invoice of 10 sat)",
        "the payment request of melt m-1 left for the mint; the mint answered that it is paid",
        f"meltd moved document {TOKEN} from pending to spent (1 proof worth 16 sat): paid with, for m-1 by uid 1",
        "melt m-1 ended: 10 sat paid, 1 sat Lightning fee, 1 sat of fees to the mint, 4 sat of change came back",
    ]
    assert [line.at for line in story.lines] == sorted(line.at for line in story.lines)
    assert story.now == (f"document {TOKEN} of {NPUB} is spent, with 1 proof worth 16",)
    assert story.left_out == ()


def test_drift_is_told_with_what_the_mint_called_how_many_proofs_and_what_people_did():
    turns = (
        Turn(at=at(0), what="open"),
        Turn(at=at(5), what="acknowledged", by=PERSON, reason="known loss"),
        Turn(at=at(9), what="reopened", by=PERSON, reason="to be mended"),
    )
    record = replace(
        make_discrepancy(),
        state=DiscrepancyState.OPEN,
        closed_at=None,
        ys=(Y_HEX,) * 3,
        value=12,
        sightings=4,
        last_seen=at(7),
        history=turns,
        evidence={"proofs_in_document": 5, "status": "unspent"},
    )
    story = told(discrepancies=(record,))
    kind = "(DB_UNSPENT_MINT_SPENT, HIGH)"
    assert texts(story) == [
        f"document {TOKEN}, which said unspent: the mint called 3 of its 5 proofs SPENT, worth 12 sat {kind}",
        f'DB_UNSPENT_MINT_SPENT of token:{TOKEN} was acknowledged by uid 1000: "known loss"',
        f"DB_UNSPENT_MINT_SPENT of token:{TOKEN} has been seen 4 times",
        f'DB_UNSPENT_MINT_SPENT of token:{TOKEN} was reopened by uid 1000: "to be mended"',
    ]
    assert "no document that our records name holds the proof" in story.now
    assert "discrepancy d-1 is open (HIGH)" in story.now


def test_what_an_open_record_waits_for_stands_in_where_it_stands_now():
    record = replace(
        make_discrepancy(),
        state=DiscrepancyState.OPEN,
        closed_at=None,
        watched_ms=60_000,
        needs_ms=86_400_000,
        alert_ms=3_600_000,
    )
    (settling,) = (line for line in told(discrepancies=(record,)).now if line.startswith("discrepancy d-1"))
    assert settling.startswith("discrepancy d-1 is open (HIGH): it is settling, and pages nobody before")
    assert "has stood still for 1 min of the 1 d that a rule waits for" in settling
    assert settling.endswith("else its proofs are marked spent after 23 h 59 min more")
    over = replace(record, state=DiscrepancyState.CLEARED, closed_at=at(9))
    assert not any("d-1" in line for line in told(discrepancies=(over,)).now)


def test_a_token_that_its_recipient_redeemed_is_told_as_what_the_mint_said():
    record = replace(
        make_discrepancy(), type=DriftType.SENT_TOKEN_REDEEMED, evidence={"proofs_in_document": 1, "status": "unspent"}
    )
    assert texts(told(discrepancies=(record,)))[0].startswith(
        f"document {TOKEN}, which said unspent: the mint called its 1 proof SPENT, worth 16 sat (SENT_TOKEN_REDEEMED"
    )


def test_what_others_changed_under_a_melt_is_told_in_plain_words():
    """Who changed what, when it was seen, and what was done instead."""
    altered = Altered(
        token_id=TOKEN,
        what="it was marked failed",
        done="it was marked spent",
        amount=16,
        ys=(Y_HEX,),
        written=True,
        deleted=False,
        changed_at=at(2),
        seen_at=at(5),
    )
    told = tell(StoryRecords(kind=Kind.MELT, subject="m-1", melts=(make_melt(altered=(altered,)),)))
    (line,) = [line for line in told.lines if "another writer" in line.text]
    assert line.at == at(5)
    for part in (TOKEN, "melt m-1", "2026-01-02 03:04:07 UTC", "it was marked failed", "it was marked spent"):
        assert part in line.text


def test_an_end_that_nobody_knows_calls_nothing_paid():
    decision = Resolution(outcome=ResolveAs.INPUTS_GONE, reason="nobody knows", actor=PERSON, at=at(3))
    told = tell(StoryRecords(kind=Kind.MELT, subject="m-1", melts=(make_melt(resolution=decision),)))
    text = " ".join(line.text for line in told.lines)
    assert "nobody knows whether" in text
    assert "stays claimed" in text
    assert "sat paid" not in text


def test_a_split_by_the_sweep_is_told():
    audit = (
        entry(1, TokenStatus.SPENT, reason="DB_UNSPENT_MINT_SPENT", melt_id=None, actor=Actor(name="sweep")),
        entry(
            1,
            TokenStatus.UNSPENT,
            before=None,
            reason="correction_split",
            melt_id=None,
            token_id=TokenId("bb" * 12),
            actor=PERSON,
            note="plan plan_1",
        ),
    )
    first, second = texts(told(audit=audit))
    assert first.endswith("from unspent to spent (1 proof worth 16): DB_UNSPENT_MINT_SPENT by the sweep")
    assert "made document bbbb" in second
    assert second.endswith('only a part of its document had to be corrected by uid 1000 ("plan plan_1")')


@pytest.mark.parametrize(
    ("melt", "end"),
    [
        (
            make_melt(MeltState.RELEASED, error_detail="no route"),
            "it paid nothing; its inputs are free again (no route)",
        ),
        (
            make_melt(MeltState.SETTLED, kind=JournalKind.RECLAIM, keep_amount=48, swap_fee=2),
            "reclaim m-1 ended: 48 sat came back as new proofs, for a fee of 2 sat",
        ),
        (
            make_melt(MeltState.RELEASED, kind=JournalKind.RECLAIM, error_code="MINT_REJECTED"),
            "reclaim m-1 ended: it brought nothing back (MINT_REJECTED)",
        ),
        (make_melt(shortfall=3), "3 sat of change is missing"),
    ],
)
def test_every_end_is_told(melt, end):
    assert end in texts(told(kind=Kind.MELT, subject="m-1", melts=(melt,)))[-1]


@pytest.mark.parametrize("post", PostOutcome)
def test_every_answer_of_the_mint_has_words(post):
    line = texts(told(kind=Kind.MELT, melts=(make_melt(MeltState.PENDING, posted_at=at(1), post=post),)))[1]
    assert line.startswith("the payment request of melt m-1 left for the mint; ")


def test_an_open_melt_and_its_event_say_where_it_stands():
    event = CriticalEvent(
        id="e",
        type=EventType.MELT_HELD,
        subject="melt:m-1",
        mint=MintAlias("main"),
        detail="the mint contradicts itself",
        opened_at=at(3),
        last_seen=at(3),
        resolved_at=None,
        sightings=1,
        requires_manual_intervention=True,
    )
    melt = make_melt(MeltState.HELD, contradiction="QUOTE_PAID_INPUTS_UNSPENT", contradiction_since=at(2))
    story = told(kind=Kind.MELT, subject="m-1", melts=(melt,), events=(event,))
    assert "CRITICAL event MELT_HELD was opened: the mint contradicts itself" in texts(story)
    assert "the mint contradicted itself about melt m-1: QUOTE_PAID_INPUTS_UNSPENT" in texts(story)
    assert story.now == ("melt m-1 is HELD; it still holds its inputs", "CRITICAL event MELT_HELD is open")


def test_records_without_history_and_without_dates_are_told_all_the_same():
    record = replace(make_discrepancy(), history=(), evidence={}, severity=Severity.LOW)
    story = told(
        kind=Kind.TOKEN,
        subject=TOKEN,
        tokens=(sight(created_at=None, transaction_type=""),),
        unreadable=("document x can't be read: status is missing",),
        discrepancies=(record,),
        audit=(entry(1, TokenStatus.PENDING, melt_id=MeltId("forgotten")),),
    )
    assert len(story.lines) == 2
    assert "for melt forgotten" in texts(story)[1]
    assert "document x can't be read: status is missing" in story.now


def test_a_story_is_bounded_printable_and_says_what_is_left_out():
    audit = tuple(entry(i, TokenStatus.PENDING, reason="x" * 5000 + "\x1b", melt_id=None) for i in range(LINES_MAX + 7))
    story = told(audit=audit, cut=("changes",))
    assert len(story.lines) == LINES_MAX
    assert story.lines[-1].at == at(LINES_MAX + 6), "the newest are kept"
    assert story.left_out == ("there are more changes than were read: the oldest are not told", "7 older lines")
    assert all(len(line.text) < TEXT_MAX + 300 and line.text.isprintable() for line in story.lines)


def test_no_preimage_and_no_invoice_is_told():
    story = told(melts=(make_melt(), make_melt(MeltState.PENDING)))
    assert PREIMAGE not in repr(story)
    assert "lnbc" not in repr(story)
