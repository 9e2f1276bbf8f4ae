"""
Melts at a real cdk-mintd, as far as its fake wallet plays them: every sat is where the mint says it is.

The suite of the generations runs the flows of Nutshell on it too; here is what is told apart there by its ways of its own:
a request for a payment that stays open is not answered, a mint that was killed in mid-payment never decides, and what an
invoice does is written in the invoice. Whether money left is read from the mint's own database.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.cdk_mint import CdkMint, description
from tests.support.proxy import Act, Fault, MintProxy, ProxyThread
from tests.support.store import assert_no_secret_twice, assert_totals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.e2e.conftest import System

pytestmark = pytest.mark.cdk

OPEN_STATES = {"MELTING", "PENDING", "HELD"}


@pytest.fixture(scope="module")
def proxies() -> Iterator[ProxyThread]:
    thread = ProxyThread()
    yield thread
    thread.close()


def by_status(system: System, owner: str) -> dict[str, int]:
    """What the documents say, in sat."""
    totals: dict[str, int] = {}
    for document in system.documents(owner):
        totals[document["status"]] = totals.get(document["status"], 0) + document["total_amount"]
    return totals


def conserved(system: System, owner: str, before: int, *melts: dict[str, Any]) -> None:
    """What the mint still honours is what was there less what these melts paid and cost, and it is all spendable."""
    cost = sum(m["paid_amount"] + m["fees_paid"] + m["input_fee"] + m["swap_fee"] + m["shortfall"] for m in melts)
    assert system.truth(owner) == before - cost == by_status(system, owner).get("unspent", 0)
    assert_no_secret_twice(system.db)
    assert_totals(system.db)


def melt_and_forget(system: System, owner: str, invoice: str) -> None:
    """The caller whose answer is lost."""
    with contextlib.suppress(httpx.TransportError):
        system.daemon.melt(owner, "main", invoice, key="forgotten")


def entry_of(system: System, owner: str) -> str:
    entry = system.db["meltd_melts"].find_one({"npub": owner})
    assert entry is not None
    return str(entry["_id"])


# --- paid and failed ---


def test_a_paid_melt_has_its_change_and_shows_no_preimage(
    make_system: Callable[..., System], cdk_mint: CdkMint
) -> None:
    system = make_system(cdk_mint)
    owner = system.user()
    system.fund(owner, 1000)
    invoice = system.invoice(100)

    body = system.daemon.melt(owner, "main", invoice.invoice).json()

    assert (body["state"], body["payment_result"], body["paid_amount"], body["fees_paid"]) == (
        "SETTLED",
        "PAID",
        100,
        1,
    )
    assert not body["payment_preimage"]
    assert (body["shortfall"], system.payments(invoice.payment_hash)) == (0, 1)
    conserved(system, owner, 1000, body)


def test_ten_payments_at_once_are_ten_payments(make_system: Callable[..., System], cdk_mint: CdkMint) -> None:
    system = make_system(cdk_mint)
    owner = system.user()
    before = sum(system_fund(system, owner, 10))
    invoices = [system.invoice(40 + number) for number in range(10)]
    with ThreadPoolExecutor(10) as pool:
        melts = list(pool.map(lambda one: system.daemon.melt(owner, "main", one.invoice, wait=60).json(), invoices))
    assert [melt["state"] for melt in melts] == ["SETTLED"] * 10, melts
    assert [system.payments(one.payment_hash) for one in invoices] == [1] * 10
    conserved(system, owner, before, *melts)


def system_fund(system: System, owner: str, documents: int) -> list[int]:
    """So many documents of 100 sat each; their amounts."""
    for _ in range(documents):
        system.fund(owner, 100)
    return [100] * documents


def test_a_failed_payment_gives_the_ecash_back_and_another_invoice_is_paid(
    make_system: Callable[..., System], cdk_mint: CdkMint
) -> None:
    system = make_system(cdk_mint)
    owner = system.user()
    source = system.fund(owner, 300)
    failing = system.invoice(100, pay="FAILED")
    for key in ("first", "again"):
        answer = system.daemon.melt(owner, "main", failing.invoice, key=key)
        assert (answer.status_code, answer.json()["code"]) == (402, "PAYMENT_FAILED"), answer.text
        assert by_status(system, owner) == {"unspent": 300}
    assert source in {str(document["_id"]) for document in system.documents(owner)}
    good = system.daemon.melt(owner, "main", system.invoice(200).invoice).json()
    assert (good["state"], system.payments(failing.payment_hash)) == ("SETTLED", 0)
    conserved(system, owner, 300, good)


# --- not answered at once ---


def test_a_payment_that_takes_a_while_is_answered_as_under_way_and_settles(
    make_system: Callable[..., System], own_cdk_mint: Callable[..., CdkMint]
) -> None:
    system = make_system(own_cdk_mint(delay_s=3))
    owner = system.user()
    system.fund(owner, 300)
    invoice = system.invoice(100, delay_s=3)
    answer = system.daemon.melt(owner, "main", invoice.invoice, wait=1)
    body = answer.json()
    assert (answer.status_code, body["payment_result"]) == (202, "PENDING")
    assert body["state"] in OPEN_STATES
    settled = system.daemon.wait_state(body["id"], "SETTLED")
    assert (settled["fees_paid"], system.payments(invoice.payment_hash)) == (1, 1)
    conserved(system, owner, 300, settled)


def test_a_payment_that_never_ends_holds_its_inputs_through_sweeps_and_restarts_and_nobody_elses(
    make_system: Callable[..., System], own_cdk_mint: Callable[..., CdkMint]
) -> None:
    mint = own_cdk_mint()
    # Shorter than the mint's own patience, so that meltd follows a request that is still running there.
    system = make_system(mint, settings={"melt.post_timeout_s": 2, "sweep.interval_s": 1})
    owner = system.user()
    system.fund(owner, 128, amounts=[128])
    held = system.invoice(100, pay="PENDING")
    melt = system.daemon.melt(owner, "main", held.invoice, wait=1).json()
    system.daemon.wait_state(melt["id"], "PENDING")

    def restart_meltd() -> None:
        system.daemon.stop()
        system.daemon.start()

    for act in (lambda: None, restart_meltd, lambda: asyncio.run(mint.restart(kill=True))):
        act()
        time.sleep(4)  # longer than every grace and confirmation of these settings
        system.daemon.reconcile(npub=owner)
        assert system.daemon.get(f"/v1/melts/{melt['id']}").json()["state"] in OPEN_STATES
        assert (by_status(system, owner), system.truth(owner)) == ({"pending": 128}, 128)
    again = system.daemon.melt(owner, "main", held.invoice)
    assert (again.status_code, again.json()["code"]) == (409, "DUPLICATE_OPERATION")
    assert (asyncio.run(mint.payments()))[held.payment_hash].attempts == 1

    system.fund(owner, 64, amounts=[64])
    other = system.daemon.melt(owner, "main", system.invoice(50).invoice).json()
    assert other["state"] == "SETTLED", other
    assert by_status(system, owner)["pending"] == 128


def test_a_backend_that_cannot_be_asked_keeps_the_inputs_held(
    make_system: Callable[..., System], own_cdk_mint: Callable[..., CdkMint]
) -> None:
    mint = own_cdk_mint()
    system = make_system(mint)
    owner = system.user()
    system.fund(owner, 128, amounts=[128])
    invoice = system.invoice(100, pay="PENDING", status="raise")
    melt = system.daemon.melt(owner, "main", invoice.invoice, wait=1).json()
    time.sleep(4)  # as above
    found = system.daemon.get(f"/v1/melts/{melt['id']}").json()
    assert found["state"] in OPEN_STATES
    assert (by_status(system, owner), system.truth(owner)) == ({"pending": 128}, 128)


# --- killed ---


def test_meltd_killed_in_mid_payment_finishes_it_after_its_restart(
    make_system: Callable[..., System], own_cdk_mint: Callable[..., CdkMint]
) -> None:
    system = make_system(own_cdk_mint(delay_s=2))
    owner = system.user()
    system.fund(owner, 500)
    invoice = system.invoice(100, delay_s=2)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(melt_and_forget, system, owner, invoice.invoice)
        system.paying(invoice.payment_hash)
        system.daemon.kill()
    system.daemon.start()
    settled = system.daemon.wait_state(entry_of(system, owner), "SETTLED")
    assert settled["change_amount"] > 0
    assert system.payments(invoice.payment_hash) == 1
    conserved(system, owner, 500, settled)
    again = system.daemon.melt(owner, "main", invoice.invoice, key="forgotten").json()
    assert again["id"] == settled["id"]


def test_meltd_killed_while_a_payment_fails_gives_the_ecash_back_behind_a_fence(
    make_system: Callable[..., System], own_cdk_mint: Callable[..., CdkMint]
) -> None:
    system = make_system(own_cdk_mint(delay_s=2))
    owner = system.user()
    system.fund(owner, 500)
    invoice = system.invoice(100, delay_s=2, pay="FAILED")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(melt_and_forget, system, owner, invoice.invoice)
        system.paying(invoice.payment_hash)
        system.daemon.kill()
    system.daemon.start()
    system.daemon.wait_state(entry_of(system, owner), "RELEASED")
    left = by_status(system, owner)
    assert left.get("pending", 0) == 0
    assert left["unspent"] == system.truth(owner) >= 498
    assert system.payments(invoice.payment_hash) == 0
    assert_no_secret_twice(system.db)


def test_a_mint_killed_in_mid_payment_keeps_the_inputs_and_so_does_meltd(
    make_system: Callable[..., System], own_cdk_mint: Callable[..., CdkMint]
) -> None:
    mint = own_cdk_mint(delay_s=3)
    system = make_system(mint)
    owner = system.user()
    system.fund(owner, 128, amounts=[128])
    invoice = system.invoice(100, delay_s=3)
    melt = system.daemon.melt(owner, "main", invoice.invoice, wait=0).json()
    system.paying(invoice.payment_hash)
    asyncio.run(mint.kill())
    time.sleep(1)
    assert by_status(system, owner) == {"pending": 128}
    asyncio.run(mint.start())
    time.sleep(5)  # longer than every grace and confirmation of these settings
    found = system.daemon.get(f"/v1/melts/{melt['id']}").json()
    assert found["state"] in OPEN_STATES, "the mint says PENDING, and nobody knows better"
    assert (by_status(system, owner), system.truth(owner)) == ({"pending": 128}, 128)
    assert system.payments(invoice.payment_hash) == 0


# --- its own ways ---


def test_proofs_of_many_keysets_of_both_versions_and_several_fees_pay_together(
    make_system: Callable[..., System], own_cdk_mint: Callable[..., CdkMint]
) -> None:
    mint = own_cdk_mint()
    system = make_system(mint, start=False)
    owner, before = system.user(), 0
    for number in range(8):
        system.fund(owner, 16)
        before += 16
        asyncio.run(mint.rotate_keyset(fee_ppk=number * 100, version="v1" if number % 2 else "v2"))
    system.daemon.start()
    body = system.daemon.melt(owner, "main", system.invoice(100).invoice).json()
    assert body["state"] == "SETTLED", body
    conserved(system, owner, before, body)


@pytest.mark.parametrize("cache_s", [1, 60], ids=["forgotten by the mint", "kept by the mint"])
def test_a_swap_whose_answer_was_lost_is_finished_and_the_payment_made(
    make_system: Callable[..., System], own_cdk_mint: Callable[..., CdkMint], proxies: ProxyThread, cache_s: int
) -> None:
    mint = own_cdk_mint(cache_s=cache_s)
    with MintProxy(proxies, mint.port) as proxy:
        settings = {"melt.swap_when_overpay_exceeds": 50, "melt.swap_timeout_s": 3}
        system = make_system(mint, settings=settings, start=False)
        system.daemon._mints["main"] = proxy.url
        owner = system.user()
        system.fund(owner, 512, amounts=[512], mint_url=proxy.url)
        system.daemon.start()
        proxy.add(lost := Fault(endpoint="swap", act=Act.LOSE_ANSWER))
        invoice = system.invoice(100)
        melt = system.daemon.melt(owner, "main", invoice.invoice).json()
        ended = system.daemon.wait_state(melt.get("id") or melt["melt_id"], "SETTLED", "RELEASED")
        assert lost.seen.is_set()
        assert system.payments(invoice.payment_hash) == (ended["state"] == "SETTLED")
        conserved(system, owner, 512, ended)


def test_what_is_found_paid_is_paid_whatever_was_answered_first(
    make_system: Callable[..., System], cdk_mint: CdkMint
) -> None:
    system = make_system(cdk_mint)
    owner = system.user()
    system.fund(owner, 300)
    invoice = cdk_mint.invoice_msat(100_000, description(pay="UNKNOWN", check="PAID"))
    body = system.daemon.melt(owner, "main", invoice.invoice).json()
    assert (body["state"], system.payments(invoice.payment_hash)) == ("SETTLED", 1), body
    conserved(system, owner, 300, body)
