"""``POST /v1/restore`` and ``meltd restore`` against a scripted engine: what goes in, what comes out, what is refused."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from melt.errors import Code, Refusal
from melt.model import MeltId, MintAlias
from melt.model.restore import RestoreScope
from tests.support.running_api import running_api
from tests.unit.test_cli import run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.running_api import RunningApi


@pytest.fixture
async def api() -> AsyncIterator[RunningApi]:
    async with running_api() as running:
        yield running


async def test_a_restore_is_asked_with_its_scope_and_answers_what_became_of_each(api: RunningApi) -> None:
    answer = await api.http.post("/v1/restore", json={"mint": "main", "melt": "m-1", "dry_run": True})
    assert answer.status_code == 200
    body = answer.json()
    assert (body["dry_run"], body["entries"], body["outputs"], body["signed"]) == (True, 12, 96, 30)
    assert (body["refused"], body["foreign"], body["imported"], body["imported_amounts"]) == (1, 2, 1, {"sat": 16})
    assert [(one["imported"], one["kept_out"]) for one in body["found"]] == [(True, None), (False, "paused: moving")]
    assert body["found"][0]["finding"]["value"] == 16
    ((scope, dry_run, actor),) = api.restores.calls
    assert scope == RestoreScope(mint=MintAlias("main"), melt=MeltId("m-1"))
    assert dry_run
    assert actor.uid == os.getuid()


async def test_an_empty_body_means_everything(api: RunningApi) -> None:
    assert (await api.http.post("/v1/restore")).status_code == 200
    assert api.restores.calls[0][:2] == (RestoreScope(), False)


@pytest.mark.parametrize("body", [{"mint": "NO"}, {"melt": ""}, {"melt": "a b"}, {"dry_run": "yes"}, {"npub": "x"}])
async def test_a_body_that_means_nothing_is_refused(api: RunningApi, body: dict[str, object]) -> None:
    answer = await api.http.post("/v1/restore", json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_REQUEST")
    assert api.restores.calls == []


async def test_unknown_melts_open_melts_and_a_stopping_daemon_are_problems(api: RunningApi) -> None:
    api.restores.known = False
    assert (await api.http.post("/v1/restore", json={"melt": "no"})).json()["code"] == "NOT_FOUND"
    api.restores.failure = Refusal(Code.WRONG_STATE, "melt m is PENDING")
    answer = await api.http.post("/v1/restore", json={"melt": "m"})
    assert (answer.status_code, answer.json()["code"]) == (409, "WRONG_STATE")
    api.flags["draining"] = True
    assert (await api.http.post("/v1/restore")).json()["code"] == "SHUTTING_DOWN"


async def test_the_command_shows_what_was_found_and_ends_with_1_when_something_could_not_be_asked(
    api: RunningApi,
) -> None:
    done = await run("restore", "--mint", "main", "--dry-run", socket=api.path)
    assert (done.code, done.err) == (0, "")
    assert "would import" in done.out
    assert "paused: moving" in done.out
    assert "16 sat" in done.out
    api.restores.errors = ("main: the mint can't restore",)
    done = await run("restore", "--melt", "m-1", socket=api.path)
    assert done.code == 1
    assert "the mint can't restore" in done.out
    assert api.restores.calls[1][0] == RestoreScope(melt=MeltId("m-1"))
    done = await run("restore", "--json", socket=api.path)
    assert done.json()["imported"] == 1
