"""
What the outside of the daemon (socket, command line, health) needs from its inside (DESIGN sections 2 and 6).

The API knows these protocols and nothing else of the process, so that it can be driven by a scripted
implementation in the contract tests and by the real one from the composition root.
"""

from __future__ import annotations

from daemon.ports.checks import CheckedDocument, CheckReport, CheckService
from daemon.ports.core import (
    Check,
    LoopCounters,
    LoopStatus,
    MeltEvidence,
    MeltService,
    MetricsPage,
    MintStatus,
    Operations,
    ProofStory,
    Readiness,
    ReconcileReport,
    StatusReport,
    TokenMention,
)
from daemon.ports.leases import LeaseStatus
from daemon.ports.mode import ModeReport, ModeService, SurveyReport
from daemon.ports.pace import Lane, PaceStatus
from daemon.ports.plans import Casebook, PlanDesk
from daemon.ports.repairs import Adoption, RepairProgress, RepairReport, RepairService
from daemon.ports.restore import RestoreOperations
from daemon.ports.settling import SettlingStatus
from daemon.ports.summaries import SummaryReads
from daemon.ports.tokens import MarkedToken, TokenService

__all__ = [
    "Adoption",
    "Casebook",
    "Check",
    "CheckReport",
    "CheckService",
    "CheckedDocument",
    "Lane",
    "LeaseStatus",
    "LoopCounters",
    "LoopStatus",
    "MarkedToken",
    "MeltEvidence",
    "MeltService",
    "MetricsPage",
    "MintStatus",
    "ModeReport",
    "ModeService",
    "Operations",
    "PaceStatus",
    "PlanDesk",
    "ProofStory",
    "Readiness",
    "ReconcileReport",
    "RepairProgress",
    "RepairReport",
    "RepairService",
    "RestoreOperations",
    "SettlingStatus",
    "StatusReport",
    "SummaryReads",
    "SurveyReport",
    "TokenMention",
    "TokenService",
]
