"""How long a document was watched: by whose clock, how much a look adds, and what begins it anew (I13, melt/settling.py)."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from melt.errors import Severity
from melt.model import Action, DriftType, Finding, MintAlias, TokenId
from melt.settling import SettlePolicy, Stopwatch, Watched, sighting
from tests.support.engine import y

LOOK_S = 60.0
STEP_MAX_MS = round(2000 * LOOK_S)


class Monotonic:
    """What one machine's monotonic clock says."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


class Record:
    """One record in the database, and the processes that look at its document."""

    def __init__(self) -> None:
        self.time = Monotonic()
        self.watched = Watched(mark="m")

    def process(self, holder: str, life: str = "1", clock: Monotonic | None = None) -> Stopwatch:
        return Stopwatch(holder, life, clock or self.time, STEP_MAX_MS)

    def look(self, by: Stopwatch, *, answer_lost: bool = False) -> int:
        """A look that finds the document as it was; what it added, in milliseconds."""
        before = self.watched
        added_ms, watcher = by.added_ms("r", before)
        self.watched = before.after(added_ms, watcher, mark=before.mark, same=True)
        if not answer_lost:
            by.noted("r", self.watched)
        return added_ms

    def after(self, seconds: float) -> None:
        self.time.at += seconds


@pytest.fixture
def record() -> Record:
    return Record()


# --- one process ---


def test_a_first_look_adds_nothing_and_each_further_one_what_has_passed(record: Record) -> None:
    one = record.process("a")
    added = [record.look(one)]
    for seconds in (60, 0.25, 90):
        record.after(seconds)
        added.append(record.look(one))
    assert added == [0, 60_000, 250, 90_000]
    assert record.watched.watched_ms == record.watched.same_ms == record.watched.open_ms == 150_250


def test_a_look_adds_at_most_two_intervals_whatever_has_passed(record: Record) -> None:
    """A process that was stopped for a night, with its document unwatched, comes back and looks."""
    one = record.process("a")
    record.look(one)
    record.after(8 * 3600)
    assert record.look(one) == STEP_MAX_MS
    record.after(1)
    assert record.look(one) == 1000


def test_a_clock_that_goes_back_takes_nothing_away_and_gives_nothing(record: Record) -> None:
    one = record.process("a")
    record.look(one)
    record.after(-3600)
    assert record.look(one) == 0
    record.after(30)
    assert record.look(one) == 30_000


def test_a_look_whose_commit_was_not_heard_of_is_not_counted_twice(record: Record) -> None:
    """It was written; the answer was lost; the next look must not add the same minute again."""
    one = record.process("a")
    record.look(one)
    for _ in range(20):
        record.after(60)
        record.look(one, answer_lost=True)
    record.after(60)
    record.look(one)
    assert record.watched.watched_ms <= 60_000
    record.after(60)
    assert record.look(one) == 60_000


def test_two_threads_that_look_at_the_same_time_count_it_once(record: Record) -> None:
    """A tour and a melt's check: both commits come before either is noted."""
    one = record.process("a")
    record.look(one)
    record.after(60)
    first = record.watched
    first_ms, watcher = one.added_ms("r", first)
    second = first.after(first_ms, watcher, mark="m", same=True)
    second_ms, watcher = one.added_ms("r", second)
    third = second.after(second_ms, watcher, mark="m", same=True)
    one.noted("r", third)
    one.noted("r", second)
    record.watched = third
    assert (first_ms, second_ms) == (60_000, 0)
    record.after(60)
    assert record.look(one) == 60_000


def test_what_is_over_or_was_forgotten_begins_with_nothing(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounded memory (I11): it settles later, never sooner."""
    one = record.process("a")
    record.look(one)
    record.after(60)
    one.forget(["r"])
    assert record.look(one) == 0

    monkeypatch.setattr("melt.settling.REMEMBERED_MAX", 2)
    for other in ("s", "t"):
        one.noted(other, Watched(watcher=one.name, looks=1))
    record.after(60)
    assert record.look(one) == 0


# --- several ---


def test_a_second_process_adds_nothing_while_the_first_counts(record: Record) -> None:
    """Each on its own clock, the other's an hour ahead: they count the time once."""
    ahead = Monotonic()
    one, other = record.process("a"), record.process("b", clock=ahead)
    record.look(one)
    for _ in range(100):
        record.after(30)
        ahead.at = record.time.at + 3600
        assert record.look(other) == 0
        record.after(30)
        record.look(one)
    assert record.watched.watched_ms == 100 * 60_000


def test_a_process_that_is_gone_is_followed_once_its_count_stands_still(record: Record) -> None:
    """Two intervals by the other's own clock, from its own first sight of that count; and it begins with nothing."""
    one, other = record.process("a"), record.process("b")
    record.look(one)
    record.after(60)
    record.look(one)
    added = []
    for _ in range(4):
        record.after(60)
        added.append(record.look(other))
    assert added == [0, 0, 0, 60_000]
    assert record.watched.watcher == other.name
    record.after(60)
    assert record.look(one) == 0, "back again, it finds the record another's"


def test_those_who_only_look_do_not_keep_each_other_from_following_it(record: Record) -> None:
    """Three daemons, of which the one that counted is gone: the looks of the other two must not pass for its own."""
    gone, one, other = (record.process(holder) for holder in "abc")
    record.look(gone)
    for _ in range(10):
        record.after(30)
        record.look(one)
        record.after(30)
        record.look(other)
    assert record.watched.watcher in {one.name, other.name}
    assert record.watched.watched_ms >= 5 * 60_000


def test_an_hour_old_memory_of_a_count_that_has_moved_since_is_no_takeover(record: Record) -> None:
    one, other = record.process("a"), record.process("b")
    record.look(one)
    record.look(other)
    record.after(3600)
    record.look(one)
    assert record.look(other) == 0
    assert record.watched.watcher == one.name


def test_the_next_life_of_an_instance_goes_on_at_once_and_adds_nothing_for_the_time_between(record: Record) -> None:
    """Killed and started every five seconds, with an hour between: nothing settles by that."""
    for life in range(20):
        process = record.process("a", str(life))
        assert record.look(process) == 0
        record.after(5)
        record.look(process)
        record.after(3600)
    assert record.watched.watched_ms == 20 * 5000


def test_an_instance_whose_name_begins_like_anothers_is_another(record: Record) -> None:
    record.look(record.process("node-1"))
    first = record.watched.watcher
    record.look(record.process("node"))
    assert record.watched.watcher == first


@pytest.mark.parametrize("seed", range(30))
def test_never_more_is_counted_than_has_passed(record: Record, seed: int) -> None:
    """Three instances that look, stop, lose answers, are killed and start again, in any order."""
    rng, lives = Random(seed), 0
    processes = [record.process(holder) for holder in "abc"]
    began = record.time.at
    for _ in range(400):
        record.after(rng.choice((0.0, 1.0, 30.0, 60.0, 200.0)))
        at = rng.randrange(3)
        if rng.random() < 0.1:
            lives += 1
            processes[at] = record.process("abc"[at], f"again {lives}")
        record.look(processes[at], answer_lost=rng.random() < 0.2)
    assert 0 < record.watched.watched_ms <= 1000 * (record.time.at - began)


# --- what a look comes to ---


def finding(**changes: object) -> Finding:
    base = Finding(
        type=DriftType.DB_UNSPENT_MINT_SPENT,
        severity=Severity.HIGH,
        action=Action.MARK_SPENT,
        subject="token:t",
        npub="n",
        mint=MintAlias("m"),
        unit="sat",
        value=8,
        token_id=TokenId("t"),
        ys=(y(1), y(2)),
        evidence={},
        mark="m",
    )
    return replace(base, **changes)


BEFORE = Watched(mark="m", watched_ms=5000, same_ms=5000, open_ms=9000, watcher="a/1", looks=7)


def look(one: Finding, *, before: Watched = BEFORE, action: Action = Action.MARK_SPENT, ys: tuple[str, ...] = ()):
    return sighting(before, one, action=action, ys=ys or (y(1), y(2)), added_ms=1000, watcher="a/1")


def test_the_same_again_is_counted():
    seen = look(finding())
    assert (seen.watched.watched_ms, seen.watched.same_ms, seen.watched.open_ms) == (6000, 6000, 10_000)
    assert (seen.anew, seen.keeps_words) == (False, False)


def test_another_document_is_another_occurrence_and_begins_anew():
    seen = look(finding(mark="another"))
    assert seen.anew
    assert (seen.watched.mark, seen.watched.watched_ms, seen.watched.same_ms) == ("another", 0, 0)
    assert seen.watched.open_ms == 10_000, "how long it has been open goes on"


@pytest.mark.parametrize("ys", [(y(1),), (y(1), y(2), y(3)), (y(1), y(3))], ids=["fewer", "more", "others"])
def test_a_whole_look_that_says_otherwise_begins_anew(ys: tuple[str, ...]):
    seen = look(finding(ys=ys))
    assert (seen.watched.watched_ms, seen.watched.same_ms) == (0, 0)
    assert (seen.anew, seen.keeps_words) == (False, False)


def test_a_look_at_fewer_proofs_neither_begins_anew_nor_takes_the_words():
    seen = look(finding(ys=(y(1),), whole=False))
    assert seen.watched.watched_ms == 6000
    assert seen.keeps_words


def test_a_partial_look_at_another_document_has_its_own_words():
    seen = look(finding(ys=(y(1),), whole=False, mark="another"))
    assert (seen.anew, seen.keeps_words) == (True, False)


def test_a_look_without_a_mark_leaves_the_one_that_is_there():
    seen = look(finding(mark=None))
    assert (seen.watched.mark, seen.watched.watched_ms, seen.anew) == ("m", 6000, False)


def test_the_first_mark_of_a_record_that_had_none_begins_it():
    seen = look(finding(), before=replace(BEFORE, mark=None))
    assert (seen.watched.mark, seen.watched.watched_ms, seen.anew) == ("m", 0, False)


def test_another_action_on_the_same_proofs_is_not_the_same():
    seen = look(finding(action=Action.RELEASE), action=Action.WATCH)
    assert (seen.watched.watched_ms, seen.watched.same_ms) == (6000, 0)


def test_money_that_was_there_and_now_is_not_begins_anew():
    """One record may tell of both: the reservation of a melt that is over."""
    seen = look(finding(type=DriftType.RESERVATION_ORPHANED), action=Action.RELEASE)
    assert seen.watched.watched_ms == 0


# --- the two times ---


def test_only_what_changes_something_is_waited_for():
    policy = SettlePolicy(correct_after_s=600, alert_after_s=60, pending_grace_s=3600)
    needs = {action: policy.needs_ms(action) for action in Action}
    assert needs == {
        Action.MARK_SPENT: 600_000,
        Action.RECLAIM: 600_000,
        Action.RELEASE: 3_600_000,
        **dict.fromkeys((Action.RECORD, Action.WATCH, Action.IMPORT, Action.NONE), 0),
    }
    assert SettlePolicy(correct_after_s=7200, pending_grace_s=3600).needs_ms(Action.RELEASE) == 7_200_000


def test_nothing_waits_where_nobody_else_spends():
    policy = SettlePolicy(pending_grace_s=3600)
    assert not policy.waits
    assert policy.needs_ms(Action.MARK_SPENT) == policy.needs_ms(Action.RECLAIM) == 0
    assert policy.needs_ms(Action.RELEASE) == 0, "the document's own date will do"
    assert SettlePolicy(correct_after_s=60, pending_grace_s=3600).needs_ms(Action.RELEASE) == 3_600_000
    assert not policy.is_unsettled(drift=DriftType.DB_UNSPENT_MINT_SPENT, action=Action.MARK_SPENT, open_ms=10**12)


def test_critical_drift_pages_at_once_and_what_was_redeemed_never():
    policy = SettlePolicy(correct_after_s=600, alert_after_s=60)
    assert policy.alert_ms(DriftType.DB_UNSPENT_MINT_SPENT, Severity.HIGH) == 60_000
    assert policy.alert_ms(DriftType.MINT_STATE_REGRESSED, Severity.CRITICAL) == 0


def test_what_does_not_come_to_rest_in_three_times_its_time_is_unsettled():
    policy = SettlePolicy(correct_after_s=600)
    told = {"drift": DriftType.DB_UNSPENT_MINT_SPENT, "action": Action.MARK_SPENT}
    assert not policy.is_unsettled(**told, open_ms=1_799_999)
    assert policy.is_unsettled(**told, open_ms=1_800_000)
    assert not policy.is_unsettled(**{**told, "action": Action.WATCH}, open_ms=10**12)
    assert not policy.is_unsettled(**{**told, "drift": DriftType.SENT_TOKEN_REDEEMED}, open_ms=10**12)
