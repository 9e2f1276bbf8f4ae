"""A person's word about drift, and the stories that the records tell, on the real mint, store and daemon."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from melt.ecash import y_of
from tests.e2e.test_plans_flow import cli
from tests.e2e.test_sweep_flow import audit_of, discrepancies_of, proofs_of, reconcile, spend, unspent
from tests.support.store import token

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e.conftest import System
    from tests.support.mint import MintProcess


def decide(system: System, record: str, verb: str) -> dict[str, Any]:
    answer = system.daemon.post(f"/v1/discrepancies/{quote(record, safe='')}/{verb}", {"reason": "a reason"})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_an_acknowledged_loss_is_left_alone_and_pays_nothing(
    make_system: Callable[..., System], mint: MintProcess
) -> None:
    system = make_system(mint)
    owner = system.user()
    assert system.daemon.post("/v1/pause", {"reason": "so that it is found and not corrected"}).status_code == 200
    lost, good = system.fund(owner, 64), system.fund(owner, 64)
    spend(system, proofs_of(system, lost))
    plan = system.daemon.post("/v1/plans", {"npub": owner}).json()["plan"]
    system.daemon.post("/v1/resume")
    record = f"DB_UNSPENT_MINT_SPENT:token:{lost}"
    shown = cli(system, "discrepancies", "acknowledge", record, "--reason", "refunded by hand")
    assert (shown.returncode, "refunded by hand" in shown.stdout) == (0, True), shown.stderr

    report = reconcile(system, owner)
    assert (report["planned"], report["corrected"]) == (1, 0)
    assert token(system.db, lost)["status"] == "unspent"
    assert discrepancies_of(system, lost)[0]["state"] == "acknowledged"
    assert system.daemon.post("/v1/plans", {"npub": owner}).json()["plan"] is None, "nor is it planned"
    stale = system.daemon.post(f"/v1/plans/{plan['id']}/approve", {"reason": "x"}).json()["id"]
    assert system.daemon.post(f"/v1/plans/{stale}/apply").json()["code"] == "PLAN_STALE"

    refused = system.daemon.melt(owner, "main", system.invoice(80).invoice)
    assert refused.json()["code"] == "MELT_BLOCKED_BY_RECONCILIATION", refused.text
    paid = system.daemon.melt(owner, "main", system.invoice(20).invoice).json()
    assert paid["state"] == "SETTLED", "the good document pays"
    assert token(system.db, good)["status"] == "spent"
    assert (token(system.db, lost)["status"], audit_of(system, lost)) == ("unspent", [])

    assert decide(system, record, "reopen")["discrepancy"]["state"] == "open"
    assert reconcile(system, owner)["corrected"] == 1
    assert token(system.db, lost)["status"] == "spent"
    assert unspent(system, owner) == system.truth(owner)
    life = system.daemon.get(f"/v1/discrepancies/{quote(record, safe='')}").json()
    assert [turn["what"] for turn in life["history"]] == ["open", "acknowledged", "reopened", "corrected"]
    assert life["discrepancy"]["age_s"] >= 0


def test_the_records_tell_the_story_of_a_melt_its_document_and_one_proof(system: System) -> None:
    owner = system.user()
    source = system.fund(owner, 100)
    proofs = proofs_of(system, source)
    melt = system.daemon.melt(owner, "main", system.invoice(20).invoice).json()
    assert melt["state"] == "SETTLED"
    used = token(system.db, source)["proofs"]
    proof = y_of(used[0]["secret"])

    stories = {what: system.daemon.get(f"/v1/explain/{what}").json() for what in (melt["id"], source, proof)}
    for what, story in stories.items():
        lines = [line["text"] for line in story["lines"]]
        reserved = f"meltd reserved document {source}"
        assert any(text.startswith(reserved) and "(invoice of 20 sat)" in text for text in lines), what
        assert any(f"melt {melt['id']} ended: 20 sat paid" in text for text in lines), what
        assert [line["at"] for line in story["lines"]] == sorted(line["at"] for line in story["lines"])
        written = json.dumps(story)
        assert not any(p["secret"] in written or p["C"] in written for p in proofs)
    assert [story["kind"] for story in stories.values()] == ["melt", "token", "proof"]
    assert any(f"document {source} of {owner} is spent" in text for text in stories[source]["now"])
    told = cli(system, "explain", melt["id"])
    assert (told.returncode, "now: melt" in told.stdout) == (0, True), told.stderr


def test_the_story_of_a_split_document_tells_what_the_mint_called_spent(system: System) -> None:
    owner = system.user()
    source = system.fund(owner, 31)
    before = proofs_of(system, source)
    spend(system, before[:3])
    reconcile(system, owner)
    story = system.daemon.get(f"/v1/explain/{source}").json()
    lines = [line["text"] for line in story["lines"]]
    assert any(f"the mint called 3 of its {len(before)} proofs SPENT" in text for text in lines), lines
    kept = system.daemon.get(f"/v1/explain/{y_of(before[-1]['secret'])}").json()
    assert any("split off, because only a part of its document had to be corrected" in x["text"] for x in kept["lines"])
    unknown = system.daemon.get(f"/v1/explain/02{'ab' * 32}")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "NOT_FOUND")
