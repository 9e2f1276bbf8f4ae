"""A melt from the socket to the mint and back: what is paid, what is written, what is refused (DESIGN sections 4, 6, 7)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.mint import MintProcess
from tests.support.store import assert_no_secret_twice, assert_totals, npub

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e.conftest import System
    from tests.support.generations import Generation


@pytest.fixture(scope="module")
def system(paying_system: System) -> System:
    """Each of these once where nobody else spends from the database, and once at the default times."""
    return paying_system


# --- paid ---


def test_a_paid_melt_leaves_spent_sources_keep_and_change(system: System, generation: Generation) -> None:
    owner = system.user()
    source = system.fund(owner, 1000)
    invoice = system.invoice(100)

    answer = system.daemon.melt(owner, "main", invoice.invoice)

    body = answer.json()
    assert (answer.status_code, body["state"], body["payment_result"]) == (200, "SETTLED", "PAID"), body
    assert body["paid_amount"] == 100
    assert bool(body["payment_preimage"]) is generation.shows_preimage, "the mint's proof of payment is handed on"
    documents = {str(document["_id"]): document for document in system.documents(owner)}
    spent = documents[source]
    assert spent["status"] == "spent"
    assert spent["spent_at"] is not None
    assert "reservation" not in spent
    result = body["atomic_result"]
    keep = documents[result["keep_token_id"]]
    change = documents[result["melt_change_token_id"]]
    for document, suffix in ((keep, "_keep"), (change, "_melt_change")):
        assert document["transaction_type"] == "change"
        assert document["status"] == "unspent"
        assert document["transaction_id"] == body["transaction_id"] + suffix
        assert document["metadata"]["source"] == "change"
        assert document["metadata"]["parent_transaction_id"] == body["transaction_id"]
    assert keep["total_amount"] == result["keep_amount"]
    assert change["total_amount"] == result["melt_change_amount"] == body["change_amount"]
    assert system.truth(owner) == 1000 - 100 - body["fees_paid"] - body["input_fee"]
    assert system.truth(owner) == keep["total_amount"] + change["total_amount"]
    assert system.payments(invoice.payment_hash) == 1


def test_after_melts_no_proof_stands_twice_and_nothing_is_called_melted(system: System) -> None:
    owner = system.user()
    system.fund(owner, 700)
    system.fund(owner, 300)
    for amount in (50, 400, 90):
        assert system.daemon.melt(owner, "main", system.invoice(amount).invoice).status_code == 200

    assert_no_secret_twice(system.db)
    assert_totals(system.db)
    assert system.db["cashu_tokens"].count_documents({"transaction_type": "melted"}) == 0
    on_secrets = [
        index
        for index in system.db["cashu_tokens"].index_information().values()
        if index["key"] == [("proofs.secret", 1)]
    ]
    assert on_secrets, "proofs are looked up by an index"
    assert not any(index.get("unique") for index in on_secrets), "the unique one has a yes of its own"


def test_every_status_change_has_one_audit_entry_and_no_entry_a_secret(system: System) -> None:
    owner = system.user()
    source = system.fund(owner, 512)
    secrets_before = {proof[key] for d in system.documents(owner) for proof in d["proofs"] for key in ("secret", "C")}
    body = system.daemon.melt(owner, "main", system.invoice(200).invoice).json()

    entries = list(system.db["meltd_audit"].find({"token_id": source}))
    assert [(e["from_status"], e["to_status"]) for e in sorted(entries, key=lambda e: e["at"])] == [
        ("unspent", "pending"),
        ("pending", "spent"),
    ], entries
    for made in (body["atomic_result"]["keep_token_id"], body["atomic_result"]["melt_change_token_id"]):
        if made is not None:
            (entry,) = system.db["meltd_audit"].find({"token_id": made})
            assert (entry["from_status"], entry["to_status"]) == (None, "unspent")
    held = {proof[key] for d in system.documents(owner) for proof in d["proofs"] for key in ("secret", "C")}
    for name in ("meltd_audit", "meltd_melts", "meltd_discrepancies", "meltd_events"):
        text = "\n".join(str(document) for document in system.db[name].find({}))
        assert not [secret for secret in held | secrets_before if secret in text], f"a secret in {name}"
    log = system.daemon.log_path.read_text()
    assert not [secret for secret in held | secrets_before if secret in log]


def test_proofs_of_several_documents_pay_together(system: System) -> None:
    owner = system.user()
    for _ in range(5):
        system.fund(owner, 60)
    body = system.daemon.melt(owner, "main", system.invoice(250).invoice).json()

    assert body["state"] == "SETTLED", body
    assert body["atomic_result"]["source_tokens_spent"] == 5
    assert system.truth(owner) == 300 - 250 - body["fees_paid"] - body["input_fee"]


def test_an_exact_swap_comes_first_where_too_much_would_be_locked(
    make_system: Callable[..., System], mint: MintProcess
) -> None:
    system = make_system(mint, settings={"melt.swap_when_overpay_exceeds": 100})
    owner = system.user()
    system.fund(owner, 4096, amounts=[4096])
    invoice = system.invoice(100)

    body = system.daemon.melt(owner, "main", invoice.invoice).json()

    assert body["state"] == "SETTLED", body
    assert body["swap_fee"] > 0
    assert body["atomic_result"]["keep_amount"] > 3900
    left = 4096 - 100 - body["fees_paid"] - body["input_fee"] - body["swap_fee"]
    assert system.truth(owner) == left
    unspent = sum(d["total_amount"] for d in system.documents(owner) if d["status"] == "unspent")
    assert unspent == left
    assert system.payments(invoice.payment_hash) == 1
    assert_no_secret_twice(system.db)


# --- the same again ---


def test_the_same_key_and_body_is_the_same_melt_and_the_mint_pays_once(system: System) -> None:
    owner = system.user()
    system.fund(owner, 500)
    invoice = system.invoice(100)
    first = system.daemon.melt(owner, "main", invoice.invoice, key="same-" + owner)
    again = system.daemon.melt(owner, "main", invoice.invoice, key="same-" + owner)

    assert first.status_code == again.status_code == 200
    assert first.json() == again.json()
    assert system.payments(invoice.payment_hash) == 1


def test_the_same_key_with_another_body_is_a_conflict(system: System) -> None:
    owner = system.user()
    system.fund(owner, 500)
    first = system.daemon.melt(owner, "main", system.invoice(100).invoice, key="other-" + owner)
    before = system.dump()
    answer = system.daemon.melt(owner, "main", system.invoice(101).invoice, key="other-" + owner)

    assert (answer.status_code, answer.json()["code"]) == (409, "DUPLICATE_OPERATION")
    assert answer.json()["melt_id"] == first.json()["id"]
    assert system.dump() == before


def test_the_same_invoice_under_another_key_is_a_conflict_that_names_the_melt(system: System) -> None:
    owner = system.user()
    system.fund(owner, 500)
    invoice = system.invoice(100)
    first = system.daemon.melt(owner, "main", invoice.invoice)
    answer = system.daemon.melt(owner, "main", invoice.invoice)

    assert (answer.status_code, answer.json()["code"]) == (409, "DUPLICATE_OPERATION")
    assert answer.json()["melt_id"] == first.json()["id"]
    assert system.payments(invoice.payment_hash) == 1


def test_identical_requests_at_once_are_one_melt(system: System) -> None:
    owner = system.user()
    system.fund(owner, 1000)
    invoice = system.invoice(100, delay_s=0.5)
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda _: system.daemon.melt(owner, "main", invoice.invoice, key="k" + owner), range(8))
        )

    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert system.payments(invoice.payment_hash) == 1


def test_one_invoice_under_many_keys_at_once_is_paid_once(system: System) -> None:
    owner = system.user()
    system.fund(owner, 2000)
    invoice = system.invoice(100, delay_s=0.5)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: system.daemon.melt(owner, "main", invoice.invoice), range(8)))

    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 7
    assert system.payments(invoice.payment_hash) == 1


def test_curl_pays_as_the_documentation_says(system: System) -> None:
    owner = system.user()
    system.fund(owner, 500)
    invoice = system.invoice(64)
    body = json.dumps({"npub": owner, "mint": "main", "invoice": invoice.invoice})
    command = [
        "curl", "-sS", "--unix-socket", system.daemon.socket, "http://localhost/v1/melts",
        "-H", f"Idempotency-Key: curl-{owner}", "-d", body,
    ]  # fmt: skip
    first = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)
    again = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)

    assert first["state"] == "SETTLED", first
    assert again == first
    assert system.payments(invoice.payment_hash) == 1


# --- refused ---


@pytest.fixture
def funded(system: System) -> str:
    owner = system.user()
    system.fund(owner, 200)
    return owner


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"invoice": "lnbc1notaninvoice"}, 400, "INVOICE_INVALID"),
        ({"invoice": ""}, 400, None),
        ({"npub": "npub1short"}, 400, "INVALID_REQUEST"),
        ({"mint": "nosuchmint"}, None, "MINT_UNKNOWN"),
        ({"mint": "http://127.0.0.1:1/"}, None, "MINT_UNKNOWN"),
        ({"unit": "usd"}, 400, "INVALID_REQUEST"),
        ({"max_fee": 0}, None, "FEE_TOO_HIGH"),
        ({"max_fee": -1}, 400, "INVALID_REQUEST"),
        ({"max_fee": 1.5}, 400, "INVALID_REQUEST"),
        ({"surprise": 1}, 400, "INVALID_REQUEST"),
    ],
)
def test_a_bad_request_is_a_problem_with_its_code_and_changes_nothing(
    system: System, funded: str, change: dict[str, Any], status: int | None, code: str | None
) -> None:
    before = system.dump()
    body = {"npub": funded, "mint": "main", "invoice": system.invoice(50).invoice, **change}
    answer = system.daemon.post("/v1/melts", body, headers={"Idempotency-Key": secrets.token_hex(8)})

    problem = answer.json()
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert 400 <= answer.status_code < 500, problem
    assert status is None or answer.status_code == status, problem
    assert code is None or problem["code"] == code, problem
    assert problem["severity"] in {"LOW", "MEDIUM", "HIGH"}
    assert system.dump() == before


@pytest.mark.parametrize(
    ("amount", "expiry_s", "code"), [(0, 3600, "INVOICE_AMOUNTLESS"), (50, -10, "INVOICE_EXPIRED")]
)
def test_an_invoice_that_cant_be_paid_is_refused(
    system: System, funded: str, amount: int, expiry_s: int, code: str
) -> None:
    before = system.dump()
    invoice = asyncio.run(system.mint.invoice(amount, expiry_s=expiry_s))
    answer = system.daemon.melt(funded, "main", invoice.invoice)

    assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert system.dump() == before


def test_an_unknown_user_is_refused(system: System) -> None:
    before = system.dump()
    answer = system.daemon.melt(npub(), "main", system.invoice(10).invoice)

    assert (answer.status_code, answer.json()["code"]) == (404, "WALLET_UNKNOWN")
    assert system.dump() == before


def test_a_missing_idempotency_key_is_refused(system: System, funded: str) -> None:
    before = system.dump()
    body = {"npub": funded, "mint": "main", "invoice": system.invoice(10).invoice}
    answer = system.daemon.post("/v1/melts", body)

    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_REQUEST")
    assert "Idempotency-Key" in answer.json()["detail"]
    assert system.dump() == before


def test_too_little_money_is_refused(system: System, funded: str) -> None:
    before = system.dump()
    invoice = system.invoice(199)
    answer = system.daemon.melt(funded, "main", invoice.invoice)

    assert (answer.status_code, answer.json()["code"]) == (402, "INSUFFICIENT_FUNDS")
    assert system.dump() == before
    assert system.payments(invoice.payment_hash) == 0


# --- drift in the way ---


def test_spent_proofs_are_found_before_the_payment_and_clean_ones_pay_in_the_same_request(system: System) -> None:
    owner = system.user()
    stolen = asyncio.run(system.wallet.mint(128, amounts=[128]))
    bad = system.insert(owner, stolen)
    asyncio.run(system.wallet.spend(stolen))
    system.fund(owner, 200, amounts=[128, 64, 8])
    invoice = system.invoice(125)

    answer = system.daemon.melt(owner, "main", invoice.invoice, key="a" + owner)
    # The document that held spent proofs was chosen first or not at all; either way it is never paid with.
    assert answer.json()["state"] == "SETTLED", answer.json()
    assert system.payments(invoice.payment_hash) == 1
    found = system.daemon.get("/v1/discrepancies", npub=owner).json()
    if "DB_UNSPENT_MINT_SPENT" in json.dumps(found):
        document = next(d for d in system.documents(owner) if str(d["_id"]) == bad)
        assert document["status"] == ("unspent" if system.settles else "spent")


def test_a_wallet_whose_only_money_is_gone_is_refused_and_corrected_once_that_has_settled(system: System) -> None:
    owner = system.user()
    stolen = asyncio.run(system.wallet.mint(256, amounts=[128, 128]))
    source = system.insert(owner, stolen)
    asyncio.run(system.wallet.spend(stolen[:1]))
    invoice = system.invoice(200)

    before = system.documents(owner)
    answer = system.daemon.melt(owner, "main", invoice.invoice)

    assert system.payments(invoice.payment_hash) == 0
    assert system.truth(owner) == 128
    if system.settles:
        body = answer.json()
        assert (answer.status_code, body["code"], body["blocked_amount"]) == (409, "FUNDS_SETTLING", 256), body
        assert system.documents(owner) == before, "not one byte"
        (record,) = system.db["meltd_discrepancies"].find({"npub": owner})
        assert body["discrepancies"] == [record["_id"]]
        assert record["needs_ms"] == 86_400_000
        return
    assert (answer.status_code, answer.json()["code"]) == (409, "HIGH_SEVERITY_DISCREPANCIES"), answer.json()
    by_status = {d["status"]: d for d in system.documents(owner)}
    assert str(by_status["spent"]["_id"]) == source
    assert by_status["spent"]["total_amount"] == 128
    assert by_status["unspent"]["total_amount"] == 128
    assert by_status["unspent"]["transaction_id"].endswith("_keep")


# --- not paid at once ---


def test_a_failed_payment_gives_the_ecash_back_after_two_looks(system: System) -> None:
    owner = system.user()
    source = system.fund(owner, 300)
    invoice = system.invoice(100, pay="FAILED", status="FAILED")

    answer = system.daemon.melt(owner, "main", invoice.invoice, key="f" + owner)

    assert (answer.status_code, answer.json()["code"]) == (402, "PAYMENT_FAILED")
    assert system.truth(owner) == 300
    assert {d["status"] for d in system.documents(owner)} == {"unspent"}
    assert source in {str(d["_id"]) for d in system.documents(owner)}
    # The invoice is free again: another key may try, and now it works.
    asyncio.run(system.mint.script(invoice.payment_hash, pay="SETTLED", status="SETTLED"))
    again = system.daemon.melt(owner, "main", invoice.invoice)
    assert again.json()["state"] == "SETTLED", again.json()
    assert system.payments(invoice.payment_hash) == 1


def test_a_pending_payment_holds_its_inputs_until_it_settles(system: System, generation: Generation) -> None:
    owner = system.user()
    system.fund(owner, 300)
    invoice = system.invoice(100, pay="PENDING", status="PENDING")

    answer = system.daemon.melt(owner, "main", invoice.invoice, wait=1)
    melt = answer.json()
    state = (answer.status_code, melt["state"], melt["payment_result"])
    assert state == (202, generation.pending_melt, "PENDING")
    held = [d for d in system.documents(owner) if d["status"] == "pending"]
    assert held
    assert all(d["reservation"]["melt_id"] == melt["id"] for d in held)
    time.sleep(2.5)  # longer than every grace and confirmation of these settings
    system.daemon.reconcile()
    assert system.daemon.get(f"/v1/melts/{melt['id']}").json()["state"] == generation.pending_melt

    asyncio.run(system.mint.resolve(invoice.payment_hash, "SETTLED"))
    settled = system.daemon.wait_state(melt["id"], "SETTLED")
    assert settled["change_amount"] > 0
    assert system.truth(owner) == 300 - 100 - settled["fees_paid"] - settled["input_fee"]
    assert system.payments(invoice.payment_hash) == 1


def test_a_pending_payment_that_fails_is_released_behind_a_fence(system: System) -> None:
    owner = system.user()
    system.fund(owner, 300)
    invoice = system.invoice(100, pay="PENDING", status="PENDING")
    melt = system.daemon.melt(owner, "main", invoice.invoice, wait=2).json()
    asyncio.run(system.mint.resolve(invoice.payment_hash, "FAILED"))

    system.daemon.wait_state(melt["id"], "RELEASED")

    documents = system.documents(owner)
    fenced = [d for d in documents if d["transaction_id"].endswith("_fenced")]
    assert len(fenced) == 1, [d["transaction_id"] for d in documents]
    assert not [d for d in documents if d["status"] == "pending"]
    unspent = sum(d["total_amount"] for d in documents if d["status"] == "unspent")
    assert unspent == system.truth(owner)
    assert 300 - 2 <= unspent < 300, "the fence costs its input fee and nothing else"
    assert system.payments(invoice.payment_hash) == 0


# --- many at once ---


def test_twenty_melts_over_money_for_ten_pay_what_fits_and_reserve_nothing_twice(system: System) -> None:
    owner = system.user()
    before = 1000
    system.fund(owner, before)
    invoices = [system.invoice(95) for _ in range(20)]
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda one: system.daemon.melt(owner, "main", one.invoice, wait=60), invoices))

    paid = [a.json() for a in answers if a.status_code == 200]
    refused = [a.json() for a in answers if a.status_code != 200]
    assert {r["code"] for r in refused} <= {"INSUFFICIENT_FUNDS", "TOO_MANY_MELTS"}, refused
    fees = sum(p["fees_paid"] + p["input_fee"] + p["swap_fee"] + p["shortfall"] for p in paid)
    left = system.truth(owner)
    assert left == before - 95 * len(paid) - fees
    need = 95 + paid[0]["fee_reserve"]
    assert left < need + 2, f"{len(paid)} were paid, and the {left} that are left would have paid another"
    assert len(paid) == 10
    assert not [d for d in system.documents(owner) if d["status"] == "pending"]
    assert sum(d["total_amount"] for d in system.documents(owner) if d["status"] == "unspent") == left
    ys = [ref["y"] for m in system.db["meltd_melts"].find({"npub": owner}) for ref in m["inputs"]]
    assert len(ys) == len(set(ys)), "a proof was reserved twice"
    assert [system.payments(i.payment_hash) for i in invoices].count(1) == len(paid)
    assert_no_secret_twice(system.db)


# --- crashes ---


def test_a_kill_between_post_and_settlement_is_finished_after_the_restart(
    make_system: Callable[..., System], mint: MintProcess
) -> None:
    system = make_system(mint)
    owner = system.user()
    system.fund(owner, 500)
    invoice = system.invoice(100, delay_s=2.0)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(_melt_and_forget, system, owner, invoice.invoice)
        system.paying(invoice.payment_hash)
        system.daemon.kill()
    _until(lambda: system.payments(invoice.payment_hash) == 1)

    system.daemon.start()
    entry = system.db["meltd_melts"].find_one({"npub": owner})
    assert entry is not None
    settled = system.daemon.wait_state(str(entry["_id"]), "SETTLED")

    assert settled["change_amount"] > 0
    assert system.truth(owner) == 500 - 100 - settled["fees_paid"] - settled["input_fee"]
    assert system.payments(invoice.payment_hash) == 1
    if mint.counts_posts:
        assert sum(len(posts) for posts in asyncio.run(mint.posts()).values() if posts) >= 1
    again = system.daemon.melt(owner, "main", invoice.invoice, key="killed")
    assert again.json()["id"] == str(entry["_id"])


def test_a_kill_during_a_payment_that_fails_is_released_behind_a_fence(
    make_system: Callable[..., System], mint: MintProcess
) -> None:
    system = make_system(mint)
    owner = system.user()
    system.fund(owner, 500)
    invoice = system.invoice(100, delay_s=1.5, pay="FAILED", status="FAILED")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(_melt_and_forget, system, owner, invoice.invoice)
        _until(lambda: system.db["meltd_melts"].find_one({"state": "MELTING"}) is not None)
        system.daemon.kill()
    system.daemon.start()
    entry = system.db["meltd_melts"].find_one({"npub": owner})
    assert entry is not None

    system.daemon.wait_state(str(entry["_id"]), "RELEASED")

    documents = system.documents(owner)
    assert not [d for d in documents if d["status"] == "pending"]
    assert sum(d["total_amount"] for d in documents if d["status"] == "unspent") == system.truth(owner) >= 498
    assert system.payments(invoice.payment_hash) == 0


def test_a_seed_that_was_used_with_another_database_pays_and_gets_its_change(
    make_system: Callable[..., System], mint: MintProcess
) -> None:
    seed = "legal winner thank year wave sausage worth useful legal winner thank yellow"  # BIP-39's test vectors
    for _ in range(2):  # each system has a database of its own, so the second one starts its counters anew
        system = make_system(mint, settings={"seed": seed, "melt.swap_when_overpay_exceeds": 50})
        owner = system.user()
        system.fund(owner, 512, amounts=[512])
        for amount in (100, 7):
            body = system.daemon.melt(owner, "main", system.invoice(amount).invoice).json()
            assert body.get("state") == "SETTLED", body
        unspent = sum(d["total_amount"] for d in system.documents(owner) if d["status"] == "unspent")
        assert unspent == system.truth(owner) > 390
        system.daemon.stop()


def test_a_clean_stop_drains_and_leaves_no_socket(make_system: Callable[..., System], mint: MintProcess) -> None:
    system = make_system(mint)
    owner = system.user()
    system.fund(owner, 300)
    invoice = system.invoice(50, delay_s=1.0)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(system.daemon.melt, owner, "main", invoice.invoice)
        _until(lambda: system.db["meltd_melts"].find_one({"state": "MELTING"}) is not None)
        assert system.daemon.stop() == 0
        assert answer.result().json()["state"] == "SETTLED"
    assert system.payments(invoice.payment_hash) == 1


def _melt_and_forget(system: System, owner: str, invoice: str) -> None:
    """The caller whose answer is lost."""
    with contextlib.suppress(httpx.TransportError):
        system.daemon.melt(owner, "main", invoice, key="killed")


def _until(condition: Callable[[], bool], within_s: float = 30.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
