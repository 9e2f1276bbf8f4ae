"""
Odd answers, for minutes: ``python -m tests.fuzz [--minutes N] [--in-all N] [--only KIND] [--seed N] [--branches]``.

Each kind of request is given real answers of four mints (``tests/fuzz/seeds``), changed again and again; an answer that
came to something new is kept and changed further. It ends with 1 where an exception got past the client, something came
out that must not (``tests/fuzz/drive.py``), memory grew by more than 20 MiB after the first minute, or with ``--branches``
less than 80 % of the branches of what reads answers were taken.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import random
import secrets
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.fuzz.drive import KINDS, Seed, drive, seeds
from tests.fuzz.mutate import Said, mutated

KEPT_MAX: Final = 400
GROWTH_MAX_MIB: Final = 20.0
SETTLED_S: Final = 60.0
"""What a process takes in its first minute is not counted as growth."""
BRANCHES_MIN: Final = 80.0
READERS: Final = ("wire", "sorting", "announced", "batches")
"""The modules of melt/mint that read answers."""
FINDINGS_MAX: Final = 5


@dataclass(slots=True, kw_only=True)
class Told:
    """What came of one kind."""

    kind: str
    runs: int = 0
    seconds: float = 0.0
    outcomes: dict[str, int] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    settled_mib: float | None = None
    end_mib: float = 0.0

    @property
    def growth_mib(self) -> float:
        """Since the first minute, or since the first quarter of a shorter run."""
        return self.end_mib - (self.settled_mib if self.settled_mib is not None else self.end_mib)

    @property
    def good(self) -> bool:
        """Nothing was found, and memory stayed."""
        return self.runs > 0 and not self.findings and self.growth_mib <= GROWTH_MAX_MIB


def rss_mib() -> float:
    """What this process holds in memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmRSS")


async def fuzz(kind: str, *, seconds: float, seed: int, runs_max: int | None = None) -> Told:
    """Change and drive until the time is over, or ``runs_max`` answers were given."""
    chance, told, every = random.Random(f"{kind} {seed}"), Told(kind=kind), seeds()
    kept: list[tuple[Seed, Said]] = [(one, one.said) for one in every if one.kind == kind]
    trees = [one.said.body for one in every]
    began = time.monotonic()
    settled = min(SETTLED_S, seconds / 4)
    for source, said in list(kept):
        await _one(told, source, said)
    while (spent := time.monotonic() - began) < seconds and (runs_max is None or told.runs < runs_max):
        if told.settled_mib is None and spent >= settled:
            told.settled_mib = rss_mib()
        source, said = chance.choice(kept)
        changed = mutated(said, chance, trees)
        if await _one(told, source, changed) and len(kept) < KEPT_MAX:
            kept.append((source, changed))
        if len(told.findings) >= FINDINGS_MAX:
            break
    told.seconds, told.end_mib = time.monotonic() - began, rss_mib()
    return told


async def _one(told: Told, source: Seed, said: Said) -> bool:
    """Whether it came to something that nothing before has come to."""
    told.runs += 1
    try:
        word = await drive(source, said)
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        told.findings.append(_told(source, said, error))
        return False
    new = word not in told.outcomes
    if new and len(told.outcomes) > 10 * KEPT_MAX:
        return False
    told.outcomes[word] = told.outcomes.get(word, 0) + 1
    return new


def _told(source: Seed, said: Said, error: Exception) -> str:
    body = base64.b64encode(said.sent[:4096]).decode()
    trace = "".join(traceback.format_exception(error, limit=-4))
    return f"{source.kind}, from {source.mint}: HTTP {said.status}, body {body}\n{trace}"


def main() -> int:
    """Fuzz, tell, judge."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="for each kind (default: %(default)s)")
    parser.add_argument("--in-all", type=float, metavar="MINUTES", help="for all kinds together, instead")
    parser.add_argument("--only", action="append", choices=KINDS, help="this kind; may be repeated")
    parser.add_argument("--seed", type=int, help="of the changes; told at the start, so that a run can be had again")
    parser.add_argument(
        "--branches", action="store_true", help="measure them, which needs the package coverage and is slow"
    )
    options = parser.parse_args()
    kinds = options.only or KINDS
    minutes = options.minutes if options.in_all is None else options.in_all / len(kinds)
    seed = secrets.randbelow(1 << 32) if options.seed is None else options.seed
    print(f"seed {seed}, {minutes:.1f} minutes for each of {len(kinds)} kinds", flush=True)
    with branches(measured=options.branches) as share:
        told = [_fuzz_one(kind, minutes * 60, seed) for kind in kinds]
    good = all(one.good for one in told)
    if options.branches:
        print(f"{share[0]:.1f} % of the branches of what reads answers")
        good = good and share[0] >= BRANCHES_MIN
    return 0 if good else 1


def _fuzz_one(kind: str, seconds: float, seed: int) -> Told:
    told = asyncio.run(fuzz(kind, seconds=seconds, seed=seed))
    mark = "ok" if told.good else "FAIL"
    counts = f"{told.runs:>9} answers, {len(told.outcomes):>4} outcomes, {told.runs / max(told.seconds, 0.1):>7.0f}/s"
    print(f"{kind:<17} {counts}, {told.end_mib:>6.1f} MiB ({told.growth_mib:+.1f})  {mark}", flush=True)
    for finding in told.findings:
        print(finding, flush=True)
    return told


@contextmanager
def branches(*, measured: bool) -> Iterator[list[float]]:
    """The share of branches taken within, in percent, once it has ended."""
    share = [0.0]
    if not measured:
        yield share
        return
    import coverage

    root = Path(__file__).resolve().parents[2] / "melt" / "mint"
    files = [str(path) for name in READERS if (path := root / f"{name}.py").exists()]
    measuring = coverage.Coverage(branch=True, include=files, data_file=None)
    measuring.start()
    try:
        yield share
    finally:
        measuring.stop()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "branches.json"
        measuring.json_report(outfile=str(report))
        found = json.loads(report.read_text(encoding="utf-8"))
    for name, about in found["files"].items():
        print(f"{name}: not taken {about['missing_branches']}")
    share[0] = 100.0 * found["totals"]["covered_branches"] / found["totals"]["num_branches"]


if __name__ == "__main__":
    sys.exit(main())
