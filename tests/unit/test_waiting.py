"""What an open record waits for, in words: since when, what ends it, when it is carried out, and whom it pages."""

from __future__ import annotations

from dataclasses import replace

import pytest

from melt.errors import Severity
from melt.model import Action, Discrepancy, DiscrepancyState
from melt.waiting import span, waits_for
from tests.support.scripted import make_discrepancy

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


def waiting(**changes: object) -> Discrepancy:
    """An open record that has been watched for two of its 24 hours, and pages nobody before six."""
    given = {
        "state": DiscrepancyState.OPEN,
        "closed_at": None,
        "watched_ms": 2 * HOUR_MS,
        "needs_ms": DAY_MS,
        "alert_ms": 6 * HOUR_MS,
    }
    return replace(make_discrepancy(), **(given | changes))


def test_a_record_that_settles_says_since_when_it_is_watched_what_would_end_it_and_when_it_is_carried_out() -> None:
    assert waits_for(waiting()) == (
        "it is settling, and pages nobody before it has been watched for 6 h. Its document has been watched since "
        "2026-01-02 03:04:05 UTC and has stood still for 2 h of the 1 d that a rule waits for. If the wallet service writes it, "
        "or the mint says otherwise, this ends or begins anew; else its proofs are marked spent after 22 h more"
    )


def test_one_that_alerts_already_says_only_when_it_is_carried_out() -> None:
    told = waits_for(waiting(watched_ms=7 * HOUR_MS))
    assert told is not None
    assert "settling" not in told
    assert told.endswith("its proofs are marked spent after 17 h more")


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (Action.MARK_SPENT, "its proofs are marked spent after"),
        (Action.RELEASE, "it is released to unspent after"),
        (Action.RECLAIM, "its value is brought back by a swap after"),
    ],
)
def test_each_action_is_told_in_words(action: Action, words: str) -> None:
    assert words in str(waits_for(waiting(action=action)))


def test_one_that_is_due_says_what_alone_may_keep_it() -> None:
    told = waits_for(waiting(watched_ms=DAY_MS))
    assert told == (
        "its document has stood still for long enough: its proofs are marked spent at the next look, unless a pause, a freeze or a "
        "cap keeps it"
    )


def test_one_that_does_not_come_to_rest_asks_for_a_person() -> None:
    record = waiting(watched_ms=60_000, alert_ms=0, severity=Severity.HIGH, evidence={"unsettled_s": 3 * 86_400 + 7})
    assert str(waits_for(record)).startswith(
        "It has not come to rest in 3 d: a person has to look. Its document has been"
    )


def test_what_no_rule_mends_is_only_told_while_it_pages_nobody() -> None:
    record = waiting(action=Action.RECORD, needs_ms=0)
    assert waits_for(record) == (
        "it is settling, and pages nobody before it has been watched for 6 h, and nothing is done by rule"
    )
    assert waits_for(replace(record, watched_ms=6 * HOUR_MS)) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"state": DiscrepancyState.ACKNOWLEDGED},
        {"state": DiscrepancyState.CORRECTED},
        {"needs_ms": 0, "alert_ms": 0},
    ],
    ids=["left as it is by a person", "over", "nobody else spends here"],
)
def test_what_waits_for_nothing_says_nothing(changes: dict[str, object]) -> None:
    assert waits_for(waiting(**changes)) is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (0.4, "0 s"), (59, "59 s"), (60, "1 min"), (3_599.6, "1 h"), (3_661, "1 h 1 min"), (90_000, "1 d 1 h"), (86_460, "1 d")],
)  # fmt: skip
def test_a_time_is_told_in_its_two_largest_units(seconds: float, words: str) -> None:
    assert span(seconds) == words
