"""What the mode asks of the database (:mod:`melt.model.mode`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from melt.model import Actor
    from melt.model.indexes import IndexReport
    from melt.model.mode import ModeChoice


class ModeStore(Protocol):
    """
    Implemented by the MongoDB store. Every method raises :class:`melt.errors.StoreError` and no other.

    Every transaction that writes the wallet's collections passes the mode inside itself, so that none is committed after
    a switch to ``observe``.
    """

    @property
    def unique_proofs_indexed(self) -> bool:
        """Whether the unique index on counted secrets is listed and no duplicate is known; as of the last look."""
        ...

    @property
    def indexes(self) -> IndexReport:
        """How the indexes stood at the last look."""
        ...

    @property
    def makes_indexes_at_start_only(self) -> bool:
        """An embedded store: one that is made under traffic could stall it."""
        ...

    def mode(self) -> ModeChoice:
        """What the database says now."""
        ...

    def switch_to_correct(self, *, actor: Actor, reason: str) -> ModeChoice:
        """A person's choice; also ends an ``ending``. Choosing it twice changes nothing."""
        ...

    def switch_to_observe(self, *, actor: Actor, reason: str, end_open: bool) -> ModeChoice:
        """
        A person's choice: ``observe``, or with ``end_open`` and open entries in the journal ``ending``.

        Raises :class:`melt.errors.StoreError` with WRONG_STATE where entries are open and may not be ended first.
        """
        ...

    def finish_ending(self) -> ModeChoice:
        """``observe`` where the mode is ``ending`` and no entry is open any more; the choice as it is then."""
        ...

    def look_after_indexes(self, *, make: bool) -> IndexReport:
        """
        See how the indexes in the wallet's collections stand; with ``make`` and in ``correct`` mode make what is missing.

        An embedded store makes none but at start, and the unique one is made at start alone.
        """
        ...
