"""When what was found may be acted on, and what is written about it (DESIGN section 5, Guards)."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from melt.corrections import Corrections, Judged, confirmed, finding_of
from melt.drift import Context, classify
from melt.model import Action, Actor, DiscrepancyState, MintAlias, MintState, TokenStatus, Warrant
from tests.support.engine import NOW, token, y
from tests.support.scripted import make_discrepancy

CONFIRM_S = 60.0


def record(action, **changes):
    """A record seen twice, the same both times, just long enough apart."""
    first = NOW - timedelta(seconds=CONFIRM_S)
    base = replace(
        make_discrepancy(),
        action=action,
        state=DiscrepancyState.OPEN,
        closed_at=None,
        first_seen=first,
        same_since=first,
        last_seen=NOW,
        sightings=2,
        watched_ms=round(1000 * CONFIRM_S),
        same_ms=round(1000 * CONFIRM_S),
    )
    return replace(base, **changes)


def is_confirmed(one, **more):
    return confirmed(one, confirm_after_s=CONFIRM_S, **more)


@pytest.mark.parametrize("action", [Action.RELEASE, Action.RECLAIM])
def test_value_comes_back_after_two_sightings_apart(action):
    assert is_confirmed(record(action))


@pytest.mark.parametrize("action", [Action.RELEASE, Action.RECLAIM])
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"sightings": 1, "last_seen": NOW - timedelta(seconds=CONFIRM_S)}, id="seen once, long ago"),
        pytest.param({"sightings": 1}, id="seen once"),
        pytest.param({"same_ms": round(1000 * CONFIRM_S) - 1}, id="too soon"),
        pytest.param(
            {"same_since": NOW - timedelta(hours=1), "same_ms": 0}, id="by the dates alone, which clocks make"
        ),
        pytest.param({"same_since": NOW, "same_ms": 0, "sightings": 5}, id="was something else until now"),
        pytest.param({"same_since": None, "sightings": 5}, id="recorded before sightings were compared"),
        pytest.param({"state": DiscrepancyState.ACKNOWLEDGED}, id="a person has said to leave it"),
        pytest.param({"same_since": NOW + timedelta(hours=1)}, id="a clock that went backwards"),
    ],
)
def test_value_does_not_come_back_before(action, changes):
    assert not is_confirmed(record(action, **changes))


def test_what_the_mint_has_taken_is_marked_at_the_first_sighting_unless_a_person_said_no():
    once = record(Action.MARK_SPENT, sightings=1, same_since=NOW, first_seen=NOW)
    assert is_confirmed(once)
    assert not is_confirmed(replace(once, state=DiscrepancyState.ACKNOWLEDGED))


def test_no_time_to_wait_still_needs_a_second_look():
    once = record(Action.RELEASE, sightings=1, same_since=NOW, first_seen=NOW, last_seen=NOW)
    assert not confirmed(once, confirm_after_s=0)


@pytest.mark.parametrize("action", [Action.MARK_SPENT, Action.RELEASE, Action.RECLAIM])
def test_nothing_is_carried_out_before_its_document_has_stood_still_unless_a_person_says_so(action):
    young = record(action, needs_ms=86_400_000, watched_ms=86_399_999, same_ms=86_399_999)
    assert not is_confirmed(young)
    assert is_confirmed(young, at_once=True)
    assert is_confirmed(replace(young, watched_ms=86_400_000))
    assert not is_confirmed(replace(young, state=DiscrepancyState.ACKNOWLEDGED), at_once=True)


# --- what is written and applied ---


class RecordingStore:
    """Keeps what it is asked to correct."""

    def __init__(self, *, answer=True):
        self.answer = answer
        self.corrections = []

    def correct(self, correction):
        self.corrections.append(correction)
        return self.answer


class Telemetry:
    def __init__(self):
        self.corrected = []

    def drift_corrected(self, drift, severity, mint):
        self.corrected.append((drift, severity, mint))


async def direct(work):
    return work()


def judge(document, states):
    (verdict,) = classify(document, states, Context(now=NOW, pending_grace_s=0))
    return Judged(token=document, verdict=verdict, mint=MintAlias("main"), unit="sat")


async def test_a_correction_carries_what_it_was_decided_on():
    document = token(TokenStatus.UNSPENT, 1, 2, rev=7)
    one = judge(document, {y(0): MintState.UNSPENT, y(1): MintState.SPENT})
    store, telemetry = RecordingStore(), Telemetry()
    found = replace(make_discrepancy(), occurrence=3)
    assert await Corrections(store, direct, telemetry).apply(one, found, Actor(name="sweep"))
    (correction,) = store.corrections
    assert (correction.expected_status, correction.expected_rev) == (TokenStatus.UNSPENT, 7)
    assert (correction.new_status, correction.ys) == (TokenStatus.SPENT, (y(1),))
    assert (correction.discrepancy_id, correction.occurrence) == (found.id, 3)
    assert correction.warrant == Warrant(
        discrepancy_id=found.id, occurrence=3, token_id=document.id, mark=document.mark, at_once=False
    )
    assert len(telemetry.corrected) == 1


async def test_a_document_that_moved_on_is_not_counted_as_corrected():
    one = judge(token(TokenStatus.UNSPENT, 1), {y(0): MintState.SPENT})
    store, telemetry = RecordingStore(answer=False), Telemetry()
    assert not await Corrections(store, direct, telemetry).apply(one, make_discrepancy(), Actor(name="sweep"))
    assert telemetry.corrected == []


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (TokenStatus.UNSPENT, MintState.PENDING),
        (TokenStatus.SPENT, MintState.UNSPENT),
        (TokenStatus.FAILED, MintState.UNSPENT),
    ],
)
async def test_watching_recording_and_reclaiming_move_no_status(status, state):
    one = judge(token(status, 1), {y(0): state})
    store = RecordingStore()
    assert not await Corrections(store, direct, Telemetry()).apply(one, make_discrepancy(), Actor(name="sweep"))
    assert store.corrections == []


def test_a_finding_names_no_secret():
    document = token(TokenStatus.UNSPENT, 4)
    finding = finding_of(judge(document, {y(0): MintState.SPENT}), {"seen_by": "sweep"})
    text = repr(finding)
    assert all(p.secret not in text and p.c not in text for p in document.proofs)
    assert (finding.subject, finding.value, finding.evidence["status"]) == (f"token:{document.id}", 4, "unspent")
