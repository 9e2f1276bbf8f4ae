"""
The fault table: ``python -m tests.faults [--quick] [--only PATTERN] [--kills N] [--jobs N]``.

Each row is one fault on the real mint, the real store and the real daemon: payments counted at the mint's node, the final
state, whether the ledger is conserved, the time to settle. Ends with 1 where any row has a problem.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tests.faults.cases import Case, Row, Runner, Skipped
from tests.faults.lab import Lab
from tests.faults.table import all_cases, skipped

JOBS = 6


def main() -> int:
    """Run the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="the selection that CI runs")
    parser.add_argument("--only", metavar="PATTERN", help="rows whose name matches, such as 'proxy/melt*'")
    parser.add_argument("--kills", type=int, default=200, help="random kills under load (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=JOBS, help="cases at a time (default: %(default)s)")
    parser.add_argument("--list", action="store_true", help="only name the rows")
    parser.add_argument("--markdown", type=Path, help="write the table to this file too")
    options = parser.parse_args()
    cases = [
        case
        for case in all_cases(kills=options.kills)
        if (case.ci or not options.quick) and (options.only is None or fnmatch.fnmatch(case.name, options.only))
    ]
    left_out = [row for row in skipped() if options.only is None or fnmatch.fnmatch(row.name, options.only)]
    if options.list:
        for one in (*cases, *left_out):
            print(f"{one.name:<52} {one.fault}")
        return 0
    started = time.monotonic()
    with Lab() as lab:
        _end_all_when_told(lab)
        rows = _perform(Runner(lab, tuple(cases)), cases, options.jobs)
    _summarise(rows, left_out, time.monotonic() - started)
    if options.markdown is not None:
        options.markdown.write_text(markdown(rows, left_out), encoding="utf-8")
    return 1 if any(not row.ok for row in rows) else 0


def _end_all_when_told(lab: Lab) -> None:
    """On SIGTERM and Ctrl-C no daemon, mint or store is left behind; cases that still run are given up."""

    def end(number: int, _: object) -> None:
        lab.__exit__()
        os._exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)


def _perform(runner: Runner, cases: list[Case], jobs: int) -> list[Row]:
    rows: list[Row] = []
    print(HEAD, flush=True)
    alone = [case for case in cases if case.alone]
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(runner.perform, case) for case in cases if not case.alone]
        for future in as_completed(futures):
            rows.append(future.result())
            _print(rows[-1], len(rows), len(cases))
    for case in alone:  # what needs the machine for itself
        rows.append(runner.perform(case))
        _print(rows[-1], len(rows), len(cases))
    for row in runner.close_shared():
        rows.append(row)
        _print(row, len(rows), len(rows))
    order = {case.name: index for index, case in enumerate(cases)}
    return sorted(rows, key=lambda row: order.get(row.name, len(order)))


HEAD = f"{'':>9} {'row':<44} {'fault':<58} {'payments':>8}  {'state':<10} {'conserved':<9} {'s':>6}"


def _print(row: Row, done: int, total: int) -> None:
    mark = "skip" if row.skipped else "ok  " if row.ok else "FAIL"
    print(
        f"{done:>4}/{total:<4} {row.name:<44} {row.fault[:58]:<58} {row.payments:>8}  {row.state:<10} "
        f"{'yes' if row.conserved else 'NO':<9} {row.seconds:>6.1f}  {mark}",
        flush=True,
    )
    for problem in row.problems:
        print(f"          ! {problem}", flush=True)


def _summarise(rows: list[Row], left_out: list[Skipped], seconds: float) -> None:
    for one in left_out:
        print(f"{'no case':>9} {one.name:<44} {one.fault}: {one.reason}")
    notes = [(row.name, row.note) for row in rows if row.note]
    for name, note in notes:
        print(f"   note   {name}: {note}")
    failed, skipped = [row for row in rows if not row.ok], [row for row in rows if row.skipped]
    for row in skipped:
        print(f"{'skipped':>9} {row.name:<44} {row.skipped}")
    counts = f"{len(rows)} rows, {len(failed)} with a problem, {len(skipped)} skipped, {len(left_out)} without a case"
    print(f"\n{counts}, {seconds:.0f} s")
    for row in failed:
        print(f"  {row.name}: {'; '.join(row.problems).splitlines()[0]}")


def markdown(rows: list[Row], left_out: list[Skipped]) -> str:
    """The table for a document."""
    lines = ["| row | fault | payments | state | conserved | seconds |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {row.name} | {row.fault}{f' ({row.note})' if row.note else ''} | {row.payments} | {row.state} "
        f"| {'yes' if row.conserved else 'NO'} | {row.seconds:.1f} |"
        for row in rows
    ]
    lines += [f"| {one.name} | {one.fault}: {one.reason} | - | no case | - | - |" for one in left_out]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
