"""What a mint asks and takes: roundings, limits, expiries in the far future, and what everything beyond the amount may cost."""

from __future__ import annotations

import pytest

from daemon.api.answers import MeltAnswer
from melt.errors import MeltdError
from melt.model import MeltState
from tests.support.played_mint import KEYSETS, MELT, QUOTE, No, PlayedKeyset, PlayedMint
from tests.support.scripted_mint import Say


async def refusal(house, owner, invoice, **more):
    with pytest.raises(MeltdError) as caught:
        await house.pay(owner, invoice, **more)
    return caught.value


# --- roundings ---


def down(msat):
    return msat // 1000


@pytest.mark.parametrize("msat", [5001, 5999, 1001, 12_345, 39_999, 20_000])
async def test_what_a_mint_rounds_down_is_its_gift_and_is_said(playing, msat):
    async with playing(PlayedMint(rounds=down)) as house:
        owner = await house.fund(64)
        melt = await house.pay(owner, house.mint.invoice(0, msat=msat))
        answer = MeltAnswer.of(melt)
        assert (answer.paid_amount, answer.gift_msat) == (msat // 1000, msat % 1000)
        assert house.counted(owner) == house.honoured(owner) == 64 - msat // 1000 - 1


@pytest.mark.parametrize("msat", [5001, 5999, 1001, 12_345, 39_999, 20_000])
async def test_what_a_mint_rounds_up_is_paid_as_before(playing, msat):
    async with playing() as house:
        owner = await house.fund(64)
        melt = await house.pay(owner, house.mint.invoice(0, msat=msat))
        assert (melt.amount, MeltAnswer.of(melt).gift_msat) == (-(-msat // 1000), 0)


@pytest.mark.parametrize(
    ("msat", "quoted"), [(5001, 7), (5001, 4), (5000, 4), (5000, 6), (20_000, 21), (39_999, 38), (5001, 2**62)]
)
async def test_any_other_amount_is_none_of_the_invoice(playing, msat, quoted):
    async with playing(PlayedMint(rounds=lambda _: quoted)) as house:
        owner = await house.fund(64)
        error = await refusal(house, owner, house.mint.invoice(0, msat=msat))
        assert (error.code.value, house.counted(owner)) == ("CRITICAL_MINT_UNTRUSTED", 64)


@pytest.mark.parametrize("msat", [1, 10, 500, 999, 100])
async def test_an_invoice_that_is_rounded_to_nothing_is_refused_as_that(playing, msat):
    async with playing(PlayedMint(rounds=down)) as house:
        owner = await house.fund(64)
        error = await refusal(house, owner, house.mint.invoice(0, msat=msat))
        assert (error.code.value, len(house.mint.asked_of(MELT))) == ("AMOUNT_OUT_OF_LIMITS", 0)


# --- limits ---


def methods(**limits):
    return {"nuts": {"5": {"methods": [{"method": "bolt11", "unit": "sat", **limits}], "disabled": False}}}


@pytest.mark.parametrize(
    ("limits", "amount"),
    [
        ({"min_amount": 1, "max_amount": 30}, 31),
        ({"max_amount": 30}, 1000),
        ({"min_amount": 50}, 49),
        ({"min_amount": 50, "max_amount": 50}, 51),
        ({"min_amount": 10, "max_amount": 20}, 5),
        ({"min_amount": 2**40}, 40),
    ],
)
async def test_an_amount_outside_of_the_limits_is_refused_with_both_before_it_is_asked(playing, limits, amount):
    async with playing(PlayedMint(info=methods(**limits))) as house:
        owner = await house.fund(64)
        error = await refusal(house, owner, house.mint.invoice(amount))
        assert error.code.value == "AMOUNT_OUT_OF_LIMITS"
        most = str(limits["max_amount"]) if "max_amount" in limits else "any amount"
        assert f"{limits.get('min_amount', 0)} to {most} sat" in error.detail
        assert not house.mint.asked_of(QUOTE)


@pytest.mark.parametrize("amount", [1, 30, 29, 15, 2])
async def test_an_amount_within_the_limits_is_paid(playing, amount):
    async with playing(PlayedMint(info=methods(min_amount=1, max_amount=30))) as house:
        owner = await house.fund(64)
        assert (await house.pay(owner, house.mint.invoice(amount))).state is MeltState.SETTLED


@pytest.mark.parametrize("told", [{}, methods(), methods(max_amount="x"), {"nuts": {"5": None}}, methods(unit="msat")])
async def test_limits_that_only_the_refusal_tells_are_the_callers_matter_too(playing, told):
    async with playing(PlayedMint(info=told)) as house:
        house.mint.before[QUOTE] = lambda _: No(11006, "Amount must be between 1 and 30 is 40").say
        owner = await house.fund(64)
        error = await refusal(house, owner, house.mint.invoice(40))
        assert error.code.value == "AMOUNT_OUT_OF_LIMITS"
        assert "between" not in error.detail, "a mint's text is never repeated"


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (11013, "UNIT_UNSUPPORTED"),
        (11011, "INVOICE_AMOUNTLESS"),
        (20003, "MELTING_DISABLED"),
        (30001, "MINT_WANTS_LOGIN"),
        (31001, "MINT_WANTS_LOGIN"),
        (50000, "MINT_REJECTED"),
    ],
)
async def test_a_refused_quote_says_why(playing, code, told):
    async with playing() as house:
        house.mint.before[QUOTE] = lambda _: No(code).say
        owner = await house.fund(64)
        assert (await refusal(house, owner, house.mint.invoice(40))).code.value == told


@pytest.mark.parametrize(
    ("nuts", "told"),
    [
        ({"5": {"methods": [], "disabled": True}}, "MELTING_DISABLED"),
        ({"21": {"protected_endpoints": [{"method": "POST", "path": "/v1/melt/bolt11"}]}}, "MINT_WANTS_LOGIN"),
        ({"21": {"protected_endpoints": [{"method": "POST", "path": "^/v1/melt/.*"}]}}, "MINT_WANTS_LOGIN"),
        ({"22": {"protected_endpoints": [{"method": "POST", "path": "/v1/melt/quote/bolt11"}]}}, "MINT_WANTS_LOGIN"),
        ({"22": {"protected_endpoints": [{"method": "post", "path": "/v1/*"}]}}, "MINT_WANTS_LOGIN"),
        ({"22": {"protected_endpoints": [{"method": "POST", "path": "^/v1/melt/quote/bolt11$"}]}}, "MINT_WANTS_LOGIN"),
    ],
)
async def test_what_a_mint_says_that_it_does_not_do_is_not_asked_of_it(playing, nuts, told):
    async with playing(PlayedMint(info={"nuts": nuts})) as house:
        owner = await house.fund(64)
        assert (await refusal(house, owner, house.mint.invoice(40))).code.value == told
        assert not house.mint.asked_of(QUOTE)
        await house.tour()
        assert (house.counted(owner), house.events()) == (64, []), "and nothing else is touched"


@pytest.mark.parametrize(
    "path", ["/v1/mint/bolt11", "^/v1/mint/.*", "/v1/auth/blind/mint", "^/v1/(mint|swap)/.*", "", "(((((.*a)*b)*c)*"]
)
async def test_a_login_for_what_meltd_does_not_do_forbids_nothing(playing, path):
    nuts = {"21": {"protected_endpoints": [{"method": "POST", "path": path}]}}
    async with playing(PlayedMint(info={"nuts": nuts})) as house:
        owner = await house.fund(64)
        assert (await house.pay(owner, house.mint.invoice(40))).state is MeltState.SETTLED


@pytest.mark.parametrize("status", [401, 400, 403])
async def test_a_login_that_is_only_met_is_told_and_shown(playing, status):
    async with playing() as house:
        house.mint.before[QUOTE] = lambda _: Say(status=status, body={"detail": "x", "code": 30001})
        owner = await house.fund(64)
        assert (await refusal(house, owner, house.mint.invoice(40))).code.value == "MINT_WANTS_LOGIN"
        assert house.ground.mints["main"].report().wants_login == ("melt_quote",)
        del house.mint.before[QUOTE]
        assert (await house.pay(owner, house.mint.invoice(40))).state is MeltState.SETTLED
        assert house.ground.mints["main"].report().wants_login == ()


# --- what is only shown ---


@pytest.mark.parametrize(
    "expiry", [2**63 - 1, 2**63, 2**64, 253_402_300_800, -1, "soon", None, 0, 1e300, 1.5, [], {}, True, "2026-01-01"]
)
async def test_an_odd_expiry_of_a_quote_is_ignored(playing, expiry):
    async with playing() as house:
        odd = lambda _, body: {**body, "expiry": expiry}  # noqa: E731
        house.mint.bend |= {QUOTE: odd, QUOTE + "/": odd, MELT: odd}
        owner = await house.fund(64)
        melt = await house.pay(owner, house.mint.invoice(40))
        assert melt.state is MeltState.SETTLED
        assert MeltAnswer.of(melt).paid_amount == 40


# --- what it may cost ---


@pytest.mark.parametrize(
    ("ppk", "amounts", "amount"),
    [
        (5000, [8] * 18, 50),
        (5000, [8] * 30, 60),
        (20_000, [64, 64, 64], 50),
        (1000, [2] * 100, 60),
        (3000, [16] * 20, 100),
        (10_000, [32] * 6, 80),
    ],
)
async def test_input_fees_count_among_what_a_payment_may_cost(playing, ppk, amounts, amount):
    async with playing(PlayedMint(PlayedKeyset(ppk=ppk))) as house:
        owner = await house.fund(*amounts)
        error = await refusal(house, owner, house.mint.invoice(amount))
        assert error.code.value == "FEE_TOO_HIGH"
        assert "input fee" in error.detail
        assert house.counted(owner) == sum(amounts)
        assert not house.mint.asked_of(MELT)


@pytest.mark.parametrize("amount", [50, 40, 100, 20, 5])
async def test_fewer_inputs_are_taken_where_that_keeps_the_payment_within_its_bound(playing, amount):
    async with playing(PlayedMint(PlayedKeyset(ppk=5000))) as house:
        owner = await house.fund(*[8] * 30, 128)
        melt = await house.pay(owner, house.mint.invoice(amount))
        assert melt.state is MeltState.SETTLED
        assert melt.fee_reserve + melt.input_fee <= 20
        assert house.counted(owner) == house.honoured(owner)


@pytest.mark.parametrize("max_fee", [0, 1, 2, 6])
async def test_the_callers_own_bound_is_on_everything_too(playing, max_fee):
    async with playing(PlayedMint(PlayedKeyset(ppk=5000))) as house:
        owner = await house.fund(64)
        assert (await refusal(house, owner, house.mint.invoice(40), max_fee=max_fee)).code.value == "FEE_TOO_HIGH"
        assert house.counted(owner) == 64


@pytest.mark.parametrize("ppk", [5000, 9000, 18_000])
async def test_no_swap_is_made_first_that_would_cost_more_than_that(playing, ppk):
    async with playing(PlayedMint(PlayedKeyset(ppk=ppk), reserve=0), melt={"swap_when_overpay_exceeds": 4}) as house:
        owner = await house.fund(128)
        melt = await house.pay(owner, house.mint.invoice(16))
        assert melt.state is MeltState.SETTLED
        assert melt.input_fee + melt.swap_fee + (melt.fees_paid or 0) <= 20
        assert house.counted(owner) == house.honoured(owner)


async def test_a_mint_whose_fee_rose_meanwhile_is_no_reason_to_pay_more(playing):
    async with playing() as house:
        owner = await house.fund(*[8] * 18)
        house.mint.active.ppk = 5000
        house.mint.bend[KEYSETS] = lambda _, body: body
        assert (await refusal(house, owner, house.mint.invoice(50))).code.value == "FEE_TOO_HIGH"
