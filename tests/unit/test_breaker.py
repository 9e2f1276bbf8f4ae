"""The circuit breaker: opens after unusable answers in a row, lets one probe through, closes on any usable answer."""

from __future__ import annotations

from melt.breaker import Breaker, BreakerPolicy, Circuit

POLICY = BreakerPolicy(failures_max=3, pause_s=10, pause_s_max=35, probe_s=5)


class Clock:
    def __init__(self) -> None:
        self.s = 1000.0

    def monotonic(self) -> float:
        return self.s


class NoJitter:
    def uniform(self, low: float, high: float, /) -> float:
        return (low + high) / 2


def made() -> tuple[Breaker, Clock, list[Circuit]]:
    clock, seen = Clock(), []
    breaker = Breaker(POLICY, clock=clock, entropy=NoJitter(), on_change=seen.append)  # type: ignore[arg-type]
    return breaker, clock, seen


def fail(breaker: Breaker, times: int) -> None:
    for _ in range(times):
        breaker.record(usable=False)


def test_it_opens_only_after_so_many_unusable_answers_in_a_row() -> None:
    breaker, _, seen = made()
    fail(breaker, 2)
    breaker.record(usable=True)
    fail(breaker, 2)
    assert breaker.admit() is None
    fail(breaker, 1)
    assert breaker.admit() == 10
    assert not breaker.is_closed
    assert seen == [Circuit.OPEN]


def test_after_the_pause_one_may_try_and_the_others_wait_for_it() -> None:
    breaker, clock, _ = made()
    fail(breaker, 3)
    clock.s += 10
    assert breaker.admit() is None
    assert breaker.admit() == 5
    breaker.record(usable=True)
    assert breaker.admit() is None
    assert breaker.is_closed


def test_a_probe_that_fails_opens_it_for_longer_up_to_a_bound() -> None:
    breaker, clock, _ = made()
    fail(breaker, 3)
    waits = []
    for _ in range(4):
        wait = breaker.admit()
        assert wait is not None
        waits.append(wait)
        clock.s += wait
        assert breaker.admit() is None
        fail(breaker, 1)
    assert waits == [10, 20, 35, 35]


def test_a_probe_that_never_comes_back_does_not_keep_it_shut() -> None:
    breaker, clock, _ = made()
    fail(breaker, 3)
    clock.s += 10
    assert breaker.admit() is None
    clock.s += 5
    assert breaker.admit() is None, "the next one may try"


def test_anybodys_usable_answer_closes_it_and_the_pauses_start_small_again() -> None:
    breaker, clock, seen = made()
    fail(breaker, 3)
    clock.s += 10
    breaker.admit()
    fail(breaker, 1)
    breaker.record(usable=True)
    assert seen == [Circuit.OPEN, Circuit.HALF_OPEN, Circuit.OPEN, Circuit.CLOSED]
    fail(breaker, 3)
    assert breaker.admit() == 10


def test_failures_while_it_is_open_do_not_push_the_probe_away() -> None:
    breaker, clock, _ = made()
    fail(breaker, 3)
    clock.s += 9
    fail(breaker, 50)
    assert breaker.admit() == 1
