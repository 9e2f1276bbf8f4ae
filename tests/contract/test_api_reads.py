"""The other routes of the API, its OpenAPI document, and everything that is not a route."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from daemon.api.openapi import _ROUTES
from daemon.api.problems import STATUS_OF
from daemon.ports import SettlingStatus
from melt.errors import Code, MeltdError, StoreUnavailable
from melt.model import DiscrepancyState, DriftType, MeltState, TokenStatus
from melt.ports.cases import OpenFigures
from tests.support.running_api import RunningApi, running_api
from tests.support.scripted import NPUB, Y_HEX, make_status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def api() -> AsyncIterator[RunningApi]:
    async with running_api() as running:
        yield running


async def test_melts_are_filtered_by_owner_state_and_limit(api: RunningApi) -> None:
    answer = await api.http.get("/v1/melts", params={"npub": NPUB, "state": ["PENDING", "HELD"], "limit": 2})
    assert answer.status_code == 200
    assert [melt["id"] for melt in answer.json()["melts"]] == ["m-1", "m-2"]
    assert api.operations.calls == [
        ("melts", {"npub": NPUB, "states": (MeltState.PENDING, MeltState.HELD), "limit": 2})
    ]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=x", "state=NOPE", "npub=bob", "colour=red", "limit=1&limt=2"]
)
async def test_a_filter_that_makes_no_sense_is_refused(api: RunningApi, query: str) -> None:
    answer = await api.http.get(f"/v1/melts?{query}")
    assert answer.status_code == 400
    assert answer.json()["code"] == "INVALID_REQUEST"
    assert query.rsplit("&", maxsplit=1)[-1].split("=", maxsplit=1)[0] in answer.json()["detail"]
    assert api.operations.calls == []


async def test_one_melt_is_found_or_404(api: RunningApi) -> None:
    assert (await api.http.get("/v1/melts/m-9")).json()["id"] == "m-9"
    api.operations.known = False
    answer = await api.http.get("/v1/melts/m-9")
    assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND")


async def test_a_wallet_shows_balances_per_mint_and_unit_and_joins_spellings_of_a_url(api: RunningApi) -> None:
    (wallet,) = (await api.http.get(f"/v1/wallets/{NPUB}")).json()["wallets"]
    assert (wallet["mint"], wallet["unit"], wallet["spendable"]) == ("main", "sat", 54)
    assert wallet["balances"]["unspent"] == {"amount": 64, "locked": 10, "proofs": 4, "documents": 2}
    assert wallet["balances"]["spent"]["amount"] == 16


async def test_an_unknown_wallet_is_404_and_a_bad_npub_400(api: RunningApi) -> None:
    api.operations.known = False
    answer = await api.http.get(f"/v1/wallets/{NPUB}")
    assert (answer.status_code, answer.json()["code"]) == (404, "WALLET_UNKNOWN")
    answer = await api.http.get("/v1/wallets/nobody")
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_REQUEST")


async def test_a_reconciliation_passes_its_scope_on(api: RunningApi) -> None:
    body = {"mint": "main", "npub": NPUB, "statuses": ["unspent", "pending"], "dry_run": True}
    answer = await api.http.post("/v1/reconcile", json=body)
    assert answer.status_code == 200
    report = answer.json()
    assert (report["dry_run"], report["planned"], report["corrected"]) == (True, 1, 0)
    (found,) = report["found"]
    assert (found["type"], found["severity"], found["action"]) == ("DB_UNSPENT_MINT_SPENT", "HIGH", "mark_spent")
    assert (found["id"], found["ys"]) == (None, [Y_HEX])
    (_, arguments), *_ = api.operations.calls
    scope = arguments["scope"]
    assert (scope.mint, scope.npub) == ("main", NPUB)
    assert scope.statuses == (TokenStatus.UNSPENT, TokenStatus.PENDING)
    assert arguments["actor"].name == "socket"


async def test_a_reconciliation_without_a_body_means_everything(api: RunningApi) -> None:
    report = (await api.http.post("/v1/reconcile")).json()
    assert (report["dry_run"], report["corrected"]) == (False, 1)
    assert report["found"][0]["state"] == "corrected"


@pytest.mark.parametrize("body", [{"statuses": ["melted"]}, {"dry_run": "yes"}, {"mint": "../x"}, {"repair": True}])
async def test_a_scope_that_makes_no_sense_is_refused(api: RunningApi, body: dict[str, Any]) -> None:
    answer = await api.http.post("/v1/reconcile", json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_REQUEST")
    assert next(iter(body)) in answer.json()["detail"]


async def test_while_draining_no_reconciliation_begins(api: RunningApi) -> None:
    api.flags["draining"] = True
    assert (await api.http.post("/v1/reconcile")).json()["code"] == "SHUTTING_DOWN"


async def test_discrepancies_are_filtered_and_their_evidence_is_flat(api: RunningApi) -> None:
    query = {"state": "corrected", "type": "DB_UNSPENT_MINT_SPENT", "severity": "HIGH", "limit": 3}
    (found,) = (await api.http.get("/v1/discrepancies", params=query)).json()["discrepancies"]
    assert found["evidence"] == {"held": "unspent", "nested": "<dict>", "count": 2}
    assert found["first_seen"] == "2026-01-02T03:04:05Z"
    (_, filters), *_ = api.operations.calls
    assert filters["states"] == (DiscrepancyState.CORRECTED,)
    assert filters["types"] == (DriftType.DB_UNSPENT_MINT_SPENT,)
    assert filters["limit"] == 3


async def test_the_story_of_a_proof_holds_no_proof(api: RunningApi) -> None:
    answer = await api.http.get(f"/v1/proofs/{Y_HEX.upper()}")
    story = answer.json()
    assert story["y"] == Y_HEX
    assert [token["status"] for token in story["tokens"]] == ["spent"]
    assert story["audit"][0]["actor"]["name"] == "sweep"
    assert "secret" not in answer.text
    api.operations.known = False
    assert (await api.http.get(f"/v1/proofs/{Y_HEX}")).status_code == 404


@pytest.mark.parametrize("y", ["02ab", "04" + "ab" * 32, "02" + "zz" * 32, "02" + "ab" * 33])
async def test_what_is_no_y_is_refused(api: RunningApi, y: str) -> None:
    answer = await api.http.get(f"/v1/proofs/{y}")
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_REQUEST")


async def test_events_are_listed_raised_and_resolved(api: RunningApi) -> None:
    assert (await api.http.get("/v1/events")).json()["events"][0]["type"] == "DRILL"
    await api.http.get("/v1/events", params={"open": "false", "limit": 5})
    assert api.operations.calls[-1] == ("events", {"open_only": False, "limit": 5})
    answer = await api.http.post("/v1/events/drill", json={"detail": "monthly"})
    assert answer.status_code == 201
    assert api.operations.calls[-1][1]["detail"] == "monthly"
    answer = await api.http.post("/v1/events/e-1/resolve", json={"reason": "seen"})
    assert answer.json()["resolved_at"] == "2026-01-02T03:04:05Z"
    answer = await api.http.post("/v1/events/e-1/resolve", json={})
    assert "reason" in answer.json()["detail"]
    api.operations.known = False
    answer = await api.http.post("/v1/events/e-1/resolve", json={"reason": "seen"})
    assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND")


async def test_a_pause_needs_a_reason_and_shows_in_the_status(api: RunningApi) -> None:
    assert (await api.http.post("/v1/pause", json={"mint": "main"})).status_code == 400
    body = (await api.http.post("/v1/pause", json={"mint": "main", "reason": "moving"})).json()
    assert (body["paused"], body["paused_reason"]) == (True, "moving")
    assert (await api.http.post("/v1/resume")).json()["paused"] is False


async def test_the_status_is_the_daemon_on_one_page(api: RunningApi) -> None:
    body = (await api.http.get("/v1/status")).json()
    assert [mint["up"] for mint in body["mints"]] == [True, False]
    assert body["mints"][0]["sweep"]["corrected"] == {"DB_UNSPENT_MINT_SPENT": 1}
    assert body["loops"][0]["name"] == "sweep"
    assert body["settling"] == {"settling": 0, "waiting": 0, "due": 0, "unsettled": 0, "amounts": {}}


async def test_the_status_counts_what_settles_and_keeps_units_apart(api: RunningApi) -> None:
    figures = OpenFigures(
        phases={
            ("DB_UNSPENT_MINT_SPENT", "HIGH", "main", "settling"): 2,
            ("DB_PENDING_MINT_SPENT", "MEDIUM", "far", "settling"): 1,
            ("DB_UNSPENT_MINT_SPENT", "HIGH", "far", "waiting"): 4,
            ("DUPLICATE_PROOF", "HIGH", "main", "due"): 5,
        },
        settling_value={
            ("main", "sat"): 40,
            ("far", "sat"): 2,
            ("far", "usd"): 7,
            ("main", "usd"): 0,
            ("main", "eur"): 0,
        },
        unsettled={"main": 1, "far": 0},
    )
    api.operations.state = make_status(settling=SettlingStatus.of(figures))
    told = (await api.http.get("/v1/status")).json()["settling"]
    assert told == {"settling": 3, "waiting": 4, "due": 5, "unsettled": 1, "amounts": {"sat": 42, "usd": 7}}


async def test_a_store_that_is_down_is_503_on_every_route_that_needs_it(api: RunningApi) -> None:
    api.operations.failure = StoreUnavailable("no primary")
    for path in ("/v1/melts", "/v1/melts/m", f"/v1/wallets/{NPUB}", "/v1/discrepancies", "/v1/events"):
        answer = await api.http.get(path)
        assert (answer.status_code, answer.json()["code"]) == (503, "STORE_UNAVAILABLE")
        assert answer.headers["retry-after"]


async def test_an_error_of_the_operations_keeps_its_code(api: RunningApi) -> None:
    api.operations.failure = MeltdError(Code.MINT_UNKNOWN, "no mint named x is configured")
    answer = await api.http.post("/v1/resume", json={"mint": "x"})
    assert (answer.status_code, answer.json()["code"]) == (404, "MINT_UNKNOWN")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1", 404),
        ("GET", "/v1/melts/", 404),
        ("GET", "/metrics", 404),
        ("GET", "/docs", 404),
        ("GET", "/v1/../v1/status/../../etc/passwd", 404),
        ("DELETE", "/v1/melts", 405),
        ("PUT", "/v1/status", 405),
        ("OPTIONS", "/v1/melts", 405),
        ("BREW", "/v1/melts", 405),
    ],
)
async def test_what_is_no_route_is_a_problem_document_too(api: RunningApi, method: str, path: str, status: int) -> None:
    answer = await api.http.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    if status == 405:
        assert "allow" in answer.headers


async def test_the_openapi_document_describes_every_answer(api: RunningApi) -> None:
    document = (await api.http.get("/v1/openapi.json")).json()
    schemas = {"components": document["components"]}

    def shape(name: str) -> dict[str, Any]:
        return {"$ref": f"#/components/schemas/{name}", **schemas}

    asked = {
        "/v1/melts": "MeltsAnswer",
        "/v1/melts/m-1": "MeltAnswer",
        f"/v1/wallets/{NPUB}": "WalletsAnswer",
        "/v1/discrepancies": "DiscrepanciesAnswer",
        f"/v1/proofs/{Y_HEX}": "ProofAnswer",
        "/v1/events": "EventsAnswer",
        "/v1/status": "StatusAnswer",
        "/v1/summaries": "SummariesAnswer",
        f"/v1/summaries?npub={NPUB}&day=2026-03-01": "SummariesAnswer",
        "/nowhere": "Problem",
    }
    for path, name in asked.items():
        jsonschema.validate((await api.http.get(path)).json(), shape(name))


async def test_the_openapi_document_knows_every_route_its_body_and_its_problems(api: RunningApi) -> None:
    document = (await api.http.get("/v1/openapi.json")).json()
    operations = {(path, method) for path, methods in document["paths"].items() for method in methods}
    assert operations == set(_ROUTES)
    for path, method in operations:
        responses = document["paths"][path][method]["responses"]
        problem = responses["500"]["content"]["application/problem+json"]["schema"]
        assert problem == {"$ref": "#/components/schemas/Problem"}
        assert "422" not in responses or (path, method) == ("/v1/melts", "post")
        assert (method == "post") == ("requestBody" in document["paths"][path][method])
    pay = document["paths"]["/v1/melts"]["post"]
    assert {"Idempotency-Key", "Prefer", "wait"} == {parameter["name"] for parameter in pay["parameters"]}
    named = {text for path, method in operations for text in _references(document["paths"][path][method])}
    assert named <= set(document["components"]["schemas"])


def _references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"].rsplit("/", 1)[1]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*(_references(item) for item in value.values()))
    return set().union(*(_references(item) for item in value)) if isinstance(value, list) else set()


def test_the_documentation_has_every_route_and_every_code_with_its_status() -> None:
    page = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    for code, status in STATUS_OF.items():
        assert any(line.startswith(f"| {status} |") and f"`{code}`" in line for line in page.splitlines()), code
    for path, _ in _ROUTES:
        assert path.removeprefix("/v1") in page, path
