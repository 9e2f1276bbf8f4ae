"""Which instance sweeps which mint, by leases (DESIGN section 5): the decision and the loop that carries it out."""

from __future__ import annotations

from daemon.lease.decide import Observed, Step, StepKind, decide
from daemon.lease.keeper import LeaseKeeper, LeasePolicy, ShardWork, Tenure
from daemon.lease.work import SweepWork, sweep_loop

__all__ = [
    "LeaseKeeper",
    "LeasePolicy",
    "Observed",
    "ShardWork",
    "Step",
    "StepKind",
    "SweepWork",
    "Tenure",
    "decide",
    "sweep_loop",
]
