"""The running daemon as an operator sees it: a real Prometheus, the dashboard's queries, alerts that fire and stop."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.mint import MintProcess, TestWallet
from tests.support.prometheus import PrometheusProcess, eventually, free_port
from tests.support.store import insert_token, insert_wallet, npub, token

pytestmark = [
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed"),
    pytest.mark.timeout(300),
]

QUIET_PANELS = {"Open discrepancies by type and mint", "Phases by type"}
"""Empty while nothing is open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningDaemon:
    """``meltd run`` as a child."""

    socket: Path
    url: str
    log: Path

    def cli(self, *arguments: str) -> Any:
        """A command's JSON; AssertionError where it fails."""
        done = subprocess.run(
            [sys.executable, "-m", "daemon", *arguments, "--socket", str(self.socket), "--json"],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def daemon(tmp_path: Path, db: Any, store_process: Any, mint: MintProcess) -> Iterator[RunningDaemon]:
    """A daemon over this test's database and the session's mint, with short rounds."""
    port = free_port()
    running = RunningDaemon(socket=tmp_path / "meltd.sock", url=f"http://127.0.0.1:{port}", log=tmp_path / "meltd.log")
    keep = ("PATH", "LANG", "LC_ALL", "TMPDIR")
    with running.log.open("wb") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "daemon", "run", "--log-format", "json"),
                *("--database", db.name, "--mint", f"main={mint.url}", "--data-dir", str(tmp_path / "data")),
                *("--socket", str(running.socket), "--http-port", str(port)),
            ],
            stdout=log,
            stderr=log,
            env={
                **{name: os.environ[name] for name in keep if name in os.environ},
                "HOME": str(tmp_path),
                "MELTD_MONGO_URI": store_process.uri,
                "MELTD_MONGO__RETRY_WRITES": "false",
                "MELTD_SWEEP__INTERVAL_S": "1",
                # Nobody else spends from this database: drift is mended, and alerts, at once.
                "MELTD_SWEEP__CORRECT_AFTER_S": "0",
                "MELTD_SWEEP__ALERT_AFTER_S": "0",
                "MELTD_SWEEP__LOOK_S": "1",
            },
        )

    def ready() -> bool:
        assert process.poll() is None, running.log.read_text(encoding="utf-8")
        try:
            return httpx.get(f"{running.url}/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    try:
        eventually(ready, what="the daemon is ready")
        yield running
    finally:
        process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


@pytest.fixture
def prometheus(daemon: RunningDaemon, tmp_path: Path) -> Iterator[PrometheusProcess]:
    """Prometheus, scraping the daemon."""
    folder = tmp_path / "prometheus"
    folder.mkdir()
    with PrometheusProcess(folder, f"{daemon.url}/metrics") as process:
        process.scraped(4)
        yield process


def test_an_operator_sees_the_daemon_and_is_called_when_something_is_wrong(
    daemon: RunningDaemon, prometheus: PrometheusProcess, db: Any, mint: MintProcess
):
    # What the daemon exports is well-formed, and carries no secret, owner or address.
    exposition = httpx.get(f"{daemon.url}/metrics", timeout=10)
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=exposition.content, capture_output=True, check=False, timeout=30
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")
    assert mint.url not in exposition.text
    assert prometheus.rule_errors() == []

    # A HIGH drift, made for real: the mint has redeemed what the database still counts.
    wallet = TestWallet(mint.url)
    proofs = asyncio.run(wallet.mint(63))
    asyncio.run(wallet.spend(proofs))
    owner = npub()
    token_id = insert_token(db, owner, proofs, mint_url=mint.url, wallet_id=insert_wallet(db, owner, mint.url))
    prometheus.wait_firing("DriftHigh", "DB_UNSPENT_MINT_SPENT")
    eventually(lambda: token(db, token_id)["status"] == "spent", what="the drift is mended")
    prometheus.wait_quiet("DriftHigh", "DB_UNSPENT_MINT_SPENT")

    # A payment, so that each panel has something to show.
    fresh = asyncio.run(wallet.mint(127))
    insert_token(db, owner, fresh, mint_url=mint.url, wallet_id=db["cashu_wallets"].find_one({"npub": owner})["_id"])
    invoice = asyncio.run(mint.invoice(50)).invoice
    paid = daemon.cli("melt", "--npub", owner, "--mint", "main", "--invoice", invoice)
    assert paid["state"] == "SETTLED"

    # Every panel's query has an answer.
    eventually(lambda: set(prometheus.unanswered_panels()) <= QUIET_PANELS, what="the panels answer")
    scraped = httpx.get(f"{daemon.url}/metrics", timeout=10).text
    assert owner not in scraped
    assert not any(proof["secret"] in scraped for proof in (*proofs, *fresh))

    # A CRITICAL event, raised on purpose, and its end.
    event = daemon.cli("events", "--drill", "--reason", "to see the alert")
    prometheus.wait_firing("CriticalEventOpen", "DRILL")
    daemon.cli("events", "--resolve", event["id"], "--reason", "seen")
    prometheus.wait_quiet("CriticalEventOpen", "DRILL")

    # Nothing else called anybody.
    assert prometheus.alerts() == set()
