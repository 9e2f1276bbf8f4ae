"""Bounds, deadlines, the circuit breaker and the drain, over the real parts (DESIGN sections 4 and 6)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.mint import MintProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.e2e.conftest import System


@pytest.fixture(scope="module")
def own_mint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MintProcess]:
    """A mint that these tests stop."""
    with MintProcess(tmp_path_factory.mktemp("mint")) as process:
        yield process


def melting(system: System, owner: str) -> int:
    return system.db["meltd_melts"].count_documents({"npub": owner, "state": "MELTING"})


def test_more_melts_than_a_mint_may_have_are_429_and_reserve_nothing(
    make_system: Callable[..., System], mint: MintProcess
) -> None:
    system = make_system(mint, settings={"mints.main.max_in_flight_melts": 2})
    owner = system.user()
    system.fund(owner, 2048, amounts=[256] * 8)
    slow = [system.invoice(50, delay_s=4.0) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(system.daemon.melt, owner, "main", one.invoice) for one in slow]
        _until(lambda: melting(system, owner) == 2)
        before = system.dump()
        invoice = system.invoice(50)
        refused = system.daemon.melt(owner, "main", invoice.invoice)
        assert (refused.status_code, refused.json()["code"]) == (429, "TOO_MANY_MELTS")
        assert int(refused.headers["retry-after"]) >= 1
        assert system.dump() == before
        assert {one.result().json()["state"] for one in running} == {"SETTLED"}
    assert system.payments(invoice.payment_hash) == 0
    assert system.daemon.melt(owner, "main", invoice.invoice).json()["state"] == "SETTLED"
    assert 'meltd_melt_refusals_total{code="TOO_MANY_MELTS"} 1.0' in system.daemon.metrics()


def test_a_mint_that_is_down_opens_the_circuit_and_one_probe_closes_it(
    make_system: Callable[..., System], own_mint: MintProcess
) -> None:
    system = make_system(
        own_mint, settings={"melt.breaker_failures": 3, "melt.breaker_pause_s": 1, "melt.breaker_pause_s_max": 1}
    )
    owner = system.user()
    system.fund(owner, 500)
    invoice = system.invoice(100)
    assert 'meltd_mint_circuit_open{mint="main"} 0.0' in system.daemon.metrics()
    asyncio.run(own_mint.stop())
    try:
        answers = []
        while not answers or "several times in a row" not in answers[-1].json()["detail"]:
            answers.append(system.daemon.melt(owner, "main", invoice.invoice))
            assert len(answers) < 20
        assert {(a.status_code, a.json()["code"]) for a in answers} == {(503, "MINT_UNREACHABLE")}
        assert all(int(a.headers["retry-after"]) >= 1 for a in answers)
        assert 'meltd_mint_circuit_open{mint="main"} 1.0' in system.daemon.metrics()
    finally:
        asyncio.run(own_mint.start())

    _until(lambda: system.daemon.melt(owner, "main", invoice.invoice).status_code == 200)

    assert 'meltd_mint_circuit_open{mint="main"} 0.0' in system.daemon.metrics()
    assert system.payments(invoice.payment_hash) == 1
    assert not [d for d in system.documents(owner) if d["status"] == "pending"]


def test_what_is_open_at_a_mint_whose_circuit_was_open_is_followed_to_its_end(
    make_system: Callable[..., System], own_mint: MintProcess
) -> None:
    system = make_system(own_mint, settings={"melt.breaker_failures": 2, "melt.breaker_pause_s": 1})
    owner = system.user()
    system.fund(owner, 500)
    invoice = system.invoice(100, pay="PENDING", status="PENDING")
    melt = system.daemon.melt(owner, "main", invoice.invoice, wait=1).json()
    assert melt["state"] == "PENDING", melt
    asyncio.run(own_mint.stop())
    try:
        _until(lambda: 'meltd_mint_circuit_open{mint="main"} 1.0' in system.daemon.metrics())
        assert system.daemon.get(f"/v1/melts/{melt['id']}").json()["state"] == "PENDING"
    finally:
        asyncio.run(own_mint.start())
    asyncio.run(own_mint.resolve(invoice.payment_hash, "SETTLED"))

    system.daemon.wait_state(melt["id"], "SETTLED", within_s=90)

    assert system.payments(invoice.payment_hash) == 1


def test_a_mint_that_does_not_answer_the_quote_costs_its_deadline_and_nothing_is_reserved(
    make_system: Callable[..., System], own_mint: MintProcess
) -> None:
    system = make_system(own_mint, settings={"melt.quote_timeout_s": 1})
    owner = system.user()
    system.fund(owner, 500)
    invoice = system.invoice(100)
    pid = own_mint.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        answer = system.daemon.melt(owner, "main", invoice.invoice)
    finally:
        os.kill(pid, signal.SIGCONT)

    assert (answer.status_code, answer.json()["code"]) == (503, "MINT_UNREACHABLE")
    assert "in 1 s" in answer.json()["detail"]
    assert {d["status"] for d in system.documents(owner)} == {"unspent"}
    assert system.db["meltd_melts"].count_documents({"npub": owner}) == 0


def test_a_stop_answers_those_who_wait_with_202_and_leaves_the_work_in_the_journal(
    make_system: Callable[..., System], mint: MintProcess
) -> None:
    system = make_system(mint, settings={"drain_s": 4})
    owner = system.user()
    system.fund(owner, 1000, amounts=[256, 256, 256, 128, 64, 32, 8])
    running = system.invoice(100, delay_s=30.0)
    followed = system.invoice(100, pay="PENDING", status="PENDING")
    late = system.invoice(10)
    with ThreadPoolExecutor(3) as pool:
        waiting = [
            pool.submit(system.daemon.melt, owner, "main", one.invoice, key=key, wait=100)
            for one, key in ((running, "running"), (followed, "followed"))
        ]
        _until(lambda: system.db["meltd_melts"].find_one({"npub": owner, "state": "PENDING"}) is not None)
        _until(lambda: melting(system, owner) == 1)
        system.daemon.process.send_signal(signal.SIGTERM)
        refused = pool.submit(_refused_while_draining, system, owner, late.invoice)
        answers = [one.result() for one in waiting]
        assert system.daemon.process.wait(40) == 0
        code = refused.result()

    assert [a.status_code for a in answers] == [202, 202], [a.text for a in answers]
    assert sorted(a.json()["state"] for a in answers) == ["MELTING", "PENDING"]
    assert code in {None, "SHUTTING_DOWN"}
    assert system.payments(late.payment_hash) == 0
    states = {m["state"] for m in system.db["meltd_melts"].find({"npub": owner})}
    assert states == {"MELTING", "PENDING"}, "open work is in the journal"


def _refused_while_draining(system: System, owner: str, invoice: str) -> Any:
    """The code of the refusal, or None where the socket was closed before."""
    with contextlib.suppress(httpx.TransportError):
        return system.daemon.melt(owner, "main", invoice, wait=0).json().get("code")
    return None


def _until(condition: Callable[[], bool], within_s: float = 45.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
