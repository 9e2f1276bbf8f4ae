"""Change signed under another keyset than its blanks were made for: it is money where the DLEQ proof says so, or a swap does."""

from __future__ import annotations

import pytest

from melt.model import MeltState
from tests.support.parts import until
from tests.support.played_mint import MELT, QUOTE, SWAP, No, PlayedKeyset, PlayedMint


def replaced(mint, *, version=1, unit="sat", wrong=False):
    """The keyset is replaced while a payment is under way: its change is signed with the new one."""

    def changed(output):
        new = next((one for one in mint.sets.values() if one.seed == "new"), None)
        if new is None:
            new = mint.rotate(version=version, seed="new") if unit == "sat" else PlayedKeyset(unit=unit, seed="new")
            mint.sets[new.id] = new
        if wrong:
            liar = PlayedKeyset(seed="nobody's")
            liar.id = new.id
            return liar
        return new

    mint._change_keyset = changed


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("where", ["answer", "quote", "restore"])
@pytest.mark.parametrize("amount", [40, 3, 61])
async def test_change_under_the_keyset_that_replaced_it_is_kept_where_its_dleq_holds(playing, version, where, amount):
    async with playing() as house:
        replaced(house.mint, version=version)
        if where != "answer":
            house.mint.bend[MELT] = lambda _, body: {**body, "change": None}
        if where == "restore":
            house.mint.bend[QUOTE + "/"] = lambda _, body: {**body, "change": None}
        owner = await house.fund(64)
        melt = await house.pay(owner, house.mint.invoice(amount))
        assert (melt.state, melt.shortfall) == (MeltState.SETTLED, 0)
        assert house.counted(owner) == house.honoured(owner) == 64 - amount - 1
        assert house.drift(of="CHANGE_SHORTFALL") == []
        if house.counted(owner) > 4:
            assert (await house.pay(owner, house.mint.invoice(2))).state is MeltState.SETTLED, "and it can be spent"


async def settled(house, what):
    await until(what)


@pytest.mark.parametrize("amount", [40, 3, 20, 33, 50])
async def test_without_a_dleq_proof_a_swap_shows_what_it_is_worth(playing, amount):
    async with playing() as house:
        replaced(house.mint)
        house.mint.dleq = False
        owner = await house.fund(64)
        melt = await house.pay(owner, house.mint.invoice(amount))
        assert melt.state is MeltState.SETTLED
        await settled(house, lambda: house.honoured(owner) == 64 - amount - 1)
        assert house.counted(owner) == 64 - amount - 1
        apart = [d for d in house.documents(owner) if d["status"] == "failed"]
        assert len(apart) == 1, "what was not shown yet lies where nobody counts it"
        after = house.ground.store.melt(melt.id)
        assert (after.shortfall, after.change_amount) == (0, 64 - amount - 1), "and the books are right"
        assert house.drift(of="CHANGE_SHORTFALL")[0].state.value == "corrected"
        assert house.events() == []


@pytest.mark.parametrize("amount", [40, 3, 20, 33, 50])
async def test_what_the_mint_does_not_take_back_is_a_shortfall_with_an_event(playing, amount):
    async with playing() as house:
        replaced(house.mint, wrong=True)
        house.mint.dleq = False
        owner = await house.fund(64)
        melt = await house.pay(owner, house.mint.invoice(amount))
        assert melt.state is MeltState.SETTLED
        assert house.counted(owner) == house.honoured(owner) == 0, "NUT-07 would have called it UNSPENT"
        assert melt.shortfall == 64 - amount - 1
        await settled(house, lambda: house.events() == ["MINT_UNTRUSTED"])
        assert house.drift(of="CHANGE_SHORTFALL")[0].value == 64 - amount - 1


@pytest.mark.parametrize("how", ["wrong DLEQ", "another unit", "unlisted", "more than is owed", "no keys"])
async def test_change_that_is_none_of_ours_is_a_shortfall(playing, how):
    async with playing() as house:
        replaced(house.mint, unit="usd" if how == "another unit" else "sat", wrong=how == "wrong DLEQ")
        honest = house.mint.sign

        def sign(output, amount, keyset=None):
            made = honest(output, amount * 2 if how == "more than is owed" else amount, keyset)
            if how in {"another unit", "unlisted", "more than is owed", "no keys"}:
                made.pop("dleq", None)
            if how == "unlisted":
                made["id"] = "00" + "cd" * 7
            return made

        house.mint.sign = sign
        owner = await house.fund(64)
        await house.ground.mints["main"].keys(house.mint.active.id)
        if how == "no keys":
            house.mint.before["/v1/keys/"] = lambda _: No(12001).say
        melt = await house.pay(owner, house.mint.invoice(40))
        assert melt.state is MeltState.SETTLED
        assert house.counted(owner) == house.honoured(owner) == 0
        assert melt.shortfall > 0


async def test_a_lost_answer_to_the_proving_swap_is_followed(playing):
    async with playing() as house:
        replaced(house.mint)
        house.mint.dleq = False
        failing = [1, 1]

        def lost(asked):
            if failing:
                failing.pop()
                house.mint._swap(asked)
                return No(0).say
            return None

        house.mint.before[SWAP] = lost
        owner = await house.fund(64)
        await house.pay(owner, house.mint.invoice(40))
        await settled(house, lambda: house.honoured(owner) == 23)
        assert house.counted(owner) == 23
        assert PlayedMint is not None
