"""Two daemons on one store: what one is paying the other does not pay, and what one leaves the other finishes."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.e2e.conftest import QUICK
from tests.support.daemon import DaemonProcess
from tests.support.store import assert_no_secret_twice

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from daemon.embedded import EmbeddedStore
    from tests.e2e.conftest import System
    from tests.support.mint import MintProcess

LEASE_S = 3
SEED = "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about"
"""The first of BIP-39's test vectors: instances that share the work share the seed."""


@pytest.fixture
def pair(
    make_system: Callable[..., System], mint: MintProcess, store_process: EmbeddedStore, tmp_path: Path
) -> Iterator[tuple[System, DaemonProcess]]:
    """A system, and a second daemon beside its own."""
    settings: dict[str, Any] = {"lease_s": LEASE_S, "seed": SEED}
    system = make_system(mint, settings=settings)
    second = DaemonProcess(
        tmp_path / "second",
        mints={"main": mint.url},
        mongo_uri=store_process.uri,
        database=system.db.name,
        settings={**QUICK, **settings},
    )
    with second:
        yield system, second


def test_one_request_to_both_is_one_melt(pair: tuple[System, DaemonProcess]) -> None:
    system, second = pair
    owner = system.user()
    system.fund(owner, 1000)
    invoice = system.invoice(100, delay_s=0.5)
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(
                lambda n: (system.daemon, second)[n % 2].melt(owner, "main", invoice.invoice, key="both" + owner),
                range(8),
            )
        )

    assert {answer.status_code for answer in answers} == {200}, [answer.text for answer in answers]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert system.payments(invoice.payment_hash) == 1


def test_one_invoice_under_two_keys_is_paid_by_one_of_them(pair: tuple[System, DaemonProcess]) -> None:
    system, second = pair
    owner = system.user()
    system.fund(owner, 1000)
    invoice = system.invoice(100, delay_s=0.5)
    with ThreadPoolExecutor(6) as pool:
        answers = list(
            pool.map(lambda n: (system.daemon, second)[n % 2].melt(owner, "main", invoice.invoice), range(6))
        )

    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 5, [a.text for a in answers]
    assert system.payments(invoice.payment_hash) == 1


def test_many_melts_over_one_wallet_through_both_are_conserved(pair: tuple[System, DaemonProcess]) -> None:
    system, second = pair
    owner = system.user()
    system.fund(owner, 600)
    invoices = [system.invoice(45) for _ in range(16)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(
            pool.map(
                lambda n: (system.daemon, second)[n % 2].melt(owner, "main", invoices[n].invoice, wait=60), range(16)
            )
        )

    paid = [answer.json() for answer in answers if answer.status_code == 200]
    refused = [answer.json()["code"] for answer in answers if answer.status_code != 200]
    assert set(refused) <= {"INSUFFICIENT_FUNDS", "CONCURRENT_OPERATION", "TOO_MANY_MELTS"}, refused
    fees = sum(p["fees_paid"] + p["input_fee"] + p["swap_fee"] + p["shortfall"] for p in paid)
    assert system.truth(owner) == 600 - 45 * len(paid) - fees
    assert sum(system.payments(invoice.payment_hash) for invoice in invoices) == len(paid)
    assert max(system.payments(invoice.payment_hash) for invoice in invoices) == 1
    assert not [d for d in system.documents(owner) if d["status"] == "pending"]
    assert_no_secret_twice(system.db)


def test_a_melt_of_a_daemon_that_died_is_finished_by_the_other_within_the_lease(
    pair: tuple[System, DaemonProcess],
) -> None:
    system, second = pair
    owner = system.user()
    system.fund(owner, 500)
    invoice = system.invoice(100, delay_s=1.0)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(_forget, system.daemon, owner, invoice.invoice)
        entry = _melting(system, owner)
        system.paying(invoice.payment_hash)
        system.daemon.kill()

    settled = second.wait_state(entry, "SETTLED", within_s=LEASE_S * 4 + 20)

    assert system.truth(owner) == 500 - 100 - settled["fees_paid"] - settled["input_fee"]
    assert system.payments(invoice.payment_hash) == 1


def test_a_melt_of_another_seed_is_reported_and_finished_when_its_instance_is_back(
    pair: tuple[System, DaemonProcess], make_system: Callable[..., System], mint: MintProcess
) -> None:
    system, second = pair
    other = make_system(mint, settings={"lease_s": LEASE_S}, start=False)
    other.daemon.environment_changes["MELTD_MONGO__DATABASE"] = system.db.name
    other.daemon.start()
    owner = system.user()
    system.fund(owner, 500)
    invoice = system.invoice(100, delay_s=1.0)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(_forget, other.daemon, owner, invoice.invoice)
        entry = _melting(system, owner)
        system.paying(invoice.payment_hash)
        other.daemon.kill()

    deadline = time.monotonic() + LEASE_S * 4 + 10
    while not system.db["meltd_events"].find_one({"type": "MELT_HELD", "open": True}):
        assert time.monotonic() < deadline, second.log_tail()
        time.sleep(0.1)
    other.daemon.start()
    other.daemon.wait_state(entry, "SETTLED")
    assert system.payments(invoice.payment_hash) == 1


def test_a_melt_of_a_daemon_that_lives_is_left_to_it(pair: tuple[System, DaemonProcess]) -> None:
    system, second = pair
    owner = system.user()
    system.fund(owner, 500)
    invoice = system.invoice(100, delay_s=LEASE_S * 2.5)
    answer = system.daemon.melt(owner, "main", invoice.invoice, wait=60)

    assert answer.json()["state"] == "SETTLED", answer.text
    stored = system.db["meltd_melts"].find_one({"npub": owner})
    assert stored is not None
    assert stored["post"] != "ambiguous"
    lines = [line for line in second.log_lines() if line.get("event", "").startswith("taken over")]
    assert not lines, lines
    assert system.payments(invoice.payment_hash) == 1


def _forget(daemon: DaemonProcess, owner: str, invoice: str) -> None:
    with contextlib.suppress(httpx.TransportError):
        daemon.melt(owner, "main", invoice)


def _melting(system: System, owner: str) -> str:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = system.db["meltd_melts"].find_one({"npub": owner, "state": "MELTING"})
        if found is not None:
            return str(found["_id"])
        time.sleep(0.02)
    raise AssertionError("the melt never came to MELTING")
