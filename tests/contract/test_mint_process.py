"""The mint that demo and tests start: it ends with its parent, and its node is an honest witness."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from daemon.demo.lightning import Node, Script
from daemon.demo.mint_child import LAUNCHER, request
from tests.support.mint import HttpRefusal, MintProcess, NutshellMint, TestWallet, free_port

ROOT = Path(__file__).resolve().parents[2]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A child of a dead parent may wait as a zombie for an init that doesn't reap.
    return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(true, seconds=30):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def test_a_mint_ends_when_its_parent_is_killed(tmp_path):
    port = free_port()
    script = f"""
import sys, time
from pathlib import Path
from daemon.demo.mint_child import MintProcess
mint = MintProcess(Path({str(tmp_path)!r}), port={port})
mint.start_blocking()
print(mint.pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        assert request(port, "GET", "/v1/info")["version"].startswith("Nutshell/")
        parent.kill()
    wait_until(lambda: not alive(pid))


def test_the_environment_and_env_files_do_not_reach_the_mint(tmp_path):
    folder = tmp_path / "mint"
    folder.mkdir()
    (tmp_path / ".env").write_text("MINT_INFO_NAME=from a file\n")
    port = free_port()
    hostile = {"PATH": os.environ["PATH"], "DEBUG": "app", "MINT_MAX_REQUEST_LENGTH": "1", "MINT_INFO_NAME": "foreign"}
    options = ["--port", str(port), "--dir", str(folder), "--control-token", "t"]
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(
            [sys.executable, "-W", "ignore", str(LAUNCHER), *options], env=hostile, cwd=tmp_path, stdout=log, stderr=log
        ) as child,
    ):
        try:
            wait_until(lambda: child.poll() is not None or listens(port))
            assert request(port, "GET", "/v1/info")["name"] == "meltd demo mint"
            y = "02" + "11" * 32
            assert len(request(port, "POST", "/v1/checkstate", {"Ys": [y, y]})["states"]) == 2
        finally:
            child.terminate()


def test_a_mint_that_cannot_start_says_why(tmp_path):
    with MintProcess(tmp_path / "one") as mint:
        # The port answers, but not as this mint, whose child dies on the taken port.
        clash = MintProcess(tmp_path / "two", port=mint.port)
        with pytest.raises(RuntimeError, match="did not start"):
            clash.start_blocking()
        assert clash.pid is None


async def test_control_needs_the_token(mint):
    if not isinstance(mint, NutshellMint):
        pytest.skip("control routes are those of the demo's Nutshell")
    stranger = NutshellMint(mint.folder, port=mint.port)
    with pytest.raises(HttpRefusal) as caught:
        await stranger.payments()
    assert caught.value.status == 403


def test_paying_one_invoice_twice_is_counted_twice(tmp_path):
    node = Node(tmp_path / "node.json")
    _, payment_hash = node.make_invoice(21_000)
    node.start(payment_hash)
    node.start(payment_hash)
    assert node.report()["payments"][payment_hash]["paid"] == 2


async def test_a_second_quote_for_a_paid_invoice_is_refused_or_pays_twice_and_the_node_counts(mint, generation):
    wallet = TestWallet(mint.url)
    made = await mint.invoice(10)
    await wallet.melt(await wallet.mint(16), made.invoice)
    if generation.second_quote:
        await wallet.melt(await wallet.mint(16), made.invoice)
    else:
        with pytest.raises(HttpRefusal) as caught:
            await wallet.melt(await wallet.mint(16), made.invoice)
        assert caught.value.code == generation.quote_paid
    payment = (await mint.payments())[made.payment_hash]
    times = 2 if generation.second_quote else 1
    assert (payment.attempts, payment.paid) == (times, times)


async def test_an_expired_or_amountless_invoice_can_be_had(mint):
    wallet = TestWallet(mint.url)
    with pytest.raises(HttpRefusal):
        await wallet.melt([], (await mint.invoice(0)).invoice)
    assert (await mint.invoice(5, expiry_s=0)).invoice.startswith("lnbc50n")


async def test_a_wallet_gets_the_amounts_that_it_asks_for(mint):
    wallet = TestWallet(mint.url)
    proofs = await wallet.mint(12, amounts=[8, 2, 2])
    assert sorted(proof["amount"] for proof in proofs) == [2, 2, 8]
    assert set(proofs[0]) == {"id", "amount", "secret", "C", "dleq"}
    swapped = await wallet.swap(proofs)
    assert sum(proof["amount"] for proof in swapped) == 11
    assert await wallet.states([*proofs, *swapped]) == ["SPENT"] * 3 + ["UNSPENT"] * len(swapped)


@pytest.mark.parametrize(
    ("script", "left", "status"),
    [
        ({}, 1, "SETTLED"),
        ({"pay": "FAILED"}, 0, "FAILED"),
        ({"pay": "PENDING"}, 0, "PENDING"),
        ({"pay": "UNKNOWN"}, 0, "UNKNOWN"),
        ({"pay": "FAILED", "status": "SETTLED"}, 1, "SETTLED"),
        ({"raise": "before"}, 0, "FAILED"),
        ({"raise": "after"}, 1, "SETTLED"),
        ({"raise": "after", "status": "UNKNOWN"}, 1, "UNKNOWN"),
        ({"delay_s": 600}, 0, "PENDING"),
    ],
)
def test_the_node_keeps_the_truth_over_a_restart(tmp_path, script, left, status):
    book = tmp_path / "node.json"
    node = Node(book)
    _, payment_hash = node.make_invoice(21_000)
    node.set_script(payment_hash, Script.parse(script))
    node.start(payment_hash)
    for witness in (node, Node(book)):
        known = witness.report()["payments"][payment_hash]
        assert (known["attempts"], known["paid"], known["status"]) == (1, left, status)
    assert book.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(("status", "left"), [("SETTLED", 1), ("FAILED", 0)])
def test_a_pending_payment_is_resolved_once(tmp_path, status, left):
    node = Node(tmp_path / "node.json")
    _, payment_hash = node.make_invoice(21_000)
    node.set_script("*", Script(pay="PENDING"))
    node.start(payment_hash)
    for _ in range(2):
        node.resolve(payment_hash, status, 3)
    assert node.report()["payments"][payment_hash]["paid"] == left
    assert node.status(payment_hash) == status
    assert node.fee_sat(payment_hash) == 3


@pytest.mark.parametrize(
    "bad", [{"pay": "MAYBE"}, {"status": "x"}, {"raise": "during"}, {"speed": 3}, {"preimage": "y"}]
)
def test_a_script_that_means_nothing_is_refused(bad):
    with pytest.raises(ValueError, match=r"is|unknown"):
        Script.parse(bad)
