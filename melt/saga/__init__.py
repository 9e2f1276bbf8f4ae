"""The forward path of a melt (DESIGN section 4): admission, reservation, payment, and handing over to recovery."""

from __future__ import annotations

from melt.saga.engine import Engine
from melt.saga.forward import Forward, MeltPolicy
from melt.saga.request import MeltRequest
from melt.saga.standing import StandPolicy
from melt.saga.watcher import Watcher, WatchPolicy

__all__ = ["Engine", "Forward", "MeltPolicy", "MeltRequest", "StandPolicy", "WatchPolicy", "Watcher"]
