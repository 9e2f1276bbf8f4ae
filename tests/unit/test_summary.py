"""Adding up a day: users stream by, units never meet, and what happened to somebody who holds nothing is not lost."""

from datetime import UTC, datetime, timedelta

import pytest

from melt.model import Activity, Holding, MintAlias, Solvency
from melt.summary import Tally, added, bounds, day_of

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MAIN = MintAlias("main")


def tally(activity: dict[tuple[str, str], Activity] | None = None) -> Tally:
    return Tally(MAIN, "2026-03-01", activity or {}, made_at=NOW, is_final=False)


def held(npub: str, amount: int, *, status: str = "unspent", unit: str = "sat") -> Holding:
    return Holding(npub=npub, unit=unit, status=status, amount=amount)


def test_a_user_is_one_row_a_unit_and_the_mint_is_the_sum_of_its_users():
    made = tally()
    first = made.users([held("a", 10), held("a", 5, status="pending"), held("b", 7)])
    second = made.users([held("c", 1000, unit="msat"), held("c", 1)])

    assert [(row.npub, row.unit, row.owed) for row in first] == [("a", "sat", 15), ("b", "sat", 7)]
    assert {(row.npub, row.unit, row.owed) for row in second} == {("c", "msat", 1000), ("c", "sat", 1)}
    assert {row.unit: row.liabilities for row in made.mint(())} == {
        "sat": {"unspent": 18, "pending": 5},
        "msat": {"unspent": 1000},
    }


def test_two_wallets_of_one_unit_are_added_up():
    (row,) = tally().users([held("a", 10), held("a", 32)])
    assert row.liabilities == {"unspent": 42}


def test_who_has_spent_all_has_a_row_too_and_counts_for_the_mint():
    activity = {
        ("a", "sat"): Activity(melts=1, paid=100, lightning_fees=1, input_fees=1, found={"X": 2}),
        ("gone", "sat"): Activity(melts=2, paid=50, shortfall=3, found={"X": 1}, mended={"X": 1}),
    }
    made = tally(activity)
    rows = made.users([held("a", 10)])
    others = made.others()
    (mint,) = made.mint(())

    assert [row.npub for row in rows] == ["a"]
    assert [(row.npub, row.owed, row.activity.paid) for row in others] == [("gone", 0, 50)]
    assert (mint.activity.melts, mint.activity.paid, mint.activity.shortfall) == (3, 150, 3)
    assert (mint.activity.found, mint.activity.mended) == ({"X": 3}, {"X": 1})


def test_verified_is_the_mints_word_for_the_mint_and_what_is_not_in_question_for_a_user():
    made = tally({("a", "sat"): Activity(in_question=4)})
    (row,) = made.users([held("a", 10)])
    seen = Solvency(mint=MAIN, unit="sat", owed=10, honoured=9, at=NOW - timedelta(hours=1))
    (mint,) = made.mint([seen])

    assert (row.verified, row.verified_at) == (6, None)
    assert (mint.verified, mint.verified_at) == (9, NOW - timedelta(hours=1))
    (unseen,) = tally().mint([Solvency(mint=MAIN, unit="usd", owed=0, honoured=0, at=NOW)])
    assert (unseen.unit, unseen.owed) == ("usd", 0)


def test_nothing_adds_up_to_nothing():
    assert added([]) == Activity()
    assert tally().mint(()) == ()


def test_a_day_is_utc_whole_and_refused_where_it_is_none():
    assert day_of(datetime(2026, 3, 1, 23, 30, tzinfo=UTC)) == "2026-03-01"
    assert day_of(datetime.fromisoformat("2026-03-01T23:30:00-05:00")) == "2026-03-02"
    assert bounds("2026-12-31") == (datetime(2026, 12, 31, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))
    with pytest.raises(ValueError, match="out of range"):
        bounds("2026-02-30")
