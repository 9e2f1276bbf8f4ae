"""
The numbers by which a mint says no, and how it ends a melt whose payment went wrong, case by case (MINTS.md's two tables).

They differ from release to release; tests/support/generations.py has them as measured, and this holds it to the mint that
runs. What must not differ is the other half of each test: what meltd makes of the answer.
"""

from __future__ import annotations

import asyncio
import secrets

import pytest

from melt.ecash import Seed
from melt.model import Ambiguous, MintState, OutputPlan, Paid, QuoteState, Refused, Signed, StillPending
from tests.support.mint import MintProcess, TestWallet
from tests.support.mint_client import as_proof, http_mint


@pytest.fixture
async def client(mint):
    async with http_mint(mint.url) as client:
        yield client


@pytest.fixture
def wallet(mint):
    return TestWallet(mint.url)


@pytest.fixture
def seed():
    return Seed.from_mnemonic(Seed.generate_mnemonic())


async def blinded(client, seed, *amounts):
    active = next(k.id for k in (await client.keysets(refresh=True)).values() if k.active and k.unit == "sat")
    return seed.blinded(OutputPlan(keyset_id=active, counter=0, amounts=amounts, seed_id=seed.seed_id))


async def ready(mint, client, wallet, **script):
    """An invoice over 100 sat, its quote, and proofs worth 128 sat."""
    made = await mint.invoice(100, **script)
    return made, await client.melt_quote(made.invoice, "sat"), [as_proof(p) for p in await wallet.mint(128)]


async def states(client, proofs):
    return {one.state for one in await client.check_states([proof.y for proof in proofs])}


async def times_paid(mint, made):
    payment = (await mint.payments()).get(made.payment_hash)
    return 0 if payment is None else payment.paid


async def held(mint, client, wallet, outputs=()):
    """A melt that stays pending: its quote and its inputs."""
    _, quote, proofs = await ready(mint, client, wallet, pay="PENDING")
    assert await client.melt(quote.id, proofs, list(outputs), timeout_s=20) == StillPending()
    return quote, proofs


# --- the numbers ---


async def test_spent_inputs_are_11001(client, wallet, seed):
    given = await wallet.mint(8)
    await wallet.spend(given)
    answer = await client.swap([as_proof(p) for p in given], await blinded(client, seed, 1, 2, 4), timeout_s=20)
    assert answer == Ambiguous(reason="HTTP 400", mint_code=11001)


async def test_pending_inputs(mint, client, wallet, seed, generation):
    _, proofs = await held(mint, client, wallet)
    fee = [as_proof(p) for p in await wallet.mint(1)]
    answer = await client.swap([*proofs, *fee], await blinded(client, seed, 128), timeout_s=20)
    assert answer == Ambiguous(reason="HTTP 400", mint_code=generation.proofs_pending)


async def test_outputs_that_were_signed_before(client, wallet, seed, generation):
    outputs = await blinded(client, seed, 8)
    proofs = [[as_proof(p) for p in await wallet.mint(9, amounts=[8, 1])] for _ in range(2)]
    assert isinstance(await client.swap(proofs[0], outputs, timeout_s=20), Signed)
    again = await client.swap(proofs[1], outputs, timeout_s=20)
    assert again == Ambiguous(reason="HTTP 400", mint_code=generation.outputs_signed)
    assert await states(client, proofs[1]) == {MintState.UNSPENT}


async def test_outputs_that_a_pending_melt_holds(mint, client, wallet, seed, generation):
    blanks = await blinded(client, seed, 0, 0, 0, 0, 0)
    await held(mint, client, wallet, blanks)
    same = (await blinded(client, seed, 8))[:1]
    assert same[0].b_ == blanks[0].b_
    proofs = [as_proof(p) for p in await wallet.mint(9, amounts=[8, 1])]
    answer = await client.swap(proofs, same, timeout_s=20)
    if generation.outputs_pending is None:
        assert isinstance(answer, Signed)
    else:
        assert answer == Ambiguous(reason="HTTP 400", mint_code=generation.outputs_pending)
        assert await states(client, proofs) == {MintState.UNSPENT}


async def test_a_quote_that_is_pending(mint, client, wallet, generation):
    quote, _ = await held(mint, client, wallet)
    others = [as_proof(p) for p in await wallet.mint(128)]
    answer = await client.melt(quote.id, others, [], timeout_s=20)
    assert answer == Ambiguous(reason="HTTP 400", mint_code=generation.quote_pending)
    assert await states(client, others) == {MintState.UNSPENT}


async def test_a_quote_that_is_paid(mint, client, wallet, generation):
    made, quote, proofs = await ready(mint, client, wallet)
    assert isinstance(await client.melt(quote.id, proofs, [], timeout_s=20), Paid)
    others = [as_proof(p) for p in await wallet.mint(128)]
    answer = await client.melt(quote.id, others, [], timeout_s=20)
    assert answer == Ambiguous(reason="HTTP 400", mint_code=generation.quote_paid)
    assert await states(client, others) == {MintState.UNSPENT}
    assert await times_paid(mint, made) == 1


async def test_a_signature_that_is_not_the_mints(mint, client, wallet, generation):
    made, quote, proofs = await ready(mint, client, wallet)
    given = {"id": proofs[0].keyset_id, "amount": 128, "secret": secrets.token_hex(32), "C": proofs[0].c}
    answer = await client.melt(quote.id, [as_proof(given)], [], timeout_s=20)
    assert answer == Refused(mint_code=generation.bad_signature, payment_tried=False)
    assert (await mint.payments())[made.payment_hash].attempts == 0


async def test_inputs_that_do_not_cover_the_quote_are_11000(mint, client, wallet):
    made, quote, _ = await ready(mint, client, wallet)
    few = [as_proof(p) for p in await wallet.mint(64)]
    answer = await client.melt(quote.id, few, [], timeout_s=20)
    assert answer == Ambiguous(reason="HTTP 400", mint_code=11000)
    assert await states(client, few) == {MintState.UNSPENT}
    assert (await mint.payments())[made.payment_hash].attempts == 0


async def test_blanks_of_a_retired_keyset_are_refused_before_the_payment(tmp_path, seed, generation):
    with MintProcess(tmp_path) as mint:
        async with http_mint(mint.url) as client:
            made, quote, proofs = await ready(mint, client, TestWallet(mint.url))
            blanks = await blinded(client, seed, 0, 0, 0, 0, 0)
            await mint.rotate_keyset()
            answer = await client.melt(quote.id, proofs, blanks, timeout_s=20)
            if generation.keyset_inactive == 12002:
                assert answer == Refused(mint_code=12002, payment_tried=False)
            else:
                assert answer == Ambiguous(reason="HTTP 400", mint_code=generation.keyset_inactive)
            assert await states(client, proofs) == {MintState.UNSPENT}
            assert (await mint.payments())[made.payment_hash].attempts == 0
            # Inputs of a retired keyset are good; so is the quote.
            assert isinstance(await client.melt(quote.id, proofs, [], timeout_s=20), Paid)


# --- how a melt ends ---


async def test_a_fee_above_the_reserve_is_paid_out_of_the_change(mint, client, wallet, seed):
    made, quote, proofs = await ready(mint, client, wallet, fee_sat=20)
    answer = await client.melt(quote.id, proofs, await blinded(client, seed, 0, 0, 0, 0, 0), timeout_s=20)
    assert isinstance(answer, Paid)
    assert sum(one.amount for one in answer.quote.change) == 128 - 1 - 100 - 20
    assert await times_paid(mint, made) == 1


@pytest.mark.parametrize("end", ["SETTLED", "FAILED"])
async def test_a_pending_payment_is_decided_when_somebody_gets_the_quote(mint, client, wallet, end):
    made, quote, proofs = await ready(mint, client, wallet, pay="PENDING")
    assert await client.melt(quote.id, proofs, [], timeout_s=20) == StillPending()
    assert (await client.melt_quote_state(quote.id)).state is QuoteState.PENDING
    await mint.resolve(made.payment_hash, end)
    assert await states(client, proofs) == {MintState.PENDING}
    paid = end == "SETTLED"
    assert (await client.melt_quote_state(quote.id)).state is (QuoteState.PAID if paid else QuoteState.UNPAID)
    assert await states(client, proofs) == {MintState.SPENT if paid else MintState.UNSPENT}
    assert await times_paid(mint, made) == int(paid)


@pytest.mark.parametrize("pay", ["FAILED", "UNKNOWN"])
@pytest.mark.parametrize("status", ["FAILED", "UNKNOWN"])
async def test_a_payment_that_failed_or_that_nobody_knows(mint, client, wallet, generation, pay, status):
    made, quote, proofs = await ready(mint, client, wallet, pay=pay, status=status)
    answer = await client.melt(quote.id, proofs, [], timeout_s=20)
    assert await times_paid(mint, made) == 0
    if status == "UNKNOWN" and not generation.unknown_is_failed:
        assert answer == StillPending()
        assert (await client.melt_quote_state(quote.id)).state is QuoteState.PENDING
        assert await states(client, proofs) == {MintState.PENDING}
        return
    assert answer == Refused(mint_code=generation.payment_failed, payment_tried=True)
    assert (await client.melt_quote_state(quote.id)).state is QuoteState.UNPAID
    assert await states(client, proofs) == {MintState.UNSPENT}
    await mint.script(made.payment_hash)
    assert isinstance(await client.melt(quote.id, proofs, [], timeout_s=20), Paid)


@pytest.mark.parametrize("pay", ["FAILED", "UNKNOWN"])
@pytest.mark.parametrize("status", ["SETTLED", "PENDING"])
async def test_a_payment_that_failed_but_is_found_settled_or_pending(mint, client, wallet, generation, pay, status):
    made, quote, proofs = await ready(mint, client, wallet, pay=pay, status=status)
    answer = await client.melt(quote.id, proofs, [], timeout_s=20)
    later = await client.melt_quote_state(quote.id)
    if status == "PENDING":
        assert answer == StillPending()
        assert (later.state, await states(client, proofs)) == (QuoteState.PENDING, {MintState.PENDING})
        return
    assert isinstance(answer, Paid if generation.found_settled_is_paid else StillPending)
    assert (later.state, await states(client, proofs)) == (QuoteState.PAID, {MintState.SPENT})
    assert await times_paid(mint, made) == 1


async def test_a_get_in_the_middle_of_a_payment_may_roll_it_back(mint, client, wallet, generation):
    """Why an open melt is followed by the states of its inputs, and never by its quote."""
    made, quote, proofs = await ready(mint, client, wallet, delay_s=1.0, status="FAILED")
    post = asyncio.create_task(client.melt(quote.id, proofs, [], timeout_s=20))
    async with asyncio.timeout(20):
        while not (await mint.payments())[made.payment_hash].attempts:  # noqa: ASYNC110 - the mint has no event for us
            await asyncio.sleep(0.02)
    assert await states(client, proofs) == {MintState.PENDING}
    assert (await client.melt_quote_state(quote.id)).state is QuoteState.UNPAID
    assert await states(client, proofs) == {MintState.UNSPENT}
    answer = await post
    assert await times_paid(mint, made) == 1
    if generation.rollback_stays:
        assert answer == Ambiguous(reason="HTTP 400", mint_code=11000)
        assert await states(client, proofs) == {MintState.UNSPENT}
        assert (await client.melt_quote_state(quote.id)).state is QuoteState.UNPAID
    else:
        assert isinstance(answer, Paid)
        assert await states(client, proofs) == {MintState.SPENT}
        assert (await client.melt_quote_state(quote.id)).state is QuoteState.PAID


async def test_four_identical_posts_at_once_pay_once(mint, client, wallet):
    made, quote, proofs = await ready(mint, client, wallet, delay_s=0.5)
    answers = await asyncio.gather(*(client.melt(quote.id, proofs, [], timeout_s=20) for _ in range(4)))
    assert [type(one) for one in answers].count(Paid) == 1
    assert [type(one) for one in answers].count(Ambiguous) == 3
    assert await times_paid(mint, made) == 1
