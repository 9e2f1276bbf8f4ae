"""
Mints that forget or lie, made from the real one: no token changes, one CRITICAL event says what was seen, and it ends by
itself once the mint is sane again (DESIGN section 5, Guards).
"""

from __future__ import annotations

import asyncio
import random
import re
import shutil
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import bson
import pytest

from melt.ecash import y_of
from tests.e2e.conftest import _system
from tests.support.front_mint import FrontMint
from tests.support.mint import MintProcess
from tests.support.scripted_mint import Say
from tests.support.store import token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pymongo import MongoClient

    from daemon.embedded import EmbeddedStore
    from tests.e2e.conftest import System

ALL = ["unspent", "pending", "spent", "failed"]
OLD = datetime.now(UTC) - timedelta(days=2)
CONFIRM_S = 0.6
WITHIN_S = 60.0
States = list[dict[str, Any]]


# --- arranging and looking ---


def until(what: Callable[[], Any], system: System) -> Any:
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline:
        found = what()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(system.daemon.log_tail())


def proofs_of(system: System, token_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = token(system.db, token_id)["proofs"]
    return found


def ys_of(system: System, token_id: str) -> set[str]:
    return {str(y_of(proof["secret"])) for proof in proofs_of(system, token_id)}


def spend(system: System, token_id: str) -> None:
    asyncio.run(system.wallet.spend(proofs_of(system, token_id)))


def reconcile(system: System, owner: str) -> dict[str, Any]:
    return system.daemon.reconcile(npub=owner, statuses=ALL)


def money(system: System) -> list[bytes]:
    """Every token document, byte for byte, and all that a melt would leave behind."""
    return [
        bson.encode(document)
        for name in ("cashu_tokens", "meltd_melts", "meltd_audit", "meltd_counters")
        for document in system.db[name].find({}).sort("_id", 1)
    ]


def open_events(system: System) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = system.daemon.get("/v1/events", open="true").json()["events"]
    return events


def is_frozen(system: System) -> bool:
    return bool(system.daemon.get("/v1/status").json()["mints"][0]["frozen"])


def shown(system: System, event: str) -> bool:
    text = system.daemon.metrics()
    return f'meltd_open_critical_events{{type="{event}"}} 1.0' in text and 'meltd_mint_frozen{mint="main"} 1.0' in text


def pay(system: System, owner: str, amount: int) -> dict[str, Any]:
    paid: dict[str, Any] = system.daemon.melt(
        owner, system.daemon._mints["main"], system.invoice(amount).invoice
    ).json()
    assert paid["state"] == "SETTLED", paid
    return paid


def refused(system: System, owner: str) -> str:
    """The code with which a melt is refused."""
    answer = system.daemon.melt(owner, system.daemon._mints["main"], system.invoice(5).invoice)
    assert answer.status_code >= 400, answer.text
    return str(answer.json()["code"])


def assert_nothing_happens(system: System, owner: str, event_type: str, said: str) -> dict[str, Any]:
    """Whatever is asked of meltd, the money stays as it was, and one event tells why."""
    before = money(system)
    assert refused(system, owner) in {"CRITICAL_MINT_UNTRUSTED", "MINT_UNREACHABLE"}, (
        "a melt may be the first to meet it"
    )
    for _ in range(2):
        report = reconcile(system, owner)
        assert (report["corrected"], len(report["errors"])) == (0, 1), report
        time.sleep(CONFIRM_S)
    assert refused(system, owner) == "CRITICAL_MINT_UNTRUSTED"
    assert money(system) == before
    (event,) = open_events(system)
    assert (event["type"], event["mint"]) == (event_type, "main")
    assert re.search(said, event["detail"]), event["detail"]
    assert not event["requires_manual_intervention"]
    assert is_frozen(system)
    return event


# --- a front that lies about the real mint ---


@pytest.fixture(scope="module")
def front(mint: MintProcess) -> Iterator[FrontMint]:
    with FrontMint(upstream=mint.url) as made:
        yield made


@pytest.fixture(scope="module")
def behind(
    store_process: EmbeddedStore,
    mongo_client: MongoClient[dict[str, Any]],
    mint: MintProcess,
    front: FrontMint,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[System]:
    """One daemon that sees the mint through the front; it has paid once, so there are Ys known to be SPENT."""
    system = _system(store_process, mongo_client, mint, tmp_path_factory.mktemp("daemon"), {})
    system.daemon._mints["main"] = front.url
    with system.daemon:
        owner = system.user()
        system.fund(owner, 100, mint_url=front.url)
        pay(system, owner, 10)
        yield system


def all_of(state: str) -> Callable[[States], States]:
    return lambda states: [one | {"state": state} for one in states]


def shuffled(states: States) -> States:
    given = [one["state"] for one in states]
    random.Random(7).shuffle(given)
    return [one | {"state": state} for one, state in zip(states, given, strict=True)]


LIES: dict[str, tuple[Callable[[States], States], str, str]] = {
    "all SPENT": (all_of("SPENT"), "SENTINEL_FAILED", r"calls \d+ of \d+ proofs SPENT that were never issued"),
    "all PENDING": (all_of("PENDING"), "SENTINEL_FAILED", r"PENDING that were never issued"),
    "all UNSPENT": (
        all_of("UNSPENT"),
        "MINT_STATE_REGRESSED",
        r"calls \d+ of \d+ proofs UNSPENT that it called SPENT before",
    ),
    "permuted": (shuffled, "SENTINEL_FAILED", r"SPENT that were never issued"),
    "truncated": (lambda states: states[:-1], "SENTINEL_FAILED", r"about \d+ Ys when it was asked about \d+"),
    "duplicated": (lambda states: states + states, "SENTINEL_FAILED", r"about \d+ Ys when it was asked about \d+"),
    "one twice for another": (
        lambda states: [states[-1], *states[1:]],
        "SENTINEL_FAILED",
        r"some Ys twice and about others not at all",
    ),
    "upper case": (
        lambda states: [one | {"Y": one["Y"].upper()} for one in states],
        "SENTINEL_FAILED",
        r"Ys in upper case",
    ),
}
LOGIN = Say(status=200, body=b"<html>Welcome to the airport</html>", headers={"Content-Type": "text/html"})
PORTALS = {
    "page": (LOGIN, r"something else, with HTTP 200 and a page of HTML"),
    "redirect": (Say(status=302, headers={"Location": "http://login.example/"}), r"HTTP 302 \(a redirect\)"),
    "network login": (Say(status=511, body=b"<html>"), r"HTTP 511 \(a network that wants a login\)"),
}


@pytest.mark.parametrize("case", [*LIES, *PORTALS])
def test_nothing_is_done_on_the_word_of_a_mint_that_lies(behind: System, front: FrontMint, case: str) -> None:
    system, owner = behind, behind.user()
    gone = system.fund(owner, 15, mint_url=front.url)
    system.fund(owner, 40, mint_url=front.url)
    forgotten = system.fund(owner, 9, status="pending", created_at=OLD, mint_url=front.url)
    spend(system, gone)
    try:
        if case in LIES:
            front.lie, event_type, said = LIES[case]
        else:
            (front.portal, said), event_type = PORTALS[case], "MINT_UNTRUSTED"
        assert_nothing_happens(system, owner, event_type, said)
    finally:
        front.lie = front.portal = None

    assert reconcile(system, owner)["errors"] == []
    assert open_events(system) == [], "sane again: it ends without a person"
    assert not is_frozen(system)
    assert token(system.db, gone)["status"] == "spent", "and corrections go on"
    time.sleep(CONFIRM_S)
    reconcile(system, owner)
    assert token(system.db, forgotten)["status"] == "unspent"


def test_a_mint_that_is_only_down_is_no_critical_event(behind: System, front: FrontMint) -> None:
    system, owner = behind, behind.user()
    system.fund(owner, 8, mint_url=front.url)
    front.portal = Say(status=503, body={"detail": "maintenance"})
    try:
        assert any("MINT_UNREACHABLE" in error for error in reconcile(system, owner)["errors"])
        assert open_events(system) == []
    finally:
        front.portal = None
    assert reconcile(system, owner)["errors"] == []


def test_a_document_that_was_spent_by_the_mints_word_is_never_taken_back(
    make_system: Callable[..., System], mint: MintProcess
) -> None:
    """The newest known proofs read SPENT, so no sentinel fails: an old document alone shows that the mint forgot."""
    with FrontMint(upstream=mint.url) as front:
        system = make_system(mint, start=False)
        system.daemon._mints["main"] = front.url
        system.daemon.start()
        owner = system.user()
        old = system.fund(owner, 32, amounts=[32], mint_url=front.url)
        spend(system, old)
        assert reconcile(system, owner)["corrected"] == 1
        system.fund(owner, 80, amounts=[1] * 80, mint_url=front.url)
        pay(system, owner, 70)  # more inputs than sentinels are made of: the old document's proof is none of them
        value = system.fund(owner, 16, status="spent", mint_url=front.url)
        system.daemon.stop()
        system.daemon.start()  # what it knew as the newest is read anew
        alive = ys_of(system, old)

        def forgets(states: States) -> States:
            return [one | {"state": "UNSPENT"} if one["Y"] in alive else one for one in states]

        before = money(system)
        front.lie = forgets
        assert reconcile(system, owner)["corrected"] == 0
        (event,) = open_events(system)
        assert event["type"] == "MINT_STATE_REGRESSED"
        assert "that it called SPENT before" in event["detail"]
        (record,) = system.db["meltd_discrepancies"].find({"type": "MINT_STATE_REGRESSED", "token_id": {"$ne": None}})
        assert (record["token_id"], record["value"], record["severity"]) == (old, 32, "CRITICAL")
        assert record["action"] == "record"
        for _ in range(2):
            time.sleep(CONFIRM_S)
            assert reconcile(system, owner)["corrected"] == 0, "frozen: other value is not taken either"
        assert money(system) == before

        # Over a restart too, until those very proofs are SPENT again.
        system.daemon.stop()
        system.daemon.start()
        assert reconcile(system, owner)["corrected"] == 0
        assert [one["type"] for one in open_events(system)] == ["MINT_STATE_REGRESSED"]
        front.lie = None
        for _ in range(2):
            assert reconcile(system, owner)["errors"] == []
            time.sleep(CONFIRM_S)
        reconcile(system, owner)
        assert open_events(system) == []
        assert [d["total_amount"] for d in system.documents(owner) if "_reclaimed" in d["transaction_id"]], value

        # A person who says that the mint is to be taken as it is now lifts the freeze; the value stays where it is.
        front.lie = forgets
        reconcile(system, owner)
        (event,) = open_events(system)
        answer = system.daemon.post(f"/v1/events/{event['id']}/resolve", {"reason": "restored from a backup"})
        assert answer.status_code == 200, answer.text
        journal = system.db["meltd_melts"].count_documents({})
        for _ in range(3):
            assert reconcile(system, owner)["errors"] == []
            time.sleep(CONFIRM_S)
        assert open_events(system) == []
        assert system.db["meltd_melts"].count_documents({}) == journal
        assert system.db["meltd_discrepancies"].find_one({"_id": record["_id"]})["state"] in {"open", "recurred"}


def test_a_melt_that_such_a_mint_calls_unpaid_is_held_for_a_person_and_comes_back_behind_a_fence(
    make_system: Callable[..., System], mint: MintProcess
) -> None:
    with FrontMint(upstream=mint.url) as front:
        system = make_system(mint, start=False)
        system.daemon._mints["main"] = front.url
        system.daemon.start()
        owner = system.user()
        system.fund(owner, 300, mint_url=front.url)
        pay(system, owner, 20)
        invoice = system.invoice(50, pay="PENDING", status="PENDING")
        melt = system.daemon.melt(owner, front.url, invoice.invoice, wait=5).json()
        assert melt["state"] == "PENDING", melt
        front.lie = all_of("UNSPENT")
        assert reconcile(system, owner)["corrected"] == 0
        assert is_frozen(system)

        asyncio.run(mint.resolve(invoice.payment_hash, "FAILED"))
        system.daemon.wait_state(melt["id"], "HELD")

        about = [one for one in open_events(system) if one["subject"] == f"melt:{melt['id']}"]
        assert [(one["type"], one["requires_manual_intervention"]) for one in about] == [("MELT_HELD", True)]
        assert "not believed" in about[0]["detail"]
        front.lie = None
        until(lambda: not is_frozen(system), system)
        answer = system.daemon.post(
            f"/v1/melts/{melt['id']}/resolve", {"action": "released", "reason": "the payee got nothing"}
        )
        assert answer.status_code in {200, 202}, answer.text
        system.daemon.wait_state(melt["id"], "RELEASED")
        until(lambda: open_events(system) == [], system)
        unspent = sum(d["total_amount"] for d in system.documents(owner) if d["status"] == "unspent")
        assert unspent == system.truth(owner) > 270
        assert system.payments(invoice.payment_hash) == 0


def test_without_any_proof_known_spent_no_value_is_taken_back(
    make_system: Callable[..., System], mint: MintProcess
) -> None:
    """A new meltd beside a mint that has perhaps forgotten everything: UNSPENT is worth nothing until it can say SPENT."""
    system = make_system(mint)
    owner = system.user()
    system.fund(owner, 100, status="spent")
    before = money(system)
    for _ in range(3):
        report = reconcile(system, owner)
        assert (report["planned"], report["corrected"], report["errors"]) == (1, 0, [])
        time.sleep(CONFIRM_S)
    assert money(system) == before

    spend(system, system.fund(owner, 4, status="spent"))
    assert reconcile(system, owner)["corrected"] == 1, "it remembers"
    assert system.truth(owner) > 90


def test_a_plausible_liar_marks_nothing_even_in_a_small_database(
    make_system: Callable[..., System], mint: MintProcess
) -> None:
    """Every sentinel is right, and all that the users hold reads SPENT: the cap on the share holds the page whole."""
    with FrontMint(upstream=mint.url) as front:
        system = make_system(mint, start=False, settings={"sweep.corrections_max_share_per_cycle": 0.25})
        system.daemon._mints["main"] = front.url
        system.daemon.start()
        owner = system.user()
        proofs = asyncio.run(system.wallet.mint(24, amounts=[2] * 12))
        held = [system.insert(owner, [proof], mint_url=front.url) for proof in proofs]
        ours = {str(y_of(proof["secret"])) for proof in proofs}
        before = money(system)
        front.lie = lambda states: [one | {"state": "SPENT"} if one["Y"] in ours else one for one in states]
        report = reconcile(system, owner)
        assert (report["planned"], report["corrected"]) == (12, 0)
        assert any("corrections_max_share_per_cycle" in error for error in report["errors"]), report
        assert money(system) == before

        front.lie = None
        spend(system, held[0])
        assert reconcile(system, owner)["corrected"] == 1, "what is plausible is corrected"


# --- the real mint, with its database taken away or put back ---


@pytest.fixture
def own_mint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MintProcess]:
    with MintProcess(tmp_path_factory.mktemp("mint")) as mint:
        yield mint


def databases(mint: MintProcess) -> list[Path]:
    found = [path for path in mint.folder.iterdir() if ".sqlite" in path.name]
    assert found, "where does this mint keep its database?"
    return found


def keep_copy(mint: MintProcess, to: Path) -> None:
    mint.stop_blocking()
    to.mkdir()
    for path in databases(mint):
        shutil.copy2(path, to)
    mint.start_blocking()


def put_back(mint: MintProcess, kept: Path | None) -> None:
    """Restart it on this copy of its database; None: on an empty one."""
    mint.stop_blocking()
    for path in databases(mint):
        path.unlink()
    for path in kept.iterdir() if kept is not None else ():
        shutil.copy2(path, mint.folder)
    mint.start_blocking()


@pytest.mark.parametrize("how", ["wiped", "rolled back"])
def test_a_mint_that_lost_its_records_is_known_and_trusted_again_when_they_are_back(
    make_system: Callable[..., System], own_mint: MintProcess, tmp_path: Path, how: str
) -> None:
    system = make_system(own_mint)
    owner = system.user()
    system.fund(owner, 100)
    pay(system, owner, 10)
    keep_copy(own_mint, tmp_path / "backup")
    pay(system, owner, 10)
    elsewhere = system.fund(owner, 16)
    spend(system, elsewhere)
    reconcile(system, owner)
    assert token(system.db, elsewhere)["status"] == "spent"
    gone = system.fund(owner, 8)
    spend(system, gone)
    keep_copy(own_mint, tmp_path / "now")

    put_back(own_mint, None if how == "wiped" else tmp_path / "backup")
    assert_nothing_happens(system, owner, "MINT_STATE_REGRESSED", r"that it called SPENT before")
    until(lambda: shown(system, "MINT_STATE_REGRESSED"), system)

    put_back(own_mint, tmp_path / "now")
    # Nobody asks: meltd looks again by itself, and sweeps once the proofs that showed it are SPENT again.
    until(lambda: token(system.db, gone)["status"] == "spent", system)
    assert open_events(system) == []
    assert not is_frozen(system)
    assert system.db["meltd_melts"].count_documents({"kind": "reclaim"}) == 0
    assert sum(int(d["total_amount"]) for d in system.documents(owner) if d["status"] == "unspent") == system.truth(
        owner
    )
