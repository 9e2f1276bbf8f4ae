"""What settles is told to whoever asks: a refusal, the status, the stories and the metrics, on the real mint, store and daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bson import ObjectId

from tests.e2e.test_plans_flow import cli
from tests.e2e.test_sweep_flow import audit_of, proofs_of, reconcile, spend
from tests.support.store import token

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e.conftest import System
    from tests.support.mint import MintProcess

SETTINGS = {"sweep.correct_after_s": 7200, "sweep.alert_after_s": 3600}


def test_what_settles_is_blocked_named_counted_and_explained_and_nothing_is_written(
    make_system: Callable[..., System], mint: MintProcess
) -> None:
    system = make_system(mint, settings=SETTINGS)
    owner = system.user()
    lost = system.fund(owner, 64)
    spend(system, proofs_of(system, lost))
    before = token(system.db, lost)

    report = reconcile(system, owner)
    assert (report["planned"], report["corrected"], report["settling"]) == (1, 0, 1)

    refused = system.daemon.melt(owner, "main", system.invoice(20).invoice)
    problem: dict[str, Any] = refused.json()
    record = f"DB_UNSPENT_MINT_SPENT:token:{lost}"
    assert (refused.status_code, problem["code"]) == (409, "FUNDS_SETTLING")
    assert (problem["discrepancies"], problem["blocked_amount"], problem["unit"]) == ([record], 64, "sat")
    assert 7000 < problem["settles_in_s"] <= 7200

    settling = system.daemon.get("/v1/status").json()["settling"]
    assert settling == {"settling": 1, "waiting": 0, "due": 0, "unsettled": 0, "amounts": {"sat": 64}}
    assert "1 page nobody yet, worth 64 sat" in " ".join(cli(system, "status").stdout.split())

    (told,) = (
        text for text in system.daemon.get(f"/v1/explain/{lost}").json()["now"] if text.startswith("discrepancy")
    )
    assert "it is settling, and pages nobody before it has been watched for 1 h" in told
    assert "of the 2 h that a rule waits for" in told
    assert "else its proofs are marked spent after " in told

    assert token(system.db, lost) == before, "the document is as the wallet service left it"
    assert audit_of(system, lost) == []


def test_the_record_of_a_payment_that_the_service_has_ended_waits_for_nothing_any_more(
    make_system: Callable[..., System], mint: MintProcess
) -> None:
    system = make_system(mint, settings=SETTINGS)
    owner = system.user()
    source = system.fund(owner, 64)
    spend(system, proofs_of(system, source))
    assert reconcile(system, owner)["settling"] == 1
    system.db["cashu_tokens"].update_one({"_id": ObjectId(source)}, {"$set": {"status": "spent"}})

    reconcile(system, owner)
    story = system.daemon.get(f"/v1/explain/{source}").json()
    assert not any("waits for" in text for text in story["now"])
    assert any("was not seen any more" in line["text"] for line in story["lines"])
    assert system.daemon.get("/v1/status").json()["settling"]["settling"] == 0
