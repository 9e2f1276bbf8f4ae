"""Plans, single discrepancies and stories over the socket: what reaches the engine, what is refused, what is answered."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from melt.errors import Code, PlanStale, Refusal
from tests.support.running_api import RunningApi, running_api
from tests.support.scripted import NPUB, Y_HEX

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CASE = "MINT_UNCONFIGURED:mint_url:http://127.0.0.1:1/a b?c=d"
CASE_PATH = "/v1/discrepancies/MINT_UNCONFIGURED%3Amint_url%3Ahttp%3A%2F%2F127.0.0.1%3A1%2Fa%20b%3Fc%3Dd"


@pytest.fixture
async def api() -> AsyncIterator[RunningApi]:
    async with running_api() as running:
        yield running


async def test_every_answer_is_as_the_openapi_document_says(api: RunningApi) -> None:
    document = (await api.http.get("/v1/openapi.json")).json()
    why = {"reason": "seen"}
    asked: list[tuple[str, str, dict[str, Any] | None, int, str]] = [
        ("POST", "/v1/plans", {}, 201, "PlanMadeAnswer"),
        ("GET", "/v1/plans", None, 200, "PlansAnswer"),
        ("GET", "/v1/plans/plan_1", None, 200, "PlanWithItemsAnswer"),
        ("POST", "/v1/plans/plan_1/approve", why, 200, "PlanAnswer"),
        ("POST", "/v1/plans/plan_1/apply", {}, 200, "PlanAnswer"),
        ("POST", "/v1/plans/plan_1/withdraw", why, 200, "PlanAnswer"),
        ("GET", CASE_PATH, None, 200, "DiscrepancyAnswer"),
        ("POST", f"{CASE_PATH}/acknowledge", why, 200, "DiscrepancyAnswer"),
        ("POST", f"{CASE_PATH}/reopen", why, 200, "DiscrepancyAnswer"),
        ("GET", f"/v1/explain/{Y_HEX}", None, 200, "StoryAnswer"),
    ]
    for method, path, body, status, name in asked:
        answer = await api.http.request(method, path, json=body)
        assert answer.status_code == status, answer.text
        shape = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        jsonschema.validate(answer.json(), shape)
    api.operations.known = False
    for method, path, body, _, _ in asked[2:]:
        answer = await api.http.request(method, path, json=body)
        assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND"), path
    nothing = await api.http.post("/v1/plans", json={})
    assert (nothing.status_code, nothing.json()["plan"]) == (200, None)


async def test_a_persons_word_reaches_the_engine_with_reason_and_peer(api: RunningApi) -> None:
    for path in ("/v1/plans/p/approve", "/v1/plans/p/withdraw", f"{CASE_PATH}/acknowledge", f"{CASE_PATH}/reopen"):
        await api.http.post(path, json={"reason": "looked at it"})
    await api.http.post("/v1/plans/p/apply")
    await api.http.post("/v1/plans", json={"mint": "main", "npub": NPUB, "statuses": ["spent"]})
    calls = dict(api.operations.calls)
    for name in ("approve", "withdraw", "acknowledge", "reopen", "apply", "make"):
        assert (calls[name]["actor"].uid, calls[name]["actor"].gid) == (os.getuid(), os.getgid())
        assert calls[name].get("reason", "looked at it") == "looked at it"
    assert calls["acknowledge"]["discrepancy_id"] == CASE
    assert (calls["make"]["scope"].mint, calls["make"]["scope"].statuses) == ("main", ("spent",))


@pytest.mark.parametrize("verb", ["plans/p/approve", "plans/p/withdraw", "discrepancies/d/acknowledge"])
@pytest.mark.parametrize("body", [{}, {"reason": ""}, {"reason": "x" * 501}, {"reason": "x", "force": True}])
async def test_nobody_decides_without_a_reason(api: RunningApi, verb: str, body: dict[str, object]) -> None:
    answer = await api.http.post(f"/v1/{verb}", json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_REQUEST")
    assert api.operations.calls == []


@pytest.mark.parametrize(
    ("error", "status"),
    [(PlanStale("token t has been changed"), 409), (Refusal(Code.FORBIDDEN, "four eyes"), 403)],
)
async def test_a_refusal_says_which_and_why(api: RunningApi, error: Exception, status: int) -> None:
    api.operations.failure = error
    answer = await api.http.post("/v1/plans/p/apply")
    assert answer.status_code == status
    assert answer.json()["code"] in {"PLAN_STALE", "FORBIDDEN"}
    assert answer.json()["detail"] in str(error)


async def test_a_daemon_that_stops_makes_and_applies_none(api: RunningApi) -> None:
    api.flags["draining"] = True
    for path in ("/v1/plans", "/v1/plans/p/apply"):
        answer = await api.http.post(path, json={})
        assert (answer.status_code, answer.json()["code"]) == (503, "SHUTTING_DOWN")
    assert api.operations.calls == []
    assert (await api.http.get("/v1/plans/p")).status_code == 200


async def test_discrepancies_show_their_age(api: RunningApi) -> None:
    (record,) = (await api.http.get("/v1/discrepancies")).json()["discrepancies"]
    assert record["age_s"] == 0, "it was closed when it was opened"
    (found,) = (await api.http.post("/v1/reconcile", json={"dry_run": True})).json()["found"]
    assert found["age_s"] is None
