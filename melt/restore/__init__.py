"""Finding and importing value that deterministic outputs hold at a mint and the database lacks (NUT-09, DESIGN section 5)."""

from __future__ import annotations

from melt.restore.engine import RestorePolicy, Restorer
from melt.restore.run import Run

__all__ = ["RestorePolicy", "Restorer", "Run"]
