"""The client against the real Nutshell mint: what it answers is read and sorted as the engine expects it."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from hashlib import sha256

import pytest

from melt.ecash import KeysetIdVersion, Seed, keyset_id_version, proof_dleq_holds, y_of
from melt.errors import MintRejected
from melt.model import (
    Ambiguous,
    KeysetId,
    MintState,
    OutputPlan,
    Paid,
    QuoteId,
    QuoteState,
    Refused,
    Signed,
    StillPending,
)
from tests.support.mint import MintProcess, TestWallet
from tests.support.mint_client import as_proof, http_mint

OUTSIDE_ID = KeysetId("00ffffffffffffff")


@pytest.fixture
async def client(mint):
    async with http_mint(mint.url, states_batch=50) as client:
        yield client


@pytest.fixture
def wallet(mint):
    return TestWallet(mint.url)


@pytest.fixture
def seed():
    return Seed.from_mnemonic(Seed.generate_mnemonic())


async def plan(client, seed, *amounts, counter=0):
    active = next(k.id for k in (await client.keysets()).values() if k.active and k.unit == "sat")
    return OutputPlan(keyset_id=active, counter=counter, amounts=amounts, seed_id=seed.seed_id)


async def unblinded(client, seed, outputs, signatures):
    keys = await client.keys(outputs.keyset_id)
    return [
        seed.unblind(outputs, i, s.amount, s.c_, keys[s.amount], (s.dleq_e, s.dleq_s)) for i, s in enumerate(signatures)
    ]


async def ready_to_pay(mint, client, wallet, amount=100, worth=128, **script):
    """An invoice with its script, a quote for it and proofs that cover it."""
    made = await mint.invoice(amount, **script)
    quote = await client.melt_quote(made.invoice, "sat")
    proofs = [as_proof(proof) for proof in await wallet.mint(worth)]
    return made, quote, proofs


async def states(client, proofs):
    return {one.state for one in await client.check_states([proof.y for proof in proofs])}


# --- what it is ---


async def test_info_and_keysets_are_read(client, generation):
    info = await client.info()
    assert info.version == f"{generation.implementation}/{generation.version}"
    assert {4, 5, 7, 8, 9, 12} <= info.nuts
    assert info.max_array_length == 1000
    assert [k.input_fee_ppk for k in (await client.keysets()).values() if k.active] == [100]


async def test_keys_match_the_id_that_the_mint_gives_them(client, wallet, generation):
    keyset_id = KeysetId(await wallet.active_keyset())
    assert keyset_id_version(keyset_id) is KeysetIdVersion(generation.keyset_id_prefix)
    assert await client.keys(keyset_id) == await wallet.keys(keyset_id)
    with pytest.raises(MintRejected):
        await client.keys(OUTSIDE_ID)


async def test_a_rotated_keyset_is_found_when_asked_again(tmp_path):
    with MintProcess(tmp_path, fee_ppk=0) as mint:
        async with http_mint(mint.url) as client:
            (before,) = await client.keysets()
            new = KeysetId(await mint.rotate_keyset(fee_ppk=7))
            assert new not in await client.keysets()
            after = await client.keysets(refresh=True)
            assert (after[new].active, after[new].input_fee_ppk) == (True, 7)
            assert not after[before].active
            assert len(await client.keys(new)) == len(await client.keys(before))


async def test_a_keyset_with_a_fee_and_an_expiry_fits_its_id(tmp_path, generation):
    # Both are part of ids of version 01, and mints that give ids of version 00 know no expiry.
    expiry = 4102444800 if generation.final_expiry else None
    with MintProcess(tmp_path) as mint:
        new = KeysetId(await mint.rotate_keyset(fee_ppk=250, final_expiry=expiry))
        async with http_mint(mint.url) as client:
            assert await client.keys(new)
            found = (await client.keysets())[new]
            assert (found.input_fee_ppk, found.final_expiry) == (250, expiry)


# --- quotes ---


async def test_a_quote_says_amount_reserve_and_expiry(mint, client):
    quote = await client.melt_quote((await mint.invoice(1000)).invoice, "sat")
    assert (quote.state, quote.amount, quote.fee_reserve) == (QuoteState.UNPAID, 1000, 10)
    assert quote.expiry is not None
    later = await client.melt_quote_state(quote.id)
    assert replace(later, change_known=False) == quote  # this mint adds an empty change to the GET


@pytest.mark.parametrize(
    ("invoice", "unit"), [("lnbc1nonsense", "sat"), ("", "sat"), ("x" * 100_000, "sat"), (None, "doge")]
)
async def test_a_quote_that_the_mint_does_not_give_is_rejected(mint, client, invoice, unit):
    with pytest.raises(MintRejected):
        await client.melt_quote(invoice if invoice is not None else (await mint.invoice(10)).invoice, unit)


async def test_an_unknown_quote_is_rejected_with_a_code_that_means_nothing_else(client, generation):
    with pytest.raises(MintRejected) as caught:
        await client.melt_quote_state(QuoteId("nope"))
    assert caught.value.mint_code == generation.unknown_quote


# --- melting ---


async def test_a_paid_melt_gives_preimage_and_change_that_can_be_spent(mint, client, wallet, seed, generation):
    made, quote, proofs = await ready_to_pay(mint, client, wallet)
    blanks = await plan(client, seed, *[0] * 5)
    answer = await client.melt(quote.id, proofs, seed.blinded(blanks), timeout_s=20)
    assert isinstance(answer, Paid)
    assert answer.quote.change_known
    if generation.shows_preimage:
        assert sha256(bytes.fromhex(answer.quote.preimage)).hexdigest() == made.payment_hash
    else:
        assert answer.quote.preimage is None
    change = await unblinded(client, seed, blanks, answer.quote.change)
    assert sum(proof.amount for proof in change) == 128 - 100 - 1 - 1  # less the Lightning fee and the input fee
    assert await wallet.states([{"secret": proof.secret} for proof in change]) == ["UNSPENT"] * len(change)
    spendable = [{"id": p.keyset_id, "amount": p.amount, "secret": p.secret, "C": p.c} for p in change]
    await wallet.spend(spendable)
    assert await states(client, proofs) == {MintState.SPENT}
    assert (await mint.payments())[made.payment_hash].paid == 1


async def test_the_quote_of_a_paid_melt_still_tells_its_change(mint, client, wallet, seed):
    _, quote, proofs = await ready_to_pay(mint, client, wallet)
    blanks = await plan(client, seed, *[0] * 5)
    answer = await client.melt(quote.id, proofs, seed.blinded(blanks), timeout_s=20)
    later = await client.melt_quote_state(quote.id)
    assert later.state is QuoteState.PAID
    assert (later.change, later.preimage) == (answer.quote.change, answer.quote.preimage)


async def test_a_pending_melt_holds_the_inputs_and_is_paid_when_asked_later(mint, client, wallet, seed, generation):
    made, quote, proofs = await ready_to_pay(mint, client, wallet, pay="PENDING")
    blanks = await plan(client, seed, *[0] * 5)
    answer = await client.melt(quote.id, proofs, seed.blinded(blanks), timeout_s=generation.pending_s)
    assert answer == generation.pending
    assert await states(client, proofs) == {MintState.PENDING}
    await mint.resolve(made.payment_hash, "SETTLED", fee_sat=2)
    later = await client.melt_quote_state(quote.id)
    assert later.state is QuoteState.PAID
    change = await unblinded(client, seed, blanks, later.change)
    assert sum(proof.amount for proof in change) == 128 - 100 - 2 - 1
    assert await states(client, proofs) == {MintState.SPENT}


async def test_a_failed_payment_is_a_candidate_for_release(mint, client, wallet, generation):
    made, quote, proofs = await ready_to_pay(mint, client, wallet, pay="FAILED")
    refused = Refused(mint_code=generation.payment_failed, payment_tried=True)
    assert await client.melt(quote.id, proofs, [], timeout_s=20) == refused
    assert await states(client, proofs) == {MintState.UNSPENT}
    assert (await client.melt_quote_state(quote.id)).state is QuoteState.UNPAID
    assert (await mint.payments())[made.payment_hash].paid == 0


async def test_a_mint_that_lost_track_of_its_payment_says_failed_although_the_money_left(
    mint, client, wallet, generation
):
    made, quote, proofs = await ready_to_pay(mint, client, wallet, **{"raise": "after", "status": "UNKNOWN"})
    answer = await client.melt(quote.id, proofs, [], timeout_s=20)
    assert (await mint.payments())[made.payment_hash].paid == 1
    if generation.unknown_is_failed:
        assert answer == Refused(mint_code=generation.payment_failed, payment_tried=True)
        assert await states(client, proofs) == {MintState.UNSPENT}
    else:
        assert answer == StillPending()
        assert await states(client, proofs) == {MintState.PENDING}


async def test_a_backend_that_cannot_be_asked_keeps_the_melt_pending(mint, client, wallet, generation):
    _, quote, proofs = await ready_to_pay(mint, client, wallet, pay="UNKNOWN", status="raise")
    answer = await client.melt(quote.id, proofs, [], timeout_s=20)
    if generation.asking_fails is None:
        assert answer == StillPending()
    else:
        assert answer == Ambiguous(reason="HTTP 400", mint_code=generation.asking_fails)
    if generation.asks_fail_loudly:
        with pytest.raises(MintRejected) as caught:
            await client.melt_quote_state(quote.id)
        assert caught.value.mint_code == (generation.asking_fails or 0)
    else:
        assert (await client.melt_quote_state(quote.id)).state is QuoteState.PENDING
    assert await states(client, proofs) == {MintState.PENDING}


async def test_an_answer_that_comes_too_late_is_ambiguous_and_the_mint_pays(mint, client, wallet):
    made, quote, proofs = await ready_to_pay(mint, client, wallet, delay_s=1.0)
    assert await client.melt(quote.id, proofs, [], timeout_s=0.3) == Ambiguous(reason="time-out")
    async with asyncio.timeout(20):
        while await states(client, proofs) != {MintState.SPENT}:  # noqa: ASYNC110 - the mint has no event for us
            await asyncio.sleep(0.1)
    assert (await mint.payments())[made.payment_hash].paid == 1
    if mint.counts_posts:
        assert len((await mint.posts())[quote.id]) == 1


async def test_a_second_post_of_a_paid_quote_is_ambiguous_or_the_same_and_never_a_refusal(
    mint, client, wallet, generation
):
    made, quote, proofs = await ready_to_pay(mint, client, wallet)
    first = await client.melt(quote.id, proofs, [], timeout_s=20)
    again = await client.melt(quote.id, proofs, [], timeout_s=20)
    if generation.replays:
        assert again == first
    else:
        assert isinstance(again, Ambiguous)
        assert again.mint_code is not None
    assert (await mint.payments())[made.payment_hash].paid == 1


async def test_spent_pending_and_foreign_inputs_are_sorted(mint, client, wallet, generation):
    _, quote, proofs = await ready_to_pay(mint, client, wallet, worth=64 + 128)
    await wallet.spend([{"id": p.keyset_id, "amount": p.amount, "secret": p.secret, "C": p.c} for p in proofs])
    assert await client.melt(quote.id, proofs, [], timeout_s=20) == Ambiguous(reason="HTTP 400", mint_code=11001)
    _, _, held = await ready_to_pay(mint, client, wallet)
    other, other_quote, _ = await ready_to_pay(mint, client, wallet, pay="PENDING")
    assert await client.melt(other_quote.id, held, [], timeout_s=generation.pending_s) == generation.pending
    pending = Ambiguous(reason="HTTP 400", mint_code=generation.proofs_pending)
    assert await client.melt(quote.id, held, [], timeout_s=20) == pending
    (forged,) = (as_proof({"id": held[0].keyset_id, "amount": 128, "secret": secrets.token_hex(32), "C": held[0].c}),)
    bad = Refused(mint_code=generation.bad_signature, payment_tried=False)
    assert await client.melt(quote.id, [forged], [], timeout_s=20) == bad
    assert (await mint.payments())[other.payment_hash].paid == 0


async def test_a_request_that_is_too_long_is_refused_before_anything_happens(tmp_path, generation):
    # On old mints it is also the longest invoice that they take.
    with MintProcess(tmp_path, max_request_length=400) as mint:
        async with http_mint(mint.url) as client:
            made, quote, proofs = await ready_to_pay(mint, client, TestWallet(mint.url), amount=1, worth=7)
            long = [proofs[0]] * 401
            refused = Refused(mint_code=generation.too_many_inputs, payment_tried=False)
            assert await client.melt(quote.id, long, [], timeout_s=20) == refused
            payments = await mint.payments()
            assert payments[made.payment_hash].attempts == 0


async def test_an_internal_melt_is_paid_without_a_preimage(client, wallet, generation):
    if generation.implementation == "cdk-mintd":
        pytest.skip("its fake wallet has always paid its own invoices first: test_cdk_mint.py has it with a delay")
    # FakeWallet marks its own invoices paid by itself, a moment after it has made them: try until ours comes first.
    for _ in range(40):
        # Some keep a reserve for a payment to themselves too.
        proofs = [as_proof(proof) for proof in await wallet.mint(66)]
        try:
            quote = await client.melt_quote(await wallet.own_invoice(64), "sat")
        except MintRejected:
            continue
        answer = await client.melt(quote.id, proofs, [], timeout_s=20)
        if isinstance(answer, Paid):
            assert answer.quote.preimage is None
            return
        assert isinstance(answer, Ambiguous)
    pytest.fail("no internal melt was ever paid")


# --- swap and restore ---


async def test_a_swap_gives_proofs_of_the_outputs_and_restore_gives_them_again(client, wallet, seed):
    proofs = [as_proof(proof) for proof in await wallet.mint(64)]
    outputs = await plan(client, seed, 1, 2, 4, 8, 16, 32)
    answer = await client.swap(proofs, seed.blinded(outputs), timeout_s=20)
    assert isinstance(answer, Signed)
    made = await unblinded(client, seed, outputs, answer.signatures)
    keys = await client.keys(outputs.keyset_id)
    for proof in made:
        assert proof_dleq_holds(proof.secret, proof.c, proof.dleq.e, proof.dleq.s, proof.dleq.r, keys[proof.amount])
    restored = await client.restore(seed.blinded(await plan(client, seed, 1, 2, 4, 8, 16, 32, 64)))
    by_b_ = {one.b_: one.signature for one in restored}
    assert [by_b_[message.b_].c_ for message in seed.blinded(outputs)] == [one.c_ for one in answer.signatures]
    assert len(restored) == 6


async def test_a_swap_repeated_to_the_byte_is_ambiguous_or_the_same(client, wallet, seed, generation):
    proofs = [as_proof(proof) for proof in await wallet.mint(64)]
    blinded = seed.blinded(await plan(client, seed, 1, 2, 4, 8, 16, 32))
    first = await client.swap(proofs, blinded, timeout_s=20)
    assert isinstance(first, Signed)
    again = await client.swap(proofs, blinded, timeout_s=20)
    if generation.replays:
        assert again == first
    else:
        assert isinstance(again, Ambiguous)
        assert again.mint_code in {11001, generation.outputs_signed}


async def test_a_swap_on_a_retired_keyset_gives_nothing_away(tmp_path, seed):
    with MintProcess(tmp_path) as mint:
        async with http_mint(mint.url) as client:
            wallet = TestWallet(mint.url)
            proofs = [as_proof(proof) for proof in await wallet.mint(64)]
            outputs = await plan(client, seed, 1, 2, 4, 8, 16, 32)
            await mint.rotate_keyset(fee_ppk=0)
            answer = await client.swap(proofs, seed.blinded(outputs), timeout_s=20)
            assert isinstance(answer, Ambiguous | Refused)
            assert await states(client, proofs) == {MintState.UNSPENT}
            assert await client.restore(seed.blinded(outputs)) == ()


async def test_restore_of_nothing_asks_nothing(client):
    assert await client.restore([]) == ()


# --- states ---


async def test_states_come_in_order_with_duplicates_and_odd_batches(client, wallet):
    proofs = [as_proof(proof) for proof in await wallet.mint(127)]
    old = await wallet.mint(31)
    spent = [as_proof(proof) for proof in old]
    await wallet.spend(old)
    ys = [proof.y for proof in [*proofs, *spent, *proofs]]
    found = await client.check_states(ys)
    assert [one.y for one in found] == ys
    assert [one.state for one in found] == [MintState.UNSPENT] * 7 + [MintState.SPENT] * 5 + [MintState.UNSPENT] * 7


async def test_a_thousand_states_are_asked_in_batches(client):
    ys = [y_of(secrets.token_hex(32)) for _ in range(1001)]
    assert {one.state for one in await client.check_states(ys)} == {MintState.UNSPENT}


# --- the mint process itself ---


async def test_a_killed_mint_keeps_its_money_and_its_nodes_book(tmp_path, generation):
    with MintProcess(tmp_path) as mint:
        async with http_mint(mint.url) as client:
            made, quote, proofs = await ready_to_pay(mint, client, TestWallet(mint.url), delay_s=1.0)
            post = asyncio.create_task(client.melt(quote.id, proofs, [], timeout_s=20))
            async with asyncio.timeout(20):
                while not (await mint.payments())[made.payment_hash].attempts:  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.02)
            await mint.kill()
            assert isinstance(await post, Ambiguous)
            await mint.start()
            if generation.forgets_payments:
                assert (await client.melt_quote_state(quote.id)).state is QuoteState.PENDING
                assert await states(client, proofs) == {MintState.PENDING}
                return
            async with asyncio.timeout(20):
                while not (await mint.payments())[made.payment_hash].paid:  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.05)
            assert (await client.melt_quote_state(quote.id)).state is QuoteState.PAID
            assert await states(client, proofs) == {MintState.SPENT}
            assert (await mint.payments())[made.payment_hash].paid == 1
