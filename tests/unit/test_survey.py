"""The survey's own rules: in which way documents share a proof, whose order an index would refuse, what a person is told."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from daemon.survey import advice
from melt.model import TokenId
from melt.model.survey import Copies, CopyGroup, Others
from melt.repair.find import Found, Kind, counts_twice, keeps_before_source
from melt.settling import SettlePolicy
from melt.survey import copies_of
from tests.support.scripted_modes import make_survey

NOW = datetime(2026, 3, 1, tzinfo=UTC)
SOURCE = Kind(status="spent", transaction_type="received")
LIVE = Kind(status="unspent", transaction_type="change")
SENT = Kind(status="unspent", transaction_type="sent")
MELTED = Kind(status="unspent", transaction_type="melted")
ODD = Kind(status="UNSPENT", transaction_type="minted")


@pytest.mark.parametrize(
    ("kinds", "pattern", "twice"),
    [
        ([SOURCE, LIVE], Copies.KEPT, False),
        ([SOURCE, replace(SOURCE, status="failed"), LIVE], Copies.KEPT, False),
        ([SOURCE, SOURCE], Copies.HISTORY, False),
        ([LIVE, LIVE], Copies.COUNTED_TWICE, True),
        ([SOURCE, LIVE, replace(LIVE, status="pending")], Copies.COUNTED_TWICE, True),
        ([LIVE, replace(LIVE, transaction_type="something_new")], Copies.COUNTED_TWICE, True),
        ([SOURCE, SENT], Copies.HANDED_OUT, False),
        ([LIVE, SENT], Copies.HANDED_OUT, True),
        ([SOURCE, MELTED], Copies.MELTED, True),
        ([LIVE, ODD], Copies.UNCLEAR, True),
    ],
)
def test_a_copy_in_a_final_document_is_history_and_what_counts_twice_is_not(
    kinds: list[Kind], pattern: Copies, *, twice: bool
) -> None:
    for ordered in (kinds, kinds[::-1]):
        assert copies_of(ordered) is pattern
        assert counts_twice(ordered) is twice


@pytest.mark.parametrize(("late_s", "early"), [(-1.0, 1), (0.0, 0), (5.0, 0)])
def test_a_keep_that_is_older_than_the_moment_its_source_was_spent_is_what_an_index_would_refuse(
    late_s: float, early: int
) -> None:
    source = replace(SOURCE, created_at=NOW - timedelta(days=1), spent_at=NOW)
    kept = replace(LIVE, created_at=NOW + timedelta(seconds=late_s))
    found = Found(
        groups={b"x": (TokenId("s"), TokenId("k"))}, kinds={TokenId("s"): source, TokenId("k"): kept}, values={b"x": 8}
    )
    assert keeps_before_source(found) == early


def told(*, waits: float = 86_400.0, at_start_only: bool = False, **changes: object) -> str:
    survey = make_survey(**changes)
    return "\n".join(advice(survey, SettlePolicy(correct_after_s=waits), at_start_only=at_start_only))


def test_a_person_is_warned_of_what_would_cost_money() -> None:
    assert "correct_after_s is 0" in told(waits=0)
    assert "correct_after_s" not in told()
    assert "correct_after_s" not in told(waits=0, others=Others(cleared=0, settling=0, recurred=0, rolled_back=0))
    assert "unspent" in told(others=Others(cleared=0, settling=0, recurred=0, rolled_back=3))
    assert "no unique index: 2 proofs" in told(keeps_before_source=2)
    twice = CopyGroup(copies=Copies.COUNTED_TWICE, proofs=4, value=8)
    assert "no unique index before the repair" in told(copies=(twice,))
    assert "--repair DUPLICATE_PROOF" in told(copies=(twice,))
    assert "at the next start" in told(at_start_only=True)
    assert "offered as a plan" in told(capped=("main",))
