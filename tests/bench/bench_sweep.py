"""
What one sweep does per second on a real mint and a real store, and where its time goes; then the arithmetic for more.

``python tests/bench/bench_sweep.py [--documents 2000] [--proofs 8] [--mint URL]``: bounded, on a store and a mint of its own.
Proofs were never issued, so the mint answers UNSPENT as it does for good ones, and nothing is corrected: this is the pace of
a tour that finds nothing, which is what nearly all tours do.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from pymongo import MongoClient

from daemon.embedded import EmbeddedStore
from daemon.lanes import Lanes
from daemon.metrics import Metrics
from daemon.pace import Pace, PacePolicy
from daemon.sweep import Sweeper, SweepPolicy
from daemon.system import SystemClock, SystemEntropy
from melt import fencing
from melt.caps import CapPolicy, Caps
from melt.corrections import Corrections
from melt.mint import HttpMint, MintLimits
from melt.model import MintAlias, TakenBecause, sweep_shard
from melt.reconcile import ReconcilePolicy, Reconciler
from melt.sentinels import Sentinels
from melt.store import MongoStore, Threads
from tests.support.mint import MintProcess, TestWallet
from tests.support.store import fake_proof, insert_token, npub

ALIAS = MintAlias("main")
SCALES = (10**6, 10**7, 10**8, 10**9)
SHARDS = (1, 4, 16)


class Waits(Metrics):
    """Sums up how long requests to the mint and calls of the store took."""

    def __init__(self):
        super().__init__(version="bench")
        self.declare([ALIAS])
        self.mint_s = self.store_s = 0.0
        self.requests = self.calls = 0

    def mint_request(self, mint, endpoint, outcome, seconds):
        super().mint_request(mint, endpoint, outcome, seconds)
        self.mint_s += seconds
        self.requests += 1

    def store_call(self, method, outcome, seconds):
        super().store_call(method, outcome, seconds)
        self.store_s += seconds
        self.calls += 1


class NoEvents:
    """No CRITICAL event is expected."""

    async def resolve(self, *_, **__):
        return None

    async def open(self, *_, **more):
        raise AssertionError(more)

    def is_open(self, *_):
        return False

    def frozen(self, *_):
        return None

    def distrusted(self, *_):
        return None


async def tour(uri, url, options):
    clock, metrics, threads = SystemClock(), Waits(), Threads(4)
    store = MongoStore(uri, "bench", clock=clock, telemetry=metrics, retry_writes=False)
    limits = MintLimits(connect_timeout_s=10, request_timeout_s=60, states_batch=options.batch)
    mint = HttpMint(ALIAS, url, telemetry=metrics, clock=clock, entropy=SystemEntropy(), limits=limits)
    entropy, events = SystemEntropy(), NoEvents()
    reconciler = Reconciler(
        store=store,
        threads=threads,
        corrections=Corrections(store, threads, metrics),
        recovery=None,
        events=events,
        sentinels=Sentinels(records=store, store=store, threads=threads, events=events, clock=clock, entropy=entropy),
        clock=clock,
        entropy=entropy,
        telemetry=metrics,
        policy=ReconcilePolicy(),
        caps=Caps(CapPolicy()),
        holder="bench",
    )
    sweeper = Sweeper(
        store=store,
        threads=threads,
        mints={ALIAS: mint},
        reconciler=reconciler,
        metrics=metrics,
        lanes={
            ALIAS: Lanes(
                ALIAS,
                pace=Pace(PacePolicy(duty_min=1, duty_max=1, duty_start=1), entropy),
                clock=clock,
                metrics=metrics,
                yield_s=0,
                melts_under_way=lambda: False,
                lag_s=lambda: 0.0,
            )
        },
        clock=clock,
        policy=SweepPolicy(page_documents=options.page, spent_sample_share=0.0),
        is_paused=lambda _: None,
    )
    fence = store.take_lease(sweep_shard(ALIAS), "bench", seen=None, why=TakenBecause.FIRST)
    own = resource.getrusage(resource.RUSAGE_SELF)
    started = time.perf_counter()
    with fencing.under(fence):
        record = await sweeper.tour(ALIAS, lambda: False, lambda: None)
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - own.ru_utime - own.ru_stime
    assert record.error is None, record.error
    await mint.aclose()
    await threads.aclose()
    store.close()
    return record, seconds, cpu, metrics


def cpu_of(pid):
    """CPU seconds of another process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def fill(uri, keyset, url, options):
    owners = [npub() for _ in range(200)]
    with MongoClient(uri) as client:
        for number in range(options.documents):
            proofs = [fake_proof(1 << bit, keyset_id=keyset) for bit in range(options.proofs)]
            insert_token(client["bench"], owners[number % len(owners)], proofs, mint_url=url)


def folder_bytes(folder):
    """Tables and indexes, without the write-ahead log."""
    return sum(file.stat().st_size for file in folder.rglob("*.wt"))


def bson_bytes_per_proof(uri, options):
    from bson import BSON

    with MongoClient(uri) as client:
        sizes = [len(BSON.encode(document)) for document in client["bench"]["cashu_tokens"].find().limit(200)]
    return sum(sizes) / len(sizes) / options.proofs


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=2000)
    parser.add_argument("--proofs", type=int, default=8, help="in a document")
    parser.add_argument("--page", type=int, default=100)
    parser.add_argument("--batch", type=int, default=250, help="proofs in one NUT-07 request")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "store"
        with EmbeddedStore(folder) as embedded, MintProcess(Path(name) / "mint") as mint:
            first = MongoStore(embedded.uri, "bench", clock=SystemClock(), retry_writes=False)
            first.ensure_schema()
            first.close()
            fill(embedded.uri, asyncio.run(TestWallet(mint.url).active_keyset()), mint.url, options)
            children = mint.pid, embedded.pid
            used = [cpu_of(pid) for pid in children]
            record, seconds, cpu, waits = asyncio.run(tour(embedded.uri, mint.url, options))
            mint_cpu, store_cpu = (cpu_of(pid) - before for pid, before in zip(children, used, strict=True))
            proof_bytes = bson_bytes_per_proof(embedded.uri, options)
        on_disk = folder_bytes(folder) / options.documents / options.proofs
    rate = record.proofs / seconds
    print(
        f"{record.documents} documents of {options.proofs} proofs, pages of {options.page}, NUT-07 batches of {options.batch}"
    )
    print(f"one shard    {record.documents / seconds:8.0f} documents/s   {rate:8.0f} proofs/s   {seconds:.1f} s in all")
    print(
        f"  mint       {waits.mint_s / seconds:8.0%} of the time, {waits.requests} requests of {waits.mint_s / waits.requests * 1e3:.1f} ms"
    )
    print(
        f"  store      {waits.store_s / seconds:8.0%} of the time, {waits.calls} calls of {waits.store_s / waits.calls * 1e3:.1f} ms, reading and the Ys of proofs in it"
    )
    each = [value / record.proofs * 1e6 for value in (cpu, mint_cpu, store_cpu)]
    print(f"  CPU        {each[0]:.0f} us a proof here, {each[1]:.0f} at the mint, {each[2]:.0f} in the store")
    print(f"             so {1e6 / sum(each):.0f} proofs/s where nobody else wants the cores")
    print(f"             (load during this: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)")
    print(f"database     {proof_bytes:8.0f} bytes of BSON a proof, {on_disk:.0f} on disk with its indexes, compressed")
    asked = waits.requests / record.proofs
    for title, pace in (("as measured", rate), ("with idle cores for each shard", 1e6 / sum(each))):
        print(f"\n{title}, {pace:.0f} proofs/s a shard:")
        shards = "".join(f"{f'{count} shards':>13}" for count in SHARDS)
        print(f"{'a tour of':>21}{shards}{'NUT-07':>13}{'database':>13}")
        for proofs in SCALES:
            times = "".join(f"{_span(proofs / pace / count):>13}" for count in SHARDS)
            size = f"{proofs * proof_bytes / 1e9:.1f} GB"
            print(f"{proofs:>14,} proofs{times}{proofs * asked:>13,.0f}{size:>13}")


def _span(seconds):
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


if __name__ == "__main__":
    main()
