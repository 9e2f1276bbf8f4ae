"""
The engine under seeds (DESIGN section 1): CI runs 300, and every planted bug must be found by one of them.

The simulation runs in a process of its own: its order must not depend on how this one hashes, and a planted bug must
not outlive its test. A failing seed prints the one command that replays it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.planted import PLANTED

ROOT = Path(__file__).parents[2]
SEEDS = 300
PLANTED_SEEDS = 2000
"""A planted bug ends its run at the first seed that notices it; the rarest needs some hundreds."""


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    """``python -m tests.simulation``, from the root."""
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )


def test_no_seed_breaks_an_invariant() -> None:
    """Wallets, invoices, faults, lies, crashes, several instances, another service and clocks that differ, 300 times otherwise."""
    ran = simulate("--seeds", str(SEEDS))
    assert ran.returncode == 0, ran.stdout + ran.stderr[-2000:]
    melts = dict(re.findall(r"'([A-Za-z ]+)': (\d+)", ran.stdout))
    assert int(melts["SETTLED"]) > SEEDS / 2, "the worlds are too quiet to show anything"
    assert int(melts["RELEASED"]) > SEEDS / 4
    assert int(melts["HELD"]) > 0
    assert int(melts["neighbour paid"]) > SEEDS / 10, "no other service is at work beside meltd"
    assert int(melts["settled and corrected"]) > SEEDS / 10


def test_a_seed_is_replayed_to_the_letter() -> None:
    """Same seed, same story, in two processes."""
    first, second = (simulate("--seed", "57", "--trace").stdout for _ in range(2))
    assert first == second
    assert len(first.splitlines()) > 20


@pytest.mark.parametrize("name", sorted(PLANTED))
def test_a_planted_bug_is_found(name: str) -> None:
    """A simulation that can't fail shows nothing."""
    ran = simulate("--plant", name, "--seeds", str(PLANTED_SEEDS), "--until-broken")
    assert ran.returncode == 1, f"{PLANTED_SEEDS} seeds did not notice: {name}\n{ran.stdout}{ran.stderr[-2000:]}"
    assert "Traceback" not in ran.stderr, ran.stderr[-2000:]
    assert f"--plant '{name}'" in ran.stdout, "no command to replay it"
