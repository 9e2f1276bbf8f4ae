"""The command line of the simulation."""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator

from tests.simulation import logs
from tests.simulation.planted import PLANTED
from tests.simulation.world import Report, play

COLLECT_EVERY = 50
"""Worlds are rings of references: they are swept up now and then, at no world's expense."""
SHOWN_MAX = 10


def _play(seed: int) -> Report:
    if seed % COLLECT_EVERY == 0:
        gc.collect()
    return play(seed)


def _reports(seeds: Iterable[int], jobs: int) -> Iterator[Report]:
    if jobs == 1:
        yield from map(_play, seeds)
        return
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        yield from pool.imap_unordered(_play, seeds, chunksize=16)


def main(argv: list[str]) -> int:
    """Exit code 0 where no seed violates anything."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Seeded simulation of the engine")
    parser.add_argument("--seed", type=int, help="run this one")
    parser.add_argument("--trace", action="store_true", help="with --seed: tell what happened, in order")
    parser.add_argument("--seeds", type=int, default=300, help="how many (default 300)")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--until-broken", action="store_true", help="stop at the first seed that fails")
    parser.add_argument("--plant", choices=sorted(PLANTED), help="plant this bug first")
    args = parser.parse_args(argv)
    logs.divert(everything=args.trace)
    if args.plant is not None:
        PLANTED[args.plant]()
    gc.freeze()
    gc.disable()
    if args.seed is not None:
        return _one(args.seed, trace=args.trace)
    return _many(range(args.first, args.first + args.seeds), args)


def _one(seed: int, *, trace: bool) -> int:
    report = play(seed, tracing=trace)
    for line in report.trace:
        print(line)
    print(f"seed {seed}: {report.states}, {report.steps} steps, {report.virtual_s:.0f} s of virtual time")
    for violation in report.violations:
        print(f"VIOLATION {violation}")
    return 1 if report.violations else 0


def _many(seeds: range, args: argparse.Namespace) -> int:
    started = time.perf_counter()
    failed: list[Report] = []
    states: Counter[str] = Counter()
    done = 0
    for done, report in enumerate(_reports(seeds, args.jobs), 1):
        states.update(report.states)
        if report.violations:
            failed.append(report)
            _clear()
            if len(failed) <= SHOWN_MAX:
                print(f"seed {report.seed}: {report.violations[0]}", flush=True)
            if args.until_broken:
                break
        if done % 50 == 0:
            _progress(done, len(seeds), len(failed), done / (time.perf_counter() - started))
    _clear()
    seconds = time.perf_counter() - started
    print(f"{done} seeds, {len(failed)} with violations, {done / seconds:.0f} seeds/s; melts: {dict(states)}")
    planted = "" if args.plant is None else f" --plant '{args.plant}'"
    for report in failed[:SHOWN_MAX]:
        print(f"replay: python -m tests.simulation --seed {report.seed} --trace{planted}")
    return 1 if failed else 0


def _progress(done: int, total: int, failed: int, pace: float) -> None:
    if sys.stderr.isatty():
        filled = 40 * done // total
        bar = "█" * filled + "░" * (40 - filled)
        sys.stderr.write(f"\r{bar} {done}/{total}, {failed} failed, {pace:.0f} seeds/s ")
        sys.stderr.flush()


def _clear() -> None:
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
