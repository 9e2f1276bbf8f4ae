"""A mint that takes few inputs at a time, and a wallet of small change: swapped together first, or refused with number and limit."""

from __future__ import annotations

import time

import pytest

from melt.errors import MeltdError
from melt.model import JournalKind, MeltState
from tests.support.played_mint import MELT, SWAP, PlayedKeyset, PlayedMint


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize(
    ("limit", "amounts", "amount", "ppk"),
    [
        (20, [1] * 80, 40, 0),
        (20, [1] * 80, 70, 0),
        (5, [2] * 30, 50, 0),
        (10, [1] * 50 + [2] * 20, 80, 0),
        (8, [4] * 16 + [1] * 10, 60, 100),
        (20, [1] * 80, 40, 100),
    ],
)
async def test_what_is_too_much_for_one_request_is_swapped_together_first(playing, limit, amounts, amount, ppk, told):
    info = {"max_array_length": limit} if told else {}
    async with playing(PlayedMint(PlayedKeyset(ppk=ppk), inputs_max=limit, info=info)) as house:
        owner = await house.fund(*amounts)
        invoice = house.mint.invoice(amount)
        melt = await house.pay(owner, invoice)
        if melt.state is MeltState.RELEASED:
            assert not told, "only a mint that does not say it has to be met first"
            assert melt.error_code == "TOO_MANY_INPUTS"
            melt = await house.pay(owner, invoice)
        assert (melt.state, house.mint.paid[invoice]) == (MeltState.SETTLED, 1)
        # A mint that does not say its limit teaches it by refusals; one that does is never asked for more.
        for asked in (*(house.mint.asked_of(SWAP) if told else ()), house.mint.asked_of(MELT)[-1]):
            assert len(asked.body["inputs"]) <= limit
        swaps = [one for one in house.melts() if one.kind is JournalKind.TOGETHER and one.state is MeltState.SETTLED]
        assert swaps, "journaled like any other"
        assert all(len(one.inputs) <= limit for one in swaps)
        fees = sum(one.swap_fee for one in swaps) + melt.input_fee
        assert house.counted(owner) == house.honoured(owner) == sum(amounts) - amount - 1 - fees
        assert house.events() == []


@pytest.mark.parametrize(
    ("limit", "amounts", "amount", "ppk"),
    [
        (20, [1] * 80, 75, 500),
        (20, [1] * 80, 40, 900),
        (3, [1] * 9, 6, 400),
        (1, [4] * 10, 20, 0),
        (2, [1] * 150, 100, 0),
    ],
)
async def test_where_that_does_not_reach_it_is_refused_at_once_with_number_and_limit(
    playing, limit, amounts, amount, ppk
):
    mint = PlayedMint(PlayedKeyset(ppk=ppk), inputs_max=limit, info={"max_array_length": max(limit, 3)})
    async with playing(mint, melt={"reserve_wait_s": 60}) as house:
        house.ground.mints["main"]._inputs_bound = limit
        owner = await house.fund(*amounts)
        started = time.monotonic()
        with pytest.raises(MeltdError) as caught:
            await house.pay(owner, house.mint.invoice(amount))
        assert time.monotonic() - started < 20, "nothing comes back, so nothing is waited for"
        assert caught.value.code.value in {"TOO_MANY_INPUTS", "INSUFFICIENT_FUNDS"}
        if caught.value.code.value == "TOO_MANY_INPUTS":
            assert f"the {limit} inputs" in caught.value.detail
        assert not house.mint.asked_of(MELT)
        assert house.honoured(owner) == house.counted(owner) == sum(amounts)


@pytest.mark.parametrize("max_fee", [2, 3, 4])
async def test_swaps_that_would_cost_more_than_the_caller_allows_are_not_made(playing, max_fee):
    async with playing(PlayedMint(PlayedKeyset(ppk=100), info={"max_array_length": 20})) as house:
        owner = await house.fund(*[1] * 80)
        with pytest.raises(MeltdError) as caught:
            await house.pay(owner, house.mint.invoice(40), max_fee=max_fee)
        assert caught.value.code.value in {"TOO_MANY_INPUTS", "FEE_TOO_HIGH"}
        assert not house.mint.asked_of(SWAP)


async def test_a_user_with_small_change_at_a_mint_of_a_thousand(playing):
    async with playing() as house:
        owner = house.user()
        proofs = house.mint.issue(*[1] * 1500)
        house.hold(owner, *proofs[:1000])
        house.hold(owner, *proofs[1000:])
        invoice = house.mint.invoice(1400)
        assert (await house.pay(owner, invoice, wait_s=60)).state is MeltState.SETTLED
        assert house.counted(owner) == house.honoured(owner) == 1500 - 1400 - 1


async def test_a_lost_answer_to_such_a_swap_costs_nothing(playing):
    async with playing(PlayedMint(info={"max_array_length": 20})) as house:
        from tests.support.scripted_mint import Say

        once = [1]

        def lost(asked):
            if once:
                once.pop()
                house.mint._swap(asked)
                return Say(status=502, body=b"")
            return None

        house.mint.before[SWAP] = lost
        owner = await house.fund(*[1] * 80)
        invoice = house.mint.invoice(40)
        melt = await house.pay(owner, invoice)
        assert melt.state is MeltState.SETTLED
        assert house.counted(owner) == house.honoured(owner) == 80 - 41
