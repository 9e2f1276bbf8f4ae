"""Caps on corrections: over one, nothing is changed (I12)."""

from __future__ import annotations

import pytest

from melt.caps import HOUR_S, SHARE_FLOOR, SHARE_FROM_DOCUMENTS, CapPolicy, Caps, RunTotals

WIDE = {"count_per_run": 10**6, "count_per_hour": 10**6, "value_per_run": 10**12, "share_per_run": 1.0}


def caps(**policy):
    return Caps(CapPolicy(**{**WIDE, **policy}))


def correct(holder, totals, *, value=1, unit="sat", documents=10, now_s=0.0):
    """Correct one if no cap refuses; the cap's name otherwise."""
    cap = holder.refuses(totals, value=value, unit=unit, documents=documents, now_s=now_s)
    if cap is None:
        holder.count(totals, value=value, unit=unit, now_s=now_s)
    return cap


def test_the_count_of_a_run_ends_with_the_run():
    holder, totals = caps(count_per_run=3), RunTotals()
    assert [correct(holder, totals) for _ in range(4)] == [None] * 3 + ["corrections_max_count_per_cycle"]
    assert correct(holder, RunTotals()) is None


def test_the_count_of_an_hour_is_over_all_runs_and_slides():
    holder = caps(count_per_hour=3)
    assert [correct(holder, RunTotals(), now_s=s) for s in (0, 100, 200)] == [None] * 3
    assert correct(holder, RunTotals(), now_s=HOUR_S) == "corrections_max_count_per_hour"
    assert correct(holder, RunTotals(), now_s=HOUR_S + 1) is None
    assert correct(holder, RunTotals(), now_s=HOUR_S + 2) == "corrections_max_count_per_hour"


def test_what_was_refused_does_not_count():
    holder = caps(count_per_hour=2)
    for _ in range(50):
        holder.refuses(RunTotals(), value=1, unit="sat", documents=1, now_s=0)
    assert correct(holder, RunTotals()) is None


def test_value_is_capped_by_unit():
    holder, totals = caps(value_per_run=100), RunTotals()
    assert correct(holder, totals, value=60) is None
    assert correct(holder, totals, value=41) == "corrections_max_value_per_cycle"
    assert correct(holder, totals, value=40) is None
    assert correct(holder, totals, value=100, unit="msat") is None


@pytest.mark.parametrize(
    ("documents", "allowed"),
    [(SHARE_FROM_DOCUMENTS - 1, 200), (SHARE_FROM_DOCUMENTS, SHARE_FLOOR), (50, SHARE_FLOOR), (100, 10), (1000, 100)],
)
def test_the_share_says_something_from_ten_documents_on(documents, allowed):
    holder, totals = caps(share_per_run=0.1), RunTotals()
    done = sum(correct(holder, totals, documents=documents) is None for _ in range(200))
    assert done == allowed


@pytest.mark.parametrize(
    ("marks", "documents", "refused"),
    [
        pytest.param(9, 9, False, id="too few documents to say"),
        pytest.param(5, 10, False, id="a handful"),
        pytest.param(6, 10, True, id="more than a handful"),
        pytest.param(25, 100, False, id="the share"),
        pytest.param(26, 100, True, id="over the share"),
        pytest.param(50, 50, True, id="everything is gone"),
    ],
)
def test_a_page_of_which_too_much_reads_spent_is_refused_as_a_whole(marks, documents, refused):
    name = caps(share_per_run=0.25).refuses_page(marks=marks, documents=documents)
    assert name == ("corrections_max_share_per_cycle" if refused else None)


def test_a_share_of_one_or_of_zero_means_it():
    assert caps(share_per_run=1.0).refuses_page(marks=100, documents=100) is None
    assert caps(share_per_run=0.0).refuses_page(marks=1, documents=100) is not None
    assert correct(caps(share_per_run=0.0), RunTotals(), documents=100) is not None


def test_zero_forbids_everything():
    for policy in ({"count_per_run": 0}, {"count_per_hour": 0}, {"value_per_run": 0}):
        assert correct(caps(**policy), RunTotals()) is not None


def test_the_memory_of_the_hour_is_bounded_by_its_cap():
    holder = caps(count_per_hour=5)
    for _ in range(1000):
        holder.count(RunTotals(), value=1, unit="sat", now_s=0)
    assert holder.refuses(RunTotals(), value=1, unit="sat", documents=1, now_s=1) == "corrections_max_count_per_hour"


def test_what_another_instance_corrected_counts_for_the_hour():
    holder = caps(count_per_hour=3)
    holder.count(RunTotals(), value=1, unit="sat", now_s=1000.0)
    holder.recall([500.0, 1500.0])
    assert correct(holder, RunTotals(), now_s=2000.0) == "corrections_max_count_per_hour"
    assert correct(holder, RunTotals(), now_s=500.0 + HOUR_S + 1) is None
    assert correct(holder, RunTotals(), now_s=500.0 + HOUR_S + 2) == "corrections_max_count_per_hour"
