"""A mint that lies, stalls, floods or talks nonsense: nothing is believed, nothing is unbounded, nothing odd escapes."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import secrets
import time
from hashlib import sha256

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from melt.ecash import y_of
from melt.errors import (
    InvariantBroken,
    MintError,
    MintRejected,
    MintUnreachable,
    MintUntrusted,
    NotTheMint,
    StateRegressed,
)
from melt.mint import NOT_SENT, NOT_VALID, announced, wire
from melt.model import (
    Ambiguous,
    BlindedMessage,
    KeysetId,
    MintState,
    Paid,
    Proof,
    QuoteId,
    QuoteState,
    Refused,
    Signed,
    StillPending,
)
from tests.support.mint import free_port
from tests.support.mint_client import http_mint
from tests.support.scripted_mint import Asked, Say, ScriptedMint

KEYSET = KeysetId("00456a94ab4e1c46")
KEYS = {
    "1": "03a40f20667ed53513075dc51e715ff2046cad64eb68960632269ba7f0210e38bc",
    "2": "03fd4ce5a16b65576145949e6f99f445f8249fee17c606b688b504a849cdc452de",
    "4": "02648eccfa4c026960966276fa5a4cae46ce0fd432211a4f449bf84f13aa5f8303",
    "8": "02fdfd6796bfeac490cbee12f778f867f0a2c68f6508d17c649759ea0dc3547528",
}
POINT = KEYS["1"]
KEYSETS = {"keysets": [{"id": KEYSET, "unit": "sat", "active": True, "input_fee_ppk": 100}]}
QUOTE = QuoteId("q1")
PROOF = Proof(keyset_id=KEYSET, amount=8, secret="a" * 64, c=POINT, y=y_of("a" * 64))
OUTPUT = BlindedMessage(keyset_id=KEYSET, amount=8, b_=POINT)
SIGNATURE = {"id": KEYSET, "amount": 8, "C_": POINT, "dleq": {"e": "11" * 32, "s": "22" * 32}}
PAID = {"quote": "q1", "amount": 5, "fee_reserve": 2, "state": "PAID", "expiry": None, "payment_preimage": "ab" * 32}
MELT, SWAP, STATES = "/v1/melt/bolt11", "/v1/swap", "/v1/checkstate"
NESTED = b"[" * 200_000


async def melt_answer(rule, *, timeout_s=5.0, **limits):
    async with ScriptedMint({MELT: rule}) as server, http_mint(server.url, **limits) as mint:
        return await mint.melt(QUOTE, [PROOF], [OUTPUT], timeout_s=timeout_s)


async def swap_answer(rule, *, timeout_s=5.0, **limits):
    async with ScriptedMint({SWAP: rule}) as server, http_mint(server.url, **limits) as mint:
        return await mint.swap([PROOF], [OUTPUT], timeout_s=timeout_s)


def echo(asked: Asked, state: str = "UNSPENT") -> Say:
    return Say(body={"states": [{"Y": y, "state": state, "witness": None} for y in asked.body["Ys"]]})


async def drip(_, writer):
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.01)


async def flood(_, writer):
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    chunk = b" " * 65536
    while True:
        writer.write(b"10000\r\n" + chunk + b"\r\n")
        await writer.drain()


async def endless_headers(_, writer):
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-More: " + b"y" * 4096 + b"\r\n")
        await writer.drain()


async def truncated(_, writer):
    writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"state": "PAID"')


async def cut(_, writer):
    writer.transport.abort()


async def silence(reader, _):
    await reader.read()


async def nonsense(_, writer):
    writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")


BAD_ANSWERS = {
    "truncated": truncated,
    "reset": cut,
    "no http": nonsense,
    "endless headers": endless_headers,
    "flood": flood,
    "html": Say(body=b"<html>Just a moment...</html>"),
    "empty": Say(body=b""),
    "redirect": Say(status=307, headers={"Location": "/v1/elsewhere"}),
    "redirect 301": Say(status=301, headers={"Location": "http://127.0.0.1:1/"}),
    "no content": Say(status=204, headers={"Content-Length": ""}),
    "gzip although refused": Say(body=gzip.compress(json.dumps(PAID).encode()), headers={"Content-Encoding": "gzip"}),
    "announced as huge": Say(body=b"{}", headers={"Content-Length": str(1 << 40)}),
    "depth bomb": Say(body=NESTED),
    "depth bomb in an object": Say(body=b'{"quote":' + NESTED),
    "an integer of a million digits": Say(body=b'{"amount": ' + b"9" * 500_000 + b"}"),
    "NaN": Say(body=b'{"quote": "q1", "amount": NaN, "state": "PAID", "fee_reserve": 1}'),
    "bad utf-8": Say(body=b'{"quote": "\xff\xfe"}'),
    "null": Say(body=b"null"),
    "a list": Say(body=[PAID]),
    "a text": Say(body='"PAID"'),
    "500": Say(status=500, body={"detail": "x", "code": 11005}),
    "502 html": Say(status=502, body=b"<html>"),
    "429": Say(status=429, body={"detail": "Rate limit exceeded."}),
    "429 with a definite code": Say(status=429, body={"detail": "x", "code": 12001}),
}


@pytest.mark.parametrize("name", BAD_ANSWERS)
async def test_a_useless_answer_to_a_payment_is_ambiguous(name):
    assert isinstance(await melt_answer(BAD_ANSWERS[name]), Ambiguous)
    assert isinstance(await swap_answer(BAD_ANSWERS[name]), Ambiguous)


@pytest.mark.parametrize("name", BAD_ANSWERS)
async def test_a_useless_answer_to_a_read_is_unreachable(name):
    rules = dict.fromkeys(("/v1/keysets", "/v1/melt/quote/bolt11/q1", STATES, "/v1/restore"), BAD_ANSWERS[name])
    async with ScriptedMint(rules) as server, http_mint(server.url) as mint:
        for read in (
            mint.keysets(),
            mint.melt_quote_state(QUOTE),
            mint.check_states([PROOF.y]),
            mint.restore([OUTPUT]),
        ):
            with pytest.raises(MintUnreachable if "definite" not in name and name != "500" else MintError):
                await read


async def test_a_compressed_answer_is_not_unpacked():
    assert await melt_answer(BAD_ANSWERS["gzip although refused"]) == Ambiguous(reason="compressed answer")


@pytest.mark.parametrize("stall", [drip, silence])
async def test_the_deadline_covers_the_whole_exchange(stall):
    started = time.monotonic()
    answer = await melt_answer(stall, timeout_s=0.3)
    assert answer == Ambiguous(reason="time-out")
    async with ScriptedMint({"/v1/keysets": stall}) as server, http_mint(server.url, request_timeout_s=0.3) as mint:
        with pytest.raises(MintUnreachable):
            await mint.keysets()
    assert time.monotonic() - started < 20


async def test_no_connection_is_a_proof_that_nothing_was_sent():
    async with http_mint(f"http://127.0.0.1:{free_port()}") as mint:
        assert await mint.melt(QUOTE, [PROOF], [], timeout_s=5) == Refused(mint_code=NOT_SENT, payment_tried=False)
        assert await mint.swap([PROOF], [OUTPUT], timeout_s=5) == Refused(mint_code=NOT_SENT, payment_tried=False)
        with pytest.raises(MintUnreachable):
            await mint.keysets()
        assert ("melt", "rejected") not in mint._telemetry.requests


async def test_a_cancelled_payment_is_cancelled_and_nothing_else():
    async with ScriptedMint({MELT: silence}) as server, http_mint(server.url) as mint:
        task = asyncio.create_task(mint.melt(QUOTE, [PROOF], [], timeout_s=30))
        await asyncio.wait_for(server.arrived.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


# --- sorting ---


@pytest.mark.parametrize(
    "code",
    [
        *(10001, 10003, 11005, 11006, 11007, 11009, 11010, 11011, 11012, 11013, 11014, 11015, 12001, 12002, 12003),
        *(20003, 30001, 30002, 31001, 31002),
    ],
)
async def test_codes_that_every_generation_sends_before_paying_are_definite(code):
    say = Say(status=400, body={"detail": "x", "code": code})
    assert await melt_answer(say) == Refused(mint_code=code, payment_tried=False)
    assert await swap_answer(say) == Refused(mint_code=code, payment_tried=False)


@pytest.mark.parametrize("code", [20000, 20004])
async def test_a_failed_payment_is_a_candidate_and_no_more(code):
    say = Say(status=400, body={"detail": "x", "code": code})
    assert await melt_answer(say) == Refused(mint_code=code, payment_tried=True)
    assert await swap_answer(say) == Ambiguous(reason="HTTP 400", mint_code=code)


@pytest.mark.parametrize(
    "code",
    [
        *(0, 10000, 10002, 11000, 11001, 11002, 11003, 11004, 11008, 12000, 20001, 20005, 20006, 20007, 20008, 20009),
        *(4711, 31003, 50000, 99999),
    ],
)
async def test_codes_that_mean_several_things_or_nothing_known_are_ambiguous(code):
    say = Say(status=400, body={"detail": "x", "code": code})
    assert await melt_answer(say) == Ambiguous(reason="HTTP 400", mint_code=code)
    assert await swap_answer(say) == Ambiguous(reason="HTTP 400", mint_code=code)


@pytest.mark.parametrize("code", ["11005", 11005.0, True, None, -1, 2**63, [11005], {"code": 11005}])
async def test_a_code_that_is_no_integer_is_no_code(code):
    say = Say(status=400, body={"detail": "x", "code": code})
    assert await melt_answer(say) == Ambiguous(reason="HTTP 400")


async def test_a_validation_error_is_definite_and_any_other_422_is_not():
    assert await melt_answer(Say(status=422, body={"detail": [{"loc": ["body"]}]})) == Refused(
        mint_code=NOT_VALID, payment_tried=False
    )
    assert isinstance(await melt_answer(Say(status=422, body={"detail": "no"})), Ambiguous)
    assert isinstance(await melt_answer(Say(status=422, body={"detail": [], "code": 0})), Ambiguous)
    assert isinstance(await melt_answer(Say(status=422, body=b"<html>")), Ambiguous)


@pytest.mark.parametrize("state", ["UNPAID", "FAILED", "UNKNOWN", "", None, 1, "SETTLED"])
async def test_a_200_that_is_neither_paid_nor_pending_is_ambiguous(state):
    assert isinstance(await melt_answer(Say(body=PAID | {"state": state})), Ambiguous)


async def test_a_paid_answer_carries_preimage_and_change():
    answer = await melt_answer(Say(body=PAID | {"change": [SIGNATURE], "brand_new_field": {"a": [1]}}))
    assert isinstance(answer, Paid)
    assert answer.quote.preimage == "ab" * 32
    assert [signature.amount for signature in answer.quote.change] == [8]
    assert answer.quote.change_known


@pytest.mark.parametrize("change", [None, "absent", [], [SIGNATURE | {"dleq": None}]])
async def test_change_and_preimage_may_be_missing(change):
    body = PAID | {"payment_preimage": ""} | ({} if change == "absent" else {"change": change})
    answer = await melt_answer(Say(body=body))
    assert isinstance(answer, Paid)
    assert answer.quote.preimage is None
    assert answer.quote.change_known is isinstance(change, list)


@pytest.mark.parametrize(
    "broken",
    [
        {"amount": 2**63},
        {"amount": -1},
        {"amount": 8.0},
        {"amount": True},
        {"amount": "8"},
        {"C_": "02"},
        {"C_": None},
        {"C_": "zz" * 33},
        {"dleq": "x"},
        {"dleq": {"e": "1"}},
        {"id": None},
        {"id": "x" * 1000},
    ],
)
async def test_unreadable_change_is_asked_for_elsewhere_and_the_payment_stays_paid(broken):
    answer = await melt_answer(Say(body=PAID | {"change": [SIGNATURE, SIGNATURE | broken]}))
    assert isinstance(answer, Paid)
    if "dleq" in broken:  # a proof that can't be read proves nothing; the signature is there all the same
        assert [one.dleq_e for one in answer.quote.change] == ["11" * 32, None]
        assert isinstance(await swap_answer(Say(body={"signatures": [SIGNATURE | broken]})), Signed)
        return
    assert not answer.quote.change_known
    assert len(answer.quote.change) == 1, "the other one stands"
    assert isinstance(await swap_answer(Say(body={"signatures": [SIGNATURE | broken]})), Ambiguous)


async def test_an_old_mint_that_knows_only_paid_is_understood():
    assert isinstance(await melt_answer(Say(body={"paid": True, "payment_preimage": None, "change": []})), Paid)
    assert isinstance(await melt_answer(Say(body={"paid": False, "payment_preimage": None})), Ambiguous)
    old = {"quote": "q1", "amount": 5, "fee_reserve": 1, "paid": False, "expiry": 0}
    async with ScriptedMint({"/v1/melt/quote/bolt11": Say(body=old)}) as server, http_mint(server.url) as mint:
        assert (await mint.melt_quote("lnbc1", "sat")).state is QuoteState.UNPAID


async def test_an_answer_about_another_quote_is_ambiguous():
    assert isinstance(await melt_answer(Say(body=PAID | {"quote": "q2"})), Ambiguous)


async def test_pending_is_pending_with_or_without_change():
    assert await melt_answer(Say(body=PAID | {"state": "PENDING", "change": []})) == StillPending()


async def test_swap_signatures_are_used_only_where_they_fit_the_outputs():
    assert isinstance(await swap_answer(Say(body={"signatures": [SIGNATURE]})), Signed)
    for signatures in ([], [SIGNATURE] * 2, [SIGNATURE | {"amount": 4}], [SIGNATURE | {"id": "00aaaaaaaaaaaaaa"}]):
        assert isinstance(await swap_answer(Say(body={"signatures": signatures})), Ambiguous)


@pytest.mark.parametrize(
    "broken",
    [
        {"amount": 2**63},
        {"amount": -1},
        {"amount": 1.0},
        {"amount": True},
        {"amount": None},
        {"fee_reserve": "1"},
        {"fee_reserve": None},
        {"quote": None},
        {"quote": ""},
        {"quote": 7},
        {"quote": "x" * 5000},
        {"quote": "a\nb"},
        {"state": None},
        {"state": 7},
    ],
)
async def test_a_quote_with_a_broken_field_is_unusable(broken):
    good = PAID | {"state": "UNPAID"}
    async with (
        ScriptedMint({"/v1/melt/quote/bolt11": Say(body=good | broken)}) as server,
        http_mint(server.url) as mint,
    ):
        with pytest.raises(MintUnreachable):
            await mint.melt_quote("lnbc1", "sat")
        server.rules["/v1/melt/quote/bolt11"] = Say(body=good | {"amount": 2**63 - 1})
        assert (await mint.melt_quote("lnbc1", "sat")).amount == 2**63 - 1


async def test_a_quote_id_cannot_leave_its_path():
    async with ScriptedMint() as server, http_mint(server.url) as mint:
        with pytest.raises(MintError):
            await mint.melt_quote_state(QuoteId("../../../x?y=/z"))
        assert server.asked[-1].path == "/v1/melt/quote/bolt11/..%2F..%2F..%2Fx%3Fy%3D%2Fz"


# --- what leaves ---


async def test_blinding_factors_stay_at_home_and_witnesses_go():
    proof = Proof(
        **{
            **{name: getattr(PROOF, name) for name in ("keyset_id", "amount", "secret", "c", "y")},
            "secret": '["P2PK",{"nonce":"00","data":"02ab","tags":[]}]',
            "witness": '{"signatures":[]}',
        }
    )
    async with ScriptedMint({MELT: Say(body=PAID)}) as server, http_mint(server.url) as mint:
        await mint.melt(QUOTE, [PROOF, proof], [], timeout_s=5)
        (asked,) = server.asked_of(MELT)
    assert [set(one) for one in asked.body["inputs"]] == [
        {"id", "amount", "secret", "C"},
        {"id", "amount", "secret", "C", "witness"},
    ]
    assert "outputs" not in asked.body
    assert asked.headers["accept-encoding"] == "identity"
    assert asked.headers["user-agent"].startswith("meltd/")


async def test_payments_take_a_fresh_connection_and_reads_share_one():
    rules = {MELT: Say(body=PAID), "/v1/keysets": Say(body=KEYSETS)}
    async with ScriptedMint(rules) as server, http_mint(server.url) as mint:
        for _ in range(3):
            await mint.keysets(refresh=True)
        assert server.connections == 1
        for _ in range(3):
            await mint.melt(QUOTE, [PROOF], [], timeout_s=5)
        assert server.connections == 4


async def test_the_environments_proxy_is_not_asked(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    async with ScriptedMint({"/v1/keysets": Say(body=KEYSETS)}) as server, http_mint(server.url) as mint:
        assert list(await mint.keysets()) == [KEYSET]


async def test_more_inputs_than_a_request_may_have_are_never_sent():
    async with ScriptedMint({MELT: Say(body=PAID)}) as server, http_mint(server.url) as mint:
        for inputs in ([], [PROOF] * 1001):
            with pytest.raises(InvariantBroken):
                await mint.melt(QUOTE, inputs, [], timeout_s=5)
        assert not server.asked


async def test_telemetry_hears_of_every_request_and_errors_hold_no_secret():
    rules = {
        MELT: Say(body=PAID),
        SWAP: Say(status=400, body={"detail": PROOF.secret, "code": 12001}),
        "/v1/restore": Say(status=400, body={"detail": PROOF.secret, "code": 0}),
    }
    async with ScriptedMint(rules) as server, http_mint(server.url) as mint:
        await mint.melt(QUOTE, [PROOF], [], timeout_s=5)
        answer = await mint.swap([PROOF], [OUTPUT], timeout_s=5)
        with pytest.raises(MintRejected) as caught:
            await mint.restore([OUTPUT])
        with pytest.raises(MintUnreachable):
            await mint.keysets()
        assert mint._telemetry.requests == [
            ("melt", "ok"),
            ("swap", "rejected"),
            ("info", "ok"),
            ("restore", "rejected"),
            ("keysets", "error"),
        ]
    assert caught.value.mint_code == 0
    assert PROOF.secret not in f"{answer!r}{caught.value!r}{caught.value.detail}"


@pytest.mark.parametrize(("value", "seconds"), [("7", 7), ("999999", 3600), ("soon", None), ("-1", None), (None, None)])
async def test_a_rate_limit_says_how_long_to_wait(value, seconds):
    say = Say(status=429, body={"detail": "Rate limit exceeded."}, headers={"Retry-After": value} if value else {})
    async with ScriptedMint({"/v1/keysets": say}) as server, http_mint(server.url) as mint:
        with pytest.raises(MintUnreachable) as caught:
            await mint.keysets()
    assert caught.value.retry_after_s == seconds


# --- states ---


def ys(count):
    return [y_of(secrets.token_hex(8)) for _ in range(count)]


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 35])
async def test_a_mint_sees_batches_of_few_sizes_one_at_a_time(count):
    async with ScriptedMint({STATES: echo}) as server, http_mint(server.url, states_batch=10) as mint:
        asked = ys(count)
        found = await asyncio.gather(mint.check_states(asked), mint.check_states(asked))
        assert [[state.y for state in one] for one in found] == [asked, asked]
        sizes = {len(set(one.body["Ys"])) for one in server.asked_of(STATES)}
        assert len(sizes) <= 3
        assert max(sizes, default=0) <= 10
        assert server.in_flight_most <= 1


async def test_a_mint_with_shorter_arrays_gets_shorter_batches():
    rules = {STATES: echo, "/v1/info": Say(body={"name": "n", "version": "v", "nuts": {}, "max_array_length": 4})}
    async with ScriptedMint(rules) as server, http_mint(server.url, states_batch=10) as mint:
        assert len(await mint.check_states(ys(6))) == 6
        assert [len(one.body["Ys"]) for one in server.asked_of(STATES)] == [4, 4]


async def test_permuted_states_are_matched_by_y_and_duplicates_kept():
    spent = ys(1)[0]

    def shuffled(asked):
        states = [{"Y": y, "state": "SPENT" if y == spent else "UNSPENT"} for y in asked.body["Ys"]]
        return Say(body={"states": states[::-1]})

    async with ScriptedMint({STATES: shuffled}) as server, http_mint(server.url, states_batch=8) as mint:
        asked = [*ys(2), spent, *ys(1), spent]
        found = await mint.check_states(asked)
    assert [one.y for one in found] == asked
    assert [one.state is MintState.SPENT for one in found] == [False, False, True, False, True]


@pytest.mark.parametrize(
    "lie",
    [
        pytest.param(lambda states: states[1:], id="one missing"),
        pytest.param(lambda states: states + states[:1], id="one too many"),
        pytest.param(lambda states: states[:-1] + states[:1], id="one twice for another"),
        pytest.param(lambda states: [one | {"Y": one["Y"].upper()} for one in states], id="upper case"),
        pytest.param(lambda states: [states[0] | {"state": None}, *states[1:]], id="no state"),
        pytest.param(lambda states: [states[0] | {"state": ["SPENT"]}, *states[1:]], id="a list of states"),
        pytest.param(lambda states: [states[0] | {"Y": 7}, *states[1:]], id="a number for Y"),
        pytest.param(lambda states: ["SPENT" for _ in states], id="texts"),
        pytest.param(lambda states: None, id="null"),
        pytest.param(lambda states: [one | {"state": "SPENT"} for one in states], id="never-issued Ys spent"),
        pytest.param(lambda states: [states[0] | {"state": "SPENT"}, *states], id="one Y with two states"),
    ],
)
async def test_states_that_contradict_the_question_are_untrusted(lie):
    def answer(asked):
        return Say(body={"states": lie(json.loads(echo(asked).encode().split(b"\r\n\r\n", 1)[1])["states"])})

    async with ScriptedMint({STATES: answer}) as server, http_mint(server.url, states_batch=6) as mint:
        one = ys(1)[0]
        with pytest.raises(MintUntrusted):
            await mint.check_states([one, one, *ys(1)])


def remembering(spent):
    """An answer that calls these SPENT, and everything else UNSPENT."""
    return lambda asked: Say(
        body={"states": [{"Y": y, "state": "SPENT" if y in spent else "UNSPENT"} for y in asked.body["Ys"]]}
    )


@pytest.mark.parametrize("count", [0, 1, 5, 6, 40])
async def test_guarded_batches_each_hold_a_known_and_a_random_y(count):
    known = ys(3)
    async with ScriptedMint({STATES: remembering(known)}) as server, http_mint(server.url, states_batch=10) as mint:
        asked = ys(count)
        assert [one.y for one in await mint.check_states(asked, spent=known)] == asked
        batches = [one.body["Ys"] for one in server.asked_of(STATES)]
    assert batches, "one even where there is nothing to ask about"
    for batch in batches:
        assert len(batch) <= 10
        assert set(batch) & set(known)
        assert set(batch) - set(known) - set(asked)
        assert len(set(batch)) == len(batch), "no mint need answer a repeated one"
    if len(batches) > 2:
        assert {y for batch in batches for y in batch} >= set(known), "they take turns"


@pytest.mark.parametrize("state", ["UNSPENT", "PENDING"])
async def test_a_known_proof_that_is_not_spent_any_more_is_a_regression(state):
    known = ys(2)

    def forgets(asked):
        states = [{"Y": y, "state": state if y == known[1] else "UNSPENT"} for y in asked.body["Ys"]]
        return Say(body={"states": [one | {"state": "SPENT"} if one["Y"] == known[0] else one for one in states]})

    async with ScriptedMint({STATES: forgets}) as server, http_mint(server.url, states_batch=10) as mint:
        with pytest.raises(StateRegressed) as caught:
            await mint.check_states(ys(2), spent=known)
    assert caught.value.ys == (known[1],)
    assert state in caught.value.detail


async def test_a_mint_that_leaves_no_room_for_sentinels_is_untrusted():
    rules = {STATES: echo, "/v1/info": Say(body={"name": "n", "version": "v", "nuts": {}, "max_array_length": 2})}
    async with ScriptedMint(rules) as server, http_mint(server.url, states_batch=10) as mint:
        with pytest.raises(MintUntrusted):
            await mint.check_states(ys(6), spent=())


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(Say(body=b"<html>log in</html>"), id="a page"),
        pytest.param(Say(body=b""), id="nothing"),
        pytest.param(Say(status=307, headers={"Location": "http://login.example"}), id="a redirect"),
        pytest.param(Say(status=511, body=b"<html>"), id="a network login"),
    ],
)
async def test_what_answers_in_the_mints_place_is_told_from_a_mint_that_is_down(answer):
    async with ScriptedMint({STATES: answer}) as server, http_mint(server.url) as mint:
        with pytest.raises(NotTheMint):
            await mint.check_states(ys(1))
    async with ScriptedMint({STATES: Say(status=502, body=b"<html>")}) as server, http_mint(server.url) as mint:
        with pytest.raises(MintUnreachable) as caught:
            await mint.check_states(ys(1))
        assert not isinstance(caught.value, NotTheMint)


# --- keysets and keys ---


async def test_keysets_are_cached_and_refreshed_on_demand():
    entries = [*KEYSETS["keysets"], {"id": "00aaaaaaaaaaaaaa", "unit": "hugs", "active": False, "input_fee_ppk": None}]
    async with ScriptedMint({"/v1/keysets": Say(body={"keysets": entries})}) as server, http_mint(server.url) as mint:
        found = await mint.keysets()
        assert found[KeysetId("00aaaaaaaaaaaaaa")].unit == "hugs"
        assert found[KeysetId("00aaaaaaaaaaaaaa")].input_fee_ppk == 0
        await asyncio.gather(*(mint.keysets() for _ in range(5)))
        assert len(server.asked) == 1
        await mint.keysets(refresh=True)
        assert len(server.asked) == 2


@pytest.mark.parametrize(
    "broken",
    [
        {"id": 1},
        {"id": ""},
        {"unit": None},
        {"active": 1},
        {"input_fee_ppk": -1},
        {"input_fee_ppk": 1.5},
    ],
)
async def test_a_broken_keyset_costs_itself_alone(broken):
    body = {"keysets": [KEYSETS["keysets"][0] | {"id": "00bbbbbbbbbbbbbb"} | broken, KEYSETS["keysets"][0]]}
    async with ScriptedMint({"/v1/keysets": Say(body=body)}) as server, http_mint(server.url) as mint:
        assert list(await mint.keysets()) == [KEYSET]
        assert mint.report().unusable_count == 1


def key_rules(keys, **more):
    entry = {"id": KEYSET, "unit": "sat", "keys": keys} | more
    return {"/v1/keysets": Say(body=KEYSETS), f"/v1/keys/{KEYSET}": Say(body={"keysets": [entry]})}


async def test_keys_are_those_of_the_id_and_asked_for_once():
    async with ScriptedMint(key_rules(KEYS)) as server, http_mint(server.url) as mint:
        assert await mint.keys(KEYSET) == {int(amount): key for amount, key in KEYS.items()}
        await mint.keys(KEYSET)
        assert len(server.asked_of(f"/v1/keys/{KEYSET}")) == 1


@pytest.mark.parametrize(
    "keys", [KEYS | {"8": KEYS["1"]}, {"1": KEYS["1"]}, KEYS | {"16": KEYS["8"]}, KEYS | {"8": "02" + "ff" * 32}]
)
async def test_keys_that_are_not_those_of_the_id_are_untrusted(keys):
    async with ScriptedMint(key_rules(keys)) as server, http_mint(server.url) as mint:
        with pytest.raises(MintUntrusted):
            await mint.keys(KEYSET)


async def test_keys_that_fit_the_id_but_are_no_points_are_untrusted():
    keys = {"1": "02" + "ff" * 32}
    keyset_id = "00" + sha256(bytes.fromhex(keys["1"])).hexdigest()[:14]
    entry = {"id": keyset_id, "unit": "sat", "active": True, "keys": keys}
    say = Say(body={"keysets": [entry]})
    async with (
        ScriptedMint({"/v1/keysets": say, f"/v1/keys/{keyset_id}": say}) as server,
        http_mint(server.url) as mint,
    ):
        with pytest.raises(MintUntrusted):
            await mint.keys(KeysetId(keyset_id))


@pytest.mark.parametrize(
    "keys", [{}, {"01": POINT}, {"x": POINT}, {"-1": POINT}, {"0": POINT}, {"1": 5}, {"²": POINT}, []]
)
async def test_keys_that_are_no_keys_are_unusable(keys):
    async with ScriptedMint(key_rules(keys)) as server, http_mint(server.url) as mint:
        with pytest.raises(MintUnreachable):
            await mint.keys(KEYSET)


@pytest.mark.parametrize("keyset_id", ["00aaaaaaaaaaaaaa", "../../admin", "02" + "ab" * 32, ""])
async def test_keysets_that_the_mint_has_not_are_not_asked_for(keyset_id):
    async with ScriptedMint(key_rules(KEYS)) as server, http_mint(server.url) as mint:
        with pytest.raises(MintRejected):
            await mint.keys(KeysetId(keyset_id))
        assert not [one for one in server.asked if one.path.startswith("/v1/keys/")]


# --- restore ---


@pytest.mark.parametrize(
    ("outputs", "signatures"),
    [
        ([{"B_": POINT}], []),
        (None, None),
        ({}, [SIGNATURE]),
        ([{"B_": POINT}], "x"),
    ],
)
async def test_a_restore_whose_lists_do_not_fit_is_unusable(outputs, signatures):
    say = Say(body={"outputs": outputs, "signatures": signatures})
    async with ScriptedMint({"/v1/restore": say}) as server, http_mint(server.url) as mint:
        with pytest.raises(MintUnreachable):
            await mint.restore([OUTPUT])


@pytest.mark.parametrize(
    ("odd", "signature", "found"),
    [
        ({"B_": KEYS["4"]}, SIGNATURE, [POINT]),
        (POINT, SIGNATURE, [POINT]),
        ({"B_": None}, SIGNATURE, [POINT]),
        ({"B_": KEYS["2"]}, SIGNATURE | {"C_": "02"}, [POINT]),
        ({"B_": KEYS["2"]}, None, [POINT]),
        ({"B_": POINT}, SIGNATURE | {"amount": 4}, []),
        ({"B_": POINT}, SIGNATURE, [POINT]),
    ],
)
async def test_an_entry_of_a_restore_that_cant_be_used_costs_itself_alone(odd, signature, found):
    say = Say(body={"outputs": [odd, {"B_": POINT}], "signatures": [signature, SIGNATURE]})
    other = BlindedMessage(keyset_id=KEYSET, amount=8, b_=KEYS["2"])
    async with ScriptedMint({"/v1/restore": say}) as server, http_mint(server.url) as mint:
        assert [one.b_ for one in await mint.restore([OUTPUT, other])] == found


# --- no odd exception, whatever comes ---

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "quote",
                    "state",
                    "paid",
                    "amount",
                    "change",
                    "signatures",
                    "keysets",
                    "id",
                    "keys",
                    "nuts",
                    "states",
                    "Y",
                    "outputs",
                    "B_",
                    "C_",
                    "dleq",
                    "1",
                ]
            )
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(JSON.map(json.dumps).map(str.encode) | st.binary(max_size=64))
def test_reading_any_body_ends_in_a_value_or_a_bad_answer(body):
    for read in (
        announced.keysets,
        wire.states,
        wire.signatures,
        wire.melt_quote,
        lambda text: announced.info(text, arrays_max=1000),
        lambda text: announced.keys(text, KEYSET),
        lambda text: wire.restored(text, frozenset({POINT})),
        lambda text: wire.melt_quote(text, quote_id=QUOTE, posted=True),
    ):
        with contextlib.suppress(wire.BadAnswer):
            read(body)
    wire.error_code(body)
    wire.is_validation_error(body)
