"""Who holds a shard, for the status page."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseStatus:
    """The lease of a mint's sweep: the instance that holds it (None: free), its epoch, whether that is this process."""

    holder: str | None
    epoch: int
    here: bool
