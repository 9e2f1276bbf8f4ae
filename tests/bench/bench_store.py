"""
What the store does per second: reservations, settles, reads. Prints one line per measure.

``python tests/bench/bench_store.py [--users 20] [--seconds 5] [--writers 1 2 4]``: bounded, on a store of its own.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from pymongo import MongoClient

from daemon.embedded import EmbeddedStore
from melt.model import MeltState, TokenStatus
from melt.store import MongoStore
from tests.support.store import MINT_URL, SystemClock, insert_token, make_melt, new_proof, npub


def melts_per_second(store, users, writers, seconds):
    """Whole melts (T1, one move, T3) by some threads, each over users of its own."""
    took: list[float] = []
    end = time.perf_counter() + seconds

    def work(mine):
        number = 0
        while time.perf_counter() < end:
            user = mine[number % len(mine)]
            number += 1
            tokens = store.spendable(user, [MINT_URL], "sat")
            chosen = tokens[0]
            started = time.perf_counter()
            melt = store.reserve(
                make_melt([chosen], [chosen.proofs[0].y]), blanks=("00c3c8469bdea580", 2), seed_id="one"
            )
            melt = store.advance(melt, MeltState.MELTING)
            store.settle(melt, [new_proof(1)], shortfall=0, fees_paid=0, preimage=None)
            took.append(time.perf_counter() - started)

    threads = [threading.Thread(target=work, args=(users[index::writers],)) for index in range(writers)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rate = len(took) / (time.perf_counter() - started)
    took.sort()
    p50, p99 = statistics.median(took), took[int(len(took) * 0.99)]
    print(f"melts  {writers} writers: {rate:7.1f}/s   p50 {p50 * 1e3:6.1f} ms   p99 {p99 * 1e3:6.1f} ms")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--documents", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--writers", type=int, nargs="*", default=[1, 2, 4])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, EmbeddedStore(Path(folder)) as embedded:
        store = MongoStore(embedded.uri, "bench", clock=SystemClock(), retry_writes=False)
        store.ensure_schema()
        users = [npub() for _ in range(options.users)]
        with MongoClient(embedded.uri) as client:
            for number in range(options.documents):
                insert_token(client["bench"], users[number % len(users)], [1 << bit for bit in range(8)])
        started = time.perf_counter()
        tour, documents = store.tour([TokenStatus.UNSPENT], [MINT_URL], None), 0
        while page := tour.next_page(125):
            documents += len(page)
        print(f"tour   {documents / (time.perf_counter() - started):7.0f} documents/s of 8 proofs, Y derived")
        started = time.perf_counter()
        for user in users:
            store.balances(user)
        each = (time.perf_counter() - started) / len(users)
        print(f"balances of {options.documents // len(users)} documents: {each * 1e3:.1f} ms")
        for writers in options.writers:
            melts_per_second(store, users, writers, options.seconds)
        store.close()


if __name__ == "__main__":
    main()
