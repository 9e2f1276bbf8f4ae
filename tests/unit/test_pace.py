"""The pace of a sweep: faster on drift and lag, slower on 429 and latency, within its bounds."""

from __future__ import annotations

import pytest

from daemon.pace import LATENCIES_FEWEST, Pace, PacePolicy

POLICY = PacePolicy(duty_min=0.1, duty_max=0.9, duty_start=0.5, lag_target_s=600, free_pages=0)
HELD = 400.0
"""A lag between half of the target and the target: no reason to change anything."""


class Entropy:
    def __init__(self) -> None:
        self.asked: list[tuple[float, float]] = []

    def token(self, n: int, /) -> str:
        return "00" * n

    def uniform(self, low: float, high: float, /) -> float:
        self.asked.append((low, high))
        return low


def pages(pace: Pace, count: int, *, drift: bool = False, lag_s: float = HELD, seconds: float = 0.1) -> list[float]:
    return [pace.page_done(seconds=seconds, drift=drift, lag_s=lag_s, pages=100) for _ in range(count)]


def test_it_rests_so_that_pages_take_their_share_of_the_time() -> None:
    pace = Pace(POLICY, Entropy())
    assert pages(pace, 3) == [pytest.approx(0.1)] * 3
    assert pace.duty == 0.5


@pytest.mark.parametrize(("drift", "lag_s"), [(True, 0.0), (False, 601.0)], ids=["drift", "lag"])
def test_drift_and_a_lag_above_the_target_make_it_faster_up_to_a_bound(*, drift: bool, lag_s: float) -> None:
    pace = Pace(POLICY, Entropy())
    rests = pages(pace, 20, drift=drift, lag_s=lag_s)
    assert rests == sorted(rests, reverse=True)
    assert rests[0] < 0.1
    assert pace.duty == POLICY.duty_max


def test_a_lag_well_within_the_target_lets_it_slow_down_gently() -> None:
    pace = Pace(POLICY, Entropy())
    pages(pace, 10, lag_s=299)
    assert pace.duty == pytest.approx(0.4)
    pages(pace, 100, lag_s=299)
    assert pace.duty == POLICY.duty_min


def test_a_429_halves_it_and_leaves_the_mint_alone_for_longer_each_time() -> None:
    pace = Pace(POLICY, Entropy())
    assert [pace.refused(None) for _ in range(3)] == [1, 2, 4]
    assert pace.duty == POLICY.duty_min, "0.5, halved twice, is at its least"
    assert pace.refused(30) == 240
    pages(pace, 1)
    assert pace.refused(30) == 30, "a page that went well ends the row"
    assert [pace.refused(None) for _ in range(20)][-1] == POLICY.backoff_s_max


def test_a_tour_that_failed_is_taken_up_again_later_each_time() -> None:
    pace = Pace(POLICY, Entropy())
    assert [pace.tour_ended(ok=False) for _ in range(3)] == [15, 30, 60]
    assert pace.tour_ended(ok=True) is None
    assert pace.tour_ended(ok=False) == 15


def answered(pace: Pace, seconds: float, count: int = 4) -> None:
    for _ in range(count):
        pace.answered(seconds)


def test_requests_that_take_much_longer_than_they_use_to_halve_it_until_that_is_usual() -> None:
    pace = Pace(POLICY, Entropy())
    for _ in range(LATENCIES_FEWEST):
        answered(pace, 0.05)
        pages(pace, 1)
    assert pace.duty == 0.5
    answered(pace, 0.16)
    pages(pace, 1, drift=True)
    assert pace.duty == 0.25, "a mint that suffers comes before drift"
    for _ in range(LATENCIES_FEWEST):
        answered(pace, 0.16)
        pages(pace, 1)
    duty = pace.duty
    answered(pace, 0.16)
    pages(pace, 1)
    assert pace.duty == duty, "a mint that has become slow for good is not punished for ever"


@pytest.mark.parametrize("seconds", [0.001, 0.05, 0.09])
def test_quick_answers_are_never_slow_however_much_they_differ(seconds: float) -> None:
    pace = Pace(POLICY, Entropy())
    for _ in range(LATENCIES_FEWEST):
        answered(pace, 0.0001)
        pages(pace, 1)
    answered(pace, seconds)
    pages(pace, 1)
    assert pace.duty == 0.5


def test_a_single_slow_answer_among_good_ones_is_no_reason() -> None:
    pace = Pace(POLICY, Entropy())
    for _ in range(LATENCIES_FEWEST):
        answered(pace, 0.05)
        pages(pace, 1)
    answered(pace, 0.05)
    pace.answered(9.0)
    pages(pace, 1)
    assert pace.duty == 0.5


def test_a_small_database_is_done_without_rests() -> None:
    pace = Pace(PacePolicy(free_pages=3), Entropy())
    rests = [pace.page_done(seconds=0.1, drift=False, lag_s=HELD, pages=page) for page in range(1, 6)]
    assert rests[:3] == [0, 0, 0]
    assert min(rests[3:]) > 0


def test_a_rest_is_bounded_and_never_shorter_for_its_jitter() -> None:
    entropy = Entropy()
    pace = Pace(POLICY, entropy)
    assert pages(pace, 1, seconds=500)[0] == POLICY.pause_s_max
    assert entropy.asked == [(1.0, pytest.approx(1.2))]


def test_flat_out_there_are_no_rests() -> None:
    pace = Pace(PacePolicy(duty_min=1, duty_max=1, free_pages=0), Entropy())
    assert pages(pace, 3, lag_s=0) == [0, 0, 0]


@pytest.mark.parametrize(("least", "most"), [(0.0, 0.5), (0.6, 0.5), (0.5, 1.1)])
def test_impossible_duties_are_refused(least: float, most: float) -> None:
    with pytest.raises(ValueError, match="duty"):
        PacePolicy(duty_min=least, duty_max=most)
