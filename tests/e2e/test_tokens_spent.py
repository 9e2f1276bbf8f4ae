"""Documents marked spent on a person's word, over the real mint, store and daemon."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.store import token

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e.conftest import System
    from tests.support.mint import MintProcess


@pytest.fixture
def system(make_system: Callable[..., System], mint: MintProcess) -> System:
    return make_system(mint)


def mark(system: System, *token_ids: str, **more: Any) -> Any:
    body = {"token_ids": list(token_ids), "reason": "paid out by hand", **more}
    return system.daemon.post("/v1/tokens/spent", body)


def test_the_mint_is_asked_and_a_persons_word_decides(system: System) -> None:
    owner = system.user()
    document = system.fund(owner, 64)

    answer = mark(system, document)

    assert answer.status_code == 200, answer.text
    (told,) = answer.json()["documents"]
    assert (told["marked"], told["status_before"], told["amount"]) == (True, "unspent", 64)
    assert told["at_mint"] == {"UNSPENT": 1}
    assert token(system.db, document)["status"] == "spent"
    (entry,) = system.db["meltd_audit"].find({"token_id": document})
    assert (entry["reason"], entry["note"], entry["actor"]["name"]) == (
        "marked_by_person",
        "paid out by hand",
        "socket",
    )
    again = mark(system, document).json()["documents"][0]
    assert (again["marked"], again["status_before"]) == (False, "spent")
    assert system.db["meltd_audit"].count_documents({"token_id": document}) == 1


def test_what_a_person_has_marked_is_not_brought_back_by_rule(system: System) -> None:
    """The person knows where the value went: a reclaim would take it from there."""
    owner = system.user()
    document = system.fund(owner, 64)
    assert mark(system, document).status_code == 200

    for _ in range(4):
        system.daemon.reconcile(npub=owner, statuses=["spent", "unspent"])

    assert [d["status"] for d in system.documents(owner)] == ["spent"]
    assert system.db["meltd_melts"].count_documents({"npub": owner}) == 0
    record = system.db["meltd_discrepancies"].find_one({"token_id": document})
    assert record is not None
    assert record["state"] == "acknowledged"


def test_what_somebody_may_still_need_is_refused_without_now(system: System) -> None:
    owner = system.user()
    held, sent, good = system.fund(owner, 64), system.fund(owner, 8, transaction_type="sent"), system.fund(owner, 2)
    invoice = system.invoice(50, pay="PENDING", status="PENDING")
    melt = system.daemon.melt(owner, "main", invoice.invoice, wait=0).json()
    system.daemon.wait_state(melt["id"], "PENDING")
    before = system.dump()

    for refused, why in ((held, "reserved by"), (sent, "was sent")):
        answer = mark(system, good, refused)
        assert (answer.status_code, answer.json()["code"]) == (409, "WRONG_STATE")
        assert why in answer.json()["detail"]
    missing = mark(system, good, "f" * 24)
    assert (missing.status_code, missing.json()["code"]) == (404, "NOT_FOUND")
    assert mark(system, good, reason="").status_code == 400

    assert system.dump() == before, "all of them, or none"
    assert mark(system, sent, held, now=True).status_code == 200
    asyncio.run(system.mint.resolve(invoice.payment_hash, "SETTLED"))
    system.daemon.wait_state(melt["id"], "SETTLED", within_s=60)
    body = system.daemon.get(f"/v1/melts/{melt['id']}").json()
    assert [one["token_id"] for one in body["altered"]] == [held]
    assert "marked spent" in body["altered"][0]["what"]
    assert not [d for d in system.documents(owner) if d.get("reservation")]


def test_the_command_line_says_what_the_mint_answered(system: System) -> None:
    document = system.fund(system.user(), 64)
    command = [sys.executable, "-m", "daemon", "tokens", "spent", document, "--socket", system.daemon.socket]
    env = {**system.daemon.environment(), "COLUMNS": "200"}

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *more],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env=env,
            stdin=subprocess.DEVNULL,
        )

    without = run()
    assert (without.returncode, "--reason is needed" in without.stderr) == (2, True)
    done = run("--reason", "paid out by hand")
    assert done.returncode == 0, done.stderr
    assert "1 UNSPENT" in done.stdout
    assert token(system.db, document)["status"] == "spent"
