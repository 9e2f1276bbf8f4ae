"""Documents with amounts that no keyset has, and wallets that name another unit than their ecash has."""

from __future__ import annotations

import pytest

from daemon.api.answers import WalletsAnswer
from melt.errors import MeltdError
from melt.model import MeltState, SweepRecord, normalise_mint_url
from melt.saga.holding import payable_at, units_of
from tests.support.played_mint import PlayedKeyset, PlayedMint

BIG = 2**63 - 1


async def wallet_of(house, owner):
    """What the socket answers about a user's money."""
    mints = house.ground.mints
    balances = house.ground.store.balances(owner, await units_of(mints))
    payable = await payable_at(
        mints["main"], owner, house.ground.store, house.ground.threads, now=house.ground.clock.now()
    )
    answer = WalletsAnswer.of(owner, balances, {normalise_mint_url(house.mint.url): "main"}, payable)
    return {one.unit: one for one in answer.wallets}


def summaries(house, **more):
    walk = house.ground.store.holdings([house.mint.url], **more)
    found = walk.next_users(100)
    walk.close()
    return {(one.npub, one.unit): one.amount for one in found}


@pytest.mark.parametrize("amount", [BIG, BIG - 1, 2**62 + 1, 3, 2**40 + 1, 2**62])
async def test_an_amount_that_its_keyset_does_not_have_spoils_its_document_and_nothing_else(playing, amount):
    async with playing() as house:
        bad = house.user()
        house.hold(bad, {**house.mint.issue(1)[0], "amount": amount})
        good = await house.fund(64, 32)
        outcome = await house.tour()
        (record,) = house.drift()
        assert record.type.value == "MALFORMED_TOKEN"
        assert outcome.owed == {"sat": 96}
        house.ground.store.save_sweep(sweep_of(outcome))
        assert summaries(house)[good, "sat"] == 96
        assert (await house.pay(good, house.mint.invoice(40))).state is MeltState.SETTLED
        with pytest.raises(MeltdError) as caught:
            await house.pay(bad, house.mint.invoice(1))
        assert caught.value.code.value == "INSUFFICIENT_FUNDS"
        (line,) = (await wallet_of(house, bad))["sat"].not_spendable
        assert (line.reason, line.amount) == ("no_such_amount", amount)


def sweep_of(outcome):
    from datetime import UTC, datetime

    from melt.model import MintAlias

    now = datetime.now(UTC)
    return SweepRecord(
        mint=MintAlias("main"),
        tour=1,
        position=None,
        started_at=now,
        updated_at=now,
        finished_at=None,
        documents=1,
        proofs=1,
        total_documents=1,
        found={},
        corrected={},
        error=None,
        owed=dict(outcome.owed),
        honoured=dict(outcome.honoured),
    )


@pytest.mark.parametrize("count", [2, 3, 10])
@pytest.mark.parametrize("unlisted", [True, False])
async def test_no_sum_overflows(playing, count, unlisted):
    """2^62 may be an amount of a keyset: whatever stands there, the sums of others are right."""
    big = PlayedKeyset(denominations=(1, 2**62))
    async with playing(PlayedMint(PlayedKeyset(), big)) as house:
        owner = house.user()
        for proof in house.mint.issue(*[2**62] * count, keyset=big):
            house.hold(owner, proof | ({"id": "00" + "ef" * 7} if unlisted else {}))
        other = await house.fund(64)
        outcome = await house.tour()
        house.ground.store.save_sweep(sweep_of(outcome))
        (saved,) = house.ground.store.sweeps()
        assert saved.owed["sat"] == BIG
        found = summaries(house)
        assert (found[owner, "sat"], found[other, "sat"]) == (BIG, 64)
        assert house.ground.store.open_figures() is not None


# --- units ---


@pytest.mark.parametrize(
    ("unit", "amounts"), [("msat", [4096, 1024]), ("usd", [4, 1]), ("eur", [64]), ("msat", [1]), ("hugs", [8, 8])]
)
async def test_the_unit_is_the_keysets_and_a_wallet_that_says_otherwise_is_drift(playing, unit, amounts):
    other = PlayedKeyset(unit=unit)
    async with playing(PlayedMint(PlayedKeyset(), other)) as house:
        owner = house.user("sat")
        house.hold(owner, *house.mint.issue(64))
        house.hold(owner, *house.mint.issue(*amounts, keyset=other))
        wallet = await wallet_of(house, owner)
        assert (wallet["sat"].spendable, wallet[unit].spendable) == (64, sum(amounts))
        assert wallet["sat"].balances["unspent"].amount == 64
        units = await units_of(house.ground.mints)
        assert summaries(house, keyset_units=units) == {(owner, "sat"): 64, (owner, unit): sum(amounts)}
        await house.tour()
        (record,) = house.drift()
        assert (record.type.value, record.severity.value, record.value) == ("UNIT_MISMATCH", "MEDIUM", sum(amounts))
        with pytest.raises(MeltdError) as caught:
            await house.pay(owner, house.mint.invoice(70))
        assert "64 sat can be paid with now" in caught.value.detail
        assert (await house.pay(owner, house.mint.invoice(40))).state is MeltState.SETTLED
        assert house.honoured(owner) == house.counted(owner) == 23 + sum(amounts)


async def test_msat_of_a_wallet_that_says_sat_pay_msat(playing):
    other = PlayedKeyset(unit="msat")
    async with playing(PlayedMint(PlayedKeyset(), other)) as house:
        owner = house.user("sat")
        house.hold(owner, *house.mint.issue(*[1 << 15] * 2, keyset=other))
        melt = await house.pay(owner, house.mint.invoice(40), unit="msat")
        assert (melt.state, melt.amount) == (MeltState.SETTLED, 40_000)
        assert house.counted(owner) == house.honoured(owner) == (1 << 16) - 40_000 - 1


# --- what is spendable ---


async def test_spendable_is_what_could_be_paid_with_and_the_rest_has_its_reasons(playing):
    dear = PlayedKeyset(ppk=5000, active=False)
    async with playing(PlayedMint(PlayedKeyset(), dear, PlayedKeyset(expiry=10**9, active=False))) as house:
        owner = house.user()
        cheap, _, ended = house.mint.sets.values()
        house.hold(owner, *house.mint.issue(64, 32, keyset=cheap))
        house.hold(owner, *house.mint.issue(*[4] * 30, keyset=dear))
        house.hold(owner, *house.mint.issue(8, keyset=dear))
        house.hold(owner, *house.mint.issue(16, keyset=ended))
        house.hold(owner, {**house.mint.issue(128)[0], "id": "00" + "ab" * 7})
        house.hold(owner, {**house.mint.issue(256)[0], "secret": '["P2PK",{"nonce":"0","data":"02","tags":[]}]'})
        wallet = (await wallet_of(house, owner))["sat"]
        assert (wallet.spendable, wallet.spendable_at_once) == (96 + 3, 99)
        assert {one.reason: one.amount for one in wallet.not_spendable} == {
            "dust": 120,
            "expired_keyset": 16,
            "unlisted_keyset": 128,
            "locked": 256,
        }
        with pytest.raises(MeltdError) as caught:
            await house.pay(owner, house.mint.invoice(110))
        assert "99 sat can be paid with now" in caught.value.detail
        assert "120 sat are eaten by their own input fee" in caught.value.detail


@pytest.mark.parametrize("amounts", [[64], [32, 16, 8], [1] * 40, [2] * 9 + [64], [4, 4, 4, 4]])
@pytest.mark.parametrize("ppk", [0, 100, 900, 3000])
async def test_what_is_called_spendable_can_be_paid_with_to_the_last_unit(playing, amounts, ppk):
    mint = PlayedMint(PlayedKeyset(ppk=ppk), reserve=0, fee=0)
    async with playing(mint, melt={"max_fee_floor": 10_000}) as house:
        owner = await house.fund(*amounts)
        spendable = (await wallet_of(house, owner))["sat"].spendable
        assert sum(amounts) >= spendable
        if spendable:
            assert (await house.pay(owner, house.mint.invoice(spendable))).state is MeltState.SETTLED
        with pytest.raises(MeltdError):
            await house.pay(owner, house.mint.invoice(1))
