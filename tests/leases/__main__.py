"""
Two daemons that share the sweeps, killed and stopped at random: ``python -m tests.leases [--faults 30]``.

Drift is planted all the time. Prints a row per fault, then what the database and the mint say: no correction twice, no gap in
a tour, no two holders in one epoch, and how long each takeover took. Ends with 1 where anything is wrong.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from daemon.embedded import EmbeddedStore
from tests.leases.faults import Done, inflict, random_faults
from tests.leases.judge import Verdict, judge, wait_until_corrected
from tests.leases.lab import Lab
from tests.support.mint import MintProcess


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m tests.leases", description=__doc__.split("\n\n")[0])
    parser.add_argument("--faults", type=int, default=30, help="how many (default: %(default)s)")
    parser.add_argument("--lease", type=float, default=2.0, help="lease_s of both daemons (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000, help="of the random choices")
    options = parser.parse_args()
    print(f"seed {options.seed}, lease {options.lease} s, {options.faults} faults")
    print("  #  fault     away    who  shards  by other  slowest  refused  planted")
    with (
        tempfile.TemporaryDirectory(prefix="meltd-leases-") as folder,
        EmbeddedStore(Path(folder) / "store") as store,
        MintProcess(Path(folder) / "mint") as mint,
        Lab(Path(folder), uri=store.uri, mint=mint, lease_s=options.lease, seed=options.seed) as lab,
    ):
        done = inflict(lab, random_faults(lab, options.faults), say=True)
        lab.planter.stop()
        wait_until_corrected(lab)
        verdict = judge(lab)
        _summarise(lab, done, verdict)
    return 1 if verdict.wrong else 0


def _summarise(lab: Lab, done: list[Done], verdict: Verdict) -> None:
    other = [seconds for one in done if one.fault.long for seconds in one.seconds.values()]
    print()
    print(f"planted                {sum(verdict.planted.values())}: {verdict.planted}")
    print(f"status changes         {verdict.corrections} in the audit")
    print(f"whole tours            {verdict.tours}; {verdict.judged_in_tour} documents judged by the tour after them")
    print(f"epochs that wrote      {verdict.epochs}")
    if other:
        print(
            f"takeovers by the other {len(other)}: median {statistics.median(other):.2f} s, slowest {max(other):.2f} s, "
            f"of a lease of {lab.lease_s:.1f} s"
        )
    print(f"refused writes         {lab.refused()}; leases lost {lab.losses()}")
    print("wrong                  " + ("nothing" if not verdict.wrong else ""))
    for sentence in verdict.wrong[:50]:
        print(f"  {sentence}")


if __name__ == "__main__":
    sys.exit(main())
