"""Plans on the real mint, store and daemon: made, approved, applied to exactly their items, refused when stale."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.e2e.test_sweep_flow import (
    CONFIRM_S,
    OLD,
    audit_of,
    discrepancies_of,
    in_short,
    plant,
    proofs_of,
    reconcile,
    spend,
    tokens_of,
    unspent,
    until,
    wait_tours,
)
from tests.support.daemon import ROOT
from tests.support.store import assert_no_secret_twice, assert_totals, token

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e.conftest import System
    from tests.support.mint import MintProcess

ALL = ["unspent", "pending", "spent", "failed"]
OTHER_UID = 65534


def make_plan(system: System, owner: str | None = None, **more: Any) -> dict[str, Any]:
    scope = {} if owner is None else {"npub": owner, "statuses": ALL}
    answer = system.daemon.post("/v1/plans", {**scope, **more})
    assert answer.status_code == 201, answer.text
    plan: dict[str, Any] = answer.json()["plan"]
    return plan


def items_of(system: System, plan_id: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = system.daemon.get(f"/v1/plans/{plan_id}", limit=1000).json()["items"]
    return items


def approve(system: System, plan_id: str) -> None:
    answer = system.daemon.post(f"/v1/plans/{plan_id}/approve", {"reason": "looked at each"})
    assert (answer.status_code, answer.json()["state"]) == (200, "APPROVED"), answer.text


def apply(system: System, plan_id: str) -> Any:
    return system.daemon.post(f"/v1/plans/{plan_id}/apply")


def state_of(system: System, plan_id: str) -> str:
    state: str = system.daemon.get(f"/v1/plans/{plan_id}").json()["plan"]["state"]
    return state


def money(system: System) -> dict[str, list[dict[str, Any]]]:
    return system.dump()


def as_user(system: System, uid: int, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
    """A request of another user: a process of its own that has given its uid away before it connects."""
    script = """
import json, os, sys
import httpx
uid, socket, method, path, body = sys.argv[1:]
os.setgroups([])
os.setgid(int(uid))
os.setuid(int(uid))
with httpx.Client(transport=httpx.HTTPTransport(uds=socket), base_url="http://localhost", timeout=60) as client:
    answer = client.request(method, path, json=json.loads(body))
print(json.dumps([answer.status_code, answer.json()]))
"""
    arguments = [str(uid), system.daemon.socket, method, path, json.dumps(body or {})]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False, cwd="/", timeout=60
    )
    assert done.returncode == 0, done.stderr
    status, answer = json.loads(done.stdout)
    return status, answer


def cli(system: System, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "MELTD_SOCKET": system.daemon.socket, "PYTHONPATH": str(ROOT), "HOME": "/"}
    return subprocess.run(
        [sys.executable, "-m", "daemon", *arguments], capture_output=True, text=True, check=False, env=env, timeout=60
    )


# --- a plan is the dry run, and applying it does exactly its items ---


def test_a_plan_is_the_dry_run_and_applying_it_does_exactly_that_once(system: System) -> None:
    owner = system.user()
    planted = plant(system, owner)
    dry = reconcile(system, owner, dry_run=True)
    before = money(system)
    plan = make_plan(system, owner)
    items = items_of(system, plan["id"])
    would = {one[:5] for one in in_short(dry) if one[2] in {"mark_spent", "release", "reclaim"}}
    assert {(i["type"], i["severity"], i["action"], f"token:{i['token_id']}", i["value"]) for i in items} == would
    assert plan["items"] == dry["planned"] == len(items) == 7
    assert sum(total["items"] for total in plan["totals"]) == 7
    assert money(system) == before, "making a plan moves no money"

    assert apply(system, plan["id"]).json()["code"] == "WRONG_STATE", "not without approval"
    approve(system, plan["id"])
    assert money(system) == before, "nor does approving"
    time.sleep(CONFIRM_S)
    applied = apply(system, plan["id"])
    assert applied.status_code == 200, applied.text
    assert (applied.json()["state"], applied.json()["done"], applied.json()["left"]) == ("APPLIED", 7, 0)

    expected = {
        "whole": "spent",
        "part": "spent",
        "pending": "unspent",
        "pending spent": "spent",
        "orphaned": "unspent",
    }
    assert {name: token(system.db, planted[name])["status"] for name in expected} == expected
    assert unspent(system, owner) == system.truth(owner) - 21, "all but what is the recipient's"
    for item in items:
        assert [d["state"] for d in discrepancies_of(system, item["token_id"])] == ["corrected"]
    for entry in audit_of(system, planted["whole"]) + audit_of(system, planted["pending"]):
        assert (entry["note"], entry["actor"]["uid"]) == (f"plan {plan['id']}", os.getuid())
    for reclaimed in system.db["meltd_audit"].find({"npub": owner, "reason": "reclaimed"}):
        assert reclaimed["note"] == f"plan {plan['id']}"
    assert_no_secret_twice(system.db)
    assert_totals(system.db)

    once = money(system)
    again = apply(system, plan["id"])
    assert (again.status_code, again.json()["state"], again.json()["done"]) == (200, "APPLIED", 7)
    assert money(system) == once
    assert reconcile(system, owner)["planned"] == 0


def test_a_document_of_which_some_is_gone_and_some_is_free_is_settled_whole(system: System) -> None:
    """Two items of one document: the second one's proofs lie in a sibling once the first is applied."""
    owner = system.user()
    source = system.fund(owner, 7, status="pending", created_at=OLD)
    free, *gone = proofs_of(system, source)
    spend(system, gone)
    plan = make_plan(system, owner)
    assert [(i["action"], len(i["ys"])) for i in items_of(system, plan["id"])] == [("mark_spent", 2), ("release", 1)]
    approve(system, plan["id"])
    time.sleep(CONFIRM_S)
    assert apply(system, plan["id"]).json()["done"] == 2
    documents = tokens_of(system, owner)
    assert documents.pop(source)["status"] == "spent"
    ((_, rest),) = documents.items()
    assert (rest["status"], [p["secret"] for p in rest["proofs"]]) == ("unspent", [free["secret"]])
    assert unspent(system, owner) == system.truth(owner) == free["amount"]


def test_giving_value_back_waits_for_the_second_sighting_and_the_plan_stays(
    make_system: Callable[..., System], mint: MintProcess
) -> None:
    system = make_system(mint, settings={"sweep.confirm_after_s": 3600})
    owner = system.user()
    source = system.fund(owner, 8, status="pending", created_at=OLD)
    plan = make_plan(system, owner)
    approve(system, plan["id"])
    refused = apply(system, plan["id"])
    assert (refused.status_code, refused.json()["code"]) == (409, "WRONG_STATE")
    assert "too soon" in refused.json()["detail"]
    assert (token(system.db, source)["status"], state_of(system, plan["id"])) == ("pending", "APPROVED")


# --- stale ---


def by_the_wallet(system: System, token_id: str) -> None:
    """Another service writes: it knows nothing of ``rev``. What is judged of the document stays the same."""
    raw = token(system.db, token_id)
    assert "rev" not in raw
    named = {"$set": {"transaction_id": f"{raw['transaction_id']}_again"}}
    system.db["cashu_tokens"].update_one({"_id": raw["_id"]}, named)


def by_its_removal(system: System, token_id: str) -> None:
    system.db["cashu_tokens"].delete_one({"_id": token(system.db, token_id)["_id"]})


def by_the_mint(system: System, token_id: str) -> None:
    """What was free to be released is spent by now."""
    spend(system, proofs_of(system, token_id))


def by_a_person(system: System, token_id: str) -> None:
    (record,) = discrepancies_of(system, token_id)
    answer = system.daemon.post(f"/v1/discrepancies/{record['_id']}/acknowledge", {"reason": "leave it"})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("changed", "which"), [(by_the_wallet, 0), (by_its_removal, 1), (by_the_mint, 1), (by_a_person, 1)]
)
def test_an_item_that_moved_is_left_out_and_told_and_the_rest_goes_on(
    system: System, changed: Callable[[System, str], None], which: int
) -> None:
    owner = system.user()
    gone, free = system.fund(owner, 16), system.fund(owner, 9, status="pending", created_at=OLD)
    spend(system, proofs_of(system, gone))
    plan = make_plan(system, owner)
    assert plan["items"] == 2
    approve(system, plan["id"])
    time.sleep(CONFIRM_S)
    touched = (gone, free)[which]
    changed(system, touched)
    before = {d["_id"]: d for d in system.db["cashu_tokens"].find({"npub": owner})}
    applied = apply(system, plan["id"])
    assert (applied.status_code, applied.json()["state"]) == (200, "APPLIED"), applied.text
    assert (applied.json()["done"], applied.json()["left"]) == (1, 1)
    assert touched in applied.json()["reason"]
    assert sum(applied.json()["why_left"].values()) == 1
    after = {d["_id"]: d for d in system.db["cashu_tokens"].find({"npub": owner})}
    moved = [key for key in after if after[key] != before.get(key)]
    assert [str(key) for key in moved] == [(free, gone)[which]], "the other item alone"
    assert apply(system, plan["id"]).json()["state"] == "APPLIED"


@pytest.mark.parametrize("changed", [by_the_wallet, by_its_removal, by_a_person])
def test_a_plan_of_which_nothing_stands_is_refused_and_nothing_is_changed(
    system: System, changed: Callable[[System, str], None]
) -> None:
    owner = system.user()
    gone = system.fund(owner, 16)
    spend(system, proofs_of(system, gone))
    plan = make_plan(system, owner)
    approve(system, plan["id"])
    changed(system, gone)
    before = money(system)
    refused = apply(system, plan["id"])
    assert (refused.status_code, refused.json()["code"]) == (409, "PLAN_STALE"), refused.text
    assert gone in refused.json()["detail"]
    assert money(system) == before
    assert state_of(system, plan["id"]) == "REFUSED"
    assert apply(system, plan["id"]).json()["code"] == "WRONG_STATE"


def test_a_date_that_somebody_wrote_makes_no_plan_stale(system: System) -> None:
    owner = system.user()
    gone = system.fund(owner, 16)
    spend(system, proofs_of(system, gone))
    plan = make_plan(system, owner)
    approve(system, plan["id"])
    raw = token(system.db, gone)
    touched = {"$set": {"updatedAt": datetime.now(UTC), "metadata.note": "seen"}}
    system.db["cashu_tokens"].update_one({"_id": raw["_id"]}, touched)
    assert apply(system, plan["id"]).json()["done"] == 1
    assert token(system.db, gone)["status"] == "spent"


def test_a_plan_expires_and_a_withdrawn_one_is_over(make_system: Callable[..., System], mint: MintProcess) -> None:
    system = make_system(mint, settings={"sweep.plan_expires_s": 1.5})
    owner = system.user()
    source = system.fund(owner, 16)
    spend(system, proofs_of(system, source))
    withdrawn = make_plan(system, owner)["id"]
    answer = system.daemon.post(f"/v1/plans/{withdrawn}/withdraw", {"reason": "no need"})
    assert (answer.json()["state"], answer.json()["reason"]) == ("WITHDRAWN", "no need")
    plan = make_plan(system, owner)["id"]
    approve(system, plan)
    until(lambda: state_of(system, plan) == "EXPIRED", system.daemon.log_tail)
    for over in (withdrawn, plan):
        for verb, body in (("approve", {"reason": "x"}), ("apply", {}), ("withdraw", {"reason": "x"})):
            answer = system.daemon.post(f"/v1/plans/{over}/{verb}", body)
            assert (answer.status_code, answer.json()["code"]) == (409, "WRONG_STATE"), verb
    assert token(system.db, source)["status"] == "unspent"


def test_a_pause_leaves_an_approved_plan_as_it_is(system: System) -> None:
    owner = system.user()
    source = system.fund(owner, 16)
    spend(system, proofs_of(system, source))
    plan = make_plan(system, owner)["id"]
    approve(system, plan)
    system.daemon.post("/v1/pause", {"reason": "looking"})
    refused = apply(system, plan)
    system.daemon.post("/v1/resume")
    assert (refused.status_code, refused.json()["code"]) == (503, "PAUSED")
    assert (state_of(system, plan), token(system.db, source)["status"]) == ("APPROVED", "unspent")
    assert apply(system, plan).json()["done"] == 1


# --- over the cap ---


def test_over_the_cap_the_sweep_plans_and_approval_applies_exactly_that(
    make_system: Callable[..., System], mint: MintProcess
) -> None:
    settings = {"sweep.interval_s": 1, "sweep.corrections_max_count_per_cycle": 0}
    system = make_system(mint, settings=settings, start=False)
    owner = system.user()
    whole, part = system.fund(owner, 40), system.fund(owner, 63)
    free = system.fund(owner, 9, status="pending", created_at=OLD)
    spend(system, proofs_of(system, whole) + proofs_of(system, part)[1:4])
    before = money(system)
    system.daemon.start()

    def offered() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = system.daemon.get("/v1/plans", state="OPEN").json()["plans"]
        return [plan for plan in found if plan["items"] == 3]

    (plan,) = until(offered, system.daemon.log_tail)
    assert money(system) == before, "detected, planned, nothing changed"
    assert {i["token_id"] for i in items_of(system, plan["id"])} == {whole, part, free}
    assert (plan["made_by"]["name"], plan["made_by"]["uid"], plan["scope"]["mint"]) == ("sweep", None, "main")
    wait_tours(system, more=2)
    assert [p["id"] for p in offered()] == [plan["id"]], "no new one where nothing changed"
    status = system.daemon.get("/v1/status").json()
    assert [(p["id"], p["state"], p["mint"]) for p in status["open_plans"]] == [(plan["id"], "OPEN", "main")]
    assert any(line.get("plan") == plan["id"] for line in system.daemon.log_lines() if line["event"] == "sweep done")
    until(lambda: 'meltd_open_plans{state="OPEN"} 1.0' in system.daemon.metrics(), system.daemon.metrics)

    later = system.fund(owner, 32)
    spend(system, proofs_of(system, later))

    def newer() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = system.daemon.get("/v1/plans", state="OPEN").json()["plans"]
        return [one for one in found if one["items"] == 4]

    (second,) = until(newer, system.daemon.log_tail)
    first = system.daemon.get(f"/v1/plans/{plan['id']}").json()["plan"]
    assert (first["state"], first["reason"]) == ("WITHDRAWN", f"replaced by {second['id']}")

    approve(system, second["id"])
    fine = system.fund(owner, 128)
    applied = apply(system, second["id"])
    assert (applied.status_code, applied.json().get("done")) == (200, 4), applied.text
    assert {token(system.db, i)["status"] for i in (whole, part, later)} == {"spent"}
    assert token(system.db, free)["status"] == "unspent"
    assert token(system.db, fine)["status"] == "unspent"
    assert unspent(system, owner) == system.truth(owner)
    assert_no_secret_twice(system.db)
    wait_tours(system, more=2)
    assert system.daemon.get("/v1/status").json()["open_plans"] == []


def test_what_is_over_no_cap_any_more_needs_no_plan(make_system: Callable[..., System], mint: MintProcess) -> None:
    settings = {"sweep.interval_s": 1, "sweep.corrections_max_value_per_cycle": 20}
    system = make_system(mint, settings=settings)
    owner = system.user()
    large = system.fund(owner, 32)
    spend(system, proofs_of(system, large))
    until(lambda: system.daemon.get("/v1/status").json()["open_plans"], system.daemon.log_tail)
    system.db["cashu_tokens"].update_one({"_id": token(system.db, large)["_id"]}, {"$set": {"status": "spent"}})
    until(lambda: not system.daemon.get("/v1/status").json()["open_plans"], system.daemon.log_tail)
    (plan,) = system.daemon.get("/v1/plans").json()["plans"]
    assert (plan["state"], plan["reason"]) == ("WITHDRAWN", "nothing is over the cap any more")


# --- four eyes ---


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become another user")
def test_four_eyes_are_two_uids(make_system: Callable[..., System], mint: MintProcess) -> None:
    settings = {
        "sweep.four_eyes": "true",
        "socket.mode": "0666",
        "sweep.interval_s": 1,
        "sweep.corrections_max_count_per_cycle": 0,
    }
    system = make_system(mint, settings=settings)
    owner = system.user()
    source = system.fund(owner, 16)
    spend(system, proofs_of(system, source))
    plan = make_plan(system, owner)
    refused = system.daemon.post(f"/v1/plans/{plan['id']}/approve", {"reason": "my own"})
    assert (refused.status_code, refused.json()["code"]) == (403, "FORBIDDEN")
    status, answer = as_user(system, OTHER_UID, "POST", f"/v1/plans/{plan['id']}/approve", {"reason": "seen"})
    assert (status, answer["state"], answer["approvals"][0]["by"]["uid"]) == (200, "APPROVED", OTHER_UID), answer

    def offered() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = system.daemon.get("/v1/plans", state="OPEN").json()["plans"]
        return found

    (own,) = until(offered, system.daemon.log_tail)
    assert own["approvals_needed"] == 2, "nobody asked for it"
    first = system.daemon.post(f"/v1/plans/{own['id']}/approve", {"reason": "one"})
    assert (first.status_code, first.json()["state"]) == (200, "OPEN")
    assert apply(system, own["id"]).json()["code"] == "WRONG_STATE"
    twice = system.daemon.post(f"/v1/plans/{own['id']}/approve", {"reason": "one again"})
    assert (twice.status_code, twice.json()["code"]) == (403, "FORBIDDEN")
    assert token(system.db, source)["status"] == "unspent"
    status, answer = as_user(system, OTHER_UID, "POST", f"/v1/plans/{own['id']}/approve", {"reason": "two"})
    assert (status, answer["state"]) == (200, "APPROVED"), answer
    assert apply(system, own["id"]).json()["done"] == 1
    assert [e["actor"]["uid"] for e in audit_of(system, source)] == [os.getuid()]
    late = apply(system, plan["id"])
    assert (late.status_code, late.json().get("done")) == (200, 1), "the same corrections were made: done is done"


# --- crashes ---


@pytest.mark.parametrize(
    ("where", "done"),
    [
        pytest.param("store.move_plan.after_commit@2", 0, id="before the first item"),
        pytest.param("store.correct.after_commit@3", 3, id="in the middle"),
        pytest.param("store.move_plan.before_commit@3", 4, id="before its end is written"),
    ],
)
def test_a_plan_whose_application_was_killed_is_finished_by_applying_it_again(
    make_system: Callable[..., System], mint: MintProcess, where: str, done: int
) -> None:
    killing = {"debug.failpoint": where, "debug.break_payments_on_purpose": "true"}
    # No sweep of the second life makes these corrections.
    system = make_system(mint, settings={**killing, "sweep.corrections_max_count_per_cycle": 0})
    owner = system.user()
    sources = [system.fund(owner, 8 + i) for i in range(4)]
    spend(system, [proof for source in sources for proof in proofs_of(system, source)])
    plan = make_plan(system, owner)["id"]
    approve(system, plan)
    with pytest.raises(httpx.TransportError):
        apply(system, plan)
    system.daemon.process.wait(20)
    assert [token(system.db, s)["status"] for s in sources].count("spent") == done
    for name in killing:
        del system.daemon._settings[name]
    system.daemon.start()
    assert state_of(system, plan) == "APPLYING"
    applied = apply(system, plan)
    assert (applied.status_code, applied.json()["state"], applied.json()["done"]) == (200, "APPLIED", 4), applied.text
    assert {token(system.db, s)["status"] for s in sources} == {"spent"}
    assert [len(audit_of(system, s)) for s in sources] == [1] * 4, "nothing was done twice"


# --- the command line ---


def test_a_plan_is_made_read_approved_and_applied_from_the_command_line(system: System) -> None:
    owner = system.user()
    source = system.fund(owner, 16)
    spend(system, proofs_of(system, source))
    made = cli(system, "reconcile", "--plan", "--npub", owner, "--json")
    assert made.returncode == 0, made.stderr
    plan = json.loads(made.stdout)["plan"]["id"]
    assert source in cli(system, "plans", "show", plan).stdout
    assert cli(system, "plans", "approve", plan, "--reason", "seen").returncode == 0
    applied = cli(system, "plans", "apply", plan)
    assert (applied.returncode, "APPLIED" in applied.stdout) == (0, True), applied.stderr
