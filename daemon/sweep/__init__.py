"""The sweep (DESIGN section 5): tours through the documents of each mint, what they tell, and what belongs to no mint."""

from __future__ import annotations

from daemon.sweep.sweeper import Sweeper, SweepPolicy
from daemon.sweep.telling import Progress

__all__ = ["Progress", "SweepPolicy", "Sweeper"]
