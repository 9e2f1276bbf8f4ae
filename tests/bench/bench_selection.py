"""
What choosing proofs costs. Prints one line per size and kind of wallet.

``python tests/bench/bench_selection.py [--sizes 10 100 1000 10000]``: bounded, no processes.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import tracemalloc
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from melt.selection import Candidate, select

KEYSETS = {"a": 100, "b": 0, "c": 2500}
KINDS = {
    "powers of two, one keyset": (lambda r: 1 << r.randrange(14), ["a"]),
    "powers of two, three keysets": (lambda r: 1 << r.randrange(14), list(KEYSETS)),
    "any amounts": (lambda r: r.randrange(3, 100_000), ["a"]),
    "all of one amount": (lambda _: 64, ["a"]),
}


def wallet(kind, size):
    amount, keysets = KINDS[kind]
    r = random.Random(size)
    return [Candidate(index=i, amount=amount(r), keyset_id=r.choice(keysets), leaving=i % 7 == 0) for i in range(size)]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="*", default=[10, 100, 1000, 10_000])
    options = parser.parse_args()
    for kind in KINDS:
        for size in options.sizes:
            held = wallet(kind, size)
            worst, most, total = 0.0, 0, sum(c.amount for c in held)
            for need in (1, 3, total // 100 + 1, total // 3 + 1, total * 9 // 10 + 1):
                started = time.perf_counter()
                found = select(held, need=need, ppk=KEYSETS, inputs_max=1000)
                worst = max(worst, time.perf_counter() - started)
                tracemalloc.start()
                select(held, need=need, ppk=KEYSETS, inputs_max=1000)
                most = max(most, tracemalloc.get_traced_memory()[1])
                tracemalloc.stop()
                overpay = "-" if found is None else found.overpay
                inputs = "-" if found is None else len(found.chosen)
            print(
                f"{kind:30} {size:6} proofs: worst {worst * 1e3:8.1f} ms, {most / 1e6:6.1f} MB; "
                f"the last one: {inputs} inputs, overpay {overpay}"
            )


if __name__ == "__main__":
    main()
