"""Selection against brute force on small sets, and what holds on all."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from melt.model import KeysetId
from melt.selection import Candidate, blank_count, input_fee, select, split_amount

KEYSETS = [KeysetId("a"), KeysetId("b"), KeysetId("c")]
POWERS = st.integers(0, 10).map(lambda bit: 1 << bit)
PPK = st.fixed_dictionaries({k: st.sampled_from([0, 1, 100, 999, 1000, 2500]) for k in KEYSETS})


@st.composite
def wallets(draw, most, amounts=POWERS):
    held = draw(st.lists(st.tuples(amounts, st.sampled_from([*KEYSETS, "unknown"]), st.booleans()), max_size=most))
    return [Candidate(index=i, amount=a, keyset_id=KeysetId(k), leaving=le) for i, (a, k, le) in enumerate(held)]


def judge(chosen, ppk, need):
    """(overpay, inputs, inputs that could stay), None where it does not pay."""
    overpay = sum(c.amount for c in chosen) - input_fee([c.keyset_id for c in chosen], ppk) - need
    return None if overpay < 0 else (overpay, len(chosen), sum(not c.leaving for c in chosen))


def best_of_all(held, ppk, need, inputs_max):
    worth = [c for c in held if c.keyset_id in ppk and 1000 * c.amount > ppk[c.keyset_id]]
    sets = (chosen for n in range(1, min(inputs_max, len(worth)) + 1) for chosen in combinations(worth, n))
    return min((key for key in (judge(chosen, ppk, need) for chosen in sets) if key is not None), default=None)


@settings(max_examples=400, deadline=None)
@given(held=wallets(9) | wallets(9, st.integers(1, 60)), ppk=PPK, data=st.data())
def test_small_sets_are_chosen_as_brute_force_would(held, ppk, data):
    inputs_max = data.draw(st.integers(1, 10))
    need = data.draw(st.integers(1, max(1, sum(c.amount for c in held) + 2)))
    found = select(held, need=need, ppk=ppk, inputs_max=inputs_max)
    best = best_of_all(held, ppk, need, inputs_max)
    assert (found is None) == (best is None), "a set that pays is found exactly where there is one"
    if found is not None:
        assert judge(found.chosen, ppk, need) == best


@settings(max_examples=60, deadline=None)
@given(held=wallets(150) | wallets(150, st.integers(1, 10_000)), ppk=PPK, data=st.data())
def test_no_selection_under_pays_or_breaks_a_limit(held, ppk, data):
    inputs_max = data.draw(st.integers(0, 160))
    need = data.draw(st.integers(1, max(1, sum(c.amount for c in held))))
    found = select(held, need=need, ppk=ppk, inputs_max=inputs_max)
    usable = sorted((1000 * c.amount - ppk[c.keyset_id] for c in held if c.keyset_id in ppk), reverse=True)
    if found is None:
        assert sum(w for w in usable[:inputs_max] if w > 0) < 1000 * need, "refused although it reaches"
        return
    assert 0 < len(found.chosen) <= inputs_max
    assert len({c.index for c in found.chosen}) == len(found.chosen), "a proof is chosen once"
    assert set(found.chosen) <= set(held)
    assert all(1000 * c.amount > ppk[c.keyset_id] for c in found.chosen)
    assert found.amount == sum(c.amount for c in found.chosen)
    assert found.input_fee == input_fee([c.keyset_id for c in found.chosen], ppk)
    assert found.overpay == found.amount - found.input_fee - need >= 0
    # At most one proof away from the least: without any one of its proofs it would not pay.
    for left_out in found.chosen:
        rest = [c for c in found.chosen if c is not left_out]
        assert judge(rest, ppk, need) is None


@settings(deadline=None)
@given(held=wallets(40), ppk=PPK, seed=st.randoms(use_true_random=False), need=st.integers(1, 5000))
def test_the_order_of_the_wallet_changes_nothing_that_matters(held, ppk, seed, need):
    shuffled = list(held)
    seed.shuffle(shuffled)
    one, other = (select(w, need=need, ppk=ppk, inputs_max=30) for w in (held, shuffled))
    assert one == other


@given(st.integers(0, 2**63 - 1))
def test_powers_of_two_split_an_amount_into_its_bits(amount):
    parts = split_amount(amount, [1 << bit for bit in range(64)])
    assert sum(parts) == amount
    assert len(parts) == amount.bit_count()
    assert list(parts) == sorted(parts, reverse=True)


@given(st.integers(1, 2**63 - 1), st.data())
def test_blanks_are_enough_for_every_change(overpaid, data):
    change = data.draw(st.integers(0, overpaid))
    assert change.bit_count() <= blank_count(overpaid)
