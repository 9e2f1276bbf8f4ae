"""Leases of the work that daemons share, and the fence that a lease puts around writes (DESIGN section 5). Pure data."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, NewType

if TYPE_CHECKING:
    from collections.abc import Mapping

    from melt.model.words import MintAlias

Shard = NewType("Shard", str)
"""A part of the work that one instance does at a time: ``sweep:<alias>``."""

_SWEEP = "sweep:"


def sweep_shard(mint: MintAlias) -> Shard:
    """The shard of one mint's tours."""
    return Shard(f"{_SWEEP}{mint}")


class TakenBecause(StrEnum):
    """Why a lease was there to be taken."""

    FIRST = "first"
    """Nobody ever held it."""
    RELEASED = "released"
    """Its holder gave it up: it stops, or holds more than its share."""
    RESTARTED = "restarted"
    """This instance held it in an earlier life, or lost sight of it while nobody else took it."""
    LAPSED = "lapsed"
    """Its holder did not renew it for a whole lease."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """
    What a holder shows with each write: the write counts only while the lease still has this holder and epoch.

    ``epoch`` rises with each change of the holder and never falls, so no two holders ever had the same.
    """

    shard: Shard
    holder: str
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """One lease as it stands in ``meltd_leases``. ``holder`` None: it was given up and is free."""

    shard: Shard
    holder: str | None
    epoch: int
    renewals: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """An instance that shares the work, and the shards that it is able to do: those of its configured mints."""

    holder: str
    shards: frozenset[Shard]
    renewals: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseBook:
    """All leases by shard and all members by holder, as they were read at one moment."""

    leases: Mapping[Shard, Lease] = field(default_factory=dict)
    members: Mapping[str, Member] = field(default_factory=dict)
