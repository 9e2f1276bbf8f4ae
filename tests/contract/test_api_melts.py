"""``POST /v1/melts`` over a real Unix socket: what is asked of the engine, and what its answers become."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from daemon.api.problems import STATUS_OF, TITLE_OF
from melt.errors import Code, MeltdError, MintUnreachable, Refusal
from melt.model import MeltState
from tests.support.running_api import RunningApi, eventually, running_api
from tests.support.scripted import NPUB, PREIMAGE, make_melt

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BODY = {"npub": NPUB, "mint": "main", "invoice": "lnbc100n1x"}
KEY = {"Idempotency-Key": "k1"}


@pytest.fixture
async def api() -> AsyncIterator[RunningApi]:
    async with running_api() as running:
        yield running


def check_problem(answer: Any, status: int, code: str) -> dict[str, Any]:
    """The answer is a problem document with this status and code."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert (body["status"], body["code"]) == (status, code)
    assert body["type"] == f"urn:meltd:problem:{code.lower()}"
    assert {"title", "detail", "severity", "requires_manual_intervention", "quote_id", "transaction_id"} <= set(body)
    return body


async def test_a_settled_melt_answers_200_with_every_field_of_the_design(api: RunningApi) -> None:
    answer = await api.http.post("/v1/melts", json=BODY, headers=KEY)
    assert answer.status_code == 200
    assert answer.headers["location"] == "/v1/melts/m-1"
    body = answer.json()
    assert body["state"] == "SETTLED"
    assert body["payment_result"] == "PAID"
    assert (body["paid_amount"], body["fees_paid"], body["change_amount"]) == (10, 1, 4)
    assert (body["transaction_id"], body["quote_id"], body["operation_duration_ms"]) == ("tx-1", "q-1", 1234)
    assert body["payment_preimage"] == PREIMAGE
    assert body["atomic_result"] == {
        "source_tokens_spent": 1,
        "keep_token_id": "bb" * 12,
        "keep_amount": 48,
        "melt_change_token_id": "cc" * 12,
        "melt_change_amount": 4,
        "operations": 3,
    }


async def test_the_engine_is_asked_with_the_peer_of_the_socket_as_actor(api: RunningApi) -> None:
    await api.http.post("/v1/melts", json=BODY | {"max_fee": 7, "unit": "msat"}, headers=KEY, params={"wait": 2.5})
    (request, wait_s), *_ = api.service.asked
    assert wait_s == 2.5
    assert (request.npub, request.mint, request.invoice) == (NPUB, "main", "lnbc100n1x")
    assert (request.unit, request.max_fee, request.idempotency_key) == ("msat", 7, "k1")
    actor = request.actor
    assert (actor.name, actor.uid, actor.gid, actor.pid) == ("socket", os.getuid(), os.getgid(), os.getpid())


async def test_an_open_melt_answers_202_without_a_preimage(api: RunningApi) -> None:
    for state in (MeltState.RESERVED, MeltState.MELTING, MeltState.PENDING, MeltState.FENCING):
        api.service.answer = make_melt(state)
        answer = await api.http.post("/v1/melts", json=BODY, headers=KEY)
        assert answer.status_code == 202
        assert answer.headers["retry-after"] == "2"
        body = answer.json()
        assert (body["state"], body["payment_result"]) == (state, "PENDING")
        assert body["payment_preimage"] is None
        assert body["paid_amount"] is None
        assert body["atomic_result"] is None
        assert PREIMAGE not in answer.text


async def test_a_held_melt_is_unknown_and_not_failed(api: RunningApi) -> None:
    api.service.answer = make_melt(MeltState.HELD, error_code="OUTCOME_UNKNOWN", error_detail="contradiction")
    answer = await api.http.post("/v1/melts", json=BODY, headers=KEY)
    assert answer.status_code == 202
    body = answer.json()
    assert body["payment_result"] == "UNKNOWN"
    assert body["error"] == {"code": "OUTCOME_UNKNOWN", "severity": "HIGH", "detail": "contradiction"}


async def test_a_released_melt_is_a_problem_that_says_nothing_was_paid(api: RunningApi) -> None:
    api.service.answer = make_melt(MeltState.RELEASED, error_code="MINT_REJECTED", error_detail="no route")
    body = check_problem(await api.http.post("/v1/melts", json=BODY, headers=KEY), 402, "PAYMENT_FAILED")
    assert (body["melt_id"], body["transaction_id"], body["quote_id"]) == ("m-1", "tx-1", "q-1")
    assert "MINT_REJECTED" in body["detail"]
    assert "nothing was paid" in body["hint"]
    assert PREIMAGE not in json.dumps(body)


@pytest.mark.parametrize("code", list(Code))
async def test_each_error_of_the_engine_becomes_its_problem_document(api: RunningApi, code: Code) -> None:
    api.service.answer = MeltdError(
        code,
        "one sentence",
        quote_id="q",
        transaction_id="t",
        melt_id="m",
        hint="do this",
        requires_manual_intervention=True,
    )
    body = check_problem(await api.http.post("/v1/melts", json=BODY, headers=KEY), STATUS_OF[code], code)
    assert body["title"] == TITLE_OF[code]
    assert (body["quote_id"], body["transaction_id"], body["melt_id"]) == ("q", "t", "m")
    assert (body["detail"], body["hint"]) == ("one sentence", "do this")
    assert body["requires_manual_intervention"] is True
    assert body["instance"] == "/v1/melts"


async def test_an_unreachable_mint_says_when_to_try_again(api: RunningApi) -> None:
    api.service.answer = MintUnreachable("no answer", retry_after_s=17.0)
    answer = await api.http.post("/v1/melts", json=BODY, headers=KEY)
    check_problem(answer, 503, "MINT_UNREACHABLE")
    assert answer.headers["retry-after"] == "17"


async def test_a_crash_of_the_engine_is_a_problem_without_its_text(api: RunningApi) -> None:
    api.service.answer = RuntimeError("secret=deadbeefdeadbeef")
    answer = await api.http.post("/v1/melts", json=BODY, headers=KEY)
    check_problem(answer, 500, "INTERNAL")
    assert "deadbeef" not in answer.text
    assert (await api.http.get("/v1/status")).status_code == 200


async def test_while_draining_no_melt_begins(api: RunningApi) -> None:
    api.flags["draining"] = True
    answer = await api.http.post("/v1/melts", json=BODY, headers=KEY)
    check_problem(answer, 503, "SHUTTING_DOWN")
    assert answer.headers["retry-after"]
    assert api.service.asked == []
    assert (await api.http.get("/v1/melts")).status_code == 200


@pytest.mark.parametrize(
    "kind", ["application/x-www-form-urlencoded", "text/plain", "", "application/json; charset=utf-16"]
)
async def test_the_body_is_json_whatever_its_content_type_says(api: RunningApi, kind: str) -> None:
    answer = await api.http.post("/v1/melts", content=json.dumps(BODY), headers=KEY | {"Content-Type": kind})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "npub"),
        (b"{", "not JSON"),
        (b"npub=x&mint=y", "not JSON"),
        (b"[]", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
        (b"\xff\xfe", "UTF-8"),
        (b'{"npub":"a","npub":"b"}', "twice"),
        (b'{"max_fee":NaN}', "NaN"),
        (b'{"max_fee":-Infinity}', "NaN or Infinity"),
        (b'{"max_fee":' + b"9" * 5000 + b"}", "too long"),
        (b"[" * 60_000, "nested too deeply"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "nested too deeply"),
    ],
)
async def test_what_is_no_json_object_is_refused(api: RunningApi, content: bytes, says: str) -> None:
    body = check_problem(await api.http.post("/v1/melts", content=content, headers=KEY), 400, "INVALID_REQUEST")
    assert says in body["detail"]
    assert api.service.asked == []


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"npub": None}, "npub"),
        ({"npub": "npub1short"}, "npub"),
        ({"npub": NPUB.upper()}, "npub"),
        ({"npub": NPUB + "\n"}, "npub"),
        ({"npub": 7}, "npub"),
        ({"mint": ""}, "mint"),
        ({"mint": "m" * 513}, "mint"),
        ({"invoice": ""}, "invoice"),
        ({"invoice": ["lnbc"]}, "invoice"),
        ({"invoice": "\ud800"}, "invoice"),
        ({"max_fee": "7"}, "max_fee"),
        ({"max_fee": 7.0}, "max_fee"),
        ({"max_fee": True}, "max_fee"),
        ({"max_fee": -1}, "max_fee"),
        ({"max_fee": 2**63}, "max_fee"),
        ({"unit": "SAT!"}, "unit"),
        ({"amount": 5}, "amount: no such field"),
        ({"wait": 5}, "wait: no such field"),
    ],
)
async def test_a_wrong_field_is_named(api: RunningApi, changes: dict[str, Any], names: str) -> None:
    content = json.dumps(BODY | changes)
    body = check_problem(await api.http.post("/v1/melts", content=content, headers=KEY), 400, "INVALID_REQUEST")
    assert names in body["detail"]
    assert api.service.asked == []


@pytest.mark.parametrize("key", [None, "", "k" * 129, "k\u00e9y", "tab\tkey"])
async def test_without_a_usable_idempotency_key_nothing_is_paid(api: RunningApi, key: str | None) -> None:
    headers = {} if key is None else {"Idempotency-Key": key.encode("latin-1")}
    body = check_problem(await api.http.post("/v1/melts", json=BODY, headers=headers), 400, "INVALID_REQUEST")
    assert "Idempotency-Key" in body["detail"]
    assert api.service.asked == []


async def test_two_idempotency_keys_are_refused(api: RunningApi) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    check_problem(await api.http.post("/v1/melts", json=BODY, headers=headers), 400, "INVALID_REQUEST")


async def test_how_long_to_wait(api: RunningApi) -> None:
    async def waited(**asked: Any) -> float:
        answer = await api.http.post("/v1/melts", json=BODY, headers=KEY | asked.pop("headers", {}), **asked)
        assert answer.status_code == 200
        return api.service.asked[-1][1]

    assert await waited() == 30
    assert await waited(params={"wait": "0"}) == 0
    assert await waited(headers={"Prefer": "respond-async, wait=7"}) == 7
    assert await waited(headers={"Prefer": "wait=999999"}) == 120
    assert await waited(params={"wait": "3"}, headers={"Prefer": "wait=7"}) == 3


@pytest.mark.parametrize("wait", ["-1", "121", "nan", "inf", "x", ""])
async def test_a_wait_that_makes_no_sense_is_refused(api: RunningApi, wait: str) -> None:
    answer = await api.http.post("/v1/melts", json=BODY, headers=KEY, params={"wait": wait})
    assert "wait" in check_problem(answer, 400, "INVALID_REQUEST")["detail"]


async def test_a_body_over_the_limit_is_refused_with_413(api: RunningApi) -> None:
    answer = await api.http.post("/v1/melts", json=BODY | {"invoice": "l" * 70_000}, headers=KEY)
    check_problem(answer, 413, "INVALID_REQUEST")


async def test_an_endless_body_is_cut_off(api: RunningApi) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 64 * 1024 * 1024:
            sent += 65_536
            yield b" " * 65_536

    try:
        answer = await api.http.post("/v1/melts", content=endless(), headers=KEY)
    except httpx.TransportError:
        pass  # the connection may be closed before the client looks for an answer
    else:
        check_problem(answer, 413, "INVALID_REQUEST")
    assert sent < 16 * 1024 * 1024
    assert api.service.asked == []


async def test_a_caller_that_goes_away_does_not_disturb_the_melt(api: RunningApi) -> None:
    api.service.hold = asyncio.Event()
    _, writer = await asyncio.open_unix_connection(str(api.path))
    body = json.dumps(BODY).encode()
    head = f"POST /v1/melts HTTP/1.1\r\nHost: x\r\nIdempotency-Key: k1\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    await eventually(lambda: bool(api.service.asked))
    writer.close()
    await writer.wait_closed()
    assert (await api.http.get("/v1/status")).status_code == 200
    api.service.hold.set()
    assert (await api.http.post("/v1/melts", json=BODY, headers=KEY)).status_code == 200


async def test_curl_as_in_the_readme_pays(api: RunningApi) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is missing")
    process = await asyncio.create_subprocess_exec(
        curl, "-s", "--unix-socket", str(api.path), "http://localhost/v1/melts", "-H", "Idempotency-Key: k1", "-d", json.dumps(BODY),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert json.loads(output)["state"] == "SETTLED"
    assert api.service.asked[0][0].actor.pid == process.pid


async def test_a_refusal_keeps_the_earlier_melts_id(api: RunningApi) -> None:
    api.service.answer = Refusal(Code.DUPLICATE_OPERATION, "this invoice was asked for before", melt_id="m-0")
    body = check_problem(await api.http.post("/v1/melts", json=BODY, headers=KEY), 409, "DUPLICATE_OPERATION")
    assert body["melt_id"] == "m-0"


def test_every_code_has_a_status_and_a_title() -> None:
    assert set(STATUS_OF) == set(TITLE_OF) == set(Code)


async def test_no_answer_ever_holds_a_proof_or_the_invoice(api: RunningApi) -> None:
    api.service.answer = replace(make_melt(), invoice="lnbc-the-invoice")
    text = (await api.http.post("/v1/melts", json=BODY, headers=KEY)).text
    assert "lnbc-the-invoice" not in text
    assert "secret" not in text
