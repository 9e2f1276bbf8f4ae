"""
What the engine needs from outside: a mint, a store, time, randomness, somebody to tell (DESIGN section 2).

Mints are asynchronous. The store is synchronous: each method is bounded, holds at most one transaction and runs
in a worker thread (:class:`StoreThreads`), so that no transaction spans an ``await`` (I3).
"""

from __future__ import annotations

from melt.ports.leases import Leases
from melt.ports.outside import Clock, Entropy, Mint, Outputs, StoreThreads
from melt.ports.store import Store, Tour
from melt.ports.telling import EventNotices, EventSpool, Telemetry

__all__ = [
    "Clock",
    "Entropy",
    "EventNotices",
    "EventSpool",
    "Leases",
    "Mint",
    "Outputs",
    "Store",
    "StoreThreads",
    "Telemetry",
    "Tour",
]
