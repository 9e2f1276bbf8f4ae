"""A person's hand on a HELD melt over the socket: what is shown, what is asked of the engine, what is refused."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from melt.errors import Code, MeltdError
from tests.support.running_api import RunningApi, running_api
from tests.support.scripted import PREIMAGE, Y_HEX

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def api() -> AsyncIterator[RunningApi]:
    async with running_api() as running:
        yield running


async def test_the_evidence_holds_journal_mint_events_and_what_may_be_decided(api: RunningApi) -> None:
    answer = await api.http.get("/v1/melts/m-9/evidence")
    assert answer.status_code == 200
    body: dict[str, Any] = answer.json()
    assert body["melt"]["id"] == "m-9"
    assert body["journal"]["contradiction"] == "QUOTE_PAID_INPUTS_UNSPENT"
    assert body["at_mint"]["quote"]["state"] == "PAID"
    assert body["at_mint"]["inputs_by_state"] == {"UNSPENT": 1}
    assert body["at_mint"]["inputs"][0] == {"y": Y_HEX, "amount": 16, "token_id": "aa" * 12, "state": "UNSPENT"}
    assert body["allowed"] == {"settled": False, "released": True, "observe": True}
    assert body["forbidden"] == {"settled": "still honoured"}
    assert body["events"]
    assert PREIMAGE not in json.dumps(body), "an unpaid invoice's preimage is a secret"
    document = (await api.http.get("/v1/openapi.json")).json()
    shape = {"$ref": "#/components/schemas/EvidenceAnswer", "components": document["components"]}
    jsonschema.validate(body, shape)


@pytest.mark.parametrize(("action", "status"), [("settled", 200), ("released", 202), ("observe", 202)])
async def test_a_decision_reaches_the_engine_with_reason_and_peer(api: RunningApi, action: str, status: int) -> None:
    answer = await api.http.post("/v1/melts/m-9/resolve", json={"action": action, "reason": "the payee said so"})
    assert answer.status_code == status
    ((name, asked),) = api.operations.calls
    assert name == "resolve_melt"
    assert (asked["melt_id"], asked["outcome"], asked["reason"]) == ("m-9", action, "the payee said so")
    assert (asked["actor"].uid, asked["actor"].gid) == (os.getuid(), os.getgid())


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"action": "settled"},
        {"reason": "because"},
        {"action": "settled", "reason": ""},
        {"action": "SETTLED", "reason": "because"},
        {"action": "forget", "reason": "because"},
        {"action": 1, "reason": "because"},
        {"action": "settled", "reason": "x" * 501},
        {"action": "settled", "reason": "because", "force": True},
    ],
)
async def test_a_decision_without_a_known_action_and_a_reason_is_refused(
    api: RunningApi, body: dict[str, object]
) -> None:
    answer = await api.http.post("/v1/melts/m-9/resolve", json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_REQUEST")
    assert not api.operations.calls


async def test_what_may_not_be_decided_now_is_a_conflict_with_the_reason(api: RunningApi) -> None:
    api.operations.failure = MeltdError(Code.WRONG_STATE, "the melt is SETTLED", melt_id="m-9", quote_id="q")
    answer = await api.http.post("/v1/melts/m-9/resolve", json={"action": "released", "reason": "because"})
    assert answer.status_code == 409
    assert (answer.json()["code"], answer.json()["melt_id"]) == ("WRONG_STATE", "m-9")


async def test_an_unknown_melt_is_not_found(api: RunningApi) -> None:
    api.operations.known = False
    for answer in (
        await api.http.get("/v1/melts/nobody/evidence"),
        await api.http.post("/v1/melts/nobody/resolve", json={"action": "observe", "reason": "because"}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND")


async def test_a_daemon_that_stops_takes_no_decision(api: RunningApi) -> None:
    api.flags["draining"] = True
    answer = await api.http.post("/v1/melts/m-9/resolve", json={"action": "observe", "reason": "because"})
    assert (answer.status_code, answer.json()["code"]) == (503, "SHUTTING_DOWN")
    assert (await api.http.get("/v1/melts/m-9/evidence")).status_code == 200
