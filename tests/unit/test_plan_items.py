"""What a plan holds of a correction, and when it no longer stands. Pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from melt.corrections import Judged
from melt.drift import Context, classify
from melt.model import Action, DiscrepancyState, MintAlias, MintState, TokenStatus
from melt.plan_items import digest_of, item_of, items_of, totals_of, why_stale
from tests.support.engine import NOW, token, y
from tests.support.scripted import make_discrepancy

DOCUMENT = replace(token(TokenStatus.UNSPENT, 1, 2, 4, updated_at=NOW), mark="stands still")
RECORD = replace(make_discrepancy(), state=DiscrepancyState.OPEN, closed_at=None, occurrence=2)


def judge(document=DOCUMENT, gone=(1, 2)):
    states = {p.y: MintState.SPENT if i in gone else MintState.UNSPENT for i, p in enumerate(document.proofs)}
    verdicts = classify(document, states, Context(now=NOW, pending_grace_s=0))
    return [Judged(token=document, verdict=one, mint=MintAlias("main"), unit="sat") for one in verdicts]


ITEM = item_of(judge()[0], RECORD)


def test_an_item_carries_what_it_was_decided_on_and_no_secret():
    assert (ITEM.action, set(ITEM.ys), ITEM.value) == (Action.MARK_SPENT, {y(1), y(2)}, 6)
    assert (ITEM.expected_status, ITEM.expected_rev, ITEM.occurrence) == (TokenStatus.UNSPENT, None, 2)
    assert ITEM.digest == DOCUMENT.mark == "stands still"
    assert all(p.secret not in repr(ITEM) and p.c not in repr(ITEM) for p in DOCUMENT.proofs)


@pytest.mark.parametrize(
    "changes",
    [{"status": TokenStatus.PENDING}, {"rev": 1}, {"mark": "another"}],
    ids=lambda changes: next(iter(changes)),
)
def test_a_document_that_anybody_wrote_is_another_version(changes):
    assert "changed" in (why_stale(ITEM, replace(DOCUMENT, **changes), judge(), RECORD) or "")


def test_a_date_or_a_sum_that_somebody_wrote_is_no_change():
    touched = replace(DOCUMENT, updated_at=NOW + timedelta(milliseconds=1), total_amount=8)
    assert why_stale(ITEM, touched, judge(), RECORD) is None


def test_what_has_not_settled_is_left_out_unless_a_person_said_not_to_wait():
    young = replace(RECORD, needs_ms=1000, watched_ms=999)
    assert items_of(judge(), [young]) == ([], 1)
    assert items_of(judge(), [young], at_once=True) == ([item_of(judge()[0], young)], 0)


def test_what_is_as_it_was_stands():
    assert why_stale(ITEM, DOCUMENT, judge(), RECORD) is None
    assert why_stale(ITEM, DOCUMENT, judge(), replace(RECORD, sightings=9, last_seen=NOW)) is None


@pytest.mark.parametrize(
    ("document", "judged", "record", "why"),
    [
        pytest.param(None, [], RECORD, "not there", id="gone"),
        pytest.param(DOCUMENT, [], RECORD, "no drift", id="no drift any more"),
        pytest.param(DOCUMENT, judge(gone=(0, 1, 2)), RECORD, "judged otherwise", id="more proofs are gone"),
        pytest.param(DOCUMENT, judge(gone=(1,)), RECORD, "judged otherwise", id="fewer proofs are gone"),
        pytest.param(DOCUMENT, judge(), None, "another one", id="no record"),
        pytest.param(DOCUMENT, judge(), replace(RECORD, occurrence=3), "another one", id="closed and opened anew"),
        pytest.param(
            DOCUMENT, judge(), replace(RECORD, state=DiscrepancyState.ACKNOWLEDGED), "acknowledged", id="acknowledged"
        ),
        pytest.param(
            DOCUMENT,
            judge(),
            replace(RECORD, state=DiscrepancyState.CLEARED, closed_at=NOW),
            "closed (cleared)",
            id="cleared",
        ),
    ],
)
def test_what_changed_is_stale_and_says_why(document, judged, record, why):
    assert why in (why_stale(ITEM, document, judged, record) or "")


def test_what_a_person_acknowledged_is_left_out_and_counted():
    known = replace(RECORD, state=DiscrepancyState.ACKNOWLEDGED)
    assert items_of(judge() * 2, [RECORD, known]) == ([ITEM], 1)


def test_what_is_only_recorded_is_no_item():
    sent = token(TokenStatus.SPENT, 1, 2, 4, type_="sent")
    assert [one.verdict.action for one in judge(sent)] == [Action.RECORD]
    assert items_of(judge(sent), [RECORD]) == ([], 0)


def test_a_plan_is_known_by_its_items_whatever_their_order():
    other = replace(ITEM, token_id="bb" * 12)
    assert digest_of([ITEM, other]) == digest_of([other, ITEM])
    assert digest_of([ITEM]) != digest_of([other])
    assert digest_of([ITEM]) != digest_of([replace(ITEM, digest="ff" * 16)])
    assert digest_of([ITEM]) != digest_of([replace(ITEM, occurrence=3)])


def test_totals_never_add_units_up():
    totals = totals_of([ITEM, replace(ITEM, value=4), replace(ITEM, unit="msat", value=9)])
    assert [(total.unit, total.items, total.value) for total in totals] == [("msat", 1, 9), ("sat", 2, 10)]
