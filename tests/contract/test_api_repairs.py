"""The socket's repairs and adoption: what is asked, what is answered, what is refused."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from melt.errors import Code, Refusal
from melt.model.repair import RepairType
from tests.support.running_api import RunningApi, running_api
from tests.support.scripted_repairs import KEEPING, LOSING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def api() -> AsyncIterator[RunningApi]:
    async with running_api() as running:
        yield running


async def test_a_repair_is_a_dry_run_unless_it_is_asked_for_and_then_has_a_reason(api: RunningApi) -> None:
    answer = (await api.http.post("/v1/repairs", json={"type": "all", "mint": "main"})).json()
    assert (answer["dry_run"], answer["planned"], answer["applied"], answer["needs_person"]) == (True, 1, 0, 1)
    assert (answer["inflation"], answer["users"][0]["causes"]) == ({"main/sat": 16}, {"duplicate": 16})
    (step,) = answer["steps"]
    assert (step["token_id"], step["removals"][0]["kept_in"], step["to_status"]) == (LOSING, KEEPING, "spent")
    assert answer["left"][0]["proposed_keeper"] == KEEPING

    refused = await api.http.post("/v1/repairs", json={"type": "all", "dry_run": False})
    assert (refused.status_code, refused.json()["code"]) == (400, "INVALID_REQUEST")
    body = {"type": "DUPLICATE_PROOF", "dry_run": False, "across_users": True, "reason": "checked", "plan": "0" * 16}
    assert (await api.http.post("/v1/repairs", json=body)).json()["applied"] == 1
    asked = [arguments for name, arguments in api.repairs.calls if name == "repair"]
    assert [one["dry_run"] for one in asked] == [True, False], "what was refused was not asked"
    assert (asked[1]["repair"], asked[1]["across_users"], asked[1]["plan_id"]) == (
        RepairType.DUPLICATE_PROOF,
        True,
        "0" * 16,
    )
    assert (asked[1]["reason"], asked[1]["actor"].uid) == ("checked", os.getuid())


@pytest.mark.parametrize(
    "body",
    [{}, {"type": "both"}, {"type": 3}, {"type": "all", "plan": "x"}, {"type": "all", "reason": ""}, {"type": "all", "all": 1}],
)  # fmt: skip
async def test_a_body_that_makes_no_sense_is_refused(api: RunningApi, body: dict[str, object]) -> None:
    refused = await api.http.post("/v1/repairs", json=body)
    assert (refused.status_code, refused.json()["code"]) == (400, "INVALID_REQUEST")
    assert api.repairs.calls == []


async def test_a_refusal_and_a_daemon_that_stops_are_problem_documents(api: RunningApi) -> None:
    api.repairs.failure = Refusal(Code.PAUSED, "paused: moving", hint="meltd resume")
    refused = await api.http.post("/v1/repairs", json={"type": "all", "dry_run": False, "reason": "x"})
    assert (refused.status_code, refused.json()["code"]) == (503, "PAUSED")
    api.flags["draining"] = True
    for path, body in (("/v1/repairs", {"type": "all"}), ("/v1/adoption", {"reason": "x"})):
        refused = await api.http.post(path, json=body)
        assert (refused.status_code, refused.json()["code"]) == (503, "SHUTTING_DOWN")


async def test_progress_and_adoption_are_told(api: RunningApi) -> None:
    progress = (await api.http.get("/v1/repairs")).json()
    assert progress == {"running": True, "phase": "searching", "done": 10, "total": 40, "seconds": 1.0}
    assert (await api.http.get("/v1/adoption")).json()["duplicates"] is None
    assert (await api.http.get("/v1/adoption", params={"count": "true"})).json()["duplicates"] == 2
    assert (await api.http.post("/v1/adoption", json={})).status_code == 400
    adopted = (await api.http.post("/v1/adoption", json={"reason": "writers are fixed"})).json()
    assert (adopted["reason"], adopted["adopted_by"]["uid"]) == ("writers are fixed", os.getuid())
