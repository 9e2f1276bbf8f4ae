"""Change and swap outputs from honest, careless and lying mints, with real keys (DESIGN section 4, Change; NUT-08, 09, 12)."""

from __future__ import annotations

import secrets
from dataclasses import replace

import pytest
from cashu.core.crypto.b_dhke import verify
from cashu.core.crypto.secp import PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from melt.ecash import Seed
from melt.errors import MintUnreachable
from melt.model import KeysetId, OutputPlan, QuoteState
from melt.recovery.signatures import claim_by_dleq, claim_by_restore, collect_change, finish_signed
from melt.selection import blank_count, split_amount
from tests.support.engine import KEYSET, SigningMint, blanks_of, melt_of, quote_of

SEED = Seed(b"change " * 5)
OTHER_KEYSET = KeysetId("00ffffffffffffff")


def paid(melt_amount=100, *, inputs=128, fee_reserve=10, input_fee=1):
    """A paid melt with its blanks; overpaid is what inputs leave."""
    overpaid = inputs - melt_amount - input_fee
    blanks = blanks_of(SEED, blank_count(overpaid), counter=1000)
    return melt_of(inputs, amount=melt_amount, fee_reserve=fee_reserve, input_fee=input_fee, blanks=blanks)


def sign_change(mint, melt, change, *, dleq=True):
    """Signatures over ``change`` on the first blanks, as an honest mint makes them."""
    outputs = SEED.blinded(melt.blanks)
    parts = split_amount(change, mint.denominations)
    return tuple(mint.sign(output, part, dleq=dleq) for output, part in zip(outputs, parts, strict=False))


def answer(change, *, known=True):
    return quote_of(QuoteState.PAID, change=tuple(change), change_known=known)


def assert_books(melt, change):
    """I5: what went in is what was paid, what came back, what was kept as fees and what is still owed."""
    assert melt.inputs_amount == (melt.amount + melt.input_fee + change.amount + change.fees_paid + change.shortfall), (
        change
    )
    assert change.amount == sum(p.amount for p in change.proofs)
    assert 0 <= change.fees_paid <= max(melt.fee_reserve, 0)
    assert change.shortfall >= 0


def assert_spendable(mint, proofs):
    """The mint itself takes them: each C is its signature on the secret."""
    for proof in proofs:
        c = PublicKey(bytes.fromhex(proof.c))
        assert verify(mint.private(proof.amount), c, proof.secret), f"a proof of {proof.amount} can't be spent"
    assert len({p.secret for p in proofs}) == len(proofs)


# --- honest mints ---


async def test_the_answers_own_change_is_enough():
    mint, melt = SigningMint(), paid()
    change = await collect_change(mint, SEED, melt, answer(sign_change(mint, melt, 22)))
    assert (change.amount, change.fees_paid, change.shortfall) == (22, 5, 0)
    assert_spendable(mint, change.proofs)
    assert_books(melt, change)
    assert mint.asked == ["keys"], "nothing else was asked"


async def test_permuted_change_is_matched_by_its_dleq():
    mint, melt = SigningMint(), paid()
    signatures = sign_change(mint, melt, 27)
    for order in (signatures[::-1], signatures[2:] + signatures[:2]):
        change = await collect_change(mint, SEED, melt, answer(order))
        assert change.amount == 27
        assert_spendable(mint, change.proofs)
        assert_books(melt, change)


async def test_change_on_later_blanks_than_its_position_is_matched():
    mint, melt = SigningMint(), paid()
    outputs = SEED.blinded(melt.blanks)
    signatures = [mint.sign(outputs[3], 16), mint.sign(outputs[1], 4)]
    change = await collect_change(mint, SEED, melt, answer(signatures))
    assert change.amount == 20
    assert_spendable(mint, change.proofs)


@pytest.mark.parametrize("fee", range(11))
async def test_every_fee_up_to_the_reserve_leaves_no_shortfall(fee):
    mint, melt = SigningMint(), paid()
    change = await collect_change(mint, SEED, melt, answer(sign_change(mint, melt, melt.overpaid - fee)))
    assert (change.fees_paid, change.shortfall) == (fee, 0)
    assert_books(melt, change)


async def test_change_without_dleq_is_restored_by_b():
    mint, melt = SigningMint(), paid()
    change = await collect_change(mint, SEED, melt, answer(sign_change(mint, melt, 22, dleq=False)[::-1]))
    assert change.amount == 22
    assert_spendable(mint, change.proofs)
    assert "restore" in mint.asked


async def test_an_answer_without_change_is_completed_from_the_quote():
    mint, melt = SigningMint(), paid()
    mint.quote_change = sign_change(mint, melt, 22)
    mint.restorable.clear()
    change = await collect_change(mint, SEED, melt, answer((), known=False))
    assert change.amount == 22
    assert mint.asked.index("quote") < len(mint.asked)
    assert_books(melt, change)


async def test_a_quote_without_change_is_completed_by_a_restore():
    mint, melt = SigningMint(), paid()
    sign_change(mint, melt, 22)
    change = await collect_change(mint, SEED, melt, answer((), known=False))
    assert change.amount == 22
    assert [what for what in mint.asked if what != "keys"] == ["quote", "restore"]


async def test_nothing_overpaid_asks_nothing():
    mint, melt = SigningMint(), paid(127)
    change = await collect_change(mint, SEED, melt, answer(()))
    assert (change.proofs, change.amount, change.fees_paid, change.shortfall) == ((), 0, 0, 0)
    assert mint.asked == []


async def test_a_mint_that_can_not_be_asked_now_leaves_the_melt_waiting():
    mint, melt = SigningMint(restore_fails=True), paid()
    with pytest.raises(MintUnreachable):
        await collect_change(mint, SEED, melt, answer(()))
    mint, melt = SigningMint(quote_change=None), paid()
    with pytest.raises(MintUnreachable):
        await collect_change(mint, SEED, melt, answer((), known=False))


# --- what is owed and does not come ---


@pytest.mark.parametrize("returned", [0, 1, 5, 16])
async def test_what_the_mint_owes_beyond_the_reserve_is_booked(returned):
    mint, melt = SigningMint(), paid()  # overpaid 27, reserve 10: at least 17 are owed
    change = await collect_change(mint, SEED, melt, answer(sign_change(mint, melt, returned)))
    assert (change.amount, change.fees_paid, change.shortfall) == (returned, 10, 17 - returned)
    assert_books(melt, change)


async def test_a_reserve_above_what_was_overpaid_owes_nothing():
    mint, melt = SigningMint(), paid(fee_reserve=50)
    change = await collect_change(mint, SEED, melt, answer(()))
    assert (change.fees_paid, change.shortfall) == (27, 0)
    assert_books(melt, change)


async def test_the_plain_lie_no_change_is_not_believed_before_the_restore():
    mint, melt = SigningMint(), paid()
    sign_change(mint, melt, 22)
    change = await collect_change(mint, SEED, melt, answer((), known=True))
    assert (change.amount, change.shortfall) == (22, 0)


# --- lies ---


def spoiled(signature, how):
    match how:
        case "dleq":
            return replace(signature, dleq_e=secrets.token_hex(32))
        case "other point":
            return replace(signature, c_="02" + "ab" * 32)
        case "no point":
            return replace(signature, c_="02" + "ff" * 32)
        case "keyset":
            return replace(signature, keyset_id=OTHER_KEYSET)
        case "amount":
            return replace(signature, amount=signature.amount * 2)
        case "unknown amount":
            return replace(signature, amount=3)
        case "zero":
            return replace(signature, amount=0)
        case "negative":
            return replace(signature, amount=-signature.amount)
        case "half a dleq":
            return replace(signature, dleq_s=None)
    raise AssertionError(how)


LIES = ["dleq", "other point", "no point", "keyset", "amount", "unknown amount", "zero", "negative", "half a dleq"]


@pytest.mark.parametrize("how", LIES)
async def test_one_bad_signature_costs_nothing_where_a_restore_has_the_right_one(how):
    mint, melt = SigningMint(), paid()
    good = sign_change(mint, melt, 22)
    change = await collect_change(mint, SEED, melt, answer((spoiled(good[0], how), *good[1:])))
    assert (change.amount, change.shortfall) == (22, 0)
    assert_spendable(mint, change.proofs)
    assert_books(melt, change)


@pytest.mark.parametrize("how", [lie for lie in LIES if lie not in {"other point", "half a dleq"}])
async def test_a_lie_in_answer_and_restore_alike_is_not_credited_but_booked(how):
    mint, melt = SigningMint(), paid()
    good = sign_change(mint, melt, 22)  # 16 + 4 + 2
    for b_, signature in list(mint.restorable.items()):
        mint.restorable[b_] = spoiled(signature, how)
    change = await collect_change(mint, SEED, melt, answer([spoiled(one, how) for one in good]))
    assert (change.amount, change.shortfall) == (0, 17)
    assert_books(melt, change)


async def test_the_same_signature_many_times_is_one_proof():
    mint, melt = SigningMint(), paid()
    one = sign_change(mint, melt, 16)[0]
    change = await collect_change(mint, SEED, melt, answer([one] * 5))
    assert (change.amount, change.shortfall) == (16, 1)
    assert_spendable(mint, change.proofs)


async def test_more_signatures_than_blanks_are_ignored():
    mint, melt = SigningMint(), paid()
    good = sign_change(mint, melt, 22)
    foreign = SEED.blinded(blanks_of(SEED, 40, counter=9000))
    extra = [SigningMint().sign(output, 1 << 40) for output in foreign]
    for signatures in ([*good, *extra], [*extra, *good]):
        change = await collect_change(mint, SEED, melt, answer(signatures))
        assert change.amount == 22
        assert_spendable(mint, change.proofs)
        assert_books(melt, change)


async def test_an_amount_that_no_database_holds_does_not_stop_the_melt_from_settling():
    """2^63 is a denomination of every Nutshell keyset, and above what is stored."""
    mint, melt = SigningMint(), paid()
    output = SEED.blinded(melt.blanks)[0]
    huge = mint.sign(output, 1 << 63)
    change = await collect_change(mint, SEED, melt, answer([huge]))
    assert (change.amount, change.shortfall) == (0, 17)
    assert_books(melt, change)


async def test_a_restore_does_not_replace_what_the_answer_has_proved():
    mint, melt = SigningMint(), paid()
    good = sign_change(mint, melt, 22)
    outputs = SEED.blinded(melt.blanks)
    # The restore claims more for the first blank, and shows no DLEQ proof for it.
    mint.restorable[outputs[0].b_] = replace(good[0], amount=1, dleq_e=None, dleq_s=None)
    change = await collect_change(mint, SEED, melt, answer([*good[:2], spoiled(good[2], "dleq")]))
    assert change.amount == 22
    assert_spendable(mint, change.proofs)


async def test_more_change_than_was_overpaid_is_not_credited_on_the_mints_word_alone():
    mint, melt = SigningMint(), paid()
    outputs = SEED.blinded(melt.blanks)
    mint.sign(outputs[0], 1 << 40, dleq=False)
    proved = mint.sign(outputs[1], 16)
    change = await collect_change(mint, SEED, melt, answer([proved]))
    assert (change.amount, change.shortfall) == (16, 1)
    assert_books(melt, change)


async def test_more_change_than_was_overpaid_is_kept_where_it_is_proved():
    """The mint gives money away: it is real and it is kept. No fee, no shortfall."""
    mint, melt = SigningMint(), paid()
    outputs = SEED.blinded(melt.blanks)
    change = await collect_change(mint, SEED, melt, answer([mint.sign(outputs[0], 64)]))
    assert (change.amount, change.fees_paid, change.shortfall) == (64, 0, 0)
    assert_spendable(mint, change.proofs)


async def test_restored_strangers_are_left_alone():
    mint, melt = SigningMint(), paid()
    sign_change(mint, melt, 22, dleq=False)
    stranger = SEED.blinded(blanks_of(SEED, 1, counter=77))[0]
    mint.sign(stranger, 1 << 20)
    restored = (await claim_by_restore(mint, SEED, melt.blanks, "sat"))[0]
    assert sum(p.amount for p in restored.values()) == 22


# --- swaps ---


def swap_plan(*amounts, counter=0):
    return OutputPlan(keyset_id=KEYSET, counter=counter, amounts=amounts, seed_id=SEED.seed_id)


async def test_a_swaps_signatures_are_finished_in_the_plans_order():
    mint, plan = SigningMint(), swap_plan(8, 4, 4, 1)
    signatures = [mint.sign(o, o.amount) for o in SEED.blinded(plan)]
    for order in (signatures, signatures[::-1]):
        done = await finish_signed(mint, SEED, plan, order, "sat")
        assert [p.amount for p in done] == [8, 4, 4, 1]
        assert_spendable(mint, done)


async def test_a_swap_lacking_a_signature_is_completed_by_restore_or_not_at_all():
    mint, plan = SigningMint(), swap_plan(8, 4)
    signatures = [mint.sign(o, o.amount) for o in SEED.blinded(plan)]
    done = await finish_signed(mint, SEED, plan, signatures[:1], "sat")
    assert [p.amount for p in done] == [8, 4]
    mint.restorable.clear()
    assert await finish_signed(mint, SEED, plan, signatures[:1], "sat") is None


async def test_a_swaps_output_of_another_amount_is_not_taken():
    mint, plan = SigningMint(), swap_plan(8, 4)
    outputs = SEED.blinded(plan)
    signatures = [mint.sign(outputs[0], 4), mint.sign(outputs[1], 8)]
    assert await claim_by_dleq(mint, SEED, plan, signatures, "sat") == {}
    assert await finish_signed(mint, SEED, plan, signatures, "sat") is None


async def test_a_swap_is_not_finished_while_the_mint_is_away():
    mint, plan = SigningMint(restore_fails=True), swap_plan(8, 4)
    with pytest.raises(MintUnreachable):
        await finish_signed(mint, SEED, plan, (), "sat")


# --- I5 over everything ---


@settings(max_examples=150, deadline=None)
@given(st.data())
async def test_value_is_conserved_whatever_comes_back(data):
    overpaid = data.draw(st.integers(1, 5000), label="overpaid")
    amount = data.draw(st.integers(1, 1 << 40), label="amount")
    input_fee = data.draw(st.integers(0, 50), label="input_fee")
    reserve = data.draw(st.integers(0, 6000), label="reserve")
    mint = SigningMint()
    melt = paid(amount, inputs=amount + input_fee + overpaid, fee_reserve=reserve, input_fee=input_fee)
    returned = data.draw(st.integers(0, overpaid), label="returned")
    signatures = list(sign_change(mint, melt, returned, dleq=data.draw(st.booleans(), label="dleq")))
    kept = data.draw(st.integers(0, len(signatures)), label="kept")
    for i in range(len(signatures)):
        if data.draw(st.booleans(), label="spoil"):
            signatures[i] = spoiled(signatures[i], data.draw(st.sampled_from(LIES), label="how"))
    order = data.draw(st.permutations(signatures[:kept]), label="order")
    if data.draw(st.booleans(), label="restore forgets"):
        mint.restorable.clear()
    change = await collect_change(mint, SEED, melt, answer(order, known=data.draw(st.booleans(), label="known")))
    assert_books(melt, change)
    assert_spendable(mint, change.proofs)
    assert change.amount <= returned
