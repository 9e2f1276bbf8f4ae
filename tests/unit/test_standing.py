"""Entries that do not get on are told of, and looked at ever more seldom."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from melt.errors import (
    Code,
    LostRace,
    MintRejected,
    MintUnreachable,
    StoreError,
    StoreLostAfterPayment,
    StoreUnavailable,
)
from melt.model import EventType, MeltState
from melt.saga import StandPolicy, Watcher, WatchPolicy
from melt.saga.standing import Standing, is_answer
from tests.support.engine import NOW, melt_of

REFUSAL = MintRejected("the mint has no active keyset for sat")


class Parts:
    """A watcher over one entry, a recovery that does what it is told, and time that a test moves."""

    def __init__(self, **policy: Any) -> None:
        self.at = 0.0
        self.looks: list[float] = []
        self.melt = melt_of(8, holder="me")
        self.step: Any = self.melt
        self.open: dict[EventType, dict[str, Any]] = {}
        self.waits: dict[str, str] = {}
        events = SimpleNamespace(
            flush=_nothing, subjects=lambda _: (), resolve=self._resolve, open=self._open, invariant_broken=_nothing
        )
        engine: Any = SimpleNamespace(
            expected_ends=set, is_active=lambda _: False, followed=asyncio.Event(), report_end=lambda *_: None
        )
        recovery: Any = SimpleNamespace(
            events=events, step=self._step, waits=self.waits, outputs=SimpleNamespace(seed_id="s")
        )
        store: Any = SimpleNamespace(open_melts=lambda: (self.melt,), renew_instance=lambda _: None)
        clock: Any = SimpleNamespace(now=lambda: NOW, monotonic=lambda: self.at)
        entropy: Any = SimpleNamespace(uniform=lambda low, high: high)
        self.watcher = Watcher(
            engine=engine,
            recovery=recovery,
            store=store,
            threads=_call,  # type: ignore[arg-type]
            clock=clock,
            entropy=entropy,
            policy=WatchPolicy(**policy),
            holder="me",
        )

    async def _step(self, melt: Any) -> Any:
        self.looks.append(self.at)
        if isinstance(self.step, Exception):
            raise self.step
        return self.step

    async def _open(self, event: EventType, subject: str, **fields: Any) -> None:
        assert subject == f"melt:{self.melt.id}"
        self.open[event] = fields

    async def _resolve(self, event: EventType, *_: Any, **__: Any) -> None:
        self.open.pop(event, None)

    async def run(self, seconds: float) -> None:
        """Rounds, as the daemon's loop makes them."""
        until = self.at + seconds
        while self.at < until:
            wait_s = await self.watcher.tick()
            for _ in range(5):
                await asyncio.sleep(0)
            self.at += min(wait_s, 5.0)


async def _call(work: Any, /) -> Any:
    return work()


async def _nothing(*_: Any, **__: Any) -> None:
    return None


@pytest.mark.parametrize("refusal", [REFUSAL, LostRace("token x was moved by somebody else"), ValueError("a bug")])
async def test_five_equal_refusals_are_told_with_their_reason_and_looked_at_ever_more_seldom(
    refusal: Exception,
) -> None:
    parts = Parts()
    parts.step = refusal
    await parts.run(60)
    told = parts.open[EventType.MELT_STUCK]
    assert str(refusal) in told["detail"]
    assert told["requires_manual_intervention"] is True
    assert told["evidence"]["refusals"] >= 5
    await parts.run(4 * 3600)
    apart = [later - earlier for earlier, later in zip(parts.looks, parts.looks[1:], strict=False)]
    assert min(apart) >= 1
    assert 500 <= apart[-1] <= 600
    assert len(parts.looks) < 60, "four hours of one entry"


async def test_ten_minutes_in_one_place_are_told_although_nobody_refuses_anything():
    parts = Parts()
    parts.waits[parts.melt.id] = "the payment is under way"
    await parts.run(590)
    assert not parts.open
    await parts.run(120)
    told = parts.open[EventType.MELT_STUCK]
    assert "the payment is under way" in told["detail"]
    assert told["requires_manual_intervention"] is False, "the mint goes on with it"


async def test_the_event_closes_when_the_entry_gets_on():
    parts = Parts(standing=StandPolicy(after_s=10))
    await parts.run(60)
    assert EventType.MELT_STUCK in parts.open
    parts.melt = parts.step = melt_of(8, holder="me", state=MeltState.FENCING, rev=2)
    await parts.run(700)
    parts.melt = parts.step = melt_of(8, holder="me", state=MeltState.HELD, rev=3)
    await parts.run(700)
    assert EventType.MELT_STUCK not in parts.open, "and a HELD one has an event of its own"


async def test_a_mint_that_does_not_answer_is_another_trouble():
    parts = Parts(standing=StandPolicy(after_s=10))
    parts.step = MintUnreachable("no answer")
    await parts.run(3600)
    assert not parts.open


async def test_a_persons_word_begins_a_new_count():
    parts = Parts()
    parts.step = REFUSAL
    await parts.run(60)
    parts.open.clear()
    parts.watcher.hurry(parts.melt.id)
    await parts.run(1)
    assert not parts.open
    await parts.run(60)
    assert EventType.MELT_STUCK in parts.open


def test_to_and_fro_between_two_states_is_no_progress():
    standing = Standing(StandPolicy(after_s=100))
    for at in range(0, 200, 10):
        state = MeltState.PENDING if at % 20 else MeltState.FENCING
        melt = melt_of(8, state=state)
        standing.arrived(melt, float(at))
        stuck = standing.looked(melt, float(at), None, None)
        assert (stuck is not None) is (at >= 110)


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (REFUSAL, True),
        (LostRace("moved"), True),
        (StoreError(Code.PROOF_STATE_INCONSISTENCY, "no"), True),
        (ValueError(), True),
        (MintUnreachable("no answer"), False),
        (StoreUnavailable("away"), False),
        (StoreLostAfterPayment("away"), True),
    ],
)
def test_what_is_a_refusal_and_what_is_silence(error: Exception, *, answer: bool) -> None:
    assert is_answer(error) is answer


def test_a_store_that_is_away_after_the_payment_is_silence() -> None:
    error = StoreLostAfterPayment("not updated yet")
    error.__cause__ = StoreUnavailable("away")
    assert not is_answer(error)
