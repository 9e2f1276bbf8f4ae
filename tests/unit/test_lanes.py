"""The lanes of one mint: one at a time, in their order, after melts, and gone quiet on a 429."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from daemon.lanes import RATE_LIMITED_MAX, Lanes
from daemon.pace import Pace, PacePolicy
from daemon.ports import Lane
from melt.errors import MintUnreachable, MintUntrusted
from melt.model import MintAlias
from melt.reconcile import Outcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Clock:
    """Time that passes as it is waited for."""

    def __init__(self) -> None:
        self.s = 100.0

    def monotonic(self) -> float:
        return self.s

    async def sleep(self, seconds: float, /) -> None:
        self.s += seconds
        await asyncio.sleep(0)


class Least:
    def token(self, n: int, /) -> str:
        return ""

    def uniform(self, low: float, high: float, /) -> float:
        return low


class Silent:
    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


def made(*, melts: Callable[[], bool] = lambda: False, yield_s: float = 0.5) -> tuple[Lanes, Clock]:
    clock = Clock()
    pace = Pace(PacePolicy(free_pages=0), Least())
    lanes = Lanes(
        MintAlias("m"), pace=pace, clock=clock, metrics=Silent(), yield_s=yield_s,  # type: ignore[arg-type]
        melts_under_way=melts, lag_s=lambda: 0.0,
    )  # fmt: skip
    return lanes, clock


async def page(lanes: Lanes, lane: Lane, work: Callable[[], Awaitable[None]], outcome: Outcome | None = None) -> float:
    return await lanes.page(
        lane, work, outcome if outcome is not None else Outcome(), pages=1, stop=lambda: False, beat=lambda: None
    )


async def test_lanes_never_ask_at_the_same_time_and_come_in_their_order() -> None:
    lanes, _ = made()
    inside, order = 0, []

    def work(name: str) -> Callable[[], Awaitable[None]]:
        async def asks() -> None:
            nonlocal inside
            inside += 1
            assert inside == 1
            order.append((name, lanes.lane))
            await asyncio.sleep(0.001)
            inside -= 1

        return asks

    async def cold() -> None:
        for _ in range(4):
            await page(lanes, Lane.COLD, work("cold"))

    await asyncio.gather(
        cold(), page(lanes, Lane.WARM, work("warm")), lanes.prompt_page(Lane.ASKED, work("asked"), Outcome()), cold()
    )
    assert [lane for name, lane in order if lane != name] == []
    assert {name for name, _ in order[:4]} == {"cold", "warm", "asked"}, "a long tour keeps nobody waiting"
    assert len(order) == 10
    assert lanes.lane is None


async def test_a_page_waits_for_a_melt_that_has_just_begun_and_no_longer_than_it_may() -> None:
    until = 100.2
    lanes, clock = made(melts=lambda: clock.s < until)
    await page(lanes, Lane.COLD, nothing)
    assert 100.2 <= clock.s < 100.25
    lanes, clock = made(melts=lambda: True)
    await page(lanes, Lane.COLD, nothing)
    assert 100.5 <= clock.s < 100.55


async def nothing() -> None:
    """A page that finds nothing."""


async def test_a_page_that_is_limited_is_done_again_and_counts_once() -> None:
    lanes, clock = made()
    outcome = Outcome()
    answers = [MintUnreachable("429", rate_limited=True, retry_after_s=7), MintUnreachable("429", rate_limited=True)]

    async def work() -> None:
        outcome.found_by_type["MALFORMED_TOKEN"] += 1
        outcome.found.append("what was found")  # type: ignore[arg-type]
        if answers:
            raise answers.pop(0)
        outcome.documents += 5

    await page(lanes, Lane.COLD, work, outcome)
    assert (dict(outcome.found_by_type), outcome.documents) == ({"MALFORMED_TOKEN": 1}, 5)
    assert len(outcome.found) == 1
    assert clock.s == pytest.approx(109), "as long as the mint asks for, and then two seconds"
    assert lanes.pace.duty < 0.5


async def test_while_a_mint_limits_no_lane_asks_it() -> None:
    lanes, clock = made()
    answers = [MintUnreachable("429", rate_limited=True, retry_after_s=20)]
    asked_at = []

    refused = asyncio.Event()

    async def limited() -> None:
        if answers:
            refused.set()
            raise answers.pop(0)

    async def warm() -> None:
        asked_at.append(clock.s)

    cold = asyncio.create_task(page(lanes, Lane.COLD, limited))
    await refused.wait()
    await page(lanes, Lane.WARM, warm)
    assert asked_at[0] >= 120
    await cold


async def test_a_mint_that_limits_for_ever_ends_the_tour() -> None:
    lanes, _ = made()
    tries = 0

    async def work() -> None:
        nonlocal tries
        tries += 1
        raise MintUnreachable("429", rate_limited=True)

    with pytest.raises(MintUnreachable):
        await page(lanes, Lane.COLD, work)
    assert tries == RATE_LIMITED_MAX + 1


@pytest.mark.parametrize("error", [MintUnreachable("dead"), MintUntrusted("a sentinel")])
async def test_other_failures_are_the_callers_and_leave_the_turn_free(error: Exception) -> None:
    lanes, _ = made()

    async def work() -> None:
        raise error

    with pytest.raises(type(error)):
        await page(lanes, Lane.COLD, work)
    await page(lanes, Lane.WARM, nothing)
    assert lanes.lane is None


async def test_a_rest_ends_when_the_process_stops_and_beats_meanwhile() -> None:
    lanes, clock = made()
    beats = 0

    def beat() -> None:
        nonlocal beats
        beats += 1

    await lanes.rest(Lane.COLD, 60, lambda: clock.s > 110, beat)
    assert 110 < clock.s < 111
    assert beats > 30
