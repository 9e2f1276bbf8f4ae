"""Counters, the plans that cover them, and what may be believed: the pure part of a restore."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from melt.model import JournalKind, KeysetId, MeltState, OutputPlan, SwapPlan
from melt.restore.ranges import (
    BLOCK,
    OutputRole,
    Span,
    believable_change,
    block_of,
    blocks_in,
    counter_subject,
    covers,
    merged,
    plans_of,
    span_of,
    uncovered,
)
from tests.support.engine import KEYSET, SEED_ID, melt_of

SPANS = st.builds(lambda first, length: Span(first, first + length), st.integers(0, 60), st.integers(0, 12))


def plan(counter: int, *amounts: int) -> OutputPlan:
    return OutputPlan(keyset_id=KEYSET, counter=counter, amounts=amounts, seed_id=SEED_ID)


def test_what_no_plan_covers_is_what_lies_between_them() -> None:
    planned = [Span(5, 8), Span(0, 2), Span(7, 9), Span(20, 25)]
    assert uncovered(Span(0, 22), planned) == (Span(2, 5), Span(9, 20))
    assert uncovered(Span(0, 30), []) == (Span(0, 30),)
    assert uncovered(Span(6, 8), planned) == ()
    assert uncovered(Span(3, 3), []) == ()


@given(within=SPANS, planned=st.lists(SPANS, max_size=8))
def test_every_counter_is_planned_or_uncovered_and_never_both(within: Span, planned: list[Span]) -> None:
    gaps = uncovered(within, planned)
    for counter in range(80):
        inside = within.first <= counter < within.end
        assert covers(gaps, counter) == (inside and not covers(planned, counter))
    assert all(len(gap) for gap in gaps)
    assert all(a.end < b.first for a, b in pairwise(gaps)), "touching gaps are one"


@given(spans=st.lists(SPANS, max_size=8))
def test_merged_spans_hold_the_same_counters_in_fewer_spans(spans: list[Span]) -> None:
    few = merged(spans)
    assert all(covers(few, counter) == covers(spans, counter) for counter in range(80))
    assert all(a.end < b.first for a, b in pairwise(few))


def test_blocks_are_aligned_so_that_the_same_value_is_the_same_record() -> None:
    assert block_of(0) == Span(0, BLOCK)
    assert block_of(BLOCK - 1) == block_of(0)
    assert blocks_in(Span(BLOCK - 1, BLOCK + 1)) == (Span(0, BLOCK), Span(BLOCK, 2 * BLOCK))
    assert blocks_in(Span(BLOCK, 2 * BLOCK)) == (Span(BLOCK, 2 * BLOCK),)
    assert counter_subject("seed", KeysetId("00ab"), Span(0, 100)) == "counter:seed:00ab:0-99"


def test_no_span_runs_backwards() -> None:
    with pytest.raises(ValueError, match="no counters"):
        Span(3, 2)


def test_all_plans_of_an_entry_are_known_by_what_they_were_for() -> None:
    fence = SwapPlan(inputs=(), outputs=plan(7, 4, 2), keep=2, fee=0)
    melt = melt_of(8, blanks=plan(3, 0, 0), fence=fence, swap=SwapPlan(inputs=(), outputs=plan(5, 8), keep=0, fee=0))
    assert [(role, span_of(one)) for role, one in plans_of(melt)] == [
        (OutputRole.BLANKS, Span(3, 5)),
        (OutputRole.SWAP, Span(5, 6)),
        (OutputRole.FENCE, Span(7, 9)),
    ]
    assert plans_of(melt_of(8)) == ()
    assert plans_of(melt_of(8, blanks=plan(3))) == ()


def test_change_without_proof_is_believed_up_to_what_was_overpaid_and_only_of_a_payment() -> None:
    settled = melt_of(64, amount=50, input_fee=1, state=MeltState.SETTLED)
    assert believable_change(settled, 13)
    assert not believable_change(settled, 14)
    assert not believable_change(replace(settled, state=MeltState.RELEASED), 1)
    assert not believable_change(replace(settled, kind=JournalKind.RECLAIM), 1)
