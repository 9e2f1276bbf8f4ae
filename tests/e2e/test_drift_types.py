"""
Drift beyond states, with real proofs at the real mint, through the real daemon (DESIGN section 5, Beyond states).

Each test plants what old code, another service or a forger leaves, lets the daemon tour, and judges records and money.
"""

from __future__ import annotations

import asyncio
import re
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conftest import _system as system_over
from tests.support.front_mint import FrontMint
from tests.support.generations import generation_at
from tests.support.legacy import AMOUNT, BROKEN, PLAIN
from tests.support.mint import MintProcess
from tests.support.scripted_mint import Say
from tests.support.store import fake_proof, insert_token, token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pymongo import MongoClient

    from daemon.embedded import EmbeddedStore
    from tests.e2e.conftest import System

WITHIN_S = 60.0
TOURING = {"sweep.interval_s": 1, "sweep.page_documents": 7, "sweep.signature_sample_share": 1.0}


@pytest.fixture(scope="module")
def foreign(
    store_process: EmbeddedStore,
    mongo_client: MongoClient[dict[str, Any]],
    mint: MintProcess,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[System]:
    """One daemon over a collection that other services made, so that no unique index forbids anything; users per test."""
    system = system_over(store_process, mongo_client, mint, tmp_path_factory.mktemp("daemon"), TOURING)
    insert_token(system.db, system.user(), [1], mint_url="http://127.0.0.1:1/elsewhere")
    with system.daemon:
        yield system


def tours(system: System, more: int = 2, after: int | None = None) -> None:
    """Until ``more`` tours after that one (None: the present one) have ended well: the first of them may have begun before."""

    def sweep() -> dict[str, Any]:
        return system.db["meltd_sweeps"].find_one({"_id": "main"}) or {}

    wanted = (sweep().get("tour", 0) if after is None else after) + more
    deadline = time.monotonic() + WITHIN_S
    while True:
        record = sweep()
        if record.get("tour", 0) >= wanted and record.get("finished_at") and record.get("error") is None:
            return
        assert time.monotonic() < deadline, f"{record}\n{system.daemon.log_tail()}"
        time.sleep(0.05)


def records(system: System, drift: str, *, open_only: bool = True, of: str | None = None) -> dict[str, dict[str, Any]]:
    """The records of a type by subject, of all users or of one."""
    found = system.db["meltd_discrepancies"].find({"type": drift} | ({} if of is None else {"npub": of}))
    return {d["subject"]: d for d in found if not open_only or d["state"] in {"open", "recurred"}}


def minted(system: System, amounts: list[int]) -> list[dict[str, Any]]:
    return asyncio.run(system.wallet.mint(sum(amounts), amounts=amounts))


# --- the double count ---


def test_one_proof_in_two_documents_is_reported_for_each_that_counts_and_blocks_melts(foreign: System) -> None:
    system = foreign
    first, second = system.user(), system.user()
    gone, mine, shared = minted(system, [16, 32, 64])
    original = system.insert(first, [shared, mine])
    copy = system.insert(second, [shared], mint_url=system.mint.url + "/", status="pending")
    spent_copy = system.insert(first, [shared], status="spent", transaction_type="sent")
    agreed = [system.insert(owner, [gone], status="spent") for owner in (first, second)]
    asyncio.run(system.wallet.spend([gone]))
    lone = system.fund(second, 8)
    tours(system)

    found = records(system, "DUPLICATE_PROOF", of=first) | records(system, "DUPLICATE_PROOF", of=second)

    assert found.keys() == {f"token:{one}" for one in (original, copy)}, "a copy in a spent document is history"
    assert not found.keys() & {f"token:{one}" for one in (*agreed, lone)}, "spent twice counts nothing"
    record = found[f"token:{original}"]
    assert (record["severity"], record["value"], record["npub"]) == ("HIGH", 64, first)
    assert len(record["ys"]) == 1
    evidence = record["evidence"]
    assert set(evidence["other_token_ids"].split(", ")) == {copy}
    assert (evidence["other_npubs"], evidence["other_statuses"]) == (1, "1 pending")
    assert (evidence["status"], evidence["mint_said"], evidence["sentinels"]) == ("unspent", "1 UNSPENT", "passed")
    assert evidence["batch"] > 0
    asked = datetime.fromisoformat(evidence["asked_at"])
    assert timedelta(0) <= datetime.now(UTC) - asked < timedelta(seconds=WITHIN_S * 2)
    assert shared["secret"] not in str(list(system.db["meltd_discrepancies"].find({})))
    assert shared["secret"] not in system.daemon.log_path.read_text()

    blocked = system.daemon.melt(first, "main", system.invoice(20).invoice)
    assert blocked.json()["code"] == "MELT_BLOCKED_BY_RECONCILIATION", blocked.text
    tours(system, more=3)
    statuses = {one: token(system.db, one)["status"] for one in (original, copy, spent_copy)}
    assert statuses == {original: "unspent", copy: "pending", spent_copy: "spent"}, "which one is right is not guessed"
    assert len(system.documents(first)) == 3, "and nothing is reclaimed meanwhile"
    (held,) = records(system, "DB_PENDING_MINT_UNSPENT", of=second).values()
    assert held["action"] == "watch"

    system.db["cashu_tokens"].delete_many({"proofs.secret": shared["secret"], "npub": second})
    system.db["cashu_tokens"].delete_many({"proofs.secret": shared["secret"], "status": "spent"})
    tours(system)
    assert f"token:{original}" not in records(system, "DUPLICATE_PROOF")
    assert system.daemon.melt(first, "main", system.invoice(20).invoice).json()["state"] == "SETTLED"


def test_a_melted_document_says_whether_it_counts_and_where_else_its_proofs_stand(foreign: System) -> None:
    system = foreign
    owner = system.user()
    kept, paid = minted(system, [4, 16])
    source = system.insert(owner, [paid], status="spent")
    over = system.insert(owner, [paid], status="spent", transaction_type="melted")
    counting = system.insert(owner, [kept], status="unspent", transaction_type="melted")
    asyncio.run(system.wallet.spend([paid]))
    tours(system)

    found = records(system, "LEGACY_MELTED_DOCUMENT", of=owner)

    assert found.keys() == {f"token:{over}", f"token:{counting}"}
    low, high = found[f"token:{over}"], found[f"token:{counting}"]
    assert (low["severity"], low["value"], high["severity"], high["value"]) == ("LOW", 16, "HIGH", 4)
    assert low["evidence"]["stands_elsewhere"] == "1 of 1 proofs"
    assert (low["evidence"]["other_token_ids"], low["evidence"]["value_elsewhere"]) == (source, 16)
    assert low["evidence"]["mint_said"] == "1 SPENT"
    assert high["evidence"]["stands_elsewhere"] == "0 of 1 proofs"
    assert {d["status"] for d in system.documents(owner) if str(d["_id"]) != counting} == {"spent"}
    assert token(system.db, counting)["status"] == "unspent"


# --- signatures ---


def test_what_the_mint_has_not_signed_is_reported_and_not_melted_and_forgotten_once_it_is_mended(
    make_system: Callable[..., System], mint: MintProcess
) -> None:
    system = make_system(mint, start=False, settings=TOURING)
    owner = system.user()
    good, bare, swapped, bent, off, other = minted(system, [64] * 6)
    tampered = {**bent, "dleq": {**bent["dleq"], "e": bent["dleq"]["s"]}}
    planted = {
        "good": system.insert(owner, [good]),
        "bare": system.insert(owner, [{k: v for k, v in bare.items() if k != "dleq"}]),
        "wrong C": system.insert(owner, [{**swapped, "C": other["C"]}, other]),
        "another DLEQ": system.insert(owner, [tampered]),
        "no point": system.insert(owner, [{**off, "C": "02" + "ff" * 32}]),
        "no such amount": system.insert(owner, [fake_proof(3, keyset_id=good["id"], C=good["C"])]),
    }
    system.daemon.start()
    tours(system)

    found = records(system, "INVALID_SIGNATURE")

    bad = ("wrong C", "another DLEQ", "no point")
    odd = records(system, "MALFORMED_TOKEN")
    assert odd.keys() == {f"token:{planted['no such amount']}"}, (
        "its keyset has no such amount: that document alone is odd"
    )
    assert found.keys() == {f"token:{planted[name]}" for name in bad}
    assert {d["severity"] for d in found.values()} == {"HIGH"}
    half = found["token:" + planted["wrong C"]]
    assert (half["value"], len(half["ys"]), half["evidence"]["checked_proofs"]) == (64, 1, 2)
    said = {name: found[f"token:{planted[name]}"]["evidence"]["reason"] for name in bad}
    assert "DLEQ" in said["wrong C"]
    assert "DLEQ" in said["another DLEQ"]
    assert "no point" in said["no point"]
    log = system.daemon.log_path.read_text()
    for secret_part in (tampered["secret"], tampered["dleq"]["r"], off["secret"], swapped["C"]):
        assert secret_part not in log

    refused = system.daemon.melt(owner, "main", system.invoice(130).invoice)
    assert refused.json()["code"] == "MELT_BLOCKED_BY_RECONCILIATION", refused.text
    assert system.daemon.melt(owner, "main", system.invoice(70).invoice).json()["state"] == "SETTLED"

    system.db["cashu_tokens"].update_one({"proofs.secret": bent["secret"]}, {"$set": {"proofs": [bent]}})
    tours(system)
    left = found.keys() - {f"token:{planted['another DLEQ']}"}
    assert records(system, "INVALID_SIGNATURE").keys() == left, "mended"
    system.daemon.stop()
    system.daemon._settings["sweep.signature_sample_share"] = 0.0
    system.daemon.start()
    tours(system)
    assert records(system, "INVALID_SIGNATURE").keys() == left, "what is not verified now is not forgotten"


# --- keysets ---


@pytest.fixture
def ending_mint(tmp_path_factory: pytest.TempPathFactory, mint: MintProcess) -> Iterator[MintProcess | None]:
    """A mint whose keysets this test rotates; None where keysets of its generation have no end."""
    if not generation_at(mint.port).final_expiry:
        yield None
        return
    with MintProcess(tmp_path_factory.mktemp("mint")) as process:
        yield process


def test_keysets_that_end_soon_are_reported_by_what_lies_on_them(
    make_system: Callable[..., System], ending_mint: MintProcess | None
) -> None:
    if ending_mint is None:
        return
    system = make_system(ending_mint, start=False, settings=TOURING)
    owner = system.user()
    planted: dict[str, tuple[str, str]] = {}
    now = int(time.time())
    system.fund(owner, 4)
    for severity, expiry in (("LOW", now + 20 * 86_400), ("MEDIUM", now + 3 * 86_400), ("HIGH", now + 3_600)):
        keyset = asyncio.run(ending_mint.rotate_keyset(final_expiry=expiry))
        planted[severity] = (keyset, system.fund(owner, 8))
    asyncio.run(ending_mint.rotate_keyset(final_expiry=now + 90 * 86_400))
    system.fund(owner, 2)
    system.fund(owner, 1)
    system.daemon.start()
    tours(system)

    found = records(system, "KEYSET_EXPIRING")

    assert found.keys() == {f"keyset:main:{keyset}" for keyset, _ in planted.values()}
    assert {d["severity"]: d["value"] for d in found.values()} == dict.fromkeys(planted, 8)
    assert {d["token_id"] for d in found.values()} == {None}
    low = found[f"keyset:main:{planted['LOW'][0]}"]
    assert datetime.fromisoformat(low["evidence"]["final_expiry"]).timestamp() == now + 20 * 86_400
    wanted = re.compile(
        r'^meltd_discrepancies_found_total{[^}]*severity="HIGH",type="KEYSET_EXPIRING"} 1.0$', re.MULTILINE
    )
    assert wanted.search(system.daemon.metrics()), "told to the metrics by its severity, once"

    source = planted["HIGH"][1]
    asyncio.run(system.wallet.spend(token(system.db, source)["proofs"]))
    tours(system)
    assert token(system.db, source)["status"] == "spent"
    assert {d["severity"] for d in records(system, "KEYSET_EXPIRING").values()} == {"LOW", "MEDIUM"}
    everything = records(system, "KEYSET_EXPIRING", open_only=False)
    assert everything[f"keyset:main:{planted['HIGH'][0]}"]["state"] == "cleared", "nothing lies on it any more"


def test_a_keyset_is_not_called_unknown_while_the_mint_s_list_can_t_be_had(
    make_system: Callable[..., System], mint: MintProcess
) -> None:
    with FrontMint(upstream=mint.url) as front:
        system = make_system(mint, start=False)
        system.daemon._mints["main"] = front.url
        owner = system.user()
        odd = system.insert(owner, [fake_proof(4, keyset_id="00ffffffffffffff")], mint_url=front.url)
        system.daemon.start()
        tours(system, more=1, after=0)
        assert records(system, "UNKNOWN_KEYSET").keys() == {f"token:{odd}"}
        another = system.insert(owner, [fake_proof(4, keyset_id="00eeeeeeeeeeeeee")], mint_url=front.url)

        front.server.rules["/v1/keysets"] = Say(status=503, body={"detail": "busy"})
        report = system.daemon.reconcile(npub=owner)
        assert report["errors"] == [], "everything else is judged all the same"
        assert records(system, "UNKNOWN_KEYSET").keys() == {f"token:{odd}"}, "neither opened nor closed"

        del front.server.rules["/v1/keysets"]
        system.daemon.reconcile(npub=owner)
        assert records(system, "UNKNOWN_KEYSET").keys() == {f"token:{odd}", f"token:{another}"}
        assert {d["severity"] for d in records(system, "UNKNOWN_KEYSET").values()} == {"MEDIUM"}


# --- years of other code ---


def test_a_sweep_corrects_old_data_whose_meaning_is_plain_and_reports_the_rest(foreign: System) -> None:
    """Every proof of every document was spent elsewhere: what can be read is marked, what can't is told with its value."""
    system = foreign
    cases = (*PLAIN, *BROKEN)
    proofs = minted(system, [AMOUNT] * (2 * len(cases)))
    owners = {case.name: system.user() for case in cases}
    documents = {
        case.name: case.document(owners[case.name], system.mint.url, [proofs[2 * i], proofs[2 * i + 1]])
        for i, case in enumerate(cases)
    }
    system.db["cashu_tokens"].insert_many(list(documents.values()))
    asyncio.run(system.wallet.spend(proofs))
    tours(system)

    now = {case.name: system.db["cashu_tokens"].find_one({"_id": documents[case.name]["_id"]}) for case in cases}
    malformed = records(system, "MALFORMED_TOKEN")
    for case in PLAIN:
        found, before = now[case.name], documents[case.name]
        assert found is not None
        assert found["status"] == "spent", case.name
        assert found["proofs"] == before["proofs"], f"{case.name}: stored as it was"
        assert {k: v for k, v in found.items() if k not in _OURS} == {k: v for k, v in before.items() if k not in _OURS}
        assert f"token:{found['_id']}" not in malformed, case.name
        done = records(system, "DB_UNSPENT_MINT_SPENT", open_only=False)[f"token:{found['_id']}"]
        assert (done["state"], done["value"]) == ("corrected", case.value), case.name
    for case in BROKEN:
        assert now[case.name] == documents[case.name], f"{case.name}: never changed"
    by_value = sorted((d["value"], d["evidence"]["reasons"]) for d in malformed.values())
    assert [value for value, _ in by_value] == sorted(case.value for case in BROKEN)
    for case in BROKEN:
        assert case.reason is not None
        assert any(value == case.value and case.reason in reasons for value, reasons in by_value), case.name
    homeless = [d for d in malformed.values() if "mint_url" in d["evidence"]["reasons"]]
    assert [d["mint"] for d in homeless] == [None, None]
    (twice,) = records(system, "DUPLICATE_PROOF", of=owners["a secret twice"]).values()
    assert (twice["value"], twice["severity"], twice["evidence"]["reasons"]) == (
        AMOUNT,
        "HIGH",
        "one proof lies in it twice",
    )
    mismatched = records(system, "AMOUNT_MISMATCH", open_only=False)
    assert {d["npub"] for d in mismatched.values()} <= set(owners.values())
    assert len(mismatched) == sum(case.drift == "AMOUNT_MISMATCH" for case in PLAIN)
    log = system.daemon.log_path.read_text()
    assert "Traceback" not in log
    assert not [proof for proof in proofs if proof["secret"] in log]

    before = list(system.db["cashu_tokens"].find({}).sort("_id"))
    tours(system)
    assert list(system.db["cashu_tokens"].find({}).sort("_id")) == before, "a further tour changes nothing"


_OURS = frozenset({"status", "updatedAt", "spent_at", "rev", "total_amount"})
"""What a correction writes (``total_amount`` only where it splits)."""


def test_a_reservation_of_no_melt_is_told_with_what_the_mint_says(foreign: System) -> None:
    system = foreign
    owner = system.user()
    old = datetime.now(UTC) - timedelta(days=2)
    junk = system.fund(owner, 8, status="pending", created_at=old, reservation="soon")
    gone = system.fund(owner, 4, status="pending", created_at=old, reservation={"melt_id": "gone", "at": old})
    asyncio.run(system.wallet.spend(token(system.db, gone)["proofs"]))
    tours(system, more=3)

    found = records(system, "RESERVATION_ORPHANED", open_only=False, of=owner)

    assert found.keys() == {f"token:{junk}", f"token:{gone}"}
    assert {d["severity"] for d in found.values()} == {"MEDIUM"}
    assert found[f"token:{gone}"]["evidence"]["mint_said"] == "1 SPENT"
    assert found[f"token:{junk}"]["evidence"]["mint_said"] == "1 UNSPENT"
    assert (token(system.db, junk)["status"], token(system.db, gone)["status"]) == ("unspent", "spent")
    assert "reservation" not in token(system.db, junk)
