"""The repair of the double count and the adoption of the collection, as the socket asks for them (ADR 13)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from melt.model import Actor, MintAlias
    from melt.model.repair import RepairPlan, RepairType, UniqueProofsWish


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairReport:
    """
    A plan and, without ``dry_run``, what became of it.

    ``undone`` counts steps by why they were left undone; ``errors`` are sentences about mints that could not be asked
    or whose documents may not be changed now.
    """

    plan: RepairPlan
    dry_run: bool
    applied: int = 0
    undone: Mapping[str, int] = field(default_factory=dict)
    errors: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairProgress:
    """What a repair or a search does now. ``total`` None: not known; nothing runs: ``phase`` is empty."""

    running: bool = False
    phase: str = ""
    done: int = 0
    total: int | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Adoption:
    """
    Where the collection stands on its way to a unique index on the secrets of counted documents.

    ``indexed``: as of the last look. ``duplicates``: how many secrets count in several documents, ``keeps_before_source`` how
    many were stored anew before their source was spent, so that the index would have refused it; None: not counted.
    """

    indexed: bool
    setting: str
    wish: UniqueProofsWish | None
    duplicates: int | None
    next_step: str
    keeps_before_source: int | None = None


class RepairService(Protocol):
    """Raises :class:`melt.errors.MeltdError`. One request at a time; another is refused meanwhile."""

    async def repair(
        self,
        *,
        repair: RepairType,
        mint: MintAlias | None,
        dry_run: bool,
        across_users: bool,
        plan_id: str | None,
        reason: str,
        actor: Actor,
    ) -> RepairReport:
        """
        Plan, and without ``dry_run`` carry out.

        With ``plan_id`` only that plan is carried out: WRONG_STATE where it is another one by now.
        """
        ...

    def progress(self) -> RepairProgress: ...

    async def adoption(self, *, count: bool) -> Adoption:
        """With ``count`` the duplicates are counted, which reads the whole collection."""
        ...

    async def adopt(self, *, reason: str, actor: Actor) -> Adoption:
        """Have the index made at the next start. PROOF_STATE_INCONSISTENCY while there are duplicates."""
        ...
