"""The mint that plays is honest until it is bent: what the other tests here stand on."""

from __future__ import annotations

import pytest

from melt.errors import MeltdError
from melt.model import MeltState
from tests.support.played_mint import PlayedKeyset, PlayedMint


@pytest.mark.parametrize("version", [1, 2])
async def test_a_payment_at_an_honest_mint_comes_out_to_the_sat(playing, version):
    async with playing(PlayedMint(PlayedKeyset(version=version, ppk=100))) as house:
        owner = await house.fund(64, 32, 8)
        invoice = house.mint.invoice(40)
        melt = await house.pay(owner, invoice)
        assert melt.state is MeltState.SETTLED
        assert house.mint.paid[invoice] == 1
        assert house.counted(owner) == house.honoured(owner) == 104 - 40 - 1 - 1
        assert house.events() == []


async def test_a_failed_payment_comes_back_whole(playing):
    async with playing() as house:
        owner = await house.fund(64)
        house.mint.lightning = "FAILED"
        melt = await house.pay(owner, house.mint.invoice(40))
        assert (melt.state, house.counted(owner)) == (MeltState.RELEASED, 64)


async def test_too_little_is_refused(playing):
    async with playing() as house:
        owner = await house.fund(8)
        with pytest.raises(MeltdError):
            await house.pay(owner, house.mint.invoice(40))
