"""What hints lead to: looks, bounded, and nothing else. Decisions stay with reconciliation and the watcher."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

import pytest

from daemon.hints import DOCUMENTS_PER_CHECK, MELT_AGE_S, HintDesk, HintPolicy
from daemon.supervisor import LoopContext
from melt.errors import InvariantBroken, MintUntrusted, StoreUnavailable
from melt.model import (
    Hint,
    HintKind,
    HintLink,
    HintStatus,
    MeltId,
    MeltState,
    MintAlias,
    MintState,
    QuoteId,
    QuoteState,
    TokenId,
    TokenStatus,
    WatchedDocument,
)
from tests.support.engine import NOW, melt_of, token, y
from tests.support.hint_server import until

POLICY = HintPolicy(proofs_max=10, refresh_s=60, settle_s=0.0, checks_per_s=5.0, run_s=3600)


class VirtualClock:
    """Sleeping takes no time here and is counted; a wait for an event is real and short."""

    def __init__(self):
        self.at = 1000.0

    def now(self):
        return NOW + timedelta(seconds=self.at)

    def monotonic(self):
        return self.at

    async def sleep(self, seconds, /):
        if seconds >= 59:  # the next choice of what to watch
            await asyncio.Event().wait()
        self.at += seconds
        await asyncio.sleep(0)

    async def wait(self, event, seconds, /):
        await asyncio.sleep(0)
        if not event.is_set():
            self.at += seconds
        return event.is_set()


class Source:
    def __init__(self):
        self.wanted = {}

    def watch(self, wanted, /):
        self.wanted = {kind: list(keys) for kind, keys in wanted.items()}

    async def run(self, on_hint, /):
        self.on_hint = on_hint
        await asyncio.Event().wait()

    def status(self):
        return HintStatus(link=HintLink.CONNECTED)


class Parts:
    """A desk over a scripted store and reconciler; ``pages`` are the ids of the documents of each check."""

    def __init__(self, documents, *, policy=POLICY, fails=()):
        self.clock = VirtualClock()
        self.source = Source()
        self.documents = {document.id: document for document in documents}
        self.pages = []
        self.outcomes = []
        self.dry_runs = []
        self.at = []
        self.frozen = []
        self.nudged = []
        self.fails = list(fails)
        self.paused = None
        self.desk = HintDesk(
            mint=SimpleNamespace(alias=MintAlias("main"), url="http://mint"),
            source=self.source,
            store=SimpleNamespace(tokens=lambda ids: [self.documents[one] for one in ids if one in self.documents]),
            watch_store=SimpleNamespace(worth_watching=self._worth),
            threads=self._threads,
            reconciler=SimpleNamespace(page=self._page, freeze=self._freeze),
            in_turn=self._in_turn,
            clock=self.clock,
            entropy=SimpleNamespace(uniform=lambda low, high: (low + high) / 2),
            policy=policy,
            nudge=self.nudged.append,
            is_paused=lambda: self.paused,
            expected_documents=lambda: 4000,
        )

    async def _threads(self, work, /):
        return work()

    async def _in_turn(self, work, _outcome, /):
        await work()

    def _worth(self, mint_url, *, proofs_max):
        return tuple(
            WatchedDocument(token_id=document.id, ys=tuple(proof.y for proof in document.proofs))
            for document in self.documents.values()
        )

    async def _page(self, mint, items, outcome, *, dry_run, actor):
        assert actor.name == "hint"
        self.pages.append([item.id for item in items])
        self.outcomes.append(outcome)
        self.dry_runs.append(dry_run)
        self.at.append(self.clock.monotonic())
        outcome.documents += len(items)
        if self.fails:
            raise self.fails.pop(0)

    async def _freeze(self, mint, error):
        self.frozen.append(mint)

    @asynccontextmanager
    async def running(self):
        stopping = asyncio.Event()
        task = asyncio.create_task(self.desk.run(LoopContext("hints-main", stopping)))
        try:
            await until(lambda: hasattr(self.source, "on_hint") and (self.source.wanted or not self.documents))
            yield self
            assert not task.done()
            stopping.set()
            await asyncio.wait_for(task, 5)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def hint(self, key, state=MintState.SPENT, kind=HintKind.PROOF_STATE):
        self.source.on_hint(Hint(kind=kind, key=str(key), state=state))


def document(name, **more):
    made = token(more.pop("status", TokenStatus.UNSPENT), 8, **more)
    proofs = tuple(replace(proof, y=y(name)) for proof in made.proofs)
    return replace(made, id=TokenId(f"{name:0>24}"), proofs=proofs)


async def test_a_document_is_reconciled_when_its_proof_is_said_to_have_moved():
    one, two = document("1"), document("2")
    async with Parts([one, two]).running() as parts:
        parts.hint(y("2"))
        await until(lambda: parts.pages)
        assert parts.pages == [[two.id]]
        assert parts.dry_runs == [False]


async def test_what_is_said_to_be_unspent_or_is_not_watched_leads_to_nothing():
    async with Parts([document("1")]).running() as parts:
        parts.hint(y("1"), MintState.UNSPENT)
        parts.hint(y("unknown"))
        parts.hint(y("1"), QuoteState.PAID, HintKind.MELT_QUOTE)
        parts.hint(y("1"), MintState.PENDING)
        await until(lambda: parts.pages)
        assert len(parts.pages) == 1


async def test_while_paused_it_is_a_dry_run():
    async with Parts([document("1")]).running() as parts:
        parts.paused = "a person"
        parts.hint(y("1"))
        await until(lambda: parts.pages)
        assert parts.dry_runs == [True]


async def test_documents_that_are_not_unspent_any_more_or_that_a_melt_holds_are_left_to_others():
    held = document("1", reserved_by="m")
    spent = document("2", status=TokenStatus.SPENT)
    moved = document("3", mint_url="http://another")
    free = document("4")
    async with Parts([held, spent, moved, free]).running() as parts:
        for name in "1234":
            parts.hint(y(name))
        await until(lambda: parts.pages)
        assert parts.pages == [[free.id]]


async def test_a_flood_leads_to_no_more_looks_than_the_policy_allows():
    documents = [document(str(n)) for n in range(10)]
    async with Parts(documents).running() as parts:
        began = parts.clock.at
        for _ in range(200):
            for n in range(10):
                parts.hint(y(str(n)))
            await asyncio.sleep(0)
        await until(lambda: parts.clock.at > began + 5)
        seconds = parts.at[-1] - began
        # Five at once, then five a second.
        assert len(parts.pages) <= 5 + 5 * seconds + 1


async def test_hints_about_one_document_are_one_look_and_many_documents_share_a_page():
    documents = [document(str(n)) for n in range(DOCUMENTS_PER_CHECK + 5)]
    policy = replace(POLICY, settle_s=0.5)
    async with Parts(documents, policy=policy).running() as parts:
        for _ in range(3):
            for n in range(len(documents)):
                parts.hint(y(str(n)))
        await until(lambda: sum(map(len, parts.pages)) == len(documents))
        assert [len(page) for page in parts.pages] == [DOCUMENTS_PER_CHECK, 5]


async def test_a_document_is_looked_at_after_whoever_spent_it_could_write_that_down():
    async with Parts([document("1")], policy=replace(POLICY, settle_s=0.5)).running() as parts:
        began = parts.clock.at
        parts.hint(y("1"))
        await until(lambda: parts.pages)
        assert parts.at[0] - began >= 0.5


async def test_one_run_of_caps_holds_for_all_checks_of_an_hour_and_repeats_do_not_raise_the_share():
    async with Parts([document("1")]).running() as parts:
        for times in range(1, 4):
            parts.hint(y("1"))
            await until(lambda times=times: len(parts.pages) == times)
        assert len({id(outcome) for outcome in parts.outcomes}) == 1
        assert parts.outcomes[0].expected_documents == 4000
        assert parts.outcomes[0].documents == 1
        parts.clock.at += 3600
        parts.hint(y("1"))
        await until(lambda: len(parts.pages) == 4)
        assert parts.outcomes[3] is not parts.outcomes[0]


@pytest.mark.parametrize("error", [MintUntrusted("lies"), StoreUnavailable("away")])
async def test_a_mint_or_a_store_that_can_not_be_asked_is_given_growing_pauses(error):
    async with Parts([document("1")], fails=[error, error, error]).running() as parts:
        for times in range(1, 5):
            parts.hint(y("1"))
            await until(lambda times=times: len(parts.pages) == times)
        gaps = [later - earlier for earlier, later in zip(parts.at, parts.at[1:], strict=False)]
        assert gaps[0] >= 2
        assert gaps[1] >= 4
        assert gaps[2] >= 8


async def test_a_broken_invariant_freezes_the_mint_and_the_desk_goes_on():
    async with Parts([document("1")], fails=[InvariantBroken("broken")]).running() as parts:
        parts.hint(y("1"))
        await until(lambda: parts.frozen)
        parts.hint(y("1"))
        await until(lambda: len(parts.pages) == 2)
        assert parts.frozen == ["main"]


# --- melts ---


def lasting(name, *, age_s=MELT_AGE_S + 1, **more):
    made = melt_of(8, 8, 8, **more)
    inputs = tuple(replace(ref, y=y(f"{name}{n}")) for n, ref in enumerate(made.inputs))
    return replace(made, id=MeltId(name), quote_id=QuoteId(f"quote-{name}"), inputs=inputs, created_at=at(age_s))


def at(age_s):
    return NOW + timedelta(seconds=1000.0 - age_s)


async def test_quotes_and_inputs_of_melts_that_stay_open_are_watched_before_documents():
    parts = Parts([document("1")])
    async with parts.running():
        parts.desk.melts_open(
            [
                lasting("a"),
                lasting("young", age_s=0),
                lasting("far", mint=MintAlias("far")),
                lasting("over", state=MeltState.SETTLED),
            ]
        )
        assert parts.source.wanted == {
            HintKind.MELT_QUOTE: ["quote-a"],
            HintKind.PROOF_STATE: [y("a0"), y("a1"), y("1")],
        }
        parts.desk.melts_open([])
        assert parts.source.wanted == {HintKind.MELT_QUOTE: [], HintKind.PROOF_STATE: [y("1")]}


@pytest.mark.parametrize(
    ("kind", "key", "state"),
    [
        (HintKind.MELT_QUOTE, "quote-a", QuoteState.PAID),
        (HintKind.MELT_QUOTE, "quote-a", QuoteState.UNPAID),
        (HintKind.PROOF_STATE, y("a1"), MintState.SPENT),
        (HintKind.PROOF_STATE, y("a0"), MintState.UNSPENT),
    ],
)
async def test_the_watcher_is_nudged_when_a_melt_is_said_to_have_moved(kind, key, state):
    parts = Parts([])
    async with parts.running():
        parts.desk.melts_open([lasting("a"), lasting("b")])
        parts.hint(key, state, kind)
        await until(lambda: parts.nudged)
        assert parts.nudged == ["a"]
        assert parts.pages == []


async def test_a_payment_under_way_is_no_reason_to_look():
    parts = Parts([])
    async with parts.running():
        parts.desk.melts_open([lasting("a"), lasting("b")])
        parts.hint("quote-a", QuoteState.PENDING, HintKind.MELT_QUOTE)
        parts.hint(y("a0"), MintState.PENDING)
        parts.hint("quote-b", QuoteState.PAID, HintKind.MELT_QUOTE)
        await until(lambda: parts.nudged)
        assert parts.nudged == ["b"]


async def test_a_part_that_crashes_is_told_to_the_supervisor():
    parts = Parts([])

    async def crash(on_hint):
        raise RuntimeError("planted")

    parts.source.run = crash
    with pytest.raises(RuntimeError, match="planted"):
        await parts.desk.run(LoopContext("hints-main", asyncio.Event()))
