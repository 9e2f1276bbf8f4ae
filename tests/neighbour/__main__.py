"""
meltd beside the neighbour, at full length: ``python -m tests.neighbour``.

    load       the same payments with meltd and without: user by user the same sats, counted at the mint
    shared     both pay from the same wallets, against the neighbour with a second copy of itself

Prints what was seen as JSON and ends with 1 where anything is not as it has to be.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pymongo

from daemon.embedded import EmbeddedStore
from tests.neighbour.beside import Run, load, meltd
from tests.neighbour.load import plan
from tests.neighbour.process import Neighbour, why_skipped
from tests.neighbour.shared import same_wallets
from tests.support.mint import MintProcess


@contextmanager
def ground() -> Iterator[tuple[Path, str, MintProcess]]:
    """A folder, a store and a mint, gone at the end."""
    with tempfile.TemporaryDirectory(prefix="meltd-neighbour-") as name:
        folder = Path(name)
        with EmbeddedStore(folder / "store", cache_size="512M") as store, MintProcess(folder / "mint") as mint:
            yield folder, store.uri, mint


@contextmanager
def neighbour_on(folder: Path, uri: str, mint: MintProcess, database: str) -> Iterator[Neighbour]:
    """The service over a database of its own."""
    with Neighbour(mongo_uri=uri, database=database, mint_url=mint.url, log=folder / f"{database}.log") as neighbour:
        yield neighbour


def told(run: Run) -> dict[str, Any]:
    """A run in short."""
    return {
        "paid": sum(outcome.error is None for outcome in run.outcomes),
        "left the mint": sum(outcome.left for outcome in run.outcomes),
        "errors": sorted({str(outcome.error) for outcome in run.outcomes if outcome.error is not None}),
        "lost": run.lost,
        "invalid": len(run.invalid),
        "counted twice": len(run.twice),
        "written by rule": len(run.by_rule),
        "beside": run.told,
    }


def run_load(options: argparse.Namespace) -> int:
    """With and without meltd."""
    orders = partial(plan, count=options.payments, seed=options.seed, delays=(0, options.delay_max))
    common: dict[str, Any] = {"seed": options.seed, "users": options.users, "orders": orders, "parallel": options.users}
    with ground() as (folder, uri, mint), pymongo.MongoClient(uri) as client:
        with neighbour_on(folder, uri, mint, "alone") as neighbour:
            alone = load(neighbour, client["alone"], mint, **common)
        print(json.dumps({"alone": told(alone)}), flush=True)
        daemon = meltd(
            folder / "meltd",
            mint=mint,
            mongo_uri=uri,
            database="beside",
            correct_after_s=options.settle,
            alert_after_s=None,
        )
        with neighbour_on(folder, uri, mint, "beside") as neighbour, daemon_stopped(daemon):
            beside = load(neighbour, client["beside"], mint, daemon=daemon, **common)
        print(json.dumps({"beside": told(beside)}), flush=True)
    same = beside.comparable == alone.comparable
    clean = not (beside.lost or beside.invalid or beside.twice or beside.by_rule)
    print(json.dumps({"the same sats": same, "nothing lost, invalid, twice or by rule": clean}))
    return 0 if same and clean else 1


@contextmanager
def daemon_stopped(daemon: Any) -> Iterator[None]:
    """Stopped at the end, whatever happens."""
    try:
        yield
    finally:
        daemon.__exit__()


def run_shared(options: argparse.Namespace) -> int:
    """Both pay from the same wallets."""
    with ground() as (folder, uri, mint), pymongo.MongoClient(uri) as client:
        result = same_wallets(folder, uri, client, mint, seconds=options.seconds, seed=options.seed)
    print(json.dumps(result.told()))
    return 0 if result.holds else 1


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.neighbour", description=__doc__)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("load")
    one.add_argument("--payments", type=int, default=60)
    one.add_argument("--users", type=int, default=15)
    one.add_argument("--delay-max", type=float, default=15.0, help="seconds that the longest payment takes")
    one.add_argument("--settle", type=float, default=None, help="sweep.correct_after_s; left out: the default")
    one.add_argument("--seed", type=int, default=1)
    one.set_defaults(run=run_load)
    two = commands.add_parser("shared")
    two.add_argument("--seconds", type=float, default=300.0)
    two.add_argument("--seed", type=int, default=1)
    two.set_defaults(run=run_shared)
    options = parser.parse_args()
    reason = why_skipped()
    if reason is not None:
        print(reason, file=sys.stderr)
        return 2
    code: int = options.run(options)
    return code


if __name__ == "__main__":
    sys.exit(main())
