"""A nudge makes the watcher look sooner and changes nothing else."""

from __future__ import annotations

import asyncio
import itertools
from types import SimpleNamespace

from melt.model import MeltId
from melt.saga import Watcher, WatchPolicy
from tests.support.engine import NOW, melt_of


class Parts:
    """A watcher whose recovery finds nothing new: every look makes the next one come later."""

    def __init__(self):
        self.at = 100.0
        self.looks = []
        self.hold = None
        self.melt = melt_of(8, holder="me")
        self.told = []
        events = SimpleNamespace(flush=_nothing, subjects=lambda _: (), resolve=_nothing, open=_nothing)
        self.engine = SimpleNamespace(
            expected_ends=set, is_active=lambda _: False, followed=asyncio.Event(), report_end=lambda *_: None
        )
        self.watcher = Watcher(
            engine=self.engine,
            recovery=SimpleNamespace(events=events, step=self._step, waits={}, outputs=SimpleNamespace(seed_id="s")),
            store=SimpleNamespace(open_melts=lambda: (self.melt,), renew_instance=lambda _: None),
            threads=_call,
            clock=SimpleNamespace(now=lambda: NOW, monotonic=lambda: self.at),
            entropy=SimpleNamespace(uniform=lambda low, high: (low + high) / 2),
            policy=WatchPolicy(first_delay_s=10.0, factor=2.0, delay_max_s=1000.0),
            holder="me",
            on_open=self.told.append,
        )

    async def _step(self, melt):
        self.looks.append(self.at)
        if self.hold is not None:
            await self.hold.wait()
        return melt

    async def round(self):
        await self.watcher.tick()
        for _ in range(5):
            await asyncio.sleep(0)


async def _call(work, /):
    return work()


async def _nothing(*_, **__):
    return None


async def test_a_nudged_melt_is_looked_at_in_the_next_round_which_comes_at_once():
    parts = Parts()
    await parts.round()
    await parts.round()
    assert len(parts.looks) == 1  # the next one is due in twenty seconds
    parts.engine.followed.clear()
    parts.watcher.nudge(parts.melt.id)
    assert parts.engine.followed.is_set()
    parts.at += 1
    await parts.round()
    assert len(parts.looks) == 2


async def test_no_number_of_nudges_asks_a_mint_more_than_once_a_second():
    parts = Parts()
    await parts.round()
    for _ in range(50):
        parts.watcher.nudge(parts.melt.id)
        await parts.round()
        parts.at += 0.1
    assert len(parts.looks) == 1 + 4
    assert all(later - earlier >= 1 for earlier, later in itertools.pairwise(parts.looks))


async def test_a_nudge_does_not_make_the_pace_quick_again():
    parts = Parts()
    await parts.round()
    parts.watcher.nudge(parts.melt.id)
    parts.at += 1
    await parts.round()
    # Two looks that found nothing: 10 * 2 ** 2 seconds to the third.
    parts.at += 39
    await parts.round()
    assert len(parts.looks) == 2
    parts.at += 2
    await parts.round()
    assert len(parts.looks) == 3


async def test_a_nudge_during_a_look_leads_to_another_one():
    parts = Parts()
    parts.hold = asyncio.Event()
    await parts.round()
    parts.watcher.nudge(parts.melt.id)
    parts.hold.set()
    for _ in range(5):
        await asyncio.sleep(0)
    parts.at += 1
    await parts.round()
    assert len(parts.looks) == 2


async def test_a_nudge_about_a_melt_that_is_not_open_only_makes_a_round():
    parts = Parts()
    await parts.round()
    parts.watcher.nudge(MeltId("another"))
    await parts.round()
    assert len(parts.looks) == 1


async def test_open_entries_are_told_at_each_round():
    parts = Parts()
    await parts.round()
    assert parts.told == [(parts.melt,)]
