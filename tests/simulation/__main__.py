"""Run seeds: ``python -m tests.simulation --seed 7 --trace`` replays one, ``--seeds 10000 --jobs 2`` runs many."""

from __future__ import annotations

import os
import sys

if os.environ.get("PYTHONHASHSEED") != "0":
    # The order in which sets are walked must be the seed's alone.
    os.environ["PYTHONHASHSEED"] = "0"
    os.execv(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]])

from tests.simulation.runner import main

sys.exit(main(sys.argv[1:]))
