"""
What the engine needs from outside: a mint, a store, time, randomness, somebody to tell (DESIGN section 2).

Mints are asynchronous. The store is synchronous: each method is bounded, holds at most one transaction and runs
in a worker thread (:class:`StoreThreads`), so that no transaction spans an ``await`` (I3).
"""

from __future__ import annotations

from melt.ports.cases import CaseStore
from melt.ports.hints import HintSource, HintTelemetry, WatchStore
from melt.ports.holdings import Holdings
from melt.ports.leases import Leases
from melt.ports.mode import ModeStore
from melt.ports.outside import Clock, Entropy, Mint, Outputs, StoreThreads
from melt.ports.plans import PlanStore
from melt.ports.repairs import RepairStore, SecretTour
from melt.ports.restore import EndedMelts, RestoreStore, RestoreTelemetry, StateQuestion
from melt.ports.sentinels import SpentRecords
from melt.ports.settling import SettleStore
from melt.ports.store import Store, Tour
from melt.ports.summaries import HoldingsWalk, SummaryStore
from melt.ports.survey import SurveyStore
from melt.ports.telling import EventNotices, EventSpool, Telemetry
from melt.ports.warm import LargeTokens

__all__ = [
    "CaseStore",
    "Clock",
    "EndedMelts",
    "Entropy",
    "EventNotices",
    "EventSpool",
    "HintSource",
    "HintTelemetry",
    "Holdings",
    "HoldingsWalk",
    "LargeTokens",
    "Leases",
    "Mint",
    "ModeStore",
    "Outputs",
    "PlanStore",
    "RepairStore",
    "RestoreStore",
    "RestoreTelemetry",
    "SecretTour",
    "SettleStore",
    "SpentRecords",
    "StateQuestion",
    "Store",
    "StoreThreads",
    "SummaryStore",
    "SurveyStore",
    "Telemetry",
    "Tour",
    "WatchStore",
]
