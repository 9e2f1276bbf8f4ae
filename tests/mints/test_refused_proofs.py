"""Stored proofs that the mint has not signed, beside good ecash: remembered, recorded with their value, and left out."""

from __future__ import annotations

import pytest

from melt.model import MeltState
from tests.support.parts import until
from tests.support.played_mint import PlayedKeyset, PlayedMint

POINT = "02" + "c6047f9441ed7d6d3045406e95c07cd85c778e4b8cef3ca7abac09b95c709ee5"


def spoiled(proof, how):
    match how:
        case "a point of somebody else":
            return proof | {"C": POINT}
        case "another secret":
            return proof | {"secret": "ab" * 32}
        case "another amount":
            return proof | {"amount": proof["amount"] * 2}
    raise AssertionError(how)


HOWS = ["a point of somebody else", "another secret", "another amount"]


async def records(house, count=1):
    await until(lambda: len(house.drift(of="PROOF_REFUSED")) >= count)
    return house.drift(of="PROOF_REFUSED")


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize(("bad", "good"), [(64, [32, 32]), (64, [8] * 6), (32, [16, 8, 8, 4, 4]), (16, [32, 16])])
async def test_a_proof_that_the_mint_refuses_is_left_out_and_the_good_ecash_pays(playing, how, bad, good):
    async with playing() as house:
        owner = house.user()
        forged = spoiled(house.mint.issue(bad)[0], how)
        house.hold(owner, forged, *house.mint.issue(*good))
        truth = sum(good)
        outcomes = []
        for _ in range(4):
            melt = await house.pay(owner, house.mint.invoice(10))
            outcomes.append(melt.state)
            if melt.state is MeltState.SETTLED:
                truth -= 11
            else:
                assert (melt.error_code, "10001" in melt.error_detail) == ("PROOF_REFUSED", True)
                assert "Lightning" not in melt.error_detail
                await records(house)
            if truth < 13:
                break
        assert outcomes.count(MeltState.RELEASED) <= 1, "refused once, and never chosen again"
        if MeltState.RELEASED in outcomes:
            (record,) = await records(house)
            assert (record.severity.value, record.value) == ("HIGH", forged["amount"])
            assert forged["secret"] not in str(record)
        assert house.honoured(owner) == truth
        assert house.counted(owner) == truth + forged["amount"], "nothing of a forged proof is touched"
        assert house.events() == []


@pytest.mark.parametrize("position", [0, 3, 7])
@pytest.mark.parametrize("ppk", [0, 100])
async def test_it_is_found_among_many_that_are_needed_together(playing, position, ppk):
    async with playing(PlayedMint(PlayedKeyset(ppk=ppk))) as house:
        owner = house.user()
        proofs = house.mint.issue(*[8] * 8)
        proofs[position] = spoiled(proofs[position], "a point of somebody else")
        house.hold(owner, *proofs[:5])
        house.hold(owner, *proofs[5:])
        melt = await house.pay(owner, house.mint.invoice(58 if not ppk else 56))
        assert (melt.state, melt.error_code) == (MeltState.RELEASED, "PROOF_REFUSED")
        (record,) = await records(house)
        assert record.value == 8
        good = 56 - sum(one.swap_fee for one in house.melts())
        assert house.honoured(owner) == good
        invoice = house.mint.invoice(40)
        assert (await house.pay(owner, invoice)).state is MeltState.SETTLED
        assert house.mint.paid[invoice] == 1


@pytest.mark.parametrize("positions", [(0, 1), (0, 7), (2, 5), (3, 4, 6)])
async def test_several_are_found_one_after_another(playing, positions):
    async with playing() as house:
        owner = house.user()
        proofs = house.mint.issue(*[8] * 8)
        for position in positions:
            proofs[position] = spoiled(proofs[position], "another secret") | {"secret": f"{position:064x}"}
        house.hold(owner, *proofs)
        await house.pay(owner, house.mint.invoice(60))
        assert len(await records(house, len(positions))) == len(positions)
        assert (await house.pay(owner, house.mint.invoice(20))).state is MeltState.SETTLED


@pytest.mark.parametrize("position", [0, 2, 3])
async def test_a_dleq_proof_tells_without_a_swap(playing, position):
    async with playing() as house:
        owner = house.user()
        proofs = house.mint.issue(*[16] * 4, dleq=True)
        proofs[position] = spoiled(proofs[position], "a point of somebody else")
        house.hold(owner, *proofs)
        melt = await house.pay(owner, house.mint.invoice(50))
        assert melt.error_code == "PROOF_REFUSED"
        assert len(await records(house)) == 1
        assert not house.mint.asked_of("/v1/swap")
        assert (await house.pay(owner, house.mint.invoice(40))).state is MeltState.SETTLED
