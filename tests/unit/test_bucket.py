"""The token bucket: a burst, then a pace."""

from types import SimpleNamespace

import pytest

from melt.bucket import Bucket


def bucket(**options):
    clock = SimpleNamespace(at=0.0)
    clock.monotonic = lambda: clock.at
    return clock, Bucket(clock=clock, **options)


def test_a_burst_is_free_and_then_the_pace_holds():
    clock, made = bucket(per_s=2.0, burst=3)
    assert [made.take() for _ in range(3)] == [0, 0, 0]
    assert made.take() == pytest.approx(0.5)
    clock.at += 0.5
    assert made.take() == pytest.approx(0.5)


def test_it_fills_up_to_the_burst_and_no_further():
    clock, made = bucket(per_s=2.0, burst=3)
    clock.at += 1000
    assert [made.take() for _ in range(3)] == [0, 0, 0]
    assert made.take() > 0


def test_something_large_takes_its_share():
    _, made = bucket(per_s=10.0, burst=1)
    assert made.take(21) == pytest.approx(2.0)


@pytest.mark.parametrize("options", [{"per_s": 0, "burst": 1}, {"per_s": 1, "burst": 0.5}])
def test_a_bucket_that_gives_nothing_is_refused(options):
    with pytest.raises(ValueError, match="bucket"):
        bucket(**options)
