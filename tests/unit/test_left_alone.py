"""
What another writer may still need is left alone, and is carried out later by itself (I13): the daemon's own parts, in virtual time.

One instance as the simulation puts it together, on the model's store and mint, with nothing that goes wrong: hours pass in
milliseconds. The neighbour's hand is the test's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from melt.corrections import Judged
from melt.errors import Code, Refusal
from melt.model import (
    Action,
    Actor,
    Discrepancy,
    DiscrepancyState,
    DriftType,
    Melt,
    MeltState,
    MintAlias,
    MintState,
    Proof,
    Token,
    TokenId,
    TokenStatus,
)
from melt.reconcile import Outcome
from melt.saga import MeltRequest
from melt.settling import SettlePolicy
from tests.simulation.instance import Instance, Tuning
from tests.simulation.lightning import Lightning, Says, Script
from tests.simulation.model_ecash import ModelOutputs, fast_y, looks_like_a_point, read_invoice
from tests.simulation.model_mint import Manners, ModelMint
from tests.simulation.model_store import ModelStore
from tests.simulation.ports import EPOCH, Life, Observations, SimClock, SimSpool, Weather
from tests.simulation.virtual_loop import VirtualLoop

UNSPENT, PENDING, SPENT = TokenStatus.UNSPENT, TokenStatus.PENDING, TokenStatus.SPENT
ALIAS, URL, USER = MintAlias("m"), "https://m.example", "npub1" + "q" * 58
SETTLE_S, LOOK_S = 600.0, 10.0
WAITS = SettlePolicy(correct_after_s=SETTLE_S, alert_after_s=60.0, look_s=LOOK_S)
HONEST = Script(
    name="settled",
    settles=True,
    decided_s=0.1,
    returns_s=0.1,
    answer=Says.SETTLED,
    check_before=Says.PENDING,
    check_after=Says.SETTLED,
    honest_s=0.1,
    fee=0,
)


class Settles(Lightning):
    """Every payment goes out."""

    def _script(self, fee_reserve: int) -> Script:
        return HONEST


class Stage:
    """One instance, one mint, one user."""

    def __init__(self, settle: SettlePolicy) -> None:
        self.loop = VirtualLoop()
        rng = Random(7)
        self.clock = SimClock(self.loop)
        self.store = ModelStore(clock=self.clock, y_of=fast_y, settle=settle)
        self.lightning = Settles(rng=rng, lies=False, slow=False)
        self.mint = ModelMint("m", rng, self.lightning, Manners(generation=2))
        self.wallet = self.store.plant_wallet(USER, URL)
        self.life = Life(holder="i", weather=Weather(rng=rng, trace=lambda _: None), name="1")
        self.instance: Instance
        self._rng, self._tuning = rng, Tuning(settle=settle)

    def play(self, scene: Callable[[], Awaitable[None]]) -> None:
        """Start the instance, and play."""

        async def start() -> None:
            self.instance = Instance(
                self.life,
                store=self.store,
                mints={ALIAS: (self.mint, URL)},
                outputs=ModelOutputs("seed"),
                seen=Observations(),
                clock=self.clock,
                rng=self._rng,
                tuning=self._tuning,
                spool=SimSpool(),
            )
            # A mint that calls nothing SPENT gets nothing reclaimed.
            gone = self.token([1], SPENT)
            self.mint.take(gone.proofs[0])
            await self.tour()
            await scene()

        try:
            self.loop.run_until_complete(start())
        finally:
            self.loop.bury()

    def token(
        self,
        amounts: Sequence[int],
        status: TokenStatus = UNSPENT,
        kind: str = "received",
        proofs: Sequence[Proof] = (),
    ) -> Token:
        """A document with real ecash, or with these proofs."""
        held = tuple(proofs) or tuple(self.mint.issue(amount) for amount in amounts)
        token = Token(
            id=self.store.tables.new_id(),
            npub=USER,
            wallet_id=self.wallet,
            mint_url=URL,
            status=status,
            transaction_type=kind,
            transaction_id=f"tx_{len(self.store.tables.tokens)}",
            proofs=held,
            total_amount=sum(proof.amount for proof in held),
            created_at=EPOCH,
            updated_at=EPOCH,
        )
        self.store.plant(token)
        return self.again(token)

    def again(self, token: Token) -> Token:
        return self.store.tables.token(token.id)

    def write(self, token: Token, **changes: Any) -> None:
        """Another writer's ``save()``."""
        self.store.plant(replace(self.again(token), **changes))

    def records(self, token: Token) -> list[Discrepancy]:
        return [one for one in self.store.tables.discrepancies.values() if one.token_id == token.id]

    def record(self, token: Token) -> Discrepancy:
        (found,) = self.records(token)
        return found

    async def tour(self) -> None:
        await self.instance.sweep(ALIAS)

    async def pay(self, amount: int) -> Melt:
        request = MeltRequest(
            idempotency_key=f"k{self.loop.time()}",
            npub=USER,
            mint=ALIAS,
            invoice=f"ln:{self.lightning.new_hash()}:{amount}",
            actor=Actor(name="client"),
        )
        return await self.instance.melt(request, 30.0)


@pytest.fixture
def make_stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[SettlePolicy], Stage]]:
    monkeypatch.setattr("melt.saga.engine.read_invoice", read_invoice)
    monkeypatch.setattr("melt.recovery.reclaim.is_point", looks_like_a_point)
    made: list[Stage] = []

    def make(settle: SettlePolicy) -> Stage:
        made.append(Stage(settle))
        return made[-1]

    yield make
    for one in made:
        one.loop.close()


@pytest.fixture
def stage(make_stage: Callable[[SettlePolicy], Stage]) -> Stage:
    """Beside another service."""
    return make_stage(WAITS)


@pytest.fixture
def alone(make_stage: Callable[[SettlePolicy], Stage]) -> Stage:
    """Nobody else spends from the database."""
    return make_stage(SettlePolicy(look_s=LOOK_S))


# --- paying ---


def test_a_document_with_one_spent_proof_is_not_paid_from_and_not_touched(stage: Stage) -> None:
    """Its owner is at work on it: paying with the other proofs would split it under their hands."""

    async def scene() -> None:
        theirs, other = stage.token([64, 32]), stage.token([128])
        stage.mint.take(theirs.proofs[1])
        melt = await stage.pay(60)
        assert melt.state is MeltState.SETTLED
        assert {ref.token_id for ref in melt.inputs} == {other.id}
        assert stage.again(theirs) == theirs
        record = stage.record(theirs)
        assert (record.type, record.state, record.value) == (
            DriftType.DB_UNSPENT_MINT_SPENT,
            DiscrepancyState.OPEN,
            32,
        )

    stage.play(scene)


def test_a_payment_that_only_such_documents_would_cover_is_refused_with_when_it_ends(stage: Stage) -> None:
    async def scene() -> None:
        theirs = stage.token([64, 32])
        stage.mint.take(theirs.proofs[1])
        for _ in range(3):
            with pytest.raises(Refusal) as refused:
                await stage.pay(40)
            assert refused.value.code is Code.FUNDS_SETTLING
            blocked = refused.value.blocked
            assert blocked is not None
            assert (blocked.value, blocked.discrepancies) == (96, (stage.record(theirs).id,))
            assert blocked.settles_in_s is not None
            assert 0 < blocked.settles_in_s <= SETTLE_S
        assert stage.again(theirs) == theirs

    stage.play(scene)


def test_a_document_that_somebody_pays_with_right_now_is_left_out(stage: Stage) -> None:
    async def scene() -> None:
        theirs = stage.token([64, 32])
        paying = asyncio.ensure_future(stage.mint.borrow(theirs.proofs[0], 50.0, spends=False))
        await asyncio.sleep(1.0)
        with pytest.raises(Refusal) as refused:
            await stage.pay(20)
        assert refused.value.code is Code.FUNDS_SETTLING
        assert stage.again(theirs) == theirs
        await paying
        await asyncio.sleep(2 * LOOK_S)
        await stage.tour()
        assert (await stage.pay(20)).state is MeltState.SETTLED

    stage.play(scene)


def test_where_nobody_else_spends_it_is_marked_at_once(alone: Stage) -> None:
    async def scene() -> None:
        theirs = alone.token([64])
        alone.mint.take(theirs.proofs[0])
        with pytest.raises(Refusal) as refused:
            await alone.pay(40)
        assert refused.value.code is Code.HIGH_SEVERITY_DISCREPANCIES
        assert alone.again(theirs).status is SPENT

    alone.play(scene)


# --- carrying out ---


def test_what_has_settled_is_carried_out_by_itself_and_not_before(stage: Stage) -> None:
    """No tour passes any more; the looks at open records do it."""

    async def scene() -> None:
        theirs = stage.token([64, 32])
        stage.mint.take(theirs.proofs[1])
        await stage.tour()
        await asyncio.sleep(SETTLE_S - 2 * LOOK_S)
        assert stage.again(theirs) == theirs
        await asyncio.sleep(6 * LOOK_S)
        now = stage.again(theirs)
        assert (now.status, now.amount) == (SPENT, 32)
        assert stage.record(theirs).state is DiscrepancyState.CORRECTED
        rest = stage.store.spendable(USER, (URL,), "sat")
        assert [token.amount for token in rest] == [64]

    stage.play(scene)


def test_a_record_ends_within_a_look_or_two_when_its_owner_has_written_the_document(stage: Stage) -> None:
    """A spent source is in no tour any more: it must not page an hour later."""

    async def scene() -> None:
        theirs = stage.token([64])
        stage.mint.take(theirs.proofs[0])
        await stage.tour()
        await asyncio.sleep(0.95 * SETTLE_S)
        stage.write(theirs, status=SPENT)
        await asyncio.sleep(2 * LOOK_S + 1)
        assert stage.record(theirs).state is DiscrepancyState.CLEARED
        assert stage.again(theirs).rev is None, "nothing of it was written by us"

    stage.play(scene)


def test_a_record_ends_when_its_document_is_gone(stage: Stage) -> None:
    async def scene() -> None:
        theirs = stage.token([64])
        stage.mint.take(theirs.proofs[0])
        await stage.tour()
        del stage.store.tables.tokens[theirs.id]
        await asyncio.sleep(2 * LOOK_S + 1)
        assert stage.record(theirs).state is DiscrepancyState.CLEARED

    stage.play(scene)


def test_a_document_that_is_being_paid_with_is_not_split_however_long_it_has_settled(stage: Stage) -> None:
    """One of its proofs was spent long ago; another is PENDING at the mint now."""

    async def scene() -> None:
        theirs = stage.token([64, 32])
        stage.mint.take(theirs.proofs[1])
        await stage.tour()
        await asyncio.sleep(SETTLE_S - 2 * LOOK_S)
        paying = asyncio.ensure_future(stage.mint.borrow(theirs.proofs[0], 200.0, spends=False))
        await asyncio.sleep(100.0)
        await stage.tour()
        assert stage.again(theirs) == theirs
        await paying
        await asyncio.sleep(SETTLE_S)
        assert stage.again(theirs).status is SPENT

    stage.play(scene)


@pytest.mark.parametrize(("kind", "status"), [("change", UNSPENT), ("sent", UNSPENT), ("sent", SPENT)])
def test_a_proof_that_was_kept_unchanged_is_no_drift_in_its_spent_source(
    stage: Stage, kind: str, status: TokenStatus
) -> None:
    """It lives on in the new document, as money or as what was handed out: not even a record says otherwise."""

    async def scene() -> None:
        source = stage.token([64, 32], SPENT)
        stage.mint.take(source.proofs[1])
        stage.token([], status, kind, proofs=source.proofs[:1])
        for _ in range(3):
            await stage.tour()
            await asyncio.sleep(SETTLE_S / 2)
        assert stage.records(source) == []
        assert stage.mint.state(source.proofs[0].y) is MintState.UNSPENT

    stage.play(scene)


def test_what_is_written_off_and_good_comes_back_after_its_time(stage: Stage) -> None:
    async def scene() -> None:
        source = stage.token([64], SPENT)
        await stage.tour()
        await asyncio.sleep(SETTLE_S - 2 * LOOK_S)
        assert stage.mint.state(source.proofs[0].y) is MintState.UNSPENT
        await asyncio.sleep(8 * LOOK_S)
        assert stage.mint.state(source.proofs[0].y) is MintState.SPENT
        assert [token.amount for token in stage.store.spendable(USER, (URL,), "sat")] == [63]

    stage.play(scene)


def test_a_copy_that_is_stored_after_the_record_ends_it(stage: Stage) -> None:
    """Another service marks its sources spent first, and stores what it kept a moment later."""

    async def scene() -> None:
        source = stage.token([64], SPENT)
        await stage.tour()
        assert stage.record(source).action is Action.RECLAIM
        await asyncio.sleep(SETTLE_S / 2)
        stage.token([], proofs=source.proofs, kind="change")
        await asyncio.sleep(2 * SETTLE_S)
        assert stage.mint.state(source.proofs[0].y) is MintState.UNSPENT
        assert stage.record(source).state is DiscrepancyState.CLEARED

    stage.play(scene)


@pytest.mark.parametrize("status", [UNSPENT, PENDING])
def test_a_token_that_was_handed_out_is_marked_when_it_was_redeemed_and_else_left_alone(
    stage: Stage, status: TokenStatus
) -> None:
    async def scene() -> None:
        open_one, redeemed = stage.token([8], status, "sent"), stage.token([4], status, "sent")
        stage.mint.take(redeemed.proofs[0])
        await stage.tour()
        await asyncio.sleep(3 * SETTLE_S)
        await stage.tour()
        assert stage.again(open_one) == open_one
        assert stage.again(redeemed).status is SPENT
        assert stage.record(redeemed).alert_ms == 0

    stage.play(scene)


# --- a person's plan ---


@pytest.mark.parametrize("at_once", [False, True])
def test_a_planned_correction_waits_unless_a_person_said_not_to(stage: Stage, *, at_once: bool) -> None:
    async def scene() -> None:
        theirs = stage.token([64])
        stage.mint.take(theirs.proofs[0])
        await stage.tour()
        one = await _judged(stage, theirs.id)
        done = await stage.instance.reconciler.correct_planned(
            stage.instance.links[ALIAS], one, stage.record(theirs), Actor(name="p"), note="plan", at_once=at_once
        )
        assert done is at_once
        assert stage.again(theirs).status is (SPENT if at_once else UNSPENT)

    stage.play(scene)


async def _judged(stage: Stage, token_id: TokenId) -> Judged:
    """What a dry run says of a document."""
    outcome = Outcome(suspects=[])
    page = stage.store.tokens([token_id])
    await stage.instance.reconciler.page(
        stage.instance.links[ALIAS], page, outcome, dry_run=True, actor=Actor(name="p")
    )
    assert outcome.suspects is not None
    (one,) = outcome.suspects
    return one
