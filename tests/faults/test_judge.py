"""The judge sees what is wrong: each test spoils a good outcome in one way, behind meltd's back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import pytest
from bson import ObjectId

from tests.faults.bench import Bench
from tests.faults.cases import MAIN
from tests.faults.judge import Expect, judge, leaks
from tests.faults.lab import Lab
from tests.support.proxy import Passed

if TYPE_CHECKING:
    from pymongo.database import Database

SETTLED = Expect(state="SETTLED", payments=1)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


@pytest.fixture
def bench(lab: Lab) -> Iterator[Bench]:
    """A user who has paid once."""
    station = lab.station(MAIN.name, aliases=2)
    with station.slot() as slot:
        bench = Bench(station=station, slot=slot)
        bench.fund(500)
        bench.pay(bench.bill(100))
        bench.wait_state("SETTLED")
        assert judge(bench, SETTLED).problems == ()
        yield bench
        # What was spoilt stays out of the other tests' sight.
        for name in ("cashu_tokens", "meltd_melts", "meltd_audit", "meltd_events"):
            station.db[name].delete_many({})


def _one(db: Database[dict[str, Any]], owner: str, **chosen: Any) -> dict[str, Any]:
    found = db["cashu_tokens"].find_one({"npub": owner, **chosen})
    assert found is not None
    return found


def _lose_change(bench: Bench) -> None:
    bench.station.db["cashu_tokens"].delete_one({"npub": bench.owner, "transaction_id": {"$regex": "_keep$"}})


def _free_a_spent_document(bench: Bench) -> None:
    bench.station.db["cashu_tokens"].update_one(
        {"npub": bench.owner, "status": "spent"}, {"$set": {"status": "unspent", "spent_at": None}}
    )


def _leave_a_reservation(bench: Bench) -> None:
    bench.station.db["cashu_tokens"].update_one(
        {"npub": bench.owner, "status": "unspent"}, {"$set": {"reservation": {"melt_id": "melt_gone"}}}
    )


def _forget_an_audit_entry(bench: Bench) -> None:
    bench.station.db["meltd_audit"].delete_one({"npub": bench.owner, "to_status": "spent"})


def _say_released(bench: Bench) -> None:
    bench.station.db["meltd_melts"].update_one({"npub": bench.owner}, {"$set": {"state": "RELEASED"}})


def _say_held(bench: Bench) -> None:
    bench.station.db["meltd_melts"].update_one({"npub": bench.owner}, {"$set": {"state": "HELD"}})


def _call_it_melted(bench: Bench) -> None:
    bench.station.db["cashu_tokens"].update_one({"npub": bench.owner}, {"$set": {"transaction_type": "melted"}})


def _book_too_little(bench: Bench) -> None:
    bench.station.db["meltd_melts"].update_one({"npub": bench.owner}, {"$set": {"fees_paid": 0}})


def _post_twice(bench: Bench) -> None:
    entry = bench.entry()
    assert entry is not None
    bench.proxy.passed.append(Passed(endpoint="melt", at=0.0, quote=str(entry["quote_id"])))


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (_lose_change, "missing"),
        (_free_a_spent_document, "count"),
        (_leave_a_reservation, "reservation"),
        (_forget_an_audit_entry, "audit"),
        (_say_released, "settled 0 times|0 melts are SETTLED"),
        (_say_held, "HELD without"),
        (_call_it_melted, "melted"),
        (_book_too_little, "booked"),
        (_post_twice, "2 melt POSTs"),
    ],
)
def test_a_spoilt_outcome_is_seen(bench: Bench, spoil: Callable[[Bench], None], word: str) -> None:
    spoil(bench)

    problems = judge(bench, SETTLED).problems

    assert any(part in problem for problem in problems for part in word.split("|")), problems


def test_a_proof_in_two_documents_is_seen(bench: Bench) -> None:
    tokens = bench.station.db["cashu_tokens"]
    for name, index in tokens.index_information().items():
        if index["key"] == [("proofs.secret", 1)]:
            tokens.drop_index(name)
    copy = deepcopy(_one(bench.station.db, bench.owner, status="unspent"))
    copy |= {"_id": ObjectId(), "transaction_id": copy["transaction_id"] + "_again"}
    tokens.insert_one(copy)

    assert "a proof lies in two documents" in judge(bench, SETTLED).problems


def test_a_secret_in_a_record_is_seen(bench: Bench) -> None:
    db = bench.station.db
    secret = _one(db, bench.owner, status="unspent")["proofs"][0]["secret"]
    db["meltd_melts"].update_one({"npub": bench.owner}, {"$set": {"error_detail": f"proof {secret} failed"}})

    assert leaks(bench.station) == ["a proof's secret in meltd_melts"]
