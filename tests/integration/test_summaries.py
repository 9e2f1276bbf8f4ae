"""Daily summaries on the real store: what is held and what happened, streamed, kept, and made again without doubling."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from bson import Decimal128, ObjectId

from melt.drift import SEVERITIES
from melt.model import Action, Actor, DriftType, Finding, MeltState, MintAlias, PostOutcome, Resolution, ResolveAs
from melt.summary import Tally, day_of
from tests.support.store import MINT_URL, fake_proof, insert_token, insert_wallet, make_melt, new_proof, npub

if TYPE_CHECKING:
    from pymongo.database import Database

    from melt.model import DaySummary, Holding
    from melt.ports import SummaryStore
    from melt.store import MongoStore

MAIN = MintAlias("m")
NOW = datetime.now(UTC)
SINCE, UNTIL = NOW - timedelta(hours=1), NOW + timedelta(hours=1)


def all_holdings(store: SummaryStore, page: int, **more: Any) -> list[Holding]:
    walk = store.holdings([MINT_URL], **more)
    found: list[Holding] = []
    while users := walk.next_users(page):
        assert len({one.npub for one in users}) <= page
        found += users
    walk.close()
    return found


@pytest.mark.parametrize("page", [1, 2, 50])
def test_holdings_stream_whole_users_by_unit_and_status(store: MongoStore, db: Database[Any], page: int) -> None:
    users = sorted(npub() for _ in range(3))
    msat = insert_wallet(db, users[0], unit="msat")
    insert_token(db, users[0], [1, 2], wallet_id=msat)
    insert_token(db, users[0], [4], wallet_id=insert_wallet(db, users[0], MINT_URL + "/other"))
    insert_token(db, users[1], [8, 8], mint_url=MINT_URL + "/")
    insert_token(db, users[1], [16], status="pending")
    insert_token(db, users[2], [fake_proof(32.0), 64], status="unspent")
    insert_token(db, users[2], [128], status="spent")
    insert_token(db, users[2], [256], transaction_type="melted")
    insert_token(db, users[2], [512], mint_url="https://elsewhere.example")

    found = all_holdings(store, page)

    assert [one.npub for one in found] == sorted(one.npub for one in found)
    assert {(one.npub, one.unit, one.status): one.amount for one in found} == {
        (users[0], "msat", "unspent"): 3,
        (users[0], "sat", "unspent"): 4,
        (users[1], "sat", "unspent"): 16,
        (users[1], "sat", "pending"): 16,
        (users[2], "sat", "unspent"): 96,
    }
    assert {one.npub for one in all_holdings(store, page, npub=users[1])} == {users[1]}


def test_amounts_of_old_code_count_where_they_are_numbers(store: MongoStore, db: Database[Any]) -> None:
    owner = npub()
    odd = [fake_proof(8), fake_proof(4.0), fake_proof("2"), fake_proof(-1)]
    insert_token(db, owner, odd)
    for proofs in ([fake_proof(Decimal128("16"))], "[]"):
        db["cashu_tokens"].update_one({"_id": ObjectId(insert_token(db, owner, [1]))}, {"$set": {"proofs": proofs}})
    insert_token(db, "npub1x", [16], npub=7)

    assert [(one.npub, one.amount) for one in all_holdings(store, 10)] == [(owner, 28)]


def paid(store: MongoStore, db: Database[Any], owner: str, *, shortfall: int = 0) -> None:
    """A melt of 100 sat out of 128, settled: one sat of input fee, one of Lightning fee."""
    source = insert_token(db, owner, [128])
    token = store.tokens([source])[0]  # type: ignore[list-item]
    entry = replace(make_melt([token], amount=100, fee_reserve=1, input_fee=1), mint=MAIN)  # type: ignore[list-item]
    melt = store.reserve(entry, blanks=None, seed_id="5eed")
    melt = store.advance(melt, MeltState.MELTING, post=PostOutcome.IN_FLIGHT)
    change = [new_proof(26 - shortfall)]
    store.settle(melt, change, shortfall=shortfall, fees_paid=1, preimage=None)


def test_activity_is_what_ended_in_the_day_by_user(store: MongoStore, db: Database[Any]) -> None:
    first, second = npub(), npub()
    paid(store, db, first)
    paid(store, db, first, shortfall=6)
    paid(store, db, second)
    drift = DriftType.DB_UNSPENT_MINT_SPENT
    finding = Finding(
        type=drift,
        severity=SEVERITIES[drift],
        action=Action.MARK_SPENT,
        subject="token:abc",
        npub=second,
        mint=MAIN,
        unit="sat",
        value=64,
        token_id=None,
        ys=(),
        evidence={},
    )
    store.record([finding])

    found = store.activity(MAIN, SINCE, UNTIL)

    one, two = found[first, "sat"], found[second, "sat"]
    assert (one.melts, one.paid, one.lightning_fees, one.input_fees, one.shortfall) == (2, 200, 2, 2, 6)
    assert (two.melts, two.paid, two.in_question, dict(two.found)) == (1, 100, 64, {str(drift): 1})
    assert set(store.activity(MAIN, SINCE, UNTIL, npub=second)) == {(second, "sat")}
    assert not store.activity(MintAlias("other"), SINCE, UNTIL)
    yesterday = store.activity(MAIN, SINCE - timedelta(days=1), SINCE)
    assert {key: (one.melts, dict(one.found)) for key, one in yesterday.items()} == {(second, "sat"): (0, {})}


def test_what_nobody_knows_to_be_paid_is_in_no_sum_of_payments(store: MongoStore, db: Database[Any]) -> None:
    """The day says what went with inputs that are gone, and calls none of it paid."""
    owner = npub()
    paid(store, db, owner)
    source = insert_token(db, owner, [128])
    token = store.tokens([source])[0]  # type: ignore[list-item]
    entry = replace(make_melt([token], amount=100, fee_reserve=1, input_fee=1), mint=MAIN)  # type: ignore[list-item]
    melt = store.advance(store.reserve(entry, blanks=None, seed_id="5eed"), MeltState.MELTING)
    decision = Resolution(outcome=ResolveAs.INPUTS_GONE, reason="nobody knows", actor=Actor(name="operator"), at=NOW)
    store.finish_gone(store.advance(melt, MeltState.HELD), decision)

    one = store.activity(MAIN, SINCE, UNTIL)[owner, "sat"]

    assert (one.melts, one.paid, one.lightning_fees, one.input_fees, one.shortfall) == (1, 100, 1, 1, 0)
    assert one.unaccounted == 128


def test_rows_are_kept_read_back_equal_and_written_again_without_doubling(store: MongoStore, db: Database[Any]) -> None:
    owner = npub()
    insert_token(db, owner, [8, 4])
    paid(store, db, owner, shortfall=2)
    made_at = NOW.replace(microsecond=0)

    def make(day: str) -> tuple[DaySummary, ...]:
        tally = Tally(MAIN, day, store.activity(MAIN, SINCE, UNTIL), made_at=made_at, is_final=True)
        rows = tally.users(all_holdings(store, 10))
        return (*rows, *tally.mint(()))

    today, before = day_of(NOW), day_of(NOW - timedelta(days=1))
    for _ in range(2):
        store.save_summaries(make(today))
        store.save_summaries(make(before))

    everybody = store.summaries(mint=None, npub=None, day=None, limit=10)
    his = store.summaries(mint=MAIN, npub=owner, day=today, limit=10)
    assert [row.day for row in everybody] == [today, before]
    assert (*his, everybody[0]) == make(today)
    assert his[0].owed == 8 + 4 + 24
    assert db["meltd_summaries"].count_documents({}) == 4
    assert store.summaries(mint=MintAlias("other"), npub=None, day=None, limit=10) == ()
