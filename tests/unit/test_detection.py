"""Detection lag from when tours passed where, against a count that remembers each document."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from melt.detection import MARKS_MAX, detection_lag_s, made_at, pass_page, verified_since
from melt.model import Mark, MintAlias, Passage, SweepRecord, TokenId

START = datetime(2030, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def object_id(number: int, made: datetime = START) -> TokenId:
    return TokenId(f"{int(made.timestamp()):08x}{number:016x}")


def record(**changes: object) -> SweepRecord:
    fields: dict[str, object] = {
        "mint": MintAlias("m"),
        "tour": 1,
        "position": None,
        "started_at": START,
        "updated_at": START,
        "finished_at": None,
        "documents": 0,
        "proofs": 0,
        "total_documents": 0,
        "found": {},
        "corrected": {},
        "error": None,
        "first_seen": START,
        "passing": Passage(started_at=START),
    }
    return SweepRecord(**{**fields, **changes})  # type: ignore[arg-type]


def passage(*marks: tuple[TokenId, float]) -> Passage:
    return Passage(started_at=START, marks=tuple(Mark(position=p, at=at(s)) for p, s in marks))


def test_between_tours_the_oldest_is_what_the_last_tour_began_with() -> None:
    done = record(finished_at=at(50), passing=passage((object_id(10), 5), (object_id(20), 15)))
    assert detection_lag_s(done, at(100)) == 95


def test_in_a_tour_the_oldest_is_the_next_document_as_the_last_tour_saw_it() -> None:
    last = passage((object_id(10), 5), (object_id(20), 15), (object_id(30), 25))
    for number, since in ((0, 5), (9, 5), (10, 15), (15, 15), (20, 25), (29, 25), (30, 25), (99, 25)):
        on_its_way = record(position=object_id(number), passed=last)
        assert verified_since(on_its_way) == at(since), number
    assert verified_since(record(passed=last)) == at(5), "a tour that has done nothing yet"


def test_the_lag_of_a_mint_that_is_dead_grows_by_itself() -> None:
    stuck = record(position=object_id(10), passed=passage((object_id(10), 5), (object_id(20), 15)), error="dead")
    assert [detection_lag_s(stuck, at(s)) for s in (15, 115, 1015)] == [0, 100, 1000]


def test_before_the_first_tour_ends_it_counts_from_when_the_mint_was_first_seen() -> None:
    old = object_id(3, made=at(-10_000))
    assert verified_since(record(position=old, first_seen=at(20))) == at(20)
    assert verified_since(record(first_seen=at(20))) == at(20)
    assert verified_since(record(position=TokenId("a legacy id"), first_seen=at(20))) == at(20)


def test_before_the_first_tour_ends_a_document_is_no_older_than_its_making() -> None:
    young = object_id(3, made=at(300))
    assert verified_since(record(position=young, first_seen=at(20))) == at(300)


def test_a_tour_without_documents_counts_from_its_start() -> None:
    assert verified_since(record(started_at=at(7), finished_at=at(8), passing=Passage(started_at=at(7)))) == at(7)
    assert verified_since(record(started_at=at(30), passed=Passage(started_at=at(7)))) == at(7)


def test_a_record_of_an_earlier_version_counts_from_its_start() -> None:
    assert verified_since(record(first_seen=None, passing=None, started_at=at(4), finished_at=at(9))) == at(4)
    assert verified_since(record(first_seen=None, passing=None, started_at=at(4))) == at(4)


def test_texts_come_before_object_ids() -> None:
    last = passage((TokenId("zzz"), 5), (object_id(1), 15))
    assert verified_since(record(position=TokenId("a"), passed=last)) == at(5)
    assert verified_since(record(position=TokenId("zzz"), passed=last)) == at(15)


def test_a_clock_that_is_behind_makes_no_lag_negative() -> None:
    assert detection_lag_s(record(finished_at=at(9), passing=passage((object_id(1), 5))), at(-100)) == 0


def test_the_time_in_an_id() -> None:
    assert made_at(object_id(5, made=at(77))) == at(77)
    assert made_at(TokenId("x" * 24)) is None
    assert made_at(TokenId("short")) is None


@pytest.mark.parametrize("pages", [1, 2, MARKS_MAX, MARKS_MAX + 1, 3 * MARKS_MAX + 7, 40 * MARKS_MAX])
def test_a_long_tour_is_remembered_in_bounded_marks_on_the_older_side(pages: int) -> None:
    told = Passage(started_at=START)
    for number in range(pages):
        told = pass_page(told, object_id(number), at(number))
        assert len(told.marks) <= MARKS_MAX
    assert told.marks[-1].position == object_id(pages - 1)
    assert list(told.marks) == sorted(told.marks, key=lambda mark: mark.position)
    for number in range(pages):
        last = record(passed=told, position=object_id(number - 1) if number else None)
        since = (verified_since(last) - START).total_seconds()
        assert number - told.stride < since <= number, "never younger than it is, and hardly older"
    assert told.stride <= max(1, 2 * pages / (MARKS_MAX / 2))


def test_it_agrees_with_a_count_of_every_document() -> None:
    dice = random.Random(7)
    documents = 400
    verified = dict.fromkeys(range(documents), 0.0)
    now, told = 0.0, record()
    for tour in range(1, 6):
        size = dice.randint(1, 9)
        told = replace(
            told, tour=tour, started_at=at(now), position=None, finished_at=None,
            passed=told.passing if told.finished_at else told.passed, passing=Passage(started_at=at(now)),
        )  # fmt: skip
        for start in range(0, documents, size):
            began = now
            now += dice.uniform(0.5, 20)
            end = min(start + size, documents) - 1
            for number in range(start, end + 1):
                verified[number] = began
            assert told.passing is not None
            told = replace(told, position=object_id(end), passing=pass_page(told.passing, object_id(end), at(began)))
            if tour > 1 and end < documents - 1:
                truth = now - min(verified.values())
                lag = detection_lag_s(told, at(now))
                assert lag >= truth - 1e-3, "never smaller than it is"
                assert lag <= truth + 0.1 * now
        told = replace(told, position=None, finished_at=at(now))
