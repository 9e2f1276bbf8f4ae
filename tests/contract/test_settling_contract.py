"""
What settles (I13), on MongoDB's protocol and on the model: the one door, the watching, and what another writer's hand does to it.

Time is counted by several processes over the same records here, each with clocks of its own; another writer changes raw
documents, and writes no ``rev``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId

from melt.ecash import y_of
from melt.errors import LostRace, Severity
from melt.model import (
    Action,
    Discrepancy,
    DiscrepancyState,
    DriftType,
    JournalKind,
    Melt,
    MeltId,
    MintAlias,
    Reservation,
    Token,
    TokenStatus,
    Warrant,
)
from melt.settling import SettlePolicy
from tests.contract.test_store_contract import SEED, Bench, _token, correction, finding
from tests.simulation.model_store import ModelStore
from tests.support.store import fake_proof, insert_token, insert_wallet, make_melt, npub, warrant_of

LOOK_S = 60.0
SETTLE_S = 600.0
POLICY = SettlePolicy(correct_after_s=SETTLE_S, alert_after_s=120.0, look_s=LOOK_S, pending_grace_s=1200.0)
MINT = MintAlias("m")
OPEN, RECURRED, CORRECTED, CLEARED = (
    DiscrepancyState.OPEN,
    DiscrepancyState.RECURRED,
    DiscrepancyState.CORRECTED,
    DiscrepancyState.CLEARED,
)


@dataclass
class Clocks:
    """A machine's clocks: ``ahead_s`` is how wrong its wall clock is; the monotonic one may be set by hand."""

    world: World
    ahead_s: float = 0.0
    lost_s: float = 0.0

    def now(self) -> datetime:
        return self.world.began + timedelta(seconds=self.world.passed_s + self.ahead_s)

    def monotonic(self) -> float:
        return 5000.0 + self.world.passed_s - self.lost_s

    async def sleep(self, seconds: float, /) -> None:
        raise NotImplementedError

    async def wait(self, event: object, seconds: float, /) -> bool:
        raise NotImplementedError


class OfProcess:
    """The model store as one process has it: with its own clocks, and its own memory of what it looked at."""

    def __init__(self, model: ModelStore, clocks: Clocks, holder: str, life: str) -> None:
        self._model, self._clocks, self._holder, self._life = model, clocks, holder, life
        self._watch = model.new_stopwatch(holder, life, clocks.monotonic)

    def __getattr__(self, name: str) -> Any:
        self._model.called_by(self._watch, self._clocks)
        return getattr(self._model, name)


@dataclass
class World:
    """The processes over one database, and what other writers do to it."""

    make: Callable[[Clocks, str, str], Any]
    plant: Callable[..., str]
    change: Callable[[Token, str], None]
    remove: Callable[[Token], None]
    began: datetime = field(default_factory=lambda: datetime(2026, 3, 1, 12, 0, tzinfo=UTC))
    passed_s: float = 0.0
    lives: int = 0
    bench: Bench = field(init=False)

    def __post_init__(self) -> None:
        self.first = self.process("a")
        self.bench = Bench(self.first, self, self.plant, lambda *_: "", lambda *_: None)  # type: ignore[arg-type]

    @property
    def at(self) -> datetime:
        return self.began + timedelta(seconds=self.passed_s)

    @at.setter
    def at(self, moment: datetime) -> None:
        self.passed_s = (moment - self.began).total_seconds()

    def process(self, holder: str, **clocks: float) -> Any:
        """A process that starts now."""
        self.lives += 1
        return self.make(Clocks(self, **clocks), holder, f"life {self.lives}")

    def token(self, amounts: list[int], **more: Any) -> Token:
        return self.bench.token(npub(), amounts, **more)

    def again(self, token: Token) -> Token:
        return self.bench.again(token)

    def look(self, record: Discrepancy, token: Token, seconds: float, *, by: Any = None) -> Discrepancy:
        """Let time pass with looks at the document in every interval, from one at its beginning to one at its end."""
        store = by or self.first
        end = self.passed_s + seconds
        self.watch(record, token, by=store)
        while self.passed_s < end:
            self.passed_s = min(self.passed_s + LOOK_S, end)
            self.watch(record, token, by=store)
        return self.record(record.id)

    def watch(self, record: Discrepancy, token: Token, *, by: Any = None) -> None:
        store = by or self.first
        store.watch({record.id: store.marks([token.id])[token.id]})

    def record(self, record_id: str) -> Discrepancy:
        found = self.first.discrepancies(states=(), types=(), severities=(), npub=None, limit=1000)
        return next(one for one in found if one.id == record_id)


_OTHERS: dict[str, Any] = {
    "status": "pending",
    "transaction_type": "received",
    "transaction_id": "tx_of_somebody",
    "npub": "npub1" + "q" * 58,
    "wallet_id": "65f000000000000000000001",
    "mint_url": "http://elsewhere.example",
}
FIELDS = (*_OTHERS, "proofs", "reservation")


@pytest.fixture(params=["model", "mongo"])
def world(request: pytest.FixtureRequest) -> World:
    if request.param == "model":
        model = ModelStore(clock=Clocks(None), y_of=y_of, settle=POLICY)  # type: ignore[arg-type]

        def plant(owner: str, proofs: list[dict[str, Any]], **more: Any) -> str:
            return model.plant(_token(model, owner, proofs, **more))

        def change(token: Token, name: str) -> None:
            present = model.tables.token(token.id)
            if name in _OTHERS:
                other = TokenStatus(_OTHERS[name]) if name == "status" else _OTHERS[name]
                model.plant(replace(present, **{name: other}))
            elif name == "proofs":
                model.plant(replace(present, proofs=present.proofs[1:]))
            elif name == "reservation":
                model.plant(replace(present, reservation=Reservation(melt_id=MeltId("melt_x"), at=None)))
            else:
                model.plant(replace(present, updated_at=datetime(2030, 1, 1, tzinfo=UTC)))

        def remove(token: Token) -> None:
            del model.tables.tokens[token.id]

        return World(lambda *who: OfProcess(model, *who), plant, change, remove)
    db, make_store = request.getfixturevalue("db"), request.getfixturevalue("make_store")
    insert_wallet(db, npub())
    tokens = db["cashu_tokens"]

    def write(token: Token, name: str) -> None:
        update: dict[str, Any] = {"$set": {name: _OTHERS[name]}} if name in _OTHERS else {"$inc": {name: 1}}
        if name == "wallet_id":
            update = {"$set": {name: ObjectId(_OTHERS[name])}}
        elif name == "proofs":
            update = {"$pop": {name: -1}}
        elif name == "reservation":
            update = {"$set": {name: {"melt_id": "melt_x"}}}
        assert tokens.update_one({"_id": ObjectId(token.id)}, update).modified_count == 1

    return World(
        lambda clocks, holder, _: make_store(clock=clocks, holder=holder, settle=POLICY, unique_proofs="off"),
        lambda owner, proofs, **more: insert_token(db, owner, proofs, **more),
        write,
        lambda token: tokens.delete_one({"_id": ObjectId(token.id)}),
    )


def found(token: Token, **changes: Any) -> Any:
    """A look at a document, with what it was then."""
    action = changes.pop("action", Action.MARK_SPENT)
    ys = changes.pop("ys", None)
    return replace(finding(token, action=action, ys=ys), mark=token.mark, **changes)


def seen(world: World, token: Token, *, by: Any = None, **changes: Any) -> Discrepancy:
    (record,) = (by or world.first).record([found(token, **changes)])
    return record


def correct(world: World, record: Discrepancy, token: Token, *, by: Any = None, **changes: Any) -> bool:
    held = warrant_of(record, token, **changes)
    return bool((by or world.first).correct(correction(record, token, warrant=held)))


def state(world: World, record: Discrepancy) -> DiscrepancyState:
    return world.record(record.id).state


# --- the door ---


def test_nothing_is_written_before_its_document_has_stood_still_for_long_enough(world: World) -> None:
    token = world.token([8, 4])
    record = seen(world, token)
    record = world.look(record, token, SETTLE_S - 1)
    assert not record.is_settled
    assert correct(world, record, token) is False
    assert world.again(token) == token
    record = world.look(record, token, 1)
    assert record.is_settled
    assert correct(world, record, token) is True
    assert (world.again(token).status, state(world, record)) == (TokenStatus.SPENT, CORRECTED)


@pytest.mark.parametrize("name", FIELDS)
def test_a_document_that_another_writer_has_touched_is_not_written(world: World, name: str) -> None:
    """They write no ``rev``: the digest of the raw document tells it, at a person's word as well."""
    token = world.token([8, 4], transaction_type="minted")
    record = world.look(seen(world, token), token, SETTLE_S)
    world.change(token, name)
    changed = world.first.tokens([token.id])[0]
    assert changed.mark != token.mark
    assert world.first.marks([token.id]) == {token.id: changed.mark}
    for at_once in (False, True):
        assert correct(world, record, token, at_once=at_once) is False
    assert world.first.tokens([token.id]) == (changed,)


@pytest.mark.parametrize("name", [name for name in FIELDS if name != "proofs"])
def test_what_is_looked_at_again_after_a_change_has_not_settled(world: World, name: str) -> None:
    """A warrant with the new digest is no way round: the time is that of the old one."""
    token = world.token([8, 4])
    record = world.look(seen(world, token), token, SETTLE_S)
    world.change(token, name)
    changed = world.first.tokens([token.id])[0]
    held = replace(warrant_of(record, token), mark=changed.mark)
    change = correction(record, token, warrant=held, expected_status=changed.status)
    assert world.first.correct(change) is False
    assert world.first.tokens([token.id]) == (changed,)


def test_what_else_changes_is_without_effect(world: World) -> None:
    """A field of somebody's own, written in every interval."""
    token = world.token([8])
    record = seen(world, token)
    for _ in range(10):
        world.change(token, "__v")
        record = world.look(record, token, LOOK_S)
    assert correct(world, record, world.again(token)) is True


def test_a_person_who_said_not_to_wait_does_not_wait(world: World) -> None:
    token = world.token([8])
    record = seen(world, token)
    assert correct(world, record, token) is False
    assert correct(world, record, token, at_once=True) is True
    assert world.again(token).status is TokenStatus.SPENT


def test_a_record_that_is_over_or_another_occurrence_lets_nothing_pass(world: World) -> None:
    token = world.token([8])
    record = world.look(seen(world, token), token, SETTLE_S)
    world.first.clear_unseen([record.subject], ())
    assert correct(world, record, token, at_once=True) is False, "it is over"
    again = seen(world, token)
    assert (again.state, again.occurrence, again.watched_ms) == (RECURRED, 2, 0)
    assert correct(world, record, token, at_once=True) is False, "it is the occurrence before"
    assert correct(world, again, token) is False, "it begins anew"
    assert world.again(token) == token


def test_a_warrant_for_another_document_lets_nothing_pass(world: World) -> None:
    token, other = world.token([8]), world.token([8])
    record = world.look(seen(world, other), other, SETTLE_S)
    held = Warrant(discrepancy_id=record.id, occurrence=1, token_id=other.id, mark=other.mark)
    change = replace(correction(record, token), warrant=held, ys=tuple(p.y for p in token.proofs))
    assert world.first.correct(change) is False
    assert world.again(token) == token


def test_pending_documents_are_watched_for_their_grace_time_whatever_their_date(world: World) -> None:
    """A wallet host whose clock is two hours slow dates what it writes two hours back."""
    token = world.token([8], status="pending")
    record = seen(world, token, type=DriftType.DB_PENDING_MINT_UNSPENT, action=Action.RELEASE)
    record = world.look(record, token, SETTLE_S + LOOK_S)
    release = correction(record, token, TokenStatus.UNSPENT)
    assert world.first.correct(release) is False
    record = world.look(record, token, POLICY.pending_grace_s - SETTLE_S - LOOK_S)
    assert world.first.correct(correction(record, token, TokenStatus.UNSPENT)) is True
    assert world.again(token).status is TokenStatus.UNSPENT


# --- swaps pass it too ---


def reclaim(world: World, record: Discrepancy, source: Token, **changes: Any) -> Melt:
    entry = make_melt([source], kind=JournalKind.RECLAIM, idempotency_key=None, payment_hash=None, quote_id=None)
    held = warrant_of(record, source, **changes)
    reserved: Melt = world.first.reserve(entry, blanks=None, seed_id=SEED, warrant=held)
    return reserved


def written_off(world: World, source: Token) -> Discrepancy:
    return seen(world, source, type=DriftType.DB_SPENT_MINT_UNSPENT, action=Action.RECLAIM, severity=Severity.MEDIUM)


def test_a_reclaim_waits_like_any_correction(world: World) -> None:
    source = world.token([16], status="spent", transaction_type="received")
    record = world.look(written_off(world, source), source, SETTLE_S - 1)
    with pytest.raises(LostRace):
        reclaim(world, record, source)
    assert world.first.open_melts() == ()
    reclaim(world, world.look(record, source, 1), source)
    assert len(world.first.open_melts()) == 1


def test_a_reclaim_at_a_persons_word_does_not_wait(world: World) -> None:
    source = world.token([16], status="spent", transaction_type="received")
    record = written_off(world, source)
    reclaim(world, record, source, at_once=True)
    assert len(world.first.open_melts()) == 1


def test_a_reclaim_of_what_was_touched_meanwhile_is_refused(world: World) -> None:
    source = world.token([16, 8], status="spent", transaction_type="received")
    record = world.look(written_off(world, source), source, SETTLE_S)
    world.change(source, "transaction_id")
    with pytest.raises(LostRace):
        reclaim(world, record, source, at_once=True)


def test_a_reclaim_by_a_record_that_is_over_or_another_occurrence_is_refused(world: World) -> None:
    """Even at a person's word: that was about what was seen then."""
    source = world.token([16, 8], status="spent", transaction_type="received")
    record = written_off(world, source)
    world.first.clear_unseen([record.subject], ())
    with pytest.raises(LostRace):
        reclaim(world, record, source, at_once=True)
    again = written_off(world, source)
    assert again.occurrence == 2
    with pytest.raises(LostRace):
        reclaim(world, record, source, at_once=True)
    reclaim(world, again, source, at_once=True)


@pytest.mark.parametrize("holder", ["change", "sent", "received"])
def test_a_proof_that_was_kept_unchanged_is_not_reclaimed_from_its_spent_source(world: World, holder: str) -> None:
    """It lies in a live document, or was handed out: a reclaim would take it from there."""
    kept = fake_proof(16)
    owner = npub()
    source = world.bench.token(owner, [kept], status="spent", transaction_type="received")
    live = world.bench.token(owner, [kept], transaction_type=holder)
    record = world.look(written_off(world, source), source, SETTLE_S)
    for at_once in (False, True):
        with pytest.raises(LostRace):
            reclaim(world, record, source, at_once=at_once)
    assert world.again(live) == live


# --- watching ---


def test_each_look_at_what_stands_still_adds_what_has_passed(world: World) -> None:
    token = world.token([8])
    record = seen(world, token)
    assert (record.watched_ms, record.needs_ms, record.alert_ms) == (0, 600_000, 120_000)
    assert record.is_settling
    record = world.look(record, token, 90)
    assert (record.watched_ms, record.open_ms, record.sightings) == (90_000, 90_000, 1)
    record = world.look(record, token, 30)
    assert not record.is_settling
    world.passed_s += 15
    record = seen(world, token)
    assert (record.watched_ms, record.same_ms, record.sightings) == (135_000, 135_000, 2)


def test_a_document_that_moved_begins_anew(world: World) -> None:
    token = world.token([8, 4])
    record = world.look(seen(world, token), token, 300)
    world.change(token, "transaction_id")
    record = world.look(record, token, 0)
    assert (record.watched_ms, record.same_ms, record.open_ms) == (0, 0, 300_000)
    assert record.mark == world.again(token).mark != token.mark
    assert world.look(record, token, 60).watched_ms == 60_000


def test_a_look_that_finds_another_document_is_another_occurrence(world: World) -> None:
    token = world.token([8, 4])
    record = world.look(seen(world, token), token, 300)
    world.change(token, "transaction_id")
    again = seen(world, world.again(token))
    assert (again.state, again.occurrence, again.sightings, again.watched_ms) == (RECURRED, 2, 1, 0)
    assert again.first_seen > record.first_seen
    assert correct(world, again, world.again(token)) is False


def test_the_mint_says_otherwise_so_the_time_begins_anew(world: World) -> None:
    token = world.token([8, 4])
    record = seen(world, token, ys=[token.proofs[0].y], value=8)
    world.look(record, token, SETTLE_S)
    record = seen(world, token)
    assert (record.watched_ms, record.occurrence, record.value, len(record.ys)) == (0, 1, 12, 2)
    assert correct(world, record, token) is False


def test_a_look_at_fewer_proofs_takes_neither_time_nor_words(world: World) -> None:
    """The check of a melt that would use one proof, beside a tour that saw all."""
    token = world.token([8, 4])
    record = world.look(seen(world, token), token, 300)
    world.passed_s += 30
    partial = seen(world, token, ys=[token.proofs[1].y], value=4, whole=False)
    assert (partial.watched_ms, partial.value, partial.ys) == (330_000, record.value, record.ys)
    assert partial.occurrence == 1


def test_what_is_over_is_not_watched(world: World) -> None:
    token = world.token([8])
    record = world.look(seen(world, token), token, 60)
    world.first.clear_unseen([record.subject], ())
    record = world.look(record, token, 300)
    assert (record.state, record.watched_ms) == (CLEARED, 60_000)


def test_marks_are_of_what_is_there(world: World) -> None:
    token, gone = world.token([8]), world.token([4])
    world.remove(gone)
    assert world.first.marks([gone.id, token.id, token.id]) == {token.id: token.mark}
    assert world.first.marks([]) == {}


def test_open_records_about_documents_come_with_the_least_watched_first(world: World) -> None:
    long, short, over, elsewhere = (world.token([amount]) for amount in (8, 4, 2, 1))
    records = {token.id: seen(world, token) for token in (long, short, over)}
    seen(world, elsewhere, mint=MintAlias("other"))
    world.first.record([replace(found(long), subject="mint:m", token_id=None, mark=None)])
    world.look(records[long.id], long, 120)
    world.first.clear_unseen([f"token:{over.id}"], ())
    listed = world.first.open_about_tokens(MINT, 10)
    assert [one.token_id for one in listed] == [short.id, long.id]
    assert [one.token_id for one in world.first.open_about_tokens(MINT, 1)] == [short.id]


# --- whose time ---


def test_a_second_daemon_whose_clock_is_an_hour_ahead_settles_nothing_sooner(world: World) -> None:
    """Both look, sight and try to correct all the time."""
    token = world.token([8])
    ahead = world.process("b", ahead_s=3600.0)
    record = seen(world, token)
    while world.passed_s < SETTLE_S - 2 * LOOK_S:
        world.passed_s += 30
        seen(world, token, by=ahead)
        world.watch(record, token, by=ahead)
        record = seen(world, token)
        assert record.watched_ms <= 1000 * world.passed_s
        for store in (ahead, world.first):
            assert correct(world, record, token, by=store) is False
    record = world.look(record, token, 2 * LOOK_S)
    assert correct(world, record, token, by=ahead) is True, "what has settled is settled for both"


def test_a_night_switched_off_settles_nothing(world: World) -> None:
    token = world.token([8])
    record = seen(world, token)
    world.passed_s += 12 * 3600
    record = seen(world, token)
    assert record.watched_ms == 2000 * LOOK_S
    assert correct(world, record, token) is False


def test_a_clock_that_steps_settles_nothing(world: World) -> None:
    token = world.token([8])
    record = seen(world, token)
    world.began += timedelta(days=30)
    record = seen(world, token)
    assert record.watched_ms == 0
    assert correct(world, record, token) is False


def test_a_daemon_that_is_killed_every_five_seconds_settles_nothing_by_starting(world: World) -> None:
    token = world.token([8])
    record = seen(world, token)
    for _ in range(40):
        process = world.process("a")
        record = seen(world, token, by=process)
        world.passed_s += 30
    assert record.watched_ms == 0
    assert correct(world, record, token) is False


def test_another_daemon_goes_on_counting_when_the_first_is_gone(world: World) -> None:
    token = world.token([8])
    record = world.look(seen(world, token), token, 120)
    other = world.process("b")
    record = world.look(record, token, 600, by=other)
    assert 120_000 + 600_000 - 3000 * LOOK_S <= record.watched_ms <= 120_000 + 600_000 - 2000 * LOOK_S
    record = world.look(record, token, 180, by=other)
    assert correct(world, record, token, by=other) is True


# --- what does not come to rest ---


def test_what_never_stands_still_is_a_persons_after_three_times_as_long(world: World) -> None:
    token = world.token([8], status="spent", transaction_type="received")
    record = written_off(world, token)
    while world.passed_s < 3 * SETTLE_S + 10:
        record = world.look(record, token, LOOK_S)
        world.first.watch({record.id: "another digest"})
    assert (record.severity, record.is_settled) == (Severity.MEDIUM, False)
    record = written_off(world, world.again(token))
    assert record.severity is Severity.HIGH
    assert record.evidence["unsettled_s"] >= 3 * SETTLE_S


# --- what was handed out ---


def test_what_its_recipient_redeemed_is_marked_after_its_time_and_never_pages(world: World) -> None:
    token = world.token([8], transaction_type="sent")
    record = seen(world, token, type=DriftType.SENT_TOKEN_REDEEMED, severity=Severity.LOW)
    assert record.alert_ms == 0
    assert correct(world, record, token) is False
    record = world.look(record, token, SETTLE_S)
    assert correct(world, record, token) is True
    done = world.again(token)
    assert (done.status, done.transaction_type) == (TokenStatus.SPENT, "sent")
