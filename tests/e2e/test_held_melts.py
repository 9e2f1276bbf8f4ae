"""
HELD melts and a person's hand on them, over the real mint, store and daemon (DESIGN section 4).

The mint is made to contradict itself by hand: its own database says another thing about a quote than about the inputs.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.mint import MintProcess
from tests.support.store import assert_no_secret_twice

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.e2e.conftest import System

PATIENT_S = 60.0


@pytest.fixture(scope="module")
def own_mint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MintProcess]:
    """A mint whose database these tests may edit."""
    with MintProcess(tmp_path_factory.mktemp("mint")) as process:
        yield process


def set_quote(mint: MintProcess, quote_id: str, state: str) -> None:
    """What no honest mint does."""
    with closing(sqlite3.connect(mint.folder / "mint.sqlite3", timeout=10)) as database:
        changed = database.execute("UPDATE melt_quotes SET state = ? WHERE quote = ?", (state, quote_id)).rowcount
        database.commit()
    assert changed == 1


def held(system: System, quote_state: str = "PAID") -> tuple[str, dict[str, Any], Any]:
    """A melt whose payment failed, and whose quote then says otherwise: (user, melt, invoice)."""
    owner = system.user()
    system.fund(owner, 300)
    invoice = system.invoice(100, pay="FAILED", status="FAILED")
    melt = system.daemon.melt(owner, "main", invoice.invoice, wait=0).json()
    _until(lambda: system.daemon.get(f"/v1/melts/{melt['id']}").json()["state"] == "PENDING")
    set_quote(system.mint, melt["quote_id"], quote_state)
    system.daemon.wait_state(melt["id"], "HELD", within_s=PATIENT_S)
    return owner, melt, invoice


def decide(system: System, melt: dict[str, Any], action: str, reason: str = "asked the payee") -> Any:
    return system.daemon.post(f"/v1/melts/{melt['id']}/resolve", {"action": action, "reason": reason})


def open_events(system: System, melt: dict[str, Any]) -> list[str]:
    events = system.daemon.get("/v1/events").json()["events"]
    return [event["type"] for event in events if event["subject"] == f"melt:{melt['id']}"]


def records(system: System, melt: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The discrepancies about a melt, by type."""
    return {d["type"]: d for d in system.db["meltd_discrepancies"].find({"subject": f"melt:{melt['id']}"})}


@pytest.fixture
def system(make_system: Callable[..., System], own_mint: MintProcess) -> System:
    return make_system(own_mint, settings={"melt.release_confirm_s": 2})


def test_paid_with_unspent_inputs_is_held_with_its_event_and_evidence(system: System) -> None:
    owner, melt, _ = held(system)

    body = system.daemon.get(f"/v1/melts/{melt['id']}").json()
    assert body["payment_result"] == "UNKNOWN"
    assert open_events(system, melt) == ["QUOTE_PAID_INPUTS_UNSPENT"]
    evidence = system.daemon.get(f"/v1/melts/{melt['id']}/evidence").json()
    assert evidence["at_mint"]["quote"]["state"] == "PAID"
    assert list(evidence["at_mint"]["inputs_by_state"]) == ["UNSPENT"]
    assert evidence["allowed"] == {"settled": False, "released": True, "inputs_gone": False, "observe": True}
    assert [e["type"] for e in evidence["events"]] == ["QUOTE_PAID_INPUTS_UNSPENT"]
    assert {d["status"] for d in system.documents(owner) if d.get("reservation")} == {"pending"}
    record = records(system, melt)["QUOTE_PAID_INPUTS_UNSPENT"]
    assert (record["state"], record["severity"], record["npub"]) == ("open", "CRITICAL", owner)
    assert record["value"] == evidence["journal"]["inputs_amount"]
    assert record["evidence"]["mint_said"] == "quote PAID, inputs not SPENT"
    assert record["evidence"]["quote_id"] == melt["quote_id"]
    assert len(record["ys"]) == record["evidence"]["batch"] > 0


def test_money_that_the_mint_still_honours_is_not_settled_away(system: System) -> None:
    owner, melt, _ = held(system)
    before = system.dump()

    answer = decide(system, melt, "settled")

    assert (answer.status_code, answer.json()["code"]) == (409, "WRONG_STATE")
    assert "still honours" in answer.json()["detail"]
    assert system.dump() == before
    assert system.truth(owner) == 300


def test_released_by_a_person_comes_back_as_new_proofs_with_the_persons_reason_in_the_audit(system: System) -> None:
    owner, melt, invoice = held(system)
    old = {proof["secret"] for d in system.documents(owner) for proof in d["proofs"]}
    reserved = {str(d["_id"]) for d in system.documents(owner) if d.get("reservation")}

    answer = decide(system, melt, "released", "the payee got nothing")

    assert answer.status_code in {200, 202}, answer.text
    system.daemon.wait_state(melt["id"], "RELEASED")
    assert open_events(system, melt) == []
    assert records(system, melt)["QUOTE_PAID_INPUTS_UNSPENT"]["state"] == "cleared"
    documents = system.documents(owner)
    assert not [d for d in documents if d["status"] == "pending" or d.get("reservation")]
    unspent = sum(d["total_amount"] for d in documents if d["status"] == "unspent")
    assert unspent == system.truth(owner)
    assert 298 <= unspent < 300, "the fence costs its input fee and nothing else"
    assert {str(d["_id"]) for d in documents if d["status"] == "spent"} == reserved
    fenced = next(d for d in documents if d["transaction_id"].endswith("_fenced"))
    assert not {proof["secret"] for proof in fenced["proofs"]} & old
    entries = [e for e in system.db["meltd_audit"].find({"melt_id": melt["id"]}) if e["reason"] == "melt_fenced"]
    assert entries
    for entry in entries:
        assert entry["note"] == "the payee got nothing"
        assert (entry["actor"]["name"], entry["actor"]["uid"] is not None) == ("socket", True)
    closed = next(
        e
        for e in system.daemon.get("/v1/events", open="false").json()["events"]
        if e["subject"] == f"melt:{melt['id']}"
    )
    assert "the payee got nothing" in closed["resolution"]
    assert closed["recovery_s"] >= 0
    assert system.payments(invoice.payment_hash) == 0
    assert_no_secret_twice(system.db)


def test_observed_again_it_ends_by_itself_once_the_mint_agrees_with_itself(system: System) -> None:
    owner, melt, invoice = held(system)
    set_quote(system.mint, melt["quote_id"], "UNPAID")

    answer = decide(system, melt, "observe", "the mint's operator has mended it")

    assert (answer.status_code, answer.json()["state"]) == (202, "PENDING")
    assert open_events(system, melt) == []
    system.daemon.wait_state(melt["id"], "RELEASED", within_s=PATIENT_S)
    assert system.truth(owner) == 300
    assert system.payments(invoice.payment_hash) == 0


def test_observed_again_while_the_mint_still_contradicts_itself_it_is_held_again(system: System) -> None:
    _, melt, _ = held(system)
    assert decide(system, melt, "observe").status_code == 202
    system.daemon.wait_state(melt["id"], "HELD", within_s=PATIENT_S)
    assert open_events(system, melt) == ["QUOTE_PAID_INPUTS_UNSPENT"]
    _until(lambda: records(system, melt)["QUOTE_PAID_INPUTS_UNSPENT"]["state"] == "recurred")
    assert records(system, melt)["QUOTE_PAID_INPUTS_UNSPENT"]["occurrence"] == 2


def test_unpaid_with_spent_inputs_ends_as_gone_and_nothing_is_called_paid(system: System) -> None:
    owner, melt, invoice = _robbed(system)
    evidence = system.daemon.get(f"/v1/melts/{melt['id']}/evidence").json()
    assert evidence["allowed"] == {"settled": False, "released": False, "inputs_gone": True, "observe": True}
    assert records(system, melt)["QUOTE_UNPAID_INPUTS_SPENT"]["state"] == "open"
    for outcome in ("released", "settled"):
        refused = decide(system, melt, outcome)
        assert (refused.status_code, refused.json()["code"]) == (409, "WRONG_STATE")

    answer = decide(system, melt, "inputs_gone", "the mint's operator does not know either")

    body = answer.json()
    inputs = evidence["journal"]["inputs_amount"]
    assert (answer.status_code, body["state"], body["payment_result"]) == (200, "SETTLED", "UNKNOWN"), body
    assert (body["paid_amount"], body["fees_paid"], body["payment_preimage"]) == (None, None, None)
    assert (body["shortfall"], body["change_amount"], body["unaccounted"]) == (0, 0, inputs)
    assert body["error"]["code"] == "OUTCOME_UNKNOWN"
    assert open_events(system, melt) == []
    assert records(system, melt)["QUOTE_UNPAID_INPUTS_SPENT"]["state"] == "cleared"
    assert not [d for d in system.documents(owner) if d["status"] == "pending" or d.get("reservation")]
    unspent = sum(d["total_amount"] for d in system.documents(owner) if d["status"] == "unspent")
    assert unspent == system.truth(owner) == 300 - inputs
    notes = {e["note"] for e in system.db["meltd_audit"].find({"melt_id": melt["id"], "reason": "melt_inputs_gone"})}
    assert notes == {"the mint's operator does not know either"}
    assert system.payments(invoice.payment_hash) == 0
    again = decide(system, melt, "observe")
    assert (again.status_code, again.json()["code"]) == (409, "WRONG_STATE")


def test_an_invoice_whose_inputs_are_gone_is_never_tried_again(system: System) -> None:
    """Nobody knows whether it was paid, so that a second payment could be the second one."""
    owner, melt, invoice = _robbed(system)
    assert decide(system, melt, "inputs_gone").status_code == 200
    system.fund(owner, 300)

    again = system.daemon.melt(owner, "main", invoice.invoice, key="another")

    assert (again.status_code, again.json()["code"], again.json()["melt_id"]) == (
        409,
        "DUPLICATE_OPERATION",
        melt["id"],
    )
    assert "proofs" not in system.db["meltd_melts"].find_one({"_id": melt["id"]})


def test_the_payees_preimage_shows_a_payment_that_the_mint_does_not_own_up_to(system: System) -> None:
    owner, melt, invoice = _robbed(system)
    book = json.loads((system.mint.folder / "node.json").read_text())
    preimage = book["payments"][invoice.payment_hash]["preimage"]
    path = f"/v1/melts/{melt['id']}/resolve"
    wrong = system.daemon.post(path, {"action": "settled", "reason": "asked", "preimage": "00" * 32})
    assert (wrong.status_code, "not the invoice's" in wrong.json()["detail"]) == (409, True)

    body = system.daemon.post(path, {"action": "settled", "reason": "asked", "preimage": preimage}).json()

    assert (body["state"], body["payment_result"], body["paid_amount"]) == ("SETTLED", "PAID", 100), body
    assert body["payment_preimage"] == preimage
    evidence = system.daemon.get(f"/v1/melts/{melt['id']}/evidence").json()
    inputs = evidence["journal"]["inputs_amount"]
    assert inputs == 100 + body["input_fee"] + body["fees_paid"] + body["shortfall"] + body["change_amount"]
    assert system.truth(owner) == 300 - inputs


def test_the_command_line_shows_the_evidence_and_takes_a_decision(system: System) -> None:
    _, melt, _ = held(system)

    shown = _cli(system, "melts", "resolve", melt["id"])
    assert shown.returncode == 0, shown.stderr
    for part in ("QUOTE_PAID_INPUTS_UNSPENT", "UNSPENT", "still honours", "released"):
        assert part in shown.stdout
    assert "nothing was decided" in shown.stderr
    assert system.daemon.get(f"/v1/melts/{melt['id']}").json()["state"] == "HELD"
    evidence = json.loads(_cli(system, "melts", "resolve", melt["id"], "--json").stdout)
    assert evidence["allowed"]["released"] is True
    refused = _cli(system, "melts", "resolve", melt["id"], "--as", "settled", "--reason", "x")
    assert (refused.returncode, "WRONG_STATE" in refused.stderr) == (1, True)
    done = _cli(system, "melts", "resolve", melt["id"], "--as", "released", "--reason", "asked the payee")
    assert done.returncode == 0, done.stderr
    system.daemon.wait_state(melt["id"], "RELEASED")


def test_a_wrong_preimage_is_critical_and_the_money_counts_as_spent(system: System) -> None:
    owner = system.user()
    system.fund(owner, 300)
    invoice = system.invoice(100, preimage="wrong")

    body = system.daemon.melt(owner, "main", invoice.invoice).json()

    assert body["state"] == "SETTLED", body
    assert body["payment_preimage"] is None, "what proves nothing is not handed on as a proof"
    assert open_events(system, body) == ["WRONG_PREIMAGE"]
    assert system.truth(owner) == 300 - 100 - body["fees_paid"] - body["input_fee"]


def _robbed(system: System) -> tuple[str, dict[str, Any], Any]:
    """A melt whose payment failed, and whose inputs somebody else spent before they were released."""
    owner = system.user()
    system.fund(owner, 300)
    invoice = system.invoice(100, pay="FAILED", status="FAILED")
    melt = system.daemon.melt(owner, "main", invoice.invoice, wait=0).json()
    _until(lambda: system.daemon.get(f"/v1/melts/{melt['id']}").json()["state"] == "PENDING")
    taken = [proof for d in system.documents(owner) if d["status"] == "pending" for proof in d["proofs"]]
    asyncio.run(system.wallet.spend(taken))
    system.daemon.wait_state(melt["id"], "HELD", within_s=PATIENT_S)
    return owner, melt, invoice


def _cli(system: System, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "daemon", *arguments, "--socket", system.daemon.socket]
    env = {**system.daemon.environment(), "COLUMNS": "200"}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, env=env, stdin=subprocess.DEVNULL
    )


def _until(condition: Callable[[], bool], within_s: float = 30.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
