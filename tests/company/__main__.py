"""
The table of company: ``python -m tests.company [--quick] [--only PATTERN] [--jobs N] [--list]``.

Each row is one payment on the real mint and the real store, with another writer who does something to the documents that
it has reserved, at one step of it: the state of the end, what a person had to decide, how often the mint was asked. Value
is counted at the mint. Ends with 1 where any row has a problem.
"""

from __future__ import annotations

import argparse
import fnmatch
import shutil
import sys
import time
from collections import Counter
from typing import Final, NoReturn

import structlog
from pymongo import MongoClient

from daemon.embedded import EmbeddedStore
from tests.company.bench import Ended
from tests.company.rows import all_rows, few_rows
from tests.company.run import own_folder, run
from tests.support.mint import MintProcess

PROGRESS: Final = 100


def main() -> int:
    """Run the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.company", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="the selection that the tests run")
    parser.add_argument("--only", metavar="PATTERN", help="rows whose name matches, such as 'melting / *'")
    parser.add_argument("--jobs", type=int, default=6, help="rows at a time (default: %(default)s)")
    parser.add_argument("--list", action="store_true", help="only name the rows")
    parser.add_argument("--verbose", action="store_true", help="a line for each row, and the engine's own log")
    options = parser.parse_args()
    rows = list(few_rows() if options.quick else all_rows())
    if options.only:
        rows = [row for row in rows if fnmatch.fnmatch(row.name, options.only)]
    if options.list:
        print("\n".join(row.name for row in rows))
        return 0
    if not options.verbose:
        structlog.configure(processors=[_drop])

    done = 0

    def told(ended: Ended) -> None:
        nonlocal done
        done += 1
        if done % PROGRESS == 0:
            print(f"{done} of {len(rows)} rows", flush=True)
        if options.verbose or ended.problems:
            verdict = "; ".join(ended.problems) or "right"
            print(f"{ended.row.name}: {ended.state} {ended.decided or ''} {ended.seconds:.1f} s: {verdict}", flush=True)

    began, folder = time.monotonic(), own_folder()
    try:
        with (
            EmbeddedStore(folder / "store", cache_size="512M") as store,
            MintProcess(folder / "mint") as mint,
            MongoClient(store.uri, tz_aware=True) as client,
        ):
            ended = run(rows, mint=mint, uri=store.uri, db=client["company"], jobs=options.jobs, told=told)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    wrong = [one for one in ended if one.problems]
    states = Counter(f"{one.state}{f' by a person ({one.decided})' if one.decided else ''}" for one in ended)
    print(f"{len(ended)} rows, {len(wrong)} with problems, in {time.monotonic() - began:.0f} s; {dict(states)}")
    print(f"requests to the mint for one payment: at most {max((one.requests for one in ended), default=0)}")
    return 1 if wrong else 0


def _drop(*_: object) -> NoReturn:
    raise structlog.DropEvent


if __name__ == "__main__":
    sys.exit(main())
