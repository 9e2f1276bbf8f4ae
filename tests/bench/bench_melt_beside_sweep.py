"""
Melts while the sweep runs flat out, against melts while it rests: ``python tests/bench/bench_melt_beside_sweep.py``.

The real daemon over the real mint and a store of its own. In the idle phases its next tour is an hour away, in the sweep
phases one tour follows right after the other, with duty 1 and no rests. Phases alternate, so that a machine that gets slower or faster meets both alike. Prints the medians of melts
over the socket and their ratio; ends with 1 above ``--most``.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from pymongo import MongoClient

from daemon.embedded import EmbeddedStore
from melt.store import MongoStore
from tests.support.daemon import DaemonProcess
from tests.support.mint import MintProcess, TestWallet
from tests.support.store import SystemClock, insert_token, insert_wallet, npub
from tests.sweeps.long import plant

PHASES = ("idle", "sweep")
QUIET = {"sweep.interval_s": 3600, "sweep.warm_interval_s": 3600}
FLAT_OUT = {
    "sweep.interval_s": 0.1,
    "sweep.warm_interval_s": 3600,
    "sweep.duty_min": 1,
    "sweep.duty_max": 1,
    "sweep.lag_target_s": 0.1,
}


def counter(daemon, series):
    for line in daemon.metrics().splitlines():
        if line.startswith(series):
            return float(line.rsplit(maxsplit=1)[1])
    return 0.0


def documents_swept(daemon):
    return counter(daemon, 'meltd_sweep_documents_total{mint="main"}')


def melts(daemon, mint, owner, count, think_s):
    """So many payments one after another; how long each took, in milliseconds."""
    took = []
    with daemon.client() as client:
        for number in range(count):
            invoice = asyncio.run(mint.invoice(10)).invoice
            time.sleep(think_s)
            started = time.perf_counter()
            answer = client.post(
                "/v1/melts",
                params={"wait": 60},
                json={"npub": owner, "mint": "main", "invoice": invoice},
                headers={"Idempotency-Key": f"{owner[:20]}-{number}-{time.time_ns()}"},
            )
            took.append((time.perf_counter() - started) * 1e3)
            assert answer.json().get("state") == "SETTLED", answer.text
    return took


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=5000, help="documents of 8 proofs to sweep")
    parser.add_argument("--melts", type=int, default=40, help="in each phase")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--think", type=float, default=0.05, help="seconds between two melts")
    parser.add_argument("--most", type=float, default=1.5)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedStore(Path(folder) / "store") as embedded,
        MintProcess(Path(folder) / "mint") as mint,
        MongoClient(embedded.uri) as client,
    ):
        db, wallet = client["bench"], TestWallet(mint.url)
        store = MongoStore(embedded.uri, "bench", clock=SystemClock(), retry_writes=False)
        store.ensure_schema()
        store.close()
        plant(db, options.documents, mint.url, asyncio.run(wallet.active_keyset()))
        took = {phase: [] for phase in PHASES}
        swept = dict.fromkeys(PHASES, 0.0)
        seconds = dict.fromkeys(PHASES, 0.0)
        for turn in range(options.rounds):
            for phase in PHASES:
                owner = npub()
                wallet_id = insert_wallet(db, owner, mint.url)
                for _ in range(options.melts + 2):
                    proofs = asyncio.run(wallet.mint(16))
                    insert_token(db, owner, proofs, mint_url=mint.url, wallet_id=wallet_id)
                daemon = DaemonProcess(
                    Path(folder) / f"{phase}-{turn}",
                    mints={"main": mint.url},
                    mongo_uri=embedded.uri,
                    database="bench",
                    settings={**(QUIET if phase == "idle" else FLAT_OUT), "log.level": "INFO"},
                )
                with daemon:
                    deadline = time.monotonic() + 120
                    while phase == "idle" and not counter(daemon, 'meltd_sweeps_total{mint="main",outcome="ok"}'):
                        assert time.monotonic() < deadline, daemon.log_tail()
                        time.sleep(0.2)  # the tour that a start begins with
                    melts(daemon, mint, owner, 2, options.think)  # warm connections, cached keys
                    before, started = documents_swept(daemon), time.perf_counter()
                    took[phase] += melts(daemon, mint, owner, options.melts, options.think)
                    swept[phase] += documents_swept(daemon) - before
                    seconds[phase] += time.perf_counter() - started
        for phase in PHASES:
            ordered = sorted(took[phase])
            print(
                f"{phase:<6} p50 {statistics.median(ordered):6.1f} ms  p90 {ordered[int(len(ordered) * 0.9)]:6.1f} ms  "
                f"max {ordered[-1]:6.1f} ms  of {len(ordered)} melts;  "
                f"swept {swept[phase] / seconds[phase]:6.0f} documents/s"
            )
        ratio = statistics.median(took["sweep"]) / statistics.median(took["idle"])
        print(f"ratio  {ratio:.2f} (at most {options.most})")
        return 0 if ratio <= options.most else 1


if __name__ == "__main__":
    sys.exit(main())
