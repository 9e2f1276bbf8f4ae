"""What a mint says of a payment: states, preimages and refusals that no NUT has, or that mean somebody else's payment."""

from __future__ import annotations

import hashlib
import time

import pytest

from melt.errors import MeltdError
from melt.model import MeltState, ResolveAs
from melt.recovery import resolve
from tests.support.parts import until
from tests.support.played_mint import MELT, QUOTE, No, PlayedMint, invoice_of
from tests.support.scripted_mint import Say

GET = QUOTE + "/"


# --- states of a quote ---


@pytest.mark.parametrize("word", ["FAILED", "failed", "Failed", " FAILED ", "UNPAID", "unpaid", "Unpaid"])
async def test_a_payment_that_the_mint_calls_failed_gives_its_inputs_back(playing, word):
    async with playing() as house:
        owner = await house.fund(64)
        house.mint.bend[MELT] = lambda _, body: {**body, "state": word}
        house.mint.bend[GET] = lambda _, body: {**body, "state": word}
        house.mint.settle = lambda quote, *_: house.mint._told(quote)  # nothing is paid
        melt = await house.pay(owner, house.mint.invoice(40))
        assert melt.state is MeltState.RELEASED
        assert house.counted(owner) == house.honoured(owner) == 64
        assert house.events() == []


@pytest.mark.parametrize("word", ["FAILED", "failed", "UNKNOWN", "EXPIRED", "CANCELLED"])
async def test_no_word_gives_inputs_back_that_the_mint_has_taken(playing, word):
    async with playing() as house:
        owner = await house.fund(64)
        house.mint.bend[MELT] = lambda _, body: {**body, "state": word}
        house.mint.bend[GET] = lambda _, body: {**body, "state": word}
        melt = await house.pay(owner, house.mint.invoice(40), wait_s=1.5)
        assert melt.is_open, "the inputs are SPENT"
        house.mint.bend.clear()
        house.paying.watcher.hurry(melt.id)
        assert (await until(lambda: (m := house.melts()[0]).state is MeltState.SETTLED and m)).change_amount == 64 - 41
        assert house.counted(owner) == house.honoured(owner) == 64 - 41


UNKNOWN_WORDS = ["UNKNOWN", "unknown", "EXPIRED", "IN_FLIGHT", "PAYING", "CANCELLED", "ISSUED"]


@pytest.mark.parametrize("word", UNKNOWN_WORDS)
async def test_a_word_that_no_nut_has_is_an_unknown_outcome_with_an_event(playing, word):
    async with playing() as house:
        patience(house, unknown_s=0.6)
        owner = await house.fund(64)
        house.mint.lightning = "PENDING"
        house.mint.bend[GET] = lambda _, body: {**body, "state": word}
        melt = await house.pay(owner, house.mint.invoice(40), wait_s=0.3)
        assert (melt.is_open, house.events()) == (True, []), "followed, and nobody is woken yet"
        await until(lambda: house.events() == ["MELT_HELD"])
        assert house.counted(owner) == 0, "held"
        # The mint finds its words again: it ends by itself.
        house.mint.bend.clear()
        quote = next(iter(house.mint.quotes.values()))
        house.mint.settle(quote, *quote["held"])
        house.paying.watcher.hurry(melt.id)
        assert await until(lambda: house.melts()[0].state is MeltState.SETTLED)
        assert house.counted(owner) == house.honoured(owner) == 64 - 41
        await until(lambda: house.events() == [])


@pytest.mark.parametrize("word", UNKNOWN_WORDS)
async def test_a_melt_held_for_want_of_words_is_released_when_the_mint_says_unpaid(playing, word):
    async with playing() as house:
        patience(house, unknown_s=0.3)
        owner = await house.fund(64)
        house.mint.before[MELT] = lambda _: Say(status=500, body=b"")
        house.mint.bend[GET] = lambda _, body: {**body, "state": word}
        melt = await house.pay(owner, house.mint.invoice(40), wait_s=0.2)
        await until(lambda: house.events() == ["MELT_HELD"])
        house.mint.bend.clear()
        house.paying.watcher.hurry(melt.id)
        await until(lambda: house.melts()[0].state is MeltState.RELEASED)
        assert house.counted(owner) == house.honoured(owner) == 64


def patience(house, **changes):
    """Shorter than an operator's."""
    recovery = house.paying.recovery
    from dataclasses import replace

    object.__setattr__(recovery, "policy", replace(recovery.policy, **changes))


# --- preimages ---

NOTHING = [None, "", "0" * 64, "None", "null", "0x00", "0x" + "0" * 64, "0", " ", "00", "n/a", "deadbeef", "0" * 63]


@pytest.mark.parametrize("told", NOTHING)
async def test_what_is_no_preimage_is_as_if_none_was_told(playing, told):
    async with playing() as house:
        house.mint.bend[MELT] = lambda _, body: {**body, "payment_preimage": told}
        owner = await house.fund(64)
        melt = await house.pay(owner, house.mint.invoice(40))
        assert (melt.state, melt.preimage) == (MeltState.SETTLED, None)
        assert (house.events(), house.drift()) == ([], [])


@pytest.mark.parametrize("dress", [str, str.upper, lambda text: "0x" + text, lambda text: f" {text} ", str.lower])
async def test_a_preimage_proves_the_payment_however_it_is_dressed(playing, dress):
    async with playing() as house:
        house.mint.bend[MELT] = lambda _, body: {**body, "payment_preimage": dress(body["payment_preimage"])}
        owner = await house.fund(64)
        invoice = house.mint.invoice(40)
        melt = await house.pay(owner, invoice)
        assert melt.preimage == house.mint.preimages[invoice]
        assert house.events() == []


@pytest.mark.parametrize("dress", [str, str.upper, lambda text: "0x" + text, lambda text: f"{text}\n", str.lower])
async def test_the_payment_hash_in_its_place_is_a_record_and_no_alarm(playing, dress):
    async with playing() as house:
        secret = b"s" * 32
        text, preimage = invoice_of(40_000, secret)
        told = dress(hashlib.sha256(secret).hexdigest())
        house.mint.bend[MELT] = lambda _, body: {**body, "payment_preimage": told}
        owner = await house.fund(64)
        melt = await house.pay(owner, text)
        assert (melt.state, melt.preimage) == (MeltState.SETTLED, None)
        (record,) = house.drift()
        assert (record.type.value, record.severity.value, record.value) == ("PAYMENT_UNPROVED", "LOW", 40)
        assert house.events() == []
        assert preimage not in str(record)


@pytest.mark.parametrize("told", ["11" * 32, "0x" + "ab" * 32, "FF" * 32, "00" * 31 + "01", " " + "5e" * 32])
async def test_a_preimage_of_another_payment_is_an_alarm_still(playing, told):
    async with playing() as house:
        house.mint.bend[MELT] = lambda _, body: {**body, "payment_preimage": told}
        owner = await house.fund(64)
        assert (await house.pay(owner, house.mint.invoice(40))).state is MeltState.SETTLED
        assert house.events() == ["WRONG_PREIMAGE"]


# --- paid, or being paid, by somebody else ---


@pytest.mark.parametrize(("code", "told"), [(20006, "INVOICE_PAID"), (20005, "INVOICE_BEING_PAID")])
@pytest.mark.parametrize("status", [400, 409, 422])
async def test_it_is_said_at_once_where_the_quote_is_refused(playing, code, told, status):
    async with playing() as house:
        house.mint.before[QUOTE] = lambda _: Say(status=status, body={"detail": "x", "code": code})
        owner = await house.fund(64)
        started = time.monotonic()
        with pytest.raises(MeltdError) as caught:
            await house.pay(owner, house.mint.invoice(40))
        assert (caught.value.code.value, house.counted(owner)) == (told, 64)
        assert time.monotonic() - started < 5


@pytest.mark.parametrize(("state", "told"), [("PAID", "INVOICE_PAID"), ("PENDING", "INVOICE_BEING_PAID")])
async def test_a_new_quote_that_is_paid_already_is_refused(playing, state, told):
    async with playing() as house:
        house.mint.bend[QUOTE] = lambda _, body: {**body, "state": state}
        owner = await house.fund(64)
        with pytest.raises(MeltdError) as caught:
            await house.pay(owner, house.mint.invoice(40))
        assert (caught.value.code.value, house.mint.paid.total()) == (told, 0)


@pytest.mark.parametrize(("code", "told"), [(20006, "INVOICE_PAID"), (20005, "INVOICE_BEING_PAID")])
@pytest.mark.parametrize("amounts", [(64,), (32, 16, 8), (40, 2)])
async def test_a_refused_payment_gives_the_ecash_back_without_a_swap(playing, code, told, amounts):
    async with playing(PlayedMint(fee=1), melt={"post_grace_s": 60}) as house:
        house.mint.before[MELT] = lambda _: No(code).say
        owner = house.user()
        sizes = [1 << bit for amount in amounts for bit in range(8) if amount >> bit & 1]
        house.hold(owner, *house.mint.issue(*sizes))
        started = time.monotonic()
        melt = await house.pay(owner, house.mint.invoice(40))
        assert (melt.state, melt.error_code) == (MeltState.RELEASED, told)
        assert time.monotonic() - started < 30, "no grace time: the mint has answered"
        assert house.counted(owner) == house.honoured(owner) == sum(amounts)
        assert not house.mint.asked_of("/v1/swap")
        assert (melt.fence, melt.swap_fee) == (None, 0)


@pytest.mark.parametrize("code", [20005, 20006])
async def test_a_second_copy_of_our_own_payment_is_followed_not_released(playing, code):
    async with playing(melt={"post_grace_s": 60}) as house:
        house.mint.lightning = "PENDING"

        def twice(asked):
            """A proxy sent it twice: the first is being paid, the answer is the second's."""
            house.mint._melt(asked)
            return No(code).say

        house.mint.before[MELT] = twice
        owner = await house.fund(64)
        melt = await house.pay(owner, house.mint.invoice(40), wait_s=1)
        assert (melt.is_open, house.counted(owner)) == (True, 0)
        quote = next(iter(house.mint.quotes.values()))
        house.mint.settle(quote, *quote["held"])
        house.paying.watcher.hurry(melt.id)
        await until(lambda: house.melts()[0].state is MeltState.SETTLED)
        assert house.counted(owner) == house.honoured(owner) == 64 - 41
        assert house.mint.paid.total() == 1


# --- a swap that is refused for ever ---


@pytest.mark.parametrize("code", [11000, 10000, 11008, 50000, 99999, 11005])
async def test_a_fence_that_is_refused_for_ever_is_told_and_can_be_resolved(playing, code):
    async with playing() as house:
        house.mint.before[MELT] = lambda _: Say(status=500, body=b"")
        house.mint.before["/v1/swap"] = lambda _: No(code).say
        owner = await house.fund(64)
        melt = await house.pay(owner, house.mint.invoice(40), wait_s=0.1)
        held = await until(lambda: (m := house.melts()[0]).state is MeltState.HELD and m, 40)
        await until(lambda: house.events() == ["MELT_HELD"])
        assert str(code) in (held.error_detail or "")
        asked = len(house.mint.asked_of("/v1/swap"))
        assert asked <= 12, "looks back off"
        del house.mint.before["/v1/swap"]
        after = await resolve(
            house.paying.recovery,
            house.melts()[0],
            ResolveAs.RELEASED,
            reason="the mint takes it now",
            actor=melt.actor,
            holder=house.ground.holder,
        )
        assert after.state is MeltState.RELEASED
        assert house.counted(owner) == house.honoured(owner) == 64
