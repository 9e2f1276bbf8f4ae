"""Which proofs pay, what they cost, how change is split (DESIGN section 4; NUT-02, NUT-08)."""

from __future__ import annotations

import math

import pytest

from melt.model import KeysetId
from melt.selection import Candidate, blank_count, input_fee, select, split_amount

A, B = KeysetId("a"), KeysetId("b")


def candidates(*amounts, keyset_id=A, leaving=()):
    return [Candidate(index=i, amount=a, keyset_id=keyset_id, leaving=i in leaving) for i, a in enumerate(amounts)]


def chosen(selection):
    return sorted(c.amount for c in selection.chosen)


@pytest.mark.parametrize(
    ("amounts", "need", "expected", "overpay"),
    [
        ([1, 2, 4, 8], 8, [8], 0),
        ([1, 2, 4, 8], 7, [1, 2, 4], 0),
        ([1, 2, 4, 8], 15, [1, 2, 4, 8], 0),
        ([8, 8, 8], 9, [8, 8], 7),
        ([64, 5], 5, [5], 0),
        ([64, 3, 3], 5, [3, 3], 1),
        ([64, 63, 1], 64, [64], 0),
        ([7, 7, 7, 20], 21, [7, 7, 7], 0),
        ([9, 8, 7], 15, [7, 8], 0),
        ([2**62, 2**62, 1], 2**62 + 1, [1, 2**62], 0),
    ],
)
def test_exact_first_then_least_overpay_then_fewest(amounts, need, expected, overpay):
    selection = select(candidates(*amounts), need=need, ppk={A: 0}, inputs_max=1000)
    assert chosen(selection) == expected
    assert (selection.overpay, selection.input_fee, selection.amount) == (overpay, 0, sum(expected))


@pytest.mark.parametrize(
    ("amounts", "need", "ppk", "inputs_max"),
    [
        ([], 1, 0, 10),
        ([1, 2, 4], 8, 0, 10),
        ([1, 2, 4], 7, 100, 10),  # 7 less a fee of 1
        ([4, 4, 4], 12, 0, 2),
        ([4], 1, 0, 0),
    ],
)
def test_what_does_not_reach_is_none(amounts, need, ppk, inputs_max):
    assert select(candidates(*amounts), need=need, ppk={A: ppk}, inputs_max=inputs_max) is None


@pytest.mark.parametrize("need", [0, -1])
def test_nothing_is_not_paid_for(need):
    with pytest.raises(ValueError, match="positive"):
        select(candidates(1), need=need, ppk={A: 0}, inputs_max=1)


def test_many_small_proofs_are_not_taken_where_few_large_ones_fit_into_the_limit():
    selection = select(candidates(*[1] * 20, 16, 4), need=20, ppk={A: 0}, inputs_max=2)
    assert chosen(selection) == [4, 16]


def test_the_limit_binds_before_exactness_does():
    selection = select(candidates(*[1] * 5, 8), need=5, ppk={A: 0}, inputs_max=4)
    assert chosen(selection) == [8]


def test_worth_below_one_unit_is_no_overpay_so_the_fewest_inputs_win():
    """The fee is rounded up once: one proof of 11 and five that add up to 11 leave the same over, nothing."""
    selection = select(candidates(11, 3, 2, 2, 2, 2), need=10, ppk={A: 100}, inputs_max=10)
    assert chosen(selection) == [11]
    assert (selection.input_fee, selection.overpay) == (1, 0)


def test_a_proof_that_its_fee_eats_is_never_chosen():
    selection = select(candidates(1, 1, 1, 8), need=5, ppk={A: 1000}, inputs_max=10)
    assert chosen(selection) == [8]
    assert select(candidates(1, 1, 1), need=1, ppk={A: 1000}, inputs_max=10) is None


def test_a_proof_of_an_unknown_keyset_is_never_chosen():
    assert select(candidates(8, keyset_id=B), need=1, ppk={A: 0}, inputs_max=10) is None


def test_among_equal_proofs_those_of_a_leaving_keyset_go():
    selection = select(candidates(4, 4, 4, 4, leaving={2, 3}), need=8, ppk={A: 0}, inputs_max=10)
    assert {c.index for c in selection.chosen} == {2, 3}


def test_among_equal_sets_the_one_that_empties_a_leaving_keyset_goes_although_its_fee_differs():
    new = Candidate(index=0, amount=64, keyset_id=A)
    old = Candidate(index=1, amount=64, keyset_id=B, leaving=True)
    for fees in ({A: 100, B: 200}, {A: 200, B: 100}):
        selection = select([new, old], need=60, ppk=fees, inputs_max=10)
        assert selection.chosen == (old,)


def test_least_overpay_comes_before_emptying_a_keyset():
    proofs = [
        Candidate(index=0, amount=16, keyset_id=A),
        Candidate(index=1, amount=32, keyset_id=B, leaving=True),
    ]
    assert select(proofs, need=16, ppk={A: 0, B: 0}, inputs_max=10).chosen == (proofs[0],)


def test_fees_of_several_keysets_are_added_before_they_are_rounded():
    proofs = [*candidates(8), Candidate(index=1, amount=8, keyset_id=B)]
    selection = select(proofs, need=14, ppk={A: 400, B: 600}, inputs_max=10)
    assert (selection.input_fee, selection.overpay) == (1, 1)


# --- formulas ---


@pytest.mark.parametrize(
    ("count", "ppk", "fee"),
    [(0, 100, 0), (1, 100, 1), (10, 100, 1), (11, 100, 2), (3, 0, 0), (1000, 1, 1), (1, 2500, 3)],
)
def test_the_input_fee_is_rounded_up_once(count, ppk, fee):
    assert input_fee([A] * count, {A: ppk}) == fee


@pytest.mark.parametrize(
    ("overpaid", "count"), [(-5, 0), (0, 0), (1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (8, 3), (9, 4), (1000, 10)]
)
def test_blank_outputs_are_the_ceiling_of_the_logarithm_and_at_least_one(overpaid, count):
    assert blank_count(overpaid) == count


@pytest.mark.parametrize("overpaid", [*range(1, 200), 2**20 - 1, 2**20, 2**20 + 1, 2**63 - 1])
def test_the_blanks_hold_any_change_that_may_come(overpaid):
    count = blank_count(overpaid)
    worst = (1 << (overpaid + 1).bit_length() - 1) - 1  # the most ones in binary that are not above overpaid
    assert worst.bit_count() <= count
    assert count == max(1, math.ceil(math.log2(overpaid))) or overpaid > 2**52


@pytest.mark.parametrize(
    ("amount", "denominations", "parts"),
    [
        (0, [1, 2, 4], ()),
        (7, [1, 2, 4], (4, 2, 1)),
        (13, [4, 2, 1], (4, 4, 4, 1)),
        (3, [0, -1, 1], (1, 1, 1)),
        (2**63 - 1, [1 << b for b in range(64)], tuple(1 << b for b in range(62, -1, -1))),
    ],
)
def test_an_amount_is_split_into_denominations(amount, denominations, parts):
    assert split_amount(amount, denominations) == parts


@pytest.mark.parametrize(("amount", "denominations"), [(1, []), (3, [2]), (5, [0])])
def test_what_denominations_can_not_make_up_is_an_error(amount, denominations):
    with pytest.raises(ValueError, match="denominations"):
        split_amount(amount, denominations)
