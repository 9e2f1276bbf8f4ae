"""What makes a mint's word worthless, and what restores it (DESIGN section 5, Guards; ADR 19)."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest

from melt.corrections import Judged
from melt.drift import Context, classify
from melt.errors import MintUnreachable, MintUntrusted, NotTheMint, StateRegressed
from melt.events import CriticalEvents
from melt.model import (
    SANE_AGAIN,
    Action,
    DriftType,
    EventType,
    MintAlias,
    MintState,
    ProofState,
    SpentMemory,
    TokenStatus,
)
from melt.sentinels import FAILED_MAX, Sentinels
from tests.simulation.model_store import ModelStore
from tests.support.engine import NOW, token, y

MAIN = MintAlias("main")
REGRESSED = EventType.MINT_STATE_REGRESSED


class StillClock:
    def __init__(self):
        self.at = 0.0

    def now(self):
        return datetime(2026, 3, 1, tzinfo=UTC) + timedelta(seconds=self.at)

    def monotonic(self):
        return self.at


class Dice:
    def __init__(self):
        self._dice = random.Random(3)

    def uniform(self, low, high):
        return self._dice.uniform(low, high)


class Records:
    """What the database would say; ``asked`` counts the looks."""

    def __init__(self):
        self.memory = SpentMemory()
        self.once = {}
        self.asked = 0

    def spent_memory(self, *_):
        self.asked += 1
        return self.memory

    def once_spent(self, ys):
        return {one: at for one, at in self.once.items() if one in ys}


class Mint:
    """Calls ``spent`` SPENT and all else UNSPENT, or raises ``error``."""

    alias, url = MAIN, "http://mint"

    def __init__(self):
        self.spent = set()
        self.error = None
        self.sentinels = []

    async def check_states(self, ys, *, spent=None):
        if self.error is not None:
            raise self.error
        self.sentinels.append(tuple(spent))
        alive = tuple(one for one in spent if one not in self.spent)
        if alive:
            raise StateRegressed("forgot", alive)
        return tuple(ProofState(y=one, state=MintState.SPENT if one in self.spent else MintState.UNSPENT) for one in ys)

    async def keysets(self, *, refresh):
        if self.error is not None:
            raise self.error
        return {}


class Nobody:
    def __getattr__(self, _):
        return lambda *_, **__: None


async def direct(work):
    return work()


class Bench:
    def __init__(self):
        self.clock, self.records, self.mint = StillClock(), Records(), Mint()
        store = ModelStore(clock=self.clock, y_of=y)
        self.store = store
        self.events = CriticalEvents(store, direct, Nobody(), clock=self.clock)
        self.recorded = []
        self.sentinels = Sentinels(
            records=self.records, store=self, threads=direct, events=self.events, clock=self.clock, entropy=Dice()
        )

    def record(self, findings):
        self.recorded.extend(findings)

    def clear_unseen(self, subjects, seen):
        assert seen == ()
        self.recorded = [one for one in self.recorded if one.subject not in subjects]

    def open(self):
        return {event.type for event in self.store.events(open_only=True, limit=10)}

    async def ask(self, *ys):
        """One look, later than what is remembered."""
        self.clock.at += 100
        return await self.sentinels.states(self.mint, ys or (y("x"),))

    def knows(self, *names):
        self.records.memory = SpentMemory(known=tuple(y(name) for name in names))
        self.mint.spent |= {y(name) for name in names}


@pytest.fixture
def bench():
    return Bench()


async def test_the_newest_known_proofs_and_random_older_ones_are_asked_about(bench):
    bench.knows(*range(50))
    for _ in range(20):
        await bench.ask()
    assert all(asked[:2] == (y(0), y(1)) for asked in bench.mint.sentinels)
    older = {one for asked in bench.mint.sentinels for one in asked[2:]}
    assert len(older) > 10, "not always the same: a mint may have lost any of them"
    assert all(len(asked) <= 4 for asked in bench.mint.sentinels)


@pytest.mark.parametrize(
    ("error", "event"),
    [
        (MintUntrusted("never issued Ys are SPENT"), EventType.SENTINEL_FAILED),
        (StateRegressed("forgot", (y(1),)), REGRESSED),
        (NotTheMint("a page"), EventType.MINT_UNTRUSTED),
        (MintUnreachable("no answer"), None),
    ],
)
async def test_what_was_seen_becomes_one_event_and_a_mint_that_is_down_none(bench, error, event):
    bench.mint.error = error
    for _ in range(3):
        with pytest.raises(type(error)):
            await bench.ask()
    assert bench.open() == ({event} if event else set())
    assert (bench.events.distrusted(MAIN) is not None) == (event is not None)


@pytest.mark.parametrize(
    "error", [MintUntrusted("never issued Ys are SPENT"), NotTheMint("a page")], ids=["sentinel", "portal"]
)
async def test_one_good_answer_ends_what_needs_no_witness(bench, error):
    bench.mint.error = error
    with pytest.raises(type(error)):
        await bench.ask()
    assert not await bench.sentinels.probe(bench.mint)
    bench.mint.error = None
    assert await bench.sentinels.probe(bench.mint)
    assert bench.open() == set()


async def test_a_regression_ends_only_with_the_very_proofs_that_showed_it(bench):
    bench.knows("old", "new")
    bench.mint.spent.discard(y("new"))
    with pytest.raises(StateRegressed):
        await bench.ask()
    bench.knows("another")  # the records' newest are others by now, and those are SPENT
    with pytest.raises(StateRegressed):
        await bench.ask()
    assert not await bench.sentinels.probe(bench.mint)
    assert bench.open() == {REGRESSED}
    bench.mint.spent.add(y("new"))
    await bench.ask()
    assert bench.open() == set()
    assert bench.store.events(open_only=False, limit=1)[0].resolution == SANE_AGAIN


async def test_without_a_known_proof_a_good_answer_does_not_end_a_regression(bench):
    bench.mint.error = StateRegressed("forgot", ())
    with pytest.raises(StateRegressed):
        await bench.ask()
    bench.mint.error = None
    await bench.ask()
    assert bench.open() == {REGRESSED}


async def test_what_showed_a_regression_is_known_after_a_restart(bench):
    await bench.events.open(
        REGRESSED, "mint:main", mint=MAIN, detail="d", requires_manual_intervention=False, evidence={}
    )
    bench.records.memory = SpentMemory(known=(y("fine"),), regressed=(y("gone"),))
    bench.mint.spent = {y("fine")}
    with pytest.raises(StateRegressed):
        await bench.ask()
    bench.mint.spent.add(y("gone"))
    await bench.ask()
    assert bench.open() == set()


async def test_a_person_who_resolves_it_takes_the_mint_as_it_is(bench):
    bench.knows("lost")
    bench.sentinels.learn(MAIN, [y("lost too")])
    bench.mint.spent.clear()
    with pytest.raises(StateRegressed):
        await bench.ask()
    await bench.events.resolve(REGRESSED, "mint:main", reason="they lost a day (uid 0)")
    bench.records.memory = SpentMemory(accepted_at=bench.clock.now())
    await bench.sentinels.states(bench.mint, (y("x"),))
    assert bench.open() == set()
    assert not bench.sentinels.is_proven(MAIN)


async def test_a_mint_is_proven_by_what_it_calls_spent(bench):
    await bench.ask()
    assert not bench.sentinels.is_proven(MAIN), "nothing is known"
    bench.records.memory = SpentMemory(hints=(y("h"), y("unclaimed")))
    await bench.ask()
    assert not bench.sentinels.is_proven(MAIN), "recorded as spent, and the mint calls none of them so"
    bench.mint.spent = {y("h")}
    await bench.ask()
    assert bench.sentinels.is_proven(MAIN)
    await bench.ask()
    assert bench.mint.sentinels[-1] == (y("h"),), "it is a sentinel from now on"


async def test_a_melts_look_reads_the_records_once_a_minute_and_a_sweeps_more_often(bench):
    bench.knows("k")
    for _ in range(5):
        await bench.sentinels.states(bench.mint, (y("x"),), hurry=True)
        bench.clock.at += 6
    assert bench.records.asked == 1
    await bench.sentinels.states(bench.mint, (y("x"),))
    assert bench.records.asked == 2


# --- documents ---


def judged(status, states, **more):
    document = token(status, *[1] * len(states), **more)
    found = classify(document, {y(i): state for i, state in enumerate(states)}, Context(now=NOW, pending_grace_s=0))
    return [Judged(token=document, verdict=verdict, mint=MAIN, unit="sat") for verdict in found]


U = MintState.UNSPENT


@pytest.mark.parametrize("status", [TokenStatus.SPENT, TokenStatus.FAILED, TokenStatus.PENDING])
async def test_value_that_the_mint_once_called_spent_is_never_to_take(bench, status):
    bench.records.once = {y(0): bench.clock.now()}
    found = await bench.sentinels.regressions(bench.mint, judged(status, [U, U, U]))
    parts = {one.verdict.type: one.verdict for one in found}
    lost = parts.pop(DriftType.MINT_STATE_REGRESSED)
    assert (lost.ys, lost.value, lost.action) == ((y(0),), 1, Action.RECORD)
    (rest,) = parts.values()
    assert (rest.ys, rest.value) == ((y(1), y(2)), 2)
    assert rest.action in {Action.RECLAIM, Action.RELEASE}
    assert bench.open() == {REGRESSED}


async def test_what_was_sent_and_redeemed_and_is_alive_again_is_a_regression_too(bench):
    bench.records.once = {y(0): bench.clock.now()}
    found = await bench.sentinels.regressions(bench.mint, judged(TokenStatus.SPENT, [U], type_="sent"))
    assert [one.verdict.type for one in found] == [DriftType.MINT_STATE_REGRESSED]


@pytest.mark.parametrize("state", [MintState.SPENT, MintState.PENDING])
async def test_what_claims_no_life_is_left_as_it_is(bench, state):
    bench.records.once = {y(0): bench.clock.now()}
    suspects = judged(TokenStatus.UNSPENT, [state])
    assert await bench.sentinels.regressions(bench.mint, suspects) == suspects
    assert bench.open() == set()


async def test_what_a_person_has_accepted_stays_recorded_and_raises_nothing(bench):
    bench.records.once = {y(0): bench.clock.now()}
    bench.records.memory = SpentMemory(accepted_at=bench.clock.now() + timedelta(seconds=1))
    await bench.ask()
    found = await bench.sentinels.regressions(bench.mint, judged(TokenStatus.SPENT, [U]))
    assert [one.verdict.type for one in found] == [DriftType.MINT_STATE_REGRESSED], "never value to take back"
    assert bench.open() == set()


async def test_no_more_proofs_are_kept_than_are_asked_about(bench):
    bench.records.once = {y(i): bench.clock.now() for i in range(50)}
    await bench.sentinels.regressions(bench.mint, judged(TokenStatus.SPENT, [U] * 50))
    (event,) = bench.store.events(open_only=True, limit=10)
    assert len(str(event.evidence["ys"]).split(",")) == FAILED_MAX
    assert event.evidence["proofs"] == 50
