"""Plans: what a dry run would do, kept, approved and applied (DESIGN section 5)."""

from __future__ import annotations

from melt.planner.desk import PlanMade, Planner, PlanPolicy

__all__ = ["PlanMade", "PlanPolicy", "Planner"]
