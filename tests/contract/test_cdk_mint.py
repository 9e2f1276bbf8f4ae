"""
What cdk-mintd says, case by case, and what meltd's client makes of it (docs/mints-measured.md has it as a table).

Numbers and shapes are held to the mint that runs. What must not depend on them is the other half: whose money is where.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import secrets
from dataclasses import dataclass
from typing import Any

import pytest

from melt.ecash import KeysetIdVersion, Seed, keyset_id_version, y_of
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
from tests.support.cdk_mint import CdkMint, description
from tests.support.mint import TestWallet
from tests.support.mint_client import as_proof, http_mint

pytestmark = pytest.mark.cdk

UNKNOWN_KEYSET = "00ffffffffffffff"
BLANKS = (0, 0, 0, 0, 0)
SIGNED_BEFORE = 11008
"""The number that Nutshell gives an output that stands twice in one request."""


# --- arranging ---


@dataclass(frozen=True)
class Said:
    """An answer as it came: its code is None where the body is no JSON."""

    status: int
    code: int | None
    body: Any
    text: str


async def say(mint, method, path, body=None, headers=None, timeout_s=20.0):
    """One exchange, past meltd's own client."""

    def exchange():
        connection = http.client.HTTPConnection("127.0.0.1", mint.port, timeout=timeout_s)
        try:
            sent = None if body is None else json.dumps(body)
            connection.request(method, f"/v1/{path}", sent, {"Content-Type": "application/json", **(headers or {})})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    status, text = await asyncio.to_thread(exchange)
    try:
        value = json.loads(text)
    except ValueError:
        return Said(status, None, None, text)
    return Said(status, value.get("code") if isinstance(value, dict) else None, value, text)


@pytest.fixture
def mint(cdk_mint):
    return cdk_mint


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


async def blinded(client, seed, *amounts, keyset_id=None, counter=0):
    if keyset_id is None:
        keyset_id = next(k.id for k in (await client.keysets(refresh=True)).values() if k.active)
    return seed.blinded(OutputPlan(keyset_id=keyset_id, counter=counter, amounts=amounts, seed_id=seed.seed_id))


async def ready(mint, client, wallet, told, amount=100, worth=128):
    """An invoice over 100 sat that does what it is told, its quote, and proofs worth 128 sat."""
    made = mint.invoice_msat(amount * 1000, told)
    return made, await client.melt_quote(made.invoice, "sat"), [as_proof(p) for p in await wallet.mint(worth)]


async def states(client, proofs):
    return {one.state for one in await client.check_states([proof.y for proof in proofs])}


async def times_paid(mint, made):
    payment = (await mint.payments()).get(made.payment_hash)
    return 0 if payment is None else payment.paid


async def state_of(client, quote):
    return (await client.melt_quote_state(quote.id)).state


def inputs_of(proofs):
    return [{"id": p.keyset_id, "amount": p.amount, "secret": p.secret, "C": p.c} for p in proofs]


def outputs_of(blinded):
    return [{"id": one.keyset_id, "amount": one.amount, "B_": one.b_} for one in blinded]


async def until(true, seconds=20.0):
    async with asyncio.timeout(seconds):
        while not await true():  # noqa: ASYNC110 - the mint has no event for us
            await asyncio.sleep(0.05)


# --- what it is ---


async def test_info_says_what_it_takes_and_keeps(client, mint):
    info = await client.info()
    assert info.version == "cdk-mintd/0.18.3"
    assert {4, 5, 7, 8, 9, 12} <= info.nuts
    assert info.max_array_length == 1000
    said = (await say(mint, "GET", "info")).body
    assert isinstance(said["time"], int)
    cached = {(one["method"], one["path"]) for one in said["nuts"]["19"]["cached_endpoints"]}
    assert {("POST", "/v1/swap"), ("POST", "/v1/melt/bolt11")} <= cached


async def test_keysets_are_of_the_second_version_and_say_no_expiry(client, mint, wallet):
    (keyset,) = (await say(mint, "GET", "keysets")).body["keysets"]
    assert keyset_id_version(KeysetId(keyset["id"])) is KeysetIdVersion.V2
    assert keyset.get("final_expiry") is None
    assert keyset["input_fee_ppk"] == 100
    assert await client.keys(KeysetId(keyset["id"])) == await wallet.keys(keyset["id"])


# --- states ---


async def test_equal_ys_are_answered_alike_and_upper_case_is_read_like_lower(mint, wallet):
    proofs = await wallet.mint(1)
    await wallet.mint(1)
    (y,) = (y_of(proof["secret"]) for proof in proofs)
    spent = await wallet.mint(2, amounts=[1, 1])
    await wallet.spend(spent)
    gone = y_of(spent[0]["secret"])
    said = await say(mint, "POST", "checkstate", {"Ys": [gone, y, gone, gone.upper(), y]})
    assert [one["state"] for one in said.body["states"]] == ["SPENT", "UNSPENT", "SPENT", "SPENT", "UNSPENT"]


@pytest.mark.parametrize("bad", ["zz", "02" + "zz" * 32, "00" * 33, "", "04" + "11" * 64])
async def test_one_malformed_y_is_422_for_the_whole_question(mint, wallet, bad):
    (proof,) = await wallet.mint(1)
    said = await say(mint, "POST", "checkstate", {"Ys": [y_of(proof["secret"]), bad]})
    assert (said.status, said.code, said.body) == (422, None, None)


async def test_no_y_and_too_many_are_refused(mint):
    none = await say(mint, "POST", "checkstate", {"Ys": []})
    assert (none.status, none.code) == (400, 50000)
    ys = [y_of(secrets.token_hex(32)) for _ in range(1001)]
    assert (await say(mint, "POST", "checkstate", {"Ys": ys[:1000]})).status == 200
    many = await say(mint, "POST", "checkstate", {"Ys": ys})
    assert (many.status, many.code) == (400, 11014)


# --- swaps ---


async def test_spent_and_pending_inputs(mint, client, wallet, seed):
    given = await wallet.mint(8)
    await wallet.spend(given)
    outputs = await blinded(client, seed, 1, 2, 4)
    spent = await client.swap([as_proof(p) for p in given], outputs, timeout_s=20)
    assert spent == Ambiguous(reason="HTTP 400", mint_code=11001)
    held = await wallet.mint(9, amounts=[8, 1])
    await wallet.hold(held, mint.invoice_msat(5000, description(pay="PENDING")).invoice)
    pending = await client.swap([as_proof(p) for p in held], await blinded(client, seed, 8, counter=10), timeout_s=20)
    assert pending == Ambiguous(reason="HTTP 400", mint_code=11002)


async def test_outputs_that_were_signed_before(mint, client, wallet, seed):
    outputs = await blinded(client, seed, 8)
    proofs = [[as_proof(p) for p in await wallet.mint(9, amounts=[8, 1])] for _ in range(2)]
    assert isinstance(await client.swap(proofs[0], outputs, timeout_s=20), Signed)
    said = await say(mint, "POST", "swap", {"inputs": inputs_of(proofs[1]), "outputs": outputs_of(outputs)})
    assert (said.status, said.code) == (400, SIGNED_BEFORE)
    assert await states(client, proofs[1]) == {MintState.UNSPENT}


async def test_an_identical_swap_is_answered_alike_while_the_cache_lives_and_then_its_inputs_are_spent(tmp_path, seed):
    with CdkMint(tmp_path, cache_s=2) as mint:
        async with http_mint(mint.url) as client:
            proofs = [as_proof(p) for p in await TestWallet(mint.url).mint(9, amounts=[8, 1])]
            outputs = await blinded(client, seed, 8)
            first = await client.swap(proofs, outputs, timeout_s=20)
            assert isinstance(first, Signed)
            assert await client.swap(proofs, outputs, timeout_s=20) == first
            codes = set()

            async def forgotten():
                again = await client.swap(proofs, outputs, timeout_s=20)
                if again == first:
                    return False
                codes.add(again.mint_code)
                return True

            await until(forgotten)
            assert codes == {11001}
            # Either way restore has them.
            assert [one.signature for one in await client.restore(outputs)] == list(first.signatures)


@pytest.mark.parametrize("amounts", [(4, 2), (16,)], ids=["too little", "too much"])
async def test_an_unbalanced_swap_is_refused(client, wallet, seed, amounts):
    proofs = [as_proof(p) for p in await wallet.mint(9, amounts=[8, 1])]
    answer = await client.swap(proofs, await blinded(client, seed, *amounts), timeout_s=20)
    assert answer == Refused(mint_code=11005, payment_tried=False)
    assert await states(client, proofs) == {MintState.UNSPENT}


async def test_a_signature_that_is_not_the_mints(mint, client, wallet):
    made, quote, proofs = await ready(mint, client, wallet, description())
    given = {"id": proofs[0].keyset_id, "amount": 128, "secret": secrets.token_hex(32), "C": proofs[0].c}
    answer = await client.melt(quote.id, [as_proof(given)], [], timeout_s=20)
    assert answer == Refused(mint_code=10001, payment_tried=False)
    assert await times_paid(mint, made) == 0


async def test_an_unknown_keyset_is_refused_for_inputs_and_outputs(mint, client, wallet, seed):
    (proof,) = await wallet.mint(128)
    _, quote, _ = await ready(mint, client, wallet, description())
    foreign = as_proof({**proof, "id": UNKNOWN_KEYSET})
    answer = await client.melt(quote.id, [foreign], [], timeout_s=20)
    assert answer == Refused(mint_code=12001, payment_tried=False)
    outputs = await blinded(client, seed, 64, keyset_id=KeysetId(UNKNOWN_KEYSET))
    said = await say(mint, "POST", "swap", {"inputs": inputs_of([as_proof(proof)]), "outputs": outputs_of(outputs)})
    assert (said.status, said.code) == (400, 12001)
    assert await states(client, [as_proof(proof)]) == {MintState.UNSPENT}


@pytest.mark.parametrize(("expired", "code"), [(False, 12002), (True, 12003)], ids=["retired", "expired"])
async def test_blanks_of_a_keyset_that_ended_are_refused_before_the_payment(tmp_path, seed, expired, code):
    with CdkMint(tmp_path) as mint:
        async with http_mint(mint.url) as client:
            wallet = TestWallet(mint.url)
            made, quote, proofs = await ready(mint, client, wallet, description())
            blanks = await blinded(client, seed, *BLANKS)
            new = await mint.rotate_keyset(expired=expired)
            if expired:
                blanks = await blinded(client, seed, *BLANKS, keyset_id=KeysetId(new))
            answer = await client.melt(quote.id, proofs, blanks, timeout_s=20)
            assert answer == Refused(mint_code=code, payment_tried=False)
            assert await states(client, proofs) == {MintState.UNSPENT}
            # Inputs of a retired keyset are good; so is the quote, over two restarts.
            await mint.restart(kill=True)
            assert isinstance(await client.melt(quote.id, proofs, [], timeout_s=20), Paid)
            assert await times_paid(mint, made) == 1


async def test_an_expired_keyset_is_listed_as_active_and_says_when_it_ended(tmp_path):
    with CdkMint(tmp_path) as mint:
        new = await mint.rotate_keyset(expired=True)
        (listed,) = [k for k in (await say(mint, "GET", "keysets")).body["keysets"] if k["id"] == new]
        assert listed["active"] is True
        assert 0 < listed["final_expiry"] < (await say(mint, "GET", "info")).body["time"]


@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_keys_of_both_versions_fit_their_ids(tmp_path, version):
    with CdkMint(tmp_path) as mint:
        new = KeysetId(await mint.rotate_keyset(version=version, fee_ppk=250))
        async with http_mint(mint.url) as client:
            assert keyset_id_version(new) is (KeysetIdVersion.V1 if version == "v1" else KeysetIdVersion.V2)
            assert await client.keys(new)
            found = (await client.keysets())[new]
            assert (found.active, found.input_fee_ppk) == (True, 250)


async def test_an_empty_witness_is_422_in_plain_text(mint, client, wallet, seed):
    proofs = [as_proof(p) for p in await wallet.mint(9, amounts=[8, 1])]
    inputs = [{**one, "witness": ""} for one in inputs_of(proofs)]
    said = await say(mint, "POST", "swap", {"inputs": inputs, "outputs": outputs_of(await blinded(client, seed, 8))})
    assert (said.status, said.code, said.body) == (422, None, None)
    assert await states(client, proofs) == {MintState.UNSPENT}


async def test_more_inputs_than_it_takes_are_refused_with_its_number(tmp_path, seed):
    with CdkMint(tmp_path, max_inputs=20) as mint:
        async with http_mint(mint.url) as client:
            assert (await client.info()).max_array_length == 20
            proofs = [as_proof(p) for p in await TestWallet(mint.url).mint(21, amounts=[1] * 21)]
            answer = await client.swap(proofs, await blinded(client, seed, 16, 2), timeout_s=20)
            assert answer == Refused(mint_code=11014, payment_tried=False)
            assert await states(client, proofs[:20]) == {MintState.UNSPENT}


# --- quotes ---


async def test_unknown_quotes(client, mint):
    with pytest.raises(MintRejected) as caught:
        await client.melt_quote_state(QuoteId("00000000-0000-4000-8000-000000000000"))
    assert caught.value.mint_code == 50000
    assert (await say(mint, "GET", "melt/quote/bolt11/nope")).code == 50000
    said = await say(mint, "GET", "melt/quote/bolt11/nope!")
    assert (said.status, said.code, said.body) == (400, None, None), "what can be no id is refused in plain text"


async def test_amounts_outside_of_the_limits_are_11006_and_name_both(tmp_path):
    with CdkMint(tmp_path, min_melt=10, max_melt=1000) as mint:
        for amount in (9, 1001):
            invoice = mint.invoice_msat(amount * 1000, description()).invoice
            said = await say(mint, "POST", "melt/quote/bolt11", {"request": invoice, "unit": "sat"})
            assert (said.status, said.code) == (400, 11006)
            assert "10" in said.text
            assert "1000" in said.text
        methods = (await say(mint, "GET", "info")).body["nuts"]["5"]["methods"]
        (settings,) = [one for one in methods if (one["method"], one["unit"]) == ("bolt11", "sat")]
        assert (settings["min_amount"], settings["max_amount"]) == (10, 1000)


async def test_units_and_invoices_that_it_does_not_take(mint):
    made = mint.invoice_msat(10_000, description())
    doge = await say(mint, "POST", "melt/quote/bolt11", {"request": made.invoice, "unit": "doge"})
    assert (doge.status, doge.code) == (400, 11013)
    amountless = mint.invoice_msat(0, description()).invoice
    said = await say(mint, "POST", "melt/quote/bolt11", {"request": amountless, "unit": "sat"})
    assert (said.status, said.code) == (400, 50000)


async def test_a_sub_sat_invoice_is_rounded_down(mint):
    async def quoted(msat):
        invoice = mint.invoice_msat(msat, description()).invoice
        return await say(mint, "POST", "melt/quote/bolt11", {"request": invoice, "unit": "sat"})

    assert [(await quoted(msat)).body["amount"] for msat in (5000, 5001, 5999)] == [5, 5, 5]
    none = await quoted(999)
    assert (none.status, none.code) == (400, 11006)


async def test_one_invoice_has_two_quotes_and_is_paid_once(mint, client, wallet):
    made, first, proofs = await ready(mint, client, wallet, description())
    second = await client.melt_quote(made.invoice, "sat")
    assert second.id != first.id
    assert isinstance(await client.melt(first.id, proofs, [], timeout_s=20), Paid)
    others = [as_proof(p) for p in await wallet.mint(128)]
    answer = await client.melt(second.id, others, [], timeout_s=20)
    assert answer == Ambiguous(reason="HTTP 400", mint_code=20006)
    assert await states(client, others) == {MintState.UNSPENT}
    assert await times_paid(mint, made) == 1


# --- how a melt ends ---


async def test_a_paid_melt_shows_no_preimage_and_all_its_change(mint, client, wallet, seed):
    made, quote, proofs = await ready(mint, client, wallet, description())
    blanks = await blinded(client, seed, *BLANKS)
    answer = await client.melt(quote.id, proofs, blanks, timeout_s=20)
    assert isinstance(answer, Paid)
    assert sum(one.amount for one in answer.quote.change) == 128 - 1 - 100 - 1
    said = (await say(mint, "GET", f"melt/quote/bolt11/{quote.id}")).body
    assert (said["state"], said.get("payment_preimage") or None) == ("PAID", None)
    assert [one["C_"] for one in said["change"]] == [one.c_ for one in answer.quote.change]
    assert await states(client, proofs) == {MintState.SPENT}
    assert await times_paid(mint, made) == 1


async def test_an_identical_melt_is_answered_alike(mint, client, wallet):
    made, quote, proofs = await ready(mint, client, wallet, description())
    first = await client.melt(quote.id, proofs, [], timeout_s=20)
    assert isinstance(first, Paid)
    assert await client.melt(quote.id, proofs, [], timeout_s=20) == first
    assert await times_paid(mint, made) == 1


FAILED = {
    "failed": description(pay="FAILED"),
    "unpaid": description(pay="UNPAID"),
    "failed, found unpaid": description(pay="FAILED", check="UNPAID"),
    "pending, found failed": description(pay="PENDING", check="FAILED"),
    "error, found failed": description(pay="PAID", check="FAILED", pay_fails=True),
    "error, found unpaid": description(pay="PAID", check="UNPAID", pay_fails=True),
}


@pytest.mark.parametrize("told", FAILED.values(), ids=FAILED)
async def test_a_payment_that_failed_is_20004_and_may_be_tried_again(mint, client, wallet, told):
    made, quote, proofs = await ready(mint, client, wallet, told)
    for _ in range(2):
        answer = await client.melt(quote.id, proofs, [], timeout_s=20)
        assert answer == Refused(mint_code=20004, payment_tried=True)
        assert await state_of(client, quote) is QuoteState.UNPAID
        assert await states(client, proofs) == {MintState.UNSPENT}
    assert await times_paid(mint, made) == 0


FOUND = {
    "failed": description(pay="FAILED", check="PAID"),
    "pending": description(pay="PENDING", check="PAID"),
    "unknown": description(pay="UNKNOWN", check="PAID"),
    "error": description(pay="FAILED", check="PAID", pay_fails=True),
}


@pytest.mark.parametrize("told", FOUND.values(), ids=FOUND)
async def test_a_payment_that_is_found_paid_is_paid_at_once(mint, client, wallet, told):
    made, quote, proofs = await ready(mint, client, wallet, told)
    assert isinstance(await client.melt(quote.id, proofs, [], timeout_s=20), Paid)
    assert await states(client, proofs) == {MintState.SPENT}
    assert await times_paid(mint, made) == 1


OPEN = {
    "pending": description(pay="PENDING"),
    "unknown": description(pay="UNKNOWN"),
    "pending, then unknown": description(pay="PENDING", check="UNKNOWN"),
    "error, then pending": description(pay="PAID", check="PENDING", pay_fails=True),
}


@pytest.mark.parametrize("told", OPEN.values(), ids=OPEN)
async def test_a_payment_that_stays_open_is_not_answered(mint, client, wallet, told):
    made, quote, proofs = await ready(mint, client, wallet, told)
    assert await client.melt(quote.id, proofs, [], timeout_s=1.5) == Ambiguous(reason="time-out")
    assert await state_of(client, quote) is QuoteState.PENDING
    assert await states(client, proofs) == {MintState.PENDING}
    same = await client.melt(quote.id, proofs, [], timeout_s=20)
    assert same == Ambiguous(reason="HTTP 400", mint_code=11002)
    others = [as_proof(p) for p in await wallet.mint(128)]
    answer = await client.melt(quote.id, others, [], timeout_s=20)
    assert answer == Ambiguous(reason="HTTP 400", mint_code=20005)
    assert await states(client, others) == {MintState.UNSPENT}
    assert await times_paid(mint, made) == 0


async def test_a_backend_that_cant_be_asked_is_50000_to_the_post_and_to_every_get(mint, client, wallet):
    _, quote, proofs = await ready(mint, client, wallet, description(pay="PENDING", check_fails=True))
    answer = await client.melt(quote.id, proofs, [], timeout_s=20)
    assert answer == Ambiguous(reason="HTTP 400", mint_code=50000)
    for _ in range(2):
        with pytest.raises(MintRejected) as caught:
            await client.melt_quote_state(quote.id)
        assert caught.value.mint_code == 50000
    assert await states(client, proofs) == {MintState.PENDING}


async def test_respond_async_is_answered_at_once(mint, client, wallet):
    made, quote, proofs = await ready(mint, client, wallet, description(pay="PENDING"))
    body = {"quote": quote.id, "inputs": inputs_of(proofs)}
    said = await say(mint, "POST", "melt/bolt11", body, {"Prefer": "respond-async"})
    assert (said.status, said.body["state"]) == (200, "PENDING")
    assert await states(client, proofs) == {MintState.PENDING}
    assert await times_paid(mint, made) == 0


# --- a payment that takes its time ---


@pytest.fixture
def slow(tmp_path):
    """Each of its payments takes two seconds."""
    with CdkMint(tmp_path, delay_s=2) as mint:
        yield mint


async def test_four_identical_posts_at_once_pay_once_and_one_is_told_that_its_inputs_are_spent(slow):
    async with http_mint(slow.url) as client:
        made, quote, proofs = await ready(slow, client, TestWallet(slow.url), description())
        answers = await asyncio.gather(*(client.melt(quote.id, proofs, [], timeout_s=20) for _ in range(4)))
        assert await times_paid(slow, made) == 1
        paid = [one for one in answers if isinstance(one, Paid)]
        # Which of them come from the cache is a matter of moments.
        assert paid
        assert {one.mint_code for one in answers if isinstance(one, Ambiguous)} <= {11001, 11002, 20005, 20006}
        assert len(paid) + sum(isinstance(one, Ambiguous) for one in answers) == 4


async def test_a_get_in_the_middle_of_a_payment_waits_for_its_end(slow):
    async with http_mint(slow.url) as client:
        made, quote, proofs = await ready(slow, client, TestWallet(slow.url), description())
        post = asyncio.create_task(client.melt(quote.id, proofs, [], timeout_s=20))

        async def held():
            return await states(client, proofs) == {MintState.PENDING}

        await until(held)
        assert await times_paid(slow, made) == 0
        assert isinstance(await post, Paid)
        assert await state_of(client, quote) is QuoteState.PAID
        assert await times_paid(slow, made) == 1


async def test_a_payment_that_nobody_waits_for_ends_all_the_same(slow):
    async with http_mint(slow.url) as client:
        made, quote, proofs = await ready(slow, client, TestWallet(slow.url), description())
        assert await client.melt(quote.id, proofs, [], timeout_s=0.5) == Ambiguous(reason="time-out")

        async def spent():
            return await states(client, proofs) == {MintState.SPENT}

        await until(spent)
        assert await times_paid(slow, made) == 1


async def test_an_invoice_of_the_mint_itself_is_paid_at_once_without_a_preimage(slow):
    async with http_mint(slow.url) as client:
        wallet = TestWallet(slow.url)
        proofs = [as_proof(p) for p in await wallet.mint(66)]
        quote = await client.melt_quote(await wallet.own_invoice(64), "sat")
        assert (quote.amount, quote.fee_reserve) == (64, 1)
        answer = await client.melt(quote.id, proofs, [], timeout_s=1.0)
        assert isinstance(answer, Paid)
        assert answer.quote.preimage is None


async def test_a_mint_killed_in_mid_payment_holds_the_inputs_for_ever(slow):
    """Its wallet has forgotten the payment, and what it does not know it does not call failed."""
    async with http_mint(slow.url) as client:
        made, quote, proofs = await ready(slow, client, TestWallet(slow.url), description())
        post = asyncio.create_task(client.melt(quote.id, proofs, [], timeout_s=20))

        async def tried():
            payment = (await slow.payments()).get(made.payment_hash)
            return payment is not None and payment.attempts == 1

        await until(tried)
        await slow.kill()
        assert isinstance(await post, Ambiguous)
        await slow.start()
        for _ in range(2):
            assert await state_of(client, quote) is QuoteState.PENDING
            assert await states(client, proofs) == {MintState.PENDING}
        assert await times_paid(slow, made) == 0


# --- the process itself ---


async def test_it_keeps_its_keys_and_its_money_over_a_kill(tmp_path):
    with CdkMint(tmp_path) as mint:
        wallet = TestWallet(mint.url)
        proofs = await wallet.mint(12)
        keysets = await wallet.keysets()
        await mint.restart(kill=True)
        assert await wallet.keysets() == keysets
        swapped = await wallet.swap(proofs)
        assert sum(proof["amount"] for proof in swapped) == 11
        assert await wallet.states([*proofs, *swapped]) == ["SPENT"] * 2 + ["UNSPENT"] * len(swapped)


async def test_a_change_of_its_settings_holds_from_the_next_start(tmp_path):
    with CdkMint(tmp_path) as mint:
        mint.configure(max_inputs=7)
        async with http_mint(mint.url) as client:
            assert (await client.info()).max_array_length == 1000
            await mint.restart()
        async with http_mint(mint.url) as client:
            assert (await client.info()).max_array_length == 7


def test_one_that_cannot_start_says_why(tmp_path, cdk_mint):
    clash = CdkMint(tmp_path, port=cdk_mint.port)
    with pytest.raises(RuntimeError, match="did not start"):
        clash.start_blocking()
    assert clash.pid is None


async def test_still_pending_is_what_a_stored_answer_says(mint, client, wallet):
    """Why a replay is never trusted over a look at the quote: what was answered PENDING stays so in the cache."""
    _, quote, proofs = await ready(mint, client, wallet, description(pay="PENDING"))
    body = {"quote": quote.id, "inputs": inputs_of(proofs)}
    first = await say(mint, "POST", "melt/bolt11", body, {"Prefer": "respond-async"})
    again = await client.melt(quote.id, proofs, [], timeout_s=20)
    assert first.body["state"] == "PENDING"
    assert again in {StillPending(), Ambiguous(reason="HTTP 400", mint_code=11002)}
