"""The socket's mode, survey and check: what is asked, what is answered, what is refused."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from melt.errors import Code, StoreError
from melt.model.mode import Mode
from tests.support.running_api import RunningApi, running_api
from tests.support.scripted_modes import DOCUMENT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Y = "02" + "cd" * 32


@pytest.fixture
async def api() -> AsyncIterator[RunningApi]:
    async with running_api() as running:
        yield running


async def test_the_mode_is_told_and_switched_by_whoever_asks(api: RunningApi) -> None:
    told = (await api.http.get("/v1/mode")).json()
    assert (told["mode"], told["chosen"], told["indexes"][0]["state"]) == ("observe", False, "missing")
    switched = (await api.http.post("/v1/mode", json={"mode": "correct", "reason": "seen"})).json()
    assert (switched["mode"], switched["chosen_by"]["uid"]) == ("correct", os.getuid())
    body = {"mode": "observe", "reason": "moving", "end_open": True}
    assert (await api.http.post("/v1/mode", json=body)).json()["mode"] == "observe"
    assert [name for name, _ in api.modes.calls] == ["correct", "observe"]
    assert api.modes.calls[1][1]["end_open"] is True


@pytest.mark.parametrize(
    "body",
    [{}, {"mode": "correct"}, {"mode": "ending", "reason": "x"}, {"mode": "off", "reason": "x"}, {"reason": "x"}],
)
async def test_a_switch_names_a_mode_and_a_reason(api: RunningApi, body: dict[str, str]) -> None:
    refused = await api.http.post("/v1/mode", json=body)
    assert (refused.status_code, refused.json()["code"]) == (400, "INVALID_REQUEST")
    assert api.modes.calls == []


async def test_a_switch_that_open_entries_forbid_says_so(api: RunningApi) -> None:
    api.modes.failure = StoreError(Code.WRONG_STATE, "2 entries of the journal are open", hint="--end-open")
    refused = await api.http.post("/v1/mode", json={"mode": "observe", "reason": "x"})
    assert (refused.status_code, refused.json()["code"]) == (409, "WRONG_STATE")
    assert api.modes.now is Mode.OBSERVE


async def test_a_survey_tells_everything_and_is_refused_while_the_daemon_stops(api: RunningApi) -> None:
    told = (await api.http.post("/v1/survey", json={})).json()
    assert (told["documents"], told["users"], told["mode"]) == (40, 7, "observe")
    assert told["changes"][0]["token_id"] == DOCUMENT
    assert told["changes"][0]["in_s"] == 86_400
    assert told["copies"] == [{"pattern": "kept", "proofs": 3, "value": 24}]
    assert told["others"]["somebody_spends"] is True
    assert told["indexes"][0]["seconds"] == 0.4
    assert told["advice"] == ["mind the gap"]
    assert (await api.http.get("/v1/survey")).json()["phase"] == "comparing"
    api.flags["draining"] = True
    assert (await api.http.post("/v1/survey", json={})).json()["code"] == "SHUTTING_DOWN"


async def test_given_proofs_are_shown_side_by_side_without_their_secrets(api: RunningApi) -> None:
    answer = await api.http.post("/v1/proofs/check", json={"ys": [Y.upper().replace("02", "02", 1)], "mint": "main"})
    told = answer.json()
    assert told["blocked"] is True
    (document,) = told["documents"]
    assert [(proof["database"], proof["mint"]) for proof in document["proofs"]] == [
        ("unspent", "UNSPENT"),
        ("unspent", "SPENT"),
    ]
    assert (document["severity"], document["counted"]) == ("HIGH", True)
    assert told["strangers"] == [{"y": Y, "mint": None}]
    assert api.checks.calls == [{"ys": [Y], "token_ids": [], "mint": "main"}]
    assert "secret" not in answer.text


@pytest.mark.parametrize("body", [{}, {"ys": []}, {"ys": ["02ab"]}, {"token_ids": [""]}, {"ys": [Y] * 201}])
async def test_a_check_names_proofs_or_documents(api: RunningApi, body: dict[str, object]) -> None:
    assert (await api.http.post("/v1/proofs/check", json=body)).status_code == 400
    assert api.checks.calls == []
