"""The fuzzing itself: what it has found stays mended, what it is to notice it notices, and a little of it each time."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from melt.errors import MintUnreachable
from melt.mint import HttpMint
from melt.model import Ambiguous, MintState, ProofState
from tests.contract.test_mint_hostile import melt_answer
from tests.fuzz.__main__ import fuzz
from tests.fuzz.drive import KINDS, Broken, drive, seeds
from tests.fuzz.mutate import Said, mutated
from tests.support.scripted_mint import Say

MINTS = {"nutshell-0.16.5", "nutshell-0.20.2", "nutshell-0.21.0", "cdk-mintd-0.18.3"}


@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_has_real_answers_of_four_mints_and_odd_ones_get_no_further_than_the_client(kind):
    assert {one.mint for one in seeds() if one.kind == kind} == MINTS
    told = await fuzz(kind, seconds=60, seed=1, runs_max=400)
    assert told.findings == []
    assert told.runs == 400
    assert len(told.outcomes) > 10


async def test_what_a_real_mint_answers_is_read_as_it_is():
    words = {(one.mint, one.kind, await drive(one, one.said)) for one in seeds() if one.said.status == 200}
    assert {word for _, kind, word in words if kind == "melt"} == {"Paid  "}
    assert {word for _, kind, word in words if kind == "swap"} == {"Signed  "}
    assert {word for _, kind, word in words if kind == "keys"} == {"keys"}
    assert {word for _, kind, word in words if kind == "checkstate"} == {"states ['UNSPENT']"}
    assert not [word for *_, word in words if "Error" in word or "Untrusted" in word]


@pytest.mark.parametrize("kind", ["info", "keysets", "checkstate", "melt_quote", "melt", "swap"])
async def test_an_error_of_another_kind_is_noticed(monkeypatch, kind):
    honest = json.loads

    def careless(text: Any, **more: Any) -> Any:
        # The client reads bytes, and with a hook of its own; whoever else reads JSON here does neither.
        if isinstance(text, bytes) and b"null" in text:
            raise KeyError("planted")
        return honest(text, **more)

    monkeypatch.setattr("melt.mint.wire.json.loads", careless)
    told = await fuzz(kind, seconds=60, seed=1, runs_max=400)
    assert told.findings
    assert all("planted" in finding for finding in told.findings)
    assert not told.good


async def test_what_nobody_said_is_noticed(monkeypatch):
    honest = HttpMint.check_states

    async def states(client: HttpMint, ys: Any, **more: Any) -> Any:
        await honest(client, ys, **more)
        return tuple(ProofState(y=y, state=MintState.PENDING) for y in ys)

    async def melt(*_: Any, **__: Any) -> Any:
        raise MintUnreachable("planted")

    monkeypatch.setattr(HttpMint, "check_states", states)
    monkeypatch.setattr(HttpMint, "melt", melt)
    for kind in ("checkstate", "melt"):
        source = next(one for one in seeds() if one.kind == kind and one.said.status == 200)
        with pytest.raises(Broken):
            await drive(source, source.said)


def test_the_same_seed_makes_the_same_answers():
    (seed,) = [one for one in seeds() if one.kind == "keysets" and one.mint == "nutshell-0.20.2"]
    trees = [one.said.body for one in seeds()]

    def made() -> list[Said]:
        chance = random.Random(7)
        return [mutated(seed.said, chance, trees) for _ in range(200)]

    assert [one.sent for one in made()] == [one.sent for one in made()]
    assert len({one.sent for one in made()}) > 100


@pytest.mark.parametrize("code", [20000, 20004, 11005, 12001])
async def test_a_429_is_no_refusal_whatever_code_it_carries(code):
    answer = await melt_answer(Say(status=429, body={"detail": "slow down", "code": code}))
    assert answer == Ambiguous(reason="HTTP 429", mint_code=code)
